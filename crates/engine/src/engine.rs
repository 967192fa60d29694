//! Many answers at once on one model.

use std::sync::Arc;
use std::time::Duration;

use model::Tokenizer;

use crate::{Completion, EngineError, GeneratedToken, ModelRunner, Request};

/// Names a request for as long as the engine lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Bounds of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most tokens of a request, prompt and answer together.
    pub context: usize,
    /// Most sequences that share a step.
    pub max_num_seqs: usize,
    /// Most tokens of a step.
    pub max_num_batched_tokens: usize,
    /// Most requests that wait for their first step.
    pub max_waiting: usize,
    /// Whether blocks of finished requests are kept for those that begin alike.
    pub prefix_cache: bool,
}

/// What happens to a request.
#[derive(Debug)]
pub enum Event {
    /// So many tokens of the prompt are computed.
    Prefill {
        /// Computed or cached.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
        /// Of those done, how many were in the cache.
        cached: usize,
    },
    /// Log-probabilities of the prompt's tokens from [`Request::prompt_logprobs_from`] on.
    PromptLogprobs(Vec<GeneratedToken>),
    /// A token was generated.
    Token(GeneratedToken),
    /// The answer is whole; nothing follows.
    Finished(Completion),
    /// The answer broke off; nothing follows.
    Failed(EngineError),
}

/// What the engine holds at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that have not begun.
    pub waiting: usize,
    /// Requests that share steps.
    pub running: usize,
    /// Blocks of the cache in use by requests.
    pub used_blocks: usize,
    /// Blocks that hold finished requests' tokens and can be taken at any time.
    pub cached_blocks: usize,
    /// All blocks.
    pub total_blocks: usize,
    /// Prompt tokens asked for, and those of them found in the cache, since the start.
    pub prompt_tokens: u64,
    /// See `prompt_tokens`.
    pub cached_tokens: u64,
    /// Tokens generated since the start.
    pub generated_tokens: u64,
    /// How often a request lost its blocks and was computed again.
    pub preemptions: u64,
}

/// What a step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Tokens that were computed.
    pub tokens: usize,
    /// Sequences that shared the step.
    pub sequences: usize,
    /// Tokens that were generated.
    pub generated: usize,
}

/// Many requests on one model. It is told the time, and does nothing but in [`Engine::step`].
pub struct Engine {}

impl Engine {
    /// An engine with nothing to do.
    pub fn new(
        runner: Box<dyn ModelRunner>,
        tokenizer: Arc<Tokenizer>,
        config: EngineConfig,
    ) -> Self {
        let _ = (runner, tokenizer, config);
        unimplemented!()
    }

    /// Takes a request into the queue.
    ///
    /// # Errors
    /// [`EngineError`] for one that makes no sense, can never fit, or finds the queue full.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, EngineError> {
        let _ = request;
        unimplemented!()
    }

    /// Forgets a request; its blocks are free at once. No event follows. Unknown ones are ignored: they have finished.
    pub fn cancel(&mut self, id: RequestId) {
        let _ = id;
        unimplemented!()
    }

    /// Whether a step would do something.
    pub fn has_work(&self) -> bool {
        unimplemented!()
    }

    /// Runs one step; `now` is the time since some beginning, for deadlines and fairness.
    ///
    /// # Errors
    /// Where the device fails: the engine is then dead, and every request with it.
    pub fn step(
        &mut self,
        now: Duration,
        on_event: &mut dyn FnMut(RequestId, Event),
    ) -> Result<StepReport, EngineError> {
        let _ = (now, on_event);
        unimplemented!()
    }

    /// What the engine holds.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
}
