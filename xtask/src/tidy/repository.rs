//! The files that git tracks.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::output;

/// Tracked files by path, relative to the root, with `/`.
pub(super) struct Repository {
    files: BTreeMap<String, File>,
}

struct File {
    bytes: u64,
    /// `None` for what is no text.
    text: Option<String>,
}

impl Repository {
    /// Reads what git tracks; a file that is deleted but not committed yet is left out.
    pub(super) fn read(root: &Path) -> Result<Repository> {
        let listed = output(Command::new("git").args(["ls-files", "-z"]).current_dir(root))?;
        let mut files = BTreeMap::new();
        for path in listed.split_terminator('\0') {
            match fs::read(root.join(path)) {
                Ok(content) => files.insert(path.to_owned(), File::new(content)),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
            };
        }
        Ok(Repository { files })
    }

    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Repository {
        let file = |(path, text): &(&str, &str)| ((*path).to_owned(), File::new((*text).into()));
        Repository { files: files.iter().map(file).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    pub(super) fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file.bytes))
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(path, file)| Some((path.as_str(), file.text.as_deref()?)))
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.text.as_deref()
    }

    /// Whether `path` is a file, or a folder that holds one.
    pub(super) fn contains(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        let after = self.files.range(folder.clone()..).next();
        self.files.contains_key(path) || after.is_some_and(|(path, _)| path.starts_with(&folder))
    }
}

impl File {
    fn new(content: Vec<u8>) -> File {
        let bytes = content.len() as u64;
        let text = String::from_utf8(content).ok().filter(|text| !text.contains('\0'));
        File { bytes, text }
    }
}

/// `path:line` of every line, numbered from 1, with the line.
pub(super) fn lines<'a>(path: &'a str, text: &'a str) -> impl Iterator<Item = (String, &'a str)> {
    text.lines().zip(1..).map(move |(line, number)| (format!("{path}:{number}"), line))
}

/// The part of a line of Rust before its comment; good enough for lines that hold no `//` in a string.
pub(super) fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}
