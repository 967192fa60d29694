//! What all handlers share.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use grammar::Vocabulary;
use model::{ChatTemplate, GenerationConfig, Tokenizer};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

use crate::grammars::Grammars;
use crate::health::Health;
use crate::jobs::Jobs;
use crate::limits::InFlight;
use crate::metrics::Metrics;
use crate::openai::TokenTexts;
use crate::record::Record;
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
    /// Most tokens that a request may ask for as an answer, if fewer than the context has.
    pub max_tokens_limit: Option<usize>,
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
    /// Refuses a text that is far too long by its beginning, for the tokens of all of it take hundreds of times its memory.
    /// Whether another fits is known when it is encoded.
    ///
    /// # Errors
    /// 400.
    pub(crate) fn check_length(&self, text: &str) -> Result<(), ApiError> {
        let beginning = self.context.saturating_mul(BYTES_PER_TOKEN).max(BEGINNING_MIN);
        if text.len() <= beginning.saturating_mul(2) {
            return Ok(());
        }
        let end = (0..=beginning).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        let tokens = self.tokenizer.encode_plain(&text[..end]);
        let tokens = tokens.map_err(|error| ApiError::of_engine(&error.into()))?.len();
        // Where a text is cut, its tokens may differ from those of the whole, but not half of them.
        if tokens <= self.context.saturating_mul(2) {
            return Ok(());
        }
        let message = format!(
            "the prompt takes far more tokens than the {} of the context: the first {end} of its {} bytes take {tokens}; \
             shorten it: it is never cut",
            self.context,
            text.len()
        );
        Err(ApiError::invalid(None, message).with_code("context_length_exceeded"))
    }

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

/// Texts have fewer bytes for each token, unless they are mostly spaces.
const BYTES_PER_TOKEN: usize = 8;

/// Beginnings that are shorter are not worth being looked at alone.
const BEGINNING_MIN: usize = 16 << 10;

/// KiB of bodies whose texts are turned into tokens at once, which takes some 250 times their memory. A larger one has its
/// turn alone.
const TEXT_ROOM: usize = 2 << 10;

/// How long a body waits for room that others take. Bodies that wait hold what they have, so some must give up.
const BODY_ROOM_TIME: Duration = Duration::from_secs(5);

/// Room that a body takes among all that are held; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct BodyRoom {
    all: Arc<Semaphore>,
    /// A permit for each KiB.
    held: Option<OwnedSemaphorePermit>,
}

impl BodyRoom {
    /// Waits until there is room for so many bytes in all.
    ///
    /// # Errors
    /// 503 where others take it for long.
    pub(crate) async fn grow_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(bytes.div_ceil(1024).saturating_sub(held)).unwrap_or(u32::MAX);
        if more == 0 {
            return Ok(());
        }
        let room = Arc::clone(&self.all).acquire_many_owned(more);
        match tokio::time::timeout(BODY_ROOM_TIME, room).await {
            Ok(Ok(permit)) => match &mut self.held {
                Some(held) => held.merge(permit),
                None => self.held = Some(permit),
            },
            // It is never closed.
            Ok(Err(_)) => return Err(ApiError::engine_gone()),
            Err(_) => {
                let message = "the bodies of other requests take all the room there is for them";
                return Err(ApiError::unavailable("busy", message.to_owned(), 1));
            }
        }
        Ok(())
    }
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
    /// Room for texts on their way to tokens, a permit for each KiB.
    text_room: Arc<Semaphore>,
    /// Documents that are read at once.
    readers: Arc<Semaphore>,
    grammars: Grammars,
    jobs: Jobs,
    token_texts: OnceLock<Arc<TokenTexts>>,
    served: OnceLock<Arc<Served>>,
}

impl App {
    /// A server whose model is yet to come.
    ///
    /// # Errors
    /// If spans are to be sent and the system refuses the thread for it.
    pub fn new(config: Config) -> io::Result<Self> {
        let largest = config.body_max(crate::documents::PATHS[0]);
        let room = config.limits.bodies_bytes.max(largest).div_ceil(1024);
        let readers = config.documents.at_once.clamp(1, Semaphore::MAX_PERMITS);
        let collector = config.collector.as_ref();
        let spans = collector.map(|collector| Spans::new(collector, &config.build)).transpose()?;
        let inner = Inner {
            jobs: Jobs::new(config.jobs.clone()),
            config,
            spans,
            in_flight: InFlight::new(),
            readers: Arc::new(Semaphore::new(readers)),
            body_room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
            text_room: Arc::new(Semaphore::new(TEXT_ROOM)),
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

    /// Room for a body among all that are held; none yet.
    pub(crate) fn body_room(&self) -> BodyRoom {
        BodyRoom { all: Arc::clone(&self.inner.body_room), held: None }
    }

    /// Runs what takes a while, as templates and tokens do, off the threads that serve connections; large requests one after
    /// the other.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let kib = Record::current().body_bytes().div_ceil(1024).clamp(1, TEXT_ROOM);
        let room = Arc::clone(&self.inner.text_room).acquire_many_owned(kib as u32).await;
        let ended = tokio::task::spawn_blocking(move || {
            let result = work();
            // Held to here, also where the client has left meanwhile.
            drop(room);
            result
        });
        ended.await.unwrap_or_else(|error| Err(ApiError::internal(error.to_string())))
    }

    /// Waits until one more document may be read.
    pub(crate) async fn document_slot(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let slot = Arc::clone(&self.inner.readers).acquire_owned().await;
        // It is never closed.
        slot.map_err(|_| ApiError::engine_gone())
    }

    /// The jobs of this server.
    pub(crate) fn jobs(&self) -> &Jobs {
        &self.inner.jobs
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
