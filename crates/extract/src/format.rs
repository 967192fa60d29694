//! What a file is: by its content first, then by its name.

use std::fmt;

use memchr::memmem;
use serde::{Deserialize, Serialize};

use crate::Input;
use crate::error::ErrorKind;

/// A kind of file that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is the name of a format")]
pub enum Format {
    Pdf,
    Png,
    Jpeg,
    Tiff,
    WebP,
    Bmp,
    Docx,
    Xlsx,
    Xls,
    Ods,
    Csv,
    Pptx,
    Html,
    Eml,
    Markdown,
    Text,
}

/// What a format is called, its endings, and its media types.
const FORMATS: [(Format, &str, &[&str], &[&str]); 16] = [
    (Format::Pdf, "PDF", &["pdf"], &["application/pdf"]),
    (Format::Png, "PNG", &["png"], &["image/png"]),
    (Format::Jpeg, "JPEG", &["jpg", "jpeg"], &["image/jpeg"]),
    (Format::Tiff, "TIFF", &["tif", "tiff"], &["image/tiff"]),
    (Format::WebP, "WebP", &["webp"], &["image/webp"]),
    (Format::Bmp, "BMP", &["bmp"], &["image/bmp"]),
    (
        Format::Docx,
        "DOCX",
        &["docx"],
        &["application/vnd.openxmlformats-officedocument.wordprocessingml.document"],
    ),
    (
        Format::Xlsx,
        "XLSX",
        &["xlsx", "xlsm"],
        &["application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"],
    ),
    (Format::Xls, "XLS", &["xls"], &["application/vnd.ms-excel"]),
    (Format::Ods, "ODS", &["ods"], &["application/vnd.oasis.opendocument.spreadsheet"]),
    (Format::Csv, "CSV", &["csv", "tsv"], &["text/csv", "text/tab-separated-values"]),
    (
        Format::Pptx,
        "PPTX",
        &["pptx"],
        &["application/vnd.openxmlformats-officedocument.presentationml.presentation"],
    ),
    (Format::Html, "HTML", &["html", "htm", "xhtml"], &["text/html", "application/xhtml+xml"]),
    (Format::Eml, "EML", &["eml"], &["message/rfc822"]),
    (Format::Markdown, "Markdown", &["md", "markdown"], &["text/markdown"]),
    (Format::Text, "text", &["txt", "text"], &["text/plain"]),
];

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FORMATS.iter().find(|(format, ..)| format == self).map_or("", |entry| entry.1);
        f.write_str(name)
    }
}

impl Format {
    /// What `input` is. Bytes that are some format for certain decide; only text is told apart by name and media type.
    ///
    /// # Errors
    /// `Unknown`, for what is none of these.
    pub fn detect(input: &Input<'_>) -> Result<Format, ErrorKind> {
        let unknown = |what: &str| ErrorKind::Unknown(what.to_owned());
        let bytes = input.bytes;
        if bytes.is_empty() {
            return Err(unknown("the file is empty"));
        }
        if let Some(format) = by_magic(bytes) {
            return Ok(format);
        }
        if bytes.starts_with(b"PK\x03\x04") {
            return in_zip(bytes).ok_or_else(|| unknown("a ZIP archive that is no Office file"));
        }
        if bytes.starts_with(&[0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1]) {
            return in_compound_file(bytes);
        }
        let start = &bytes[..bytes.len().min(4096)];
        let utf16 = start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]);
        if start.contains(&0) && !utf16 {
            return Err(unknown("a binary file of an unknown kind"));
        }
        Ok(text_format(start, input.name, input.mime))
    }

    /// Whether this is a picture.
    #[must_use]
    pub fn is_image(self) -> bool {
        matches!(self, Format::Png | Format::Jpeg | Format::Tiff | Format::WebP | Format::Bmp)
    }
}

fn by_magic(bytes: &[u8]) -> Option<Format> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if starts(b"\x89PNG\r\n\x1a\n") {
        Some(Format::Png)
    } else if starts(&[0xff, 0xd8, 0xff]) {
        Some(Format::Jpeg)
    } else if starts(b"II*\0") || starts(b"MM\0*") {
        Some(Format::Tiff)
    } else if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Some(Format::WebP)
    } else if starts(b"BM") && bytes.get(6..10) == Some(&[0; 4]) {
        Some(Format::Bmp)
    } else if memmem::find(&bytes[..bytes.len().min(1024)], b"%PDF-").is_some() {
        // Readers take a header within the first kilobyte.
        Some(Format::Pdf)
    } else {
        None
    }
}

