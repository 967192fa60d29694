//! A Python wheel that puts the binary beside `python`: `pip install`, `uvx`. The format is PEP 427's, its metadata PEP 639's.

use std::io::{Cursor, Write};

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::Entry;

/// Files of the archive that go along, as licences.
const LICENCES: [&str; 4] = ["LICENSE", "LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY-LICENSES"];

/// The wheel of these entries of the archive; `tag` is its second half of the name, `py3-none-PLATFORM`.
pub(super) fn wheel(version: &str, tag: &str, entries: &[Entry]) -> Result<Vec<u8>> {
    let info = format!("halfbyte-{version}.dist-info");
    let find = |path: &str| entries.iter().find(|entry| entry.path == path);
    let content = |path: &str| find(path).map(|entry| entry.content.clone()).unwrap_or_default();
    let mut files = vec![Entry {
        executable: true,
        ..Entry::new(format!("halfbyte-{version}.data/scripts/halfbyte"), content("halfbyte"))
    }];
    // What is about the package stands at the end, where it is read without the rest.
    files.push(Entry::new(
        format!("{info}/METADATA"),
        metadata(version, &String::from_utf8_lossy(&content("README.md"))),
    ));
    files.push(Entry::new(
        format!("{info}/WHEEL"),
        format!(
            "Wheel-Version: 1.0\nGenerator: halfbyte-xtask\nRoot-Is-Purelib: false\nTag: {tag}\n"
        ),
    ));
    for name in LICENCES {
        files.push(Entry::new(format!("{info}/licenses/{name}"), content(name)));
    }
    let record = format!("{info}/RECORD");
    let mut lines: String = files.iter().map(line).collect();
    lines += &format!("{record},,\n");
    files.push(Entry::new(record, lines));
    pack(&files)
}

fn metadata(version: &str, readme: &str) -> String {
    let licences: String = LICENCES.iter().map(|name| format!("License-File: {name}\n")).collect();
    format!(
        "Metadata-Version: 2.4\nName: halfbyte\nVersion: {version}\n\
         Summary: 4-bit language models on any NVIDIA GPU since Ampere, and on a CPU, from one binary\n\
         License-Expression: Apache-2.0 OR MIT\n{licences}\
         Description-Content-Type: text/markdown\n\n{readme}"
    )
}

/// A file's line in `RECORD`.
fn line(file: &Entry) -> String {
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&file.content));
    format!("{},sha256={hash},{}\n", file.path, file.content.len())
}

fn pack(files: &[Entry]) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for file in files {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(9))
            // 1980-01-01, the first time that the format knows.
            .last_modified_time(DateTime::default())
            .unix_permissions(if file.executable { 0o755 } else { 0o644 });
        zip.start_file(file.path.as_str(), options)?;
        zip.write_all(&file.content)?;
    }
    Ok(zip.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn made() -> Vec<u8> {
        let mut entries = vec![Entry::new("halfbyte", "binary"), Entry::new("README.md", "# h")];
        entries.extend(LICENCES.map(|name| Entry::new(name, name)));
        wheel("1.2.3", "py3-none-linux_x86_64", &entries).unwrap()
    }

    #[test]
    fn every_file_is_recorded_with_its_hash() {
        let mut zip = zip::ZipArchive::new(Cursor::new(made())).unwrap();
        let names: Vec<String> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
        let mut text = |name: &str| {
            let mut text = String::new();
            zip.by_name(name).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        let record = text("halfbyte-1.2.3.dist-info/RECORD");
        for name in &names {
            let line = record.lines().find(|line| line.split(',').next() == Some(name)).unwrap();
            if name.ends_with("RECORD") {
                assert_eq!(line.strip_prefix(name.as_str()), Some(",,"));
                continue;
            }
            let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(text(name)));
            assert!(line.contains(&format!("sha256={hash},")), "{line}");
        }
        assert_eq!(record.lines().count(), names.len());
        let metadata = text("halfbyte-1.2.3.dist-info/METADATA");
        assert!(metadata.contains("\nVersion: 1.2.3\n") && metadata.ends_with("\n\n# h"));
        assert!(text("halfbyte-1.2.3.dist-info/WHEEL").contains("Tag: py3-none-linux_x86_64\n"));
    }

    #[test]
    fn the_same_entries_are_the_same_bytes() {
        assert_eq!(made(), made());
    }
}
