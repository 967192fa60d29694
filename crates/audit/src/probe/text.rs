//! Text files of bounded size.

use std::path::Path;

use super::source::{FileSource, Reader, Source};
use crate::error::{ProbeError, Result};
use crate::limits::Budget;

/// All of a file of at most `max` bytes.
pub(crate) fn read(path: &Path, max: u64, budget: &Budget) -> Result<String> {
    let mut source = FileSource::open(path)?;
    let size = source.len();
    if size > max {
        return Err(ProbeError::TooMuch { what: "bytes in a text", max });
    }
    let bytes = Reader::new(&mut source, budget).take("a text", 0, size as usize)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
