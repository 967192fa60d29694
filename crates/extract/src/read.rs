//! From bytes to a document, in this process.

use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;
use crate::{Document, ExtractError, Format, Limits, images, office, pdf};

/// A file to read.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The whole file.
    pub bytes: &'a [u8],
    /// Its name, for errors, and to tell text formats apart; a path or `""` will do.
    pub name: &'a str,
    /// What whoever sent it calls it, if at all; the content counts first.
    pub mime: Option<&'a str>,
}

/// How far reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Pages that are done.
    pub pages_done: usize,
    /// Pages that there are.
    pub pages: usize,
}

/// Reads a document. Bad input is an error; input made to crash or exhaust a parser may end the process or take long, which
/// is what workers are for.
///
/// # Errors
/// Says which file, what is wrong with it, and what to do.
pub fn read(
    input: Input<'_>,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Document, ExtractError> {
    let document = read_kind(input, limits, progress).map_err(|kind| kind.of(input.name))?;
    Ok(document)
}

fn read_kind(
    input: Input<'_>,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Document, ErrorKind> {
    if input.bytes.len() > limits.bytes_max {
        return Err(ErrorKind::over("bytes", input.bytes.len(), limits.bytes_max));
    }
    let format = Format::detect(&input)?;
    if let Some(read) = office::read(format, &input, limits, progress) {
        return read;
    }
    match format {
        Format::Pdf => pdf::read(input, limits, progress),
        image if image.is_image() => images::read(input, image, limits, progress),
        _ => Err(ErrorKind::Unknown(format!("{format} has no reader in this build"))),
    }
}
