//! What goes wrong while facts are read.

use std::io;
use std::path::PathBuf;

/// A file that cannot be audited, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct AuditError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: ProbeError,
}

/// Why bytes make no sense, or were not read.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The system refused.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// Something reaches beyond what there is.
    #[error("damaged: {what} at offset {offset} takes {size} bytes, the file ends at {len}")]
    PastEnd {
        /// The structure.
        what: &'static str,
        /// Where it should start.
        offset: u64,
        /// How long it claims to be.
        size: u64,
        /// Length of the file.
        len: u64,
    },
    /// Something is not what its format says.
    #[error("damaged: {0}")]
    Damaged(String),
    /// A kind of file that is not read, and what would be.
    #[error("{0}")]
    Unsupported(String),
    /// A bound of [`crate::Limits`], or of a structure.
    #[error("stopped: more than {max} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        max: u64,
    },
}

impl From<io::Error> for ProbeError {
    /// A source of bytes that is at the end of its budget can only say so by way of an I/O error.
    fn from(error: io::Error) -> ProbeError {
        match error.downcast::<ProbeError>() {
            Ok(inner) => inner,
            Err(error) => ProbeError::Io(error),
        }
    }
}

impl ProbeError {
    pub(crate) fn damaged(what: impl Into<String>) -> ProbeError {
        ProbeError::Damaged(what.into())
    }

    /// Names the file.
    pub(crate) fn at(self, path: impl Into<PathBuf>) -> AuditError {
        AuditError { path: path.into(), reason: self }
    }
}

pub(crate) type Result<T, E = ProbeError> = std::result::Result<T, E>;
