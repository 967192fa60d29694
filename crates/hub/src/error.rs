//! What can go wrong: one line that says what, where and what to do.

use std::io;
use std::path::{Path, PathBuf};

use fetch::FetchError;

/// Why files of a repository did not come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name, revision or pattern that makes no sense.
    #[error("{0}")]
    Name(String),
    /// The repository holds nothing that fits, or too much.
    #[error("{0}")]
    Choice(String),
    /// The token cannot be read or sent.
    #[error("{0}")]
    Token(String),
    /// The environment forbids it.
    #[error(
        "HF_HUB_OFFLINE is set: nothing is read from the hub; unset it, or fetch the model first"
    )]
    Offline,
    /// The hub refuses.
    #[error("{0}")]
    Refused(String),
    /// On the way.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The way failed again and again.
    #[error(
        "{file}: given up after {attempts} attempts: {last}; what has come is kept, run the same command again to continue"
    )]
    GaveUp {
        /// Which file.
        file: String,
        /// How often it was tried without getting on.
        attempts: u32,
        /// Why it failed the last time.
        last: String,
    },
    /// A list of the hub's that cannot be used.
    #[error("{url}: the hub's answer makes no sense: {what}")]
    Answer {
        /// What was asked for.
        url: String,
        /// The contradiction.
        what: String,
    },
    /// A whole file came, and it is another.
    #[error(
        "{file}: came {times} times with {kind} {found} where the hub says {expected}; it was thrown away: try again later, or another HF_ENDPOINT"
    )]
    Digest {
        /// Which file.
        file: String,
        /// `sha256` or `git blob id`.
        kind: &'static str,
        /// What the hub says.
        expected: String,
        /// What came the last time.
        found: String,
        /// How often.
        times: u32,
    },
    /// There is no room for it.
    #[error(
        "{need} are needed in {place}, and {free} are free there; free {more}, or name another place with --model-dir or HF_HUB_CACHE"
    )]
    Space {
        /// Bytes that are still to come.
        need: String,
        /// Bytes that are free.
        free: String,
        /// The difference.
        more: String,
        /// Where.
        place: String,
    },
    /// There was room for it, and is no more.
    #[error(
        "{path}: the volume is full ({source}); what has come is kept: free some space, and run the same command again"
    )]
    Full {
        /// What was written.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// As `write`.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody else took what is ours.
    #[error("{0}")]
    LockLost(String),
    /// Threads and the like.
    #[error("{0}")]
    System(String),
}

impl HubError {
    /// Whether what was asked for is at fault, rather than the way to it or this machine.
    pub fn is_bad_input(&self) -> bool {
        match self {
            HubError::Name(_) | HubError::Choice(_) | HubError::Token(_) | HubError::Refused(_) => {
                true
            }
            HubError::Answer { .. } => true,
            HubError::Fetch(error) => !matches!(
                error,
                FetchError::Timeout { .. }
                    | FetchError::Failed { .. }
                    | FetchError::Cut { .. }
                    | FetchError::Status { .. }
            ),
            _ => false,
        }
    }

    /// An error of the file system at `path`.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => HubError::Full { path, source },
            _ => HubError::File { what, path, source },
        }
    }
}
