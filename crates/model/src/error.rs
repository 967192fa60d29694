//! What can be wrong with a model.

use std::io;
use std::path::{Path, PathBuf};

use quant::QuantError;

/// Result of everything that reads or writes a model.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// What can be wrong with a model: each message is one line that says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No such model.
    #[error("model `{model}` is not here (looked in {}); {}", list(searched), where_from(model))]
    NotFound {
        /// What was asked for.
        model: String,
        /// The places that were looked at, in order.
        searched: Vec<PathBuf>,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// A verb: `read`, `write`, `create` …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The model lacks a file.
    #[error("{}: has no {file}; {hint}", path.display())]
    MissingFile {
        /// Directory of the model, or the name of one in memory.
        path: PathBuf,
        /// Name of the file.
        file: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A file is not what its name promises: broken JSON, a value out of range.
    #[error("{}: {message}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// The model is sound, as far as can be seen, but of a kind that is not implemented.
    #[error("{}: {what} `{found}` is not supported; supported: {supported}", file.display())]
    Unsupported {
        /// The file that asks for it.
        file: PathBuf,
        /// What is not supported: `architecture`, `rope type` …
        what: &'static str,
        /// The name found.
        found: String,
        /// The names that would have done.
        supported: &'static str,
    },
    /// A tensor is not in the checkpoint.
    #[error("{}: tensor `{name}` is missing ({near}); fetch the checkpoint again or correct config.json", path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Names that are there and look alike.
        near: String,
    },
    /// A tensor has the wrong type, shape or content.
    #[error("{}: tensor `{name}`: {message}", file.display())]
    Tensor {
        /// The file it lies in.
        file: PathBuf,
        /// Its name.
        name: String,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// A 4-bit tensor is corrupt, or a tensor cannot be quantized.
    #[error("{}: tensor `{name}`: {source}", file.display())]
    Quant {
        /// The file it lies in.
        file: PathBuf,
        /// Its name.
        name: String,
        /// What is wrong.
        source: QuantError,
    },
    /// The destination of `quantize` is there already.
    #[error("{} exists already; remove it or name another destination", .0.display())]
    Exists(PathBuf),
    /// The tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template failed, or refused the messages.
    #[error("chat template: {0}")]
    Template(String),
}

/// What an error means to whoever called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The model, or what was given with it, is bad or missing (exit code 3).
    BadInput,
    /// The system failed: a full disk, a read-only directory (exit code 1).
    Failed,
}

impl ModelError {
    /// Whether the input is to blame or the system.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ModelError::Io { action: "read" | "open" | "map", .. } => ErrorKind::BadInput,
            ModelError::Io { .. } => ErrorKind::Failed,
            _ => ErrorKind::BadInput,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| ModelError::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn malformed(file: &Path, message: impl Into<String>) -> Self {
        ModelError::Malformed { file: file.to_owned(), message: message.into() }
    }

    pub(crate) fn tensor(file: &Path, name: &str, message: impl Into<String>) -> Self {
        ModelError::Tensor { file: file.to_owned(), name: name.to_owned(), message: message.into() }
    }

    pub(crate) fn quant(file: &Path, name: &str) -> impl FnOnce(QuantError) -> Self {
        move |source| ModelError::Quant { file: file.to_owned(), name: name.to_owned(), source }
    }
}

/// What to do about an error of the system, where that is not plain from the error.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space and try again"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; allow it, or name another place"
        }
        _ => "",
    }
}

/// What to do about a model that is not here: only a name of the form ORG/NAME can be fetched.
fn where_from(model: &str) -> String {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with(['.', '~']);
    match model.split_once('/') {
        Some((org, name)) if is_part(org) && is_part(name) && !name.contains('/') => {
            format!("fetch it with `halfbyte pull {model}`, or give a path or --model-dir")
        }
        _ => "give the directory of a model, or its name as ORG/NAME".to_owned(),
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}
