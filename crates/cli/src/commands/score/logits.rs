//! The file of `--logits`, written as it is computed and given its name when it is whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;

use serde_json::json;

use crate::output::CliError;

/// A safetensors file with one tensor, `logits`, f32 `[tokens, vocab_size]`.
pub(super) struct LogitsFile {
    path: PathBuf,
    partial: PathBuf,
    /// `None` once the file has its name.
    writer: Option<BufWriter<File>>,
}

impl LogitsFile {
    /// Begins the file, beside `path`.
    pub(super) fn create(path: &Path, tokens: usize, vocab_size: usize) -> Result<Self, CliError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".partial-{}", process::id()));
        let partial = path.with_file_name(name);
        let error = |source| write_error(path, source);
        if path.is_dir() {
            return Err(error(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        // Renaming over a device or a pipe would put a file in its place.
        if path.exists() && !path.is_file() {
            return Err(error(io::Error::other("it is no regular file; name a new one")));
        }
        let mut writer = BufWriter::with_capacity(1 << 20, File::create(&partial).map_err(error)?);
        let written = writer.write_all(&header(tokens, vocab_size));
        let file = LogitsFile { path: path.to_owned(), partial, writer: Some(writer) };
        written.map_err(error)?;
        Ok(file)
    }

    /// Appends rows.
    pub(super) fn write(&mut self, logits: &[f32]) -> Result<(), CliError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let mut values = logits.iter();
        values
            .try_for_each(|value| writer.write_all(&value.to_le_bytes()))
            .map_err(|source| write_error(&self.path, source))
    }

    /// Puts the file on disk and gives it its name.
    pub(super) fn finish(mut self) -> Result<(), CliError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error);
        let done = file
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.partial, &self.path));
        done.map_err(|source| {
            let _ = fs::remove_file(&self.partial);
            write_error(&self.path, source)
        })
    }
}

impl Drop for LogitsFile {
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            // Something failed on the way; its error is the one to report.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

fn write_error(path: &Path, source: io::Error) -> CliError {
    CliError::Write { what: path.display().to_string(), source }
}

/// Length and JSON of the header, padded with spaces to a multiple of 8 bytes.
fn header(tokens: usize, vocab_size: usize) -> Vec<u8> {
    let bytes = 4 * tokens as u64 * vocab_size as u64;
    let tensor =
        json!({ "dtype": "F32", "shape": [tokens, vocab_size], "data_offsets": [0, bytes] });
    let mut json = json!({ "logits": tensor }).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    header
}
