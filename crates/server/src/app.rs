//! What all handlers share.

use std::io;
use std::sync::{Arc, OnceLock};

use grammar::Vocabulary;
use model::{ChatTemplate, GenerationConfig, Tokenizer};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

use crate::grammars::Grammars;
use crate::health::Health;
use crate::limits::InFlight;
use crate::metrics::Metrics;
use crate::openai::TokenTexts;
use crate::telemetry::Spans;
use crate::{ApiError, Config, EngineHandle, Stages};

/// The model that is served, once it is loaded.
#[derive(Debug)]
pub struct Served {
    /// Name that clients give.
    pub name: String,
    /// Other names that it answers to.
    pub aliases: Vec<String>,
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
    /// The device in words.
    pub device: String,
    /// What lies in memory.
    pub plan: MemoryPlan,
    /// Seconds since 1970 at which it was loaded.
    pub created: u64,
    /// Where requests go.
    pub engine: EngineHandle,
}

impl Served {
    /// Whether this is what a request's `model` names.
    pub fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// What a served model takes in the device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct MemoryPlan {
    /// Bytes of weights.
    pub weights_bytes: u64,
    /// Bytes of keys and values.
    pub kv_bytes: u64,
    /// Tokens whose keys and values fit.
    pub kv_tokens: usize,
    /// Bytes of activations and whatever else a step needs.
    pub workspace_bytes: u64,
}

/// State of the server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    health: Health,
    metrics: Arc<Metrics>,
    spans: Option<Spans>,
    in_flight: InFlight,
    /// Room for bodies, a permit for each KiB.
    body_room: Arc<Semaphore>,
    grammars: Grammars,
    token_texts: OnceLock<Arc<TokenTexts>>,
    served: OnceLock<Arc<Served>>,
}

impl App {
    /// A server whose model is yet to come.
    ///
    /// # Errors
    /// If spans are to be sent and the system refuses the thread for it.
    pub fn new(config: Config) -> io::Result<Self> {
        let room = config.limits.bodies_bytes.max(config.limits.body_bytes).div_ceil(1024);
        let collector = config.collector.as_ref();
        let spans = collector.map(|collector| Spans::new(collector, &config.build)).transpose()?;
        let inner = Inner {
            config,
            spans,
            in_flight: InFlight::new(),
            body_room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
            health: Health::new(),
            metrics: Arc::new(Metrics::new()),
            grammars: Grammars::default(),
            token_texts: OnceLock::new(),
            served: OnceLock::new(),
        };
        Ok(App { inner: Arc::new(inner) })
    }

    /// The build, as it stands in every response.
    pub fn build(&self) -> &str {
        &self.inner.config.build
    }

    /// What was configured.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The stages of `/prompt`.
    pub fn stages(&self) -> &Arc<Stages> {
        &self.inner.config.stages
    }

    /// The model.
    ///
    /// # Errors
    /// 503 while it is loaded, and when nothing more is taken.
    pub fn served(&self) -> Result<&Arc<Served>, ApiError> {
        if let Some(refusal) = self.inner.health.refusal() {
            return Err(refusal);
        }
        self.loaded().ok_or_else(ApiError::engine_gone)
    }

    /// The model, whether or not it takes requests now.
    pub(crate) fn loaded(&self) -> Option<&Arc<Served>> {
        self.inner.served.get()
    }

    /// Names of the model.
    pub(crate) fn model_name(&self) -> Option<&str> {
        self.loaded().map(|served| served.name.as_str())
    }

    /// The model is loaded. Only the first counts.
    pub(crate) fn serve(&self, served: Served) {
        self.metrics().serving(self.build(), &served.name, &served.device);
        // There is one load.
        let _ = self.inner.served.set(Arc::new(served));
    }

    /// Waits for room for a body of so many bytes among all that are held.
    pub(crate) async fn body_room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let permits = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.inner.body_room).acquire_many_owned(permits).await;
        // It is never closed.
        room.map_err(|_| ApiError::engine_gone())
    }

    /// Where spans go, if they go anywhere.
    pub(crate) fn spans(&self) -> Option<&Spans> {
        self.inner.spans.as_ref()
    }

    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.inner.in_flight
    }

    /// Constraints that were compiled before.
    pub(crate) fn grammars(&self) -> &Grammars {
        &self.inner.grammars
    }

    /// Texts of the model's tokens, read when first asked for.
    ///
    /// # Errors
    /// 500 for a tokenizer that cannot tell them.
    pub(crate) fn token_texts(&self, served: &Served) -> Result<Arc<TokenTexts>, ApiError> {
        if let Some(texts) = self.inner.token_texts.get() {
            return Ok(Arc::clone(texts));
        }
        let texts = Arc::new(TokenTexts::new(&served.tokenizer)?);
        Ok(Arc::clone(self.inner.token_texts.get_or_init(|| texts)))
    }

    pub(crate) fn health(&self) -> &Health {
        &self.inner.health
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }
}
