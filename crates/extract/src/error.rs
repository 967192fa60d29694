//! What can go wrong with a document.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Format;

/// Why a document could not be read: its name, and what was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{name}: {kind}")]
pub struct ExtractError {
    /// The document's name as the caller gave it.
    pub name: String,
    /// What was wrong.
    pub kind: ErrorKind,
}

/// What can be wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum ErrorKind {
    /// Neither the content nor the name says what it is.
    #[error(
        "{0}; read are PDF, PNG, JPEG, TIFF, WebP, BMP, DOCX, XLSX, XLS, ODS, CSV, PPTX, HTML, EML, text and Markdown"
    )]
    Unknown(String),
    /// It is what it says it is, but broken.
    #[error("damaged or no {format}: {message}")]
    Damaged {
        /// What it was read as.
        format: Format,
        /// What was found.
        message: String,
    },
    /// A page was asked for that there is not.
    #[error("there is no page {page}; it has {pages}")]
    NoPage {
        /// Which, from 1.
        page: usize,
        /// How many there are.
        pages: usize,
    },
    /// A page was to be shown of a format that has none.
    #[error("{0} has no pages that look like something")]
    NoPicture(Format),
    /// It opens with a password only.
    #[error("encrypted: it opens with a password only; save it without one and try again")]
    Encrypted,
    /// A limit was passed.
    #[error("{what}: {found} is over the limit of {limit}")]
    OverLimit {
        /// What there is too much of, with its unit.
        what: String,
        /// How much there is, as far as it was counted.
        found: u64,
        /// How much may be.
        limit: u64,
    },
    /// Time was up.
    #[error("not read within {seconds} s and given up")]
    TimedOut {
        /// The limit.
        seconds: u64,
    },
    /// The process that read it ended, by a fault of ours or a file made to cause one.
    #[error("its reader {0}; the file may be made to cause that, other files are not affected")]
    ReaderDied(String),
    /// The OCR engine failed.
    #[error("OCR: {0}")]
    Ocr(String),
    /// A file or process could not be used.
    #[error("{0}")]
    Io(String),
}

impl ErrorKind {
    /// This error of the document `name`.
    #[must_use]
    pub fn of(self, name: &str) -> ExtractError {
        ExtractError { name: name.to_owned(), kind: self }
    }

    /// Passing a limit.
    pub(crate) fn over(what: &str, found: usize, limit: usize) -> ErrorKind {
        ErrorKind::OverLimit { what: what.to_owned(), found: found as u64, limit: limit as u64 }
    }
}
