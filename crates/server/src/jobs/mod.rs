//! `/v1/jobs`: requests that outlive their connection, and the process that took them.
//!
//! A request is on disk before it is accepted. The router answers it in this process, or in another one that has the same store;
//! its end is written once, and told to whoever the caller named until they have taken it.

mod config;
mod secret;
mod request;
mod response;
mod routes;
mod events;
mod runner;
mod callbacks;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jobs::{Counts, Store, StoreError};
use tokio::sync::Mutex;

use crate::ApiError;

pub use config::JobsConfig;
pub(crate) use routes::routes;
pub(crate) use runner::companion;
pub use secret::{SecretError, WebhookSecrets};

/// The path of jobs.
pub(crate) const PATH: &str = "/v1/jobs";

/// How old figures of the store may be.
const COUNTS_AGE: Duration = Duration::from_secs(1);

/// The jobs of a server.
#[derive(Debug)]
pub(crate) struct Jobs {
    config: JobsConfig,
    /// Or why there is none.
    store: OnceLock<Result<Store, String>>,
    counts: Mutex<Counted>,
}

/// What the store held a moment ago, and what has been accepted here since.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    at: Option<Instant>,
    counts: Counts,
}

impl Jobs {
    /// Jobs whose store is not open yet.
    pub(crate) fn new(config: JobsConfig) -> Self {
        Jobs { config, store: OnceLock::new(), counts: Mutex::default() }
    }

    /// Opens the store. One that nobody asked for may be unusable: then jobs are refused, with the reason.
    ///
    /// # Errors
    /// If the store that was asked for cannot be used.
    pub(crate) async fn open(&self) -> Result<(), StoreError> {
        let opened = match Store::open(&self.config.place, &self.config.model).await {
            Ok(Some(store)) => {
                tracing::info!(place = %self.config.place, "jobs are stored");
                Ok(store)
            }
            Ok(None) if self.config.is_default => {
                let why =
                    "neither XDG_STATE_HOME nor HOME says where to store jobs; --jobs FILE does";
                tracing::warn!("no jobs are taken: {why}");
                Err(format!("this server takes no jobs: {why}"))
            }
            Ok(None) => Err("this server takes no jobs (`--jobs off`, or a worker)".to_owned()),
            Err(error) if self.config.is_default => {
                tracing::warn!(error = %error, "no jobs are taken; --jobs FILE stores them elsewhere, --jobs off says that there are none");
                Err(format!("this server takes no jobs: {error}"))
            }
            Err(error) => return Err(error),
        };
        // It is opened once.
        let _ = self.store.set(opened);
        Ok(())
    }

    pub(crate) fn config(&self) -> &JobsConfig {
        &self.config
    }

    /// The store.
    ///
    /// # Errors
    /// 503 where there is none.
    pub(crate) fn store(&self) -> Result<&Store, ApiError> {
        let why = match self.store.get() {
            Some(Ok(store)) => return Ok(store),
            Some(Err(why)) => why.as_str(),
            None => "this server takes no jobs",
        };
        Err(ApiError { retry_after: None, ..ApiError::unavailable("no_jobs", why.to_owned(), 1) })
    }

    /// What the store holds, or held within the last second.
    pub(crate) async fn counts(&self) -> Result<Counts, ApiError> {
        let store = self.store()?;
        // Held while it is asked: others would only ask the same.
        let mut counted = self.counts.lock().await;
        if counted.at.is_none_or(|at| at.elapsed() > COUNTS_AGE) {
            counted.counts = store.counts().await.map_err(|error| unavailable(&error))?;
            counted.at = Some(Instant::now());
        }
        Ok(counted.counts)
    }

    /// One more was accepted.
    async fn add(&self, bytes: usize) {
        let mut counted = self.counts.lock().await;
        counted.counts.queued += 1;
        counted.counts.queued_bytes += bytes as u64;
    }
}

/// What an error of the store means to a client.
fn unavailable(error: &StoreError) -> ApiError {
    tracing::warn!(error = %error, "the store of jobs");
    ApiError::unavailable("jobs_unavailable", error.to_string(), 1)
}
