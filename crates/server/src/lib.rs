//! A model over HTTP: the OpenAI API, and the service's own endpoints.

mod error;
mod extract;
mod config;
mod app;
mod companion;
mod run;
mod connection;
mod router;
mod limits;
mod auth;
mod driver;
mod mailbox;
mod record;
mod sampling;
mod grammars;
mod health;
mod operations;
mod metrics;
mod shutdown;
mod log;
mod telemetry;
mod openapi;
pub mod openai;
mod tokenize;
mod prompt;
mod classify;
mod documents;
mod room;
mod jobs;
mod page;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod small_models;
#[cfg(test)]
mod tests;

pub use app::{App, MemoryPlan, Served};
pub use auth::{KeyError, Keys};
pub use companion::{Companion, Told};
pub use config::{Config, Limits};
pub use documents::Documents;
pub use driver::{Answer, EngineHandle};
pub use engine::Stats;
pub use error::ApiError;
pub use health::{LoadProgress, LoadState, Phase};
pub use jobs::{JobsConfig, SecretError, WebhookSecrets};
pub use log::{LogFormat, flush_log, log};
pub use prompt::{StageError, Stages};
pub use router::router;
pub use run::{BindError, Host, Loading, ServeError, Server};
pub use sampling::{effective, random_seed};
pub use telemetry::Collector;
