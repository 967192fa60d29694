//! What a server is told at its start.

use std::sync::Arc;
use std::time::Duration;

use crate::Stages;
use crate::auth::Keys;
use crate::documents::{self, Documents};
use crate::jobs::{self, JobsConfig};
use crate::telemetry::Collector;

/// What a server is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Version and commit, as `0.1.0+1a2b3c4d5e6f`.
    pub build: String,
    /// API keys, one of which requests must carry.
    pub keys: Keys,
    /// Whether an address that other machines reach may be served without a key.
    pub allow_no_key: bool,
    /// Whether the address is one that only this machine reaches. [`crate::Server::bind`] sets it.
    pub is_loopback: bool,
    /// Origins of web pages that may ask, as `https://example.org`; `*` for all.
    pub cors_origins: Vec<String>,
    /// Seconds that answers may take to end once the server is told to.
    pub drain: Duration,
    /// The stages of `/prompt`.
    pub stages: Arc<Stages>,
    /// Where spans of requests are sent; nothing is sent without.
    pub collector: Option<Collector>,
    /// How documents are read.
    pub documents: Documents,
    /// How jobs are taken, answered and told of.
    pub jobs: JobsConfig,
    /// Bounds.
    pub limits: Limits,
}

impl Config {
    /// Bytes of the body of a request to `path`. Documents come in base64, with other fields beside them.
    pub(crate) fn body_max(&self, path: &str) -> usize {
        let base = self.limits.body_bytes;
        // A job may be about a document, too.
        if !documents::PATHS.contains(&path) && path != jobs::PATH {
            return base;
        }
        self.documents.limits.bytes_max.div_ceil(3).saturating_mul(4).saturating_add(base)
    }
}

/// Bounds on what clients may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are held at once.
    pub bodies_bytes: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Open connections.
    pub connections: usize,
    /// Time for a request's head; an idle connection is closed after it, too.
    pub head_time: Duration,
    /// Time for a request's body.
    pub body_time: Duration,
    /// Time that a client may take nothing of what is sent to it.
    pub stall_time: Duration,
    /// Time from a request's head to the end of its answer, if it is bounded.
    pub request_time: Option<Duration>,
    /// Requests that may come between two steps.
    pub arrivals: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 4 << 20,
            bodies_bytes: 256 << 20,
            head_bytes: 32 << 10,
            connections: 4096,
            head_time: Duration::from_secs(30),
            body_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(60),
            request_time: None,
            arrivals: 1024,
        }
    }
}
