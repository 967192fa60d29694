//! What a folder of results already holds, so that a second run does only what is left.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::reading::digest;
use crate::output::CliError;

/// The file in the folder: a JSON line for each document that was done.
const NAME: &str = ".halfbyte-extract.jsonl";

/// A document whose result is written.
pub(super) struct Done {
    pub(super) file: PathBuf,
    /// Digest of the document.
    pub(super) sha256: String,
}

/// What was done in a folder.
pub(super) struct Record {
    path: PathBuf,
    lines: File,
    /// Digest of what was asked.
    asked: String,
    /// By document, the digest of what it was when it was last done as it is asked now.
    done: HashMap<String, String>,
}

impl Record {
    /// Opens the record of a folder. `asked`: all that results depend on beside the documents.
    pub(super) fn open(folder: &Path, asked: &str) -> Result<Self> {
        let path = folder.join(NAME);
        let asked = digest(asked.as_bytes());
        let known = fs::read_to_string(&path).unwrap_or_default();
        let mut done = HashMap::new();
        // A line that was cut by the end of a run says nothing.
        for line in known.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            if field("asked") == asked {
                done.insert(field("file"), field("sha256"));
            } else {
                // The result is that of other questions now.
                done.remove(&field("file"));
            }
        }
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        let mut lines = opened.map_err(|source| failed(&path, source))?;
        if !known.is_empty() && !known.ends_with('\n') {
            lines.write_all(b"\n").map_err(|source| failed(&path, source))?;
        }
        Ok(Record { path, lines, asked, done })
    }

    /// Whether a document has its result, and is what it was then.
    pub(super) fn is_done(&self, file: &Path, output: &Option<PathBuf>) -> bool {
        let known = self.done.get(&file.display().to_string());
        known.is_some_and(|sha256| {
            output.as_ref().is_some_and(|output| output.is_file())
                && fs::read(file).is_ok_and(|bytes| digest(&bytes) == *sha256)
        })
    }

    /// Notes a document.
    pub(super) fn add(&mut self, done: Done) -> Result<()> {
        let file = done.file.display().to_string();
        let line = json!({ "file": file, "sha256": done.sha256, "asked": self.asked });
        let written = self.lines.write_all(format!("{line}\n").as_bytes());
        Ok(written.map_err(|source| failed(&self.path, source))?)
    }
}

fn failed(path: &Path, source: std::io::Error) -> CliError {
    CliError::Write { what: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let (file, output) = (folder.path().join("a"), folder.path().join("a.md"));
        fs::write(&file, "one").unwrap();
        fs::write(&output, "result").unwrap();
        let output = Some(output);
        let is_done =
            |asked: &str| Record::open(folder.path(), asked).unwrap().is_done(&file, &output);
        assert!(!is_done("x"));
        let done = || Done { file: file.clone(), sha256: digest(b"one") };
        Record::open(folder.path(), "x").unwrap().add(done()).unwrap();
        assert!(is_done("x") && !is_done("y"));
        // Cut in mid-line by the end of a run.
        let record = folder.path().join(NAME);
        let cut = fs::read_to_string(&record).unwrap() + "{\"file\": \"";
        fs::write(&record, cut).unwrap();
        assert!(is_done("x"));
        fs::write(&file, "two").unwrap();
        assert!(!is_done("x"));
        fs::write(&file, "one").unwrap();
        // Another question overwrote the result.
        Record::open(folder.path(), "y").unwrap().add(done()).unwrap();
        assert!(is_done("y") && !is_done("x"));
        fs::remove_file(output.as_ref().unwrap()).unwrap();
        assert!(!is_done("y"));
    }
}
