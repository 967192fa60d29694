//! Everything that is neither PDF nor picture: Office files, tables, web pages, messages, texts.

mod archive;
mod xml;
mod flow;
mod docx;
mod pptx;
mod sheets;
mod ods;
mod csv;
mod html;
mod eml;
mod plain;
#[cfg(test)]
mod tests;

use crate::error::ErrorKind;
use crate::{Document, Format, Input, Limits, Metadata, Page, Progress, Warning};

/// What a reader has put together.
#[derive(Debug, Default)]
struct Parts {
    pages: Vec<Page>,
    metadata: Metadata,
    warnings: Vec<Warning>,
}

impl Parts {
    /// Pages of a document that says nothing of itself.
    fn of(pages: Vec<Page>) -> Self {
        Parts { pages, ..Parts::default() }
    }

    fn warn(&mut self, page: Option<usize>, message: impl Into<String>) {
        self.warnings.push(Warning { page, message: message.into() });
    }
}

/// Reads a document of such a format; `None` for the others.
pub(crate) fn read(
    format: Format,
    input: &Input<'_>,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Option<Result<Document, ErrorKind>> {
    let read = |result: Result<Parts, ErrorKind>| {
        let parts = result?;
        check(&parts.pages, limits)?;
        let Parts { pages, metadata, warnings } = parts;
        Ok(Document { format, pages, metadata, warnings })
    };
    let result = match format {
        Format::Docx => docx::read(input.bytes, limits),
        Format::Pptx => pptx::read(input.bytes, limits, progress),
        Format::Xlsx | Format::Xls | Format::Ods => {
            sheets::read(format, input.bytes, limits, progress)
        }
        Format::Csv => csv::read(input, limits),
        Format::Html => Ok(html::read(input.bytes, limits)),
        Format::Eml => eml::read(input, limits, progress),
        Format::Markdown => Ok(plain::markdown(input.bytes)),
        Format::Text => Ok(plain::text(input.bytes)),
        _ => return None,
    };
    Some(read(result))
}

/// Holds what was read against the limits.
fn check(pages: &[Page], limits: &Limits) -> Result<(), ErrorKind> {
    if pages.len() > limits.pages_max {
        return Err(ErrorKind::over("pages", pages.len(), limits.pages_max));
    }
    check_words(pages.iter().map(|page| page.words.len()).sum(), limits)
}

fn check_words(words: usize, limits: &Limits) -> Result<(), ErrorKind> {
    if words > limits.words_max {
        return Err(ErrorKind::over("words", words, limits.words_max));
    }
    Ok(())
}

fn damaged(format: Format, message: impl ToString) -> ErrorKind {
    ErrorKind::Damaged { format, message: message.to_string() }
}

/// The text of a file: by its byte order mark, else UTF-8, else Windows-1252, which has a character for every byte.
fn decode(bytes: &[u8]) -> (String, Option<&'static str>) {
    let (text, encoding, _) = encoding_rs::UTF_8.decode(bytes);
    let has_mark = encoding_rs::Encoding::for_bom(bytes).is_some();
    if has_mark || std::str::from_utf8(bytes).is_ok() {
        return (text.into_owned(), (encoding != encoding_rs::UTF_8).then(|| encoding.name()));
    }
    let (text, encoding, _) = encoding_rs::WINDOWS_1252.decode(bytes);
    (text.into_owned(), Some(encoding.name()))
}

/// Says where a text is not UTF-8: its letters may have been meant otherwise.
fn warn_of_encoding(parts: &mut Parts, encoding: Option<&'static str>) {
    if let Some(name) = encoding {
        parts.warn(None, format!("the text is no UTF-8 and was read as {name}"));
    }
}
