//! What all handlers share.

use std::sync::{Arc, OnceLock};

use grammar::Vocabulary;
use model::{ChatTemplate, GenerationConfig, Tokenizer};

use crate::{ApiError, EngineHandle};

/// The model that is served, once it is loaded.
#[derive(Debug)]
pub struct Served {
    /// Name that clients give.
    pub name: String,
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The chat template, if the model has one.
    pub template: Option<ChatTemplate>,
    /// What the model's makers recommend, and the tokens that end an answer.
    pub generation: GenerationConfig,
    /// The tokens as grammars see them.
    pub vocabulary: Arc<Vocabulary>,
    /// Most tokens of a request, prompt and answer together.
    pub context: usize,
    /// Where requests go.
    pub engine: EngineHandle,
}

/// State of the server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `0.1.0+<commit>`.
    build: String,
    served: OnceLock<Arc<Served>>,
}

impl App {
    /// A server whose model is yet to come.
    pub fn new(build: String) -> Self {
        App { inner: Arc::new(Inner { build, served: OnceLock::new() }) }
    }

    /// The build, as it stands in every response.
    pub fn build(&self) -> &str {
        &self.inner.build
    }

    /// The model.
    ///
    /// # Errors
    /// 503 while it is loaded.
    pub fn served(&self) -> Result<&Arc<Served>, ApiError> {
        self.inner.served.get().ok_or_else(|| ApiError {
            status: axum::http::StatusCode::SERVICE_UNAVAILABLE,
            message: "the model is being loaded; /ready says when it answers".to_owned(),
            kind: "server_error",
            param: None,
            code: Some("starting"),
            retry_after: Some(1),
        })
    }
}