/// By the names of members, which stand in the archive as they are.
fn in_zip(bytes: &[u8]) -> Option<Format> {
    let has = |name: &[u8]| memmem::find(bytes, name).is_some();
    if bytes.get(30..).is_some_and(|rest| {
        rest.starts_with(b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet")
    }) {
        Some(Format::Ods)
    } else if has(b"word/document") {
        Some(Format::Docx)
    } else if has(b"xl/workbook") {
        Some(Format::Xlsx)
    } else if has(b"ppt/presentation") {
        Some(Format::Pptx)
    } else {
        None
    }
}

/// By the names of streams, which are UTF-16.
fn in_compound_file(bytes: &[u8]) -> Result<Format, ErrorKind> {
    let utf16 = |name: &str| name.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let has = |name: &str| memmem::find(bytes, &utf16(name)).is_some();
    if has("EncryptedPackage") {
        Err(ErrorKind::Encrypted)
    } else if has("Workbook") {
        Ok(Format::Xls)
    } else {
        let what =
            "an Office file of before 2007 that is no Excel workbook; save it as DOCX or PPTX";
        Err(ErrorKind::Unknown(what.to_owned()))
    }
}

fn text_format(start: &[u8], name: &str, mime: Option<&str>) -> Format {
    const TEXTS: [Format; 5] =
        [Format::Csv, Format::Html, Format::Eml, Format::Markdown, Format::Text];
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let mime = mime.map(|mime| mime.split(';').next().unwrap_or("").trim().to_ascii_lowercase());
    let named = |by: &dyn Fn(&[&str], &[&str]) -> bool| {
        let entry = FORMATS.iter().find(|(_, _, endings, mimes)| by(endings, mimes))?;
        TEXTS.contains(&entry.0).then_some(entry.0)
    };
    let by_name =
        named(&|endings, _| ending.as_deref().is_some_and(|ending| endings.contains(&ending)));
    let by_mime = || named(&|_, mimes| mime.as_deref().is_some_and(|mime| mimes.contains(&mime)));
    by_name.or_else(by_mime).unwrap_or_else(|| by_first_words(start))
}

fn by_first_words(start: &[u8]) -> Format {
    let text = String::from_utf8_lossy(start)
        .trim_start_matches('\u{feff}')
        .trim_start()
        .to_ascii_lowercase();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return Format::Html;
    }
    let header = |name: &str| text.starts_with(name) || text.contains(&format!("\n{name}"));
    let headers = ["from:", "subject:", "message-id:", "mime-version:", "received:"];
    if headers.iter().filter(|name| header(name)).count() >= 3 {
        return Format::Eml;
    }
    Format::Text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], name: &str, mime: Option<&str>, expected: Result<Format, &str>) {
        let found = Format::detect(&Input { bytes, name, mime });
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{name}"),
            (Err(found), Err(expected)) => {
                assert!(found.to_string().contains(expected), "{name}: {found}");
            }
            _ => panic!("{name}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn content_counts_first() {
        check(b"%PDF-1.7\n", "a.png", Some("image/png"), Ok(Format::Pdf));
        check(b"\x89PNG\r\n\x1a\n", "a.pdf", None, Ok(Format::Png));
        check(b"RIFF\0\0\0\0WEBPVP8 ", "", None, Ok(Format::WebP));
        check(b"PK\x03\x04....word/document.xml", "a.xlsx", None, Ok(Format::Docx));
        check(b"PK\x03\x04....photos/1.png", "a.zip", None, Err("no Office file"));
        check(b"\x7fELF\0\0\0", "a.txt", None, Err("binary file"));
        check(b"", "a.txt", None, Err("empty"));
    }

    #[test]
    fn text_is_told_apart_by_name() {
        check(b"a,b\n1,2\n", "a.CSV", None, Ok(Format::Csv));
        check(b"a,b\n1,2\n", "a", Some("text/csv; charset=utf-8"), Ok(Format::Csv));
        check(b"# a", "a.md", None, Ok(Format::Markdown));
        check(b" <!DOCTYPE html><p>", "a", None, Ok(Format::Html));
        check(b"From: a\nTo: b\nSubject: c\nMessage-ID: <d>\n\n", "", None, Ok(Format::Eml));
        check(b"plain", "invoice.pdf", None, Ok(Format::Text));
    }
}
