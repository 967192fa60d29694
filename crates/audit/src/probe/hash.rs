//! Hashes of files.

use std::fmt::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::source::{FileSource, Reader, Source};
use crate::error::Result;
use crate::limits::Budget;

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256(path: &Path, budget: &Budget) -> Result<String> {
    let mut source = FileSource::open(path)?;
    let len = source.len();
    let mut reader = Reader::new(&mut source, budget);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let taken = reader.take_some(at, &mut buffer)?;
        hash.update(&buffer[..taken]);
        at += taken as u64;
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
