//! A model over HTTP: the OpenAI API, and the service's own endpoints.

mod error;
mod app;
mod driver;

pub use app::{App, Served};
pub use driver::{Answer, EngineHandle};
pub use error::ApiError;
