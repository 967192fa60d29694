//! What goes wrong with a store.

use std::path::PathBuf;

/// What goes wrong with a store. No message holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the file.
    #[error(
        "{} is in use by another server; give this one a file of its own (--jobs FILE), or let both share a PostgreSQL",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("cannot open {place}: {why}")]
    Open {
        /// What cannot be opened.
        place: String,
        /// The system's reason.
        why: String,
    },
    /// It was written by a later version.
    #[error(
        "{place} has the form {found}, and this version knows {known}; take a newer halfbyte, or another place"
    )]
    Newer {
        /// Which store.
        place: String,
        /// The form that was found.
        found: i64,
        /// The form that is known.
        known: i64,
    },
    /// It does not answer, or refuses. Whether what was asked was done is unknown.
    #[error("the store of jobs does not answer: {0}")]
    Unavailable(String),
}
