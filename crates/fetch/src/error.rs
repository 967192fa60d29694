//! What can go wrong on the way.

use std::error::Error;
use std::time::Duration;

/// Why a file did not come: one line that says what, where and what to do. URLs are those that were asked for: where they led
/// may hold signatures, which are secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// It is no URL, or of a kind that is not fetched.
    #[error("{url}: {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such file.
    #[error("{url}: there is no such file (404)")]
    NotFound {
        /// What was asked for.
        url: String,
        /// The hub's word for it, as `RevisionNotFound`.
        code: Option<String>,
    },
    /// Not without a token, or not with this one.
    #[error("{url}: the server refuses ({status})")]
    Denied {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The hub's word for it, as `GatedRepo`.
        code: Option<String>,
    },
    /// Any other answer that is not the file.
    #[error("{url}: the server answers {status}{}", advice(*status))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How long the server asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// More bytes than the caller takes.
    #[error("{url}: is larger than the {max} bytes that are read of it")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The bound.
        max: u64,
    },
    /// The answer contradicts the request or itself.
    #[error("{url}: the server's answer makes no sense: {what}")]
    Answer {
        /// What was asked for.
        url: String,
        /// The contradiction.
        what: String,
    },
    /// The answer ended early.
    #[error("{url}: broke off after {got} of {expected} bytes; try again")]
    Cut {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// It took too long.
    #[error("{url}: no answer in time; try again")]
    Timeout {
        /// What was asked for.
        url: String,
    },
    /// No connection, or it failed.
    #[error("{url}: {reason}")]
    Failed {
        /// What was asked for.
        url: String,
        /// The innermost reason.
        reason: String,
    },
}

fn advice(status: u16) -> &'static str {
    match status {
        429 => " (too many requests); wait and try again",
        500..=599 => "; try again later",
        _ => "",
    }
}

/// What an error comes down to: the innermost of its causes, where the outer ones repeat a URL, which may hold a secret.
pub fn root_cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
