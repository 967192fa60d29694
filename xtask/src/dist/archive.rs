//! A `.tar.gz` that is the same whenever and wherever it is made: the format is POSIX's ustar, which is thirty lines to write.

use std::io::Write;

use anyhow::{Result, bail};
use flate2::{Compression, GzBuilder};

use super::{Entry, TIME};

/// Bytes of a block.
const BLOCK: usize = 512;

/// All entries in a folder `name`.
pub(super) fn tar_gz(name: &str, entries: &[Entry]) -> Result<Vec<u8>> {
    // No name, no time, and no system in the header.
    let mut out = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    for entry in entries {
        out.write_all(&header(&format!("{name}/{}", entry.path), entry)?)?;
        out.write_all(&entry.content)?;
        out.write_all(&vec![0; entry.content.len().next_multiple_of(BLOCK) - entry.content.len()])?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    Ok(out.finish()?)
}

/// The block before a file.
fn header(path: &str, entry: &Entry) -> Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mode = if entry.executable { 0o755 } else { 0o644 };
    let mut put = |at: usize, len: usize, text: &str| {
        if text.len() > len {
            bail!("{path}: `{text}` is longer than the {len} bytes that the format has for it");
        }
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
        Ok(())
    };
    put(0, 100, path)?;
    put(100, 8, &format!("{mode:07o}"))?;
    // Owner and group: root, by number alone.
    put(108, 8, "0000000")?;
    put(116, 8, "0000000")?;
    put(124, 12, &format!("{:011o}", entry.content.len()))?;
    put(136, 12, &format!("{TIME:011o}"))?;
    // The sum counts its own field as spaces.
    put(148, 8, "        ")?;
    put(156, 1, "0")?;
    put(257, 8, "ustar\u{0}00")?;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_entries_are_the_same_bytes() {
        let entries = || [Entry { executable: true, ..Entry::new("a", b"x".repeat(600)) }];
        let first = tar_gz("n", &entries()).unwrap();
        assert_eq!(first, tar_gz("n", &entries()).unwrap());
        assert_eq!(first[4..10], [0, 0, 0, 0, 2, 255], "no time, no system");
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        let error = header(&"n".repeat(101), &Entry::new("a", "")).unwrap_err();
        assert!(error.to_string().contains("100 bytes"), "{error}");
    }
}
