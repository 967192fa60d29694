//! What is remembered of an HTTP request until its one line in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

tokio::task_local! {
    /// The request that the present task answers.
    static CURRENT: Arc<Record>;
}

/// Figures of one HTTP request, which may have asked for several answers.
#[derive(Debug, Default)]
pub(crate) struct Record {
    body_bytes: AtomicUsize,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    /// Nanoseconds of steps, by this request's share of their tokens.
    engine_nanos: AtomicU64,
    /// Nanoseconds to the first token; 0 as long as there is none.
    first_token_nanos: AtomicU64,
    /// When its answers break off, if they are not whole by then.
    deadline: Option<Instant>,
}

/// Tokens and times of a request so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Figures {
    /// Tokens of all prompts.
    pub(crate) prompt_tokens: u64,
    /// Of these, found in the cache.
    pub(crate) cached_tokens: u64,
    /// Tokens that were generated.
    pub(crate) completion_tokens: u64,
    /// Seconds of the device.
    pub(crate) engine_seconds: f64,
    /// Seconds to the first token, if one came.
    pub(crate) first_token_seconds: Option<f64>,
}

impl Record {
    /// One of a request that may take until then.
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Record { deadline, ..Record::default() }
    }

    /// When its answers break off, if they are not whole by then.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The record of the request that the present task answers; one that nobody reads where there is none.
    pub(crate) fn current() -> Arc<Record> {
        CURRENT.try_with(Arc::clone).unwrap_or_default()
    }

    /// Runs a future whose requests to the engine count here.
    pub(crate) async fn scope<F: Future>(self: Arc<Self>, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Bytes of its body.
    pub(crate) fn body_bytes(&self) -> usize {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// Its body has come.
    pub(crate) fn set_body(&self, bytes: usize) {
        self.body_bytes.store(bytes, Ordering::Relaxed);
    }

    /// A prompt was taken.
    pub(crate) fn add_prompt(&self, tokens: usize) {
        self.prompt_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// So much of a prompt needed no computing.
    pub(crate) fn add_cached(&self, tokens: usize) {
        self.cached_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// A token came, so long after the request.
    pub(crate) fn add_token(&self, since: Duration) {
        if self.completion_tokens.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first_token_nanos.store(since.as_nanos().max(1) as u64, Ordering::Relaxed);
        }
    }

    /// The device worked on it.
    pub(crate) fn add_engine(&self, seconds: f64) {
        self.engine_nanos.fetch_add((seconds * 1e9) as u64, Ordering::Relaxed);
    }

    /// What there is so far.
    pub(crate) fn figures(&self) -> Figures {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let first = load(&self.first_token_nanos);
        Figures {
            prompt_tokens: load(&self.prompt_tokens),
            cached_tokens: load(&self.cached_tokens),
            completion_tokens: load(&self.completion_tokens),
            engine_seconds: load(&self.engine_nanos) as f64 / 1e9,
            first_token_seconds: (first > 0).then(|| first as f64 / 1e9),
        }
    }
}
