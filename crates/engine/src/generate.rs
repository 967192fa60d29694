//! An answer, token by token.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::{Engine, EngineError, Event, SamplingParams};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Most tokens of the answer. The context may end it earlier.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer.
    pub eos_token_id: Vec<u32>,
    /// How many alternatives to report with each token.
    pub top_logprobs: usize,
    /// What the answer has to fit.
    pub grammar: Option<grammar::Grammar>,
    /// Report the log-probabilities of the prompt's tokens from this one on; 0 is taken as 1: the first has none.
    pub prompt_logprobs_from: Option<usize>,
    /// Requests of a higher priority go first.
    pub priority: i32,
    /// When the answer is of no use any more, by the clock of [`crate::Engine::step`].
    pub deadline: Option<Duration>,
}

/// A token of the answer, as it is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedToken {
    /// Its id.
    pub token: u32,
    /// Its log-probability under the model; minus infinity where it is not known, because a grammar refused what was drawn and
    /// had another token take its place.
    pub logprob: f32,
    /// The most probable tokens in its place, if asked for.
    pub top_logprobs: Vec<(u32, f32)>,
    /// The text that it completes; empty while a character or a stop string may still be unfinished.
    pub text: String,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string came.
    Stop,
    /// `max_tokens` were generated, or the context was full.
    Length,
    /// The caller wanted no more.
    Cancelled,
}

impl FinishReason {
    /// The name of the OpenAI API: `stop`, `length`; and `cancelled`.
    pub const fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The text of the answer.
    pub text: String,
    /// Its tokens, that which ended it excepted.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were in the cache already.
    pub cached_tokens: usize,
    /// Tokens that were generated, that which ended the answer included.
    pub completion_tokens: usize,
}

/// What happens on the way.
#[derive(Debug)]
pub enum Progress<'a> {
    /// So many tokens of the prompt are computed, of so many.
    Prefill {
        /// Computed or cached.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was generated.
    Token(&'a GeneratedToken),
}

/// Generates an answer on an engine that has nothing else to do; `on_event` is told of every step and may end it.
///
/// # Errors
/// [`EngineError`] for a prompt that is empty, too long or has unknown ids, for parameters out of range, and for a model
/// whose logits are not finite.
pub fn generate(
    engine: &mut Engine,
    request: Request,
    mut on_event: impl FnMut(Progress<'_>) -> ControlFlow<()> + Send,
) -> Result<Completion, EngineError> {
    let id = engine.submit(request)?;
    let mut is_wanted = true;
    let mut ended = None;
    loop {
        engine.step(Duration::ZERO, &mut |of, event| {
            let progress = match &event {
                _ if of != id => return,
                Event::Prefill { done, total, .. } => {
                    Progress::Prefill { done: *done, total: *total }
                }
                Event::Token(token) => Progress::Token(token),
                Event::PromptLogprobs(_) => return,
                Event::Finished(_) | Event::Failed(_) => {
                    ended = Some(event);
                    return;
                }
            };
            is_wanted = is_wanted && on_event(progress).is_continue();
        })?;
        match ended {
            Some(Event::Finished(completion)) => return Ok(completion),
            Some(Event::Failed(error)) => return Err(error),
            _ if !is_wanted => return engine.break_off(id),
            _ => {}
        }
    }
}
