//! Turns a model into answers: many sequences at once, in steps, on any backend.
//!
//! Nothing here reads a clock, a file or the network: the caller passes tokens in and gets tokens and events back.

mod runner;
mod sampler;
mod defaults;
mod stop;
mod generate;
mod score;
mod block_manager;
mod sequence;
mod scheduler;
mod answer;
mod voice;
mod step;
mod engine;
mod vocabulary;
#[cfg(test)]
mod simulation;

pub use backend::{argmax, log_sum_exp};
pub use defaults::SamplingFields;
pub use engine::{Engine, EngineConfig, Event, RequestId, Stats, StepReport};
pub use generate::{Completion, FinishReason, GeneratedToken, Progress, Request, generate};
pub use runner::{ModelRunner, Runner};
pub use sampler::{ParamError, SamplingParams};
pub use score::{Score, score};
pub use vocabulary::vocabulary;

/// Why a request cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// There is nothing to continue from.
    #[error("the prompt holds no token")]
    EmptyPrompt,
    /// The prompt, and at least one token of an answer, do not fit into the context.
    #[error(
        "the prompt holds {tokens} tokens, but the context ends at {context}; shorten it, or raise --context as far as the model goes"
    )]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A token id that the model does not have.
    #[error("token [{index}] is {token}, but the vocabulary ends at {vocab_size}")]
    Token {
        /// Its place in the input.
        index: usize,
        /// The id.
        token: u32,
        /// Number of ids that the model has.
        vocab_size: usize,
    },
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// As many requests wait as may.
    #[error("{waiting} requests are waiting already; try again later")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// The request's deadline passed.
    #[error("the deadline passed before the answer was whole")]
    Deadline,
    /// The answer cannot be whole within its budget.
    #[error(
        "the shortest answer that fits takes {needed} tokens, but only {budget} may be generated; raise max_tokens"
    )]
    Budget {
        /// Tokens of a shortest answer.
        needed: usize,
        /// Tokens that may be generated: `max_tokens`, or what the context leaves.
        budget: usize,
    },
    /// Whoever runs the engine ended the answer.
    #[error("{0}")]
    Stopped(String),
    /// The answer's grammar failed.
    #[error(transparent)]
    Grammar(#[from] grammar::GrammarError),
    /// The model computed something that is no number.
    #[error(
        "the logits of token {position} are not finite: the weights are corrupt, or the format overflows"
    )]
    NotFinite {
        /// Position of the token.
        position: usize,
    },
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] backend::BackendError),
    /// The tokenizer failed.
    #[error(transparent)]
    Model(#[from] model::ModelError),
}

/// Checks that there are tokens, and that the model has them.
fn check_tokens(tokens: &[u32], vocab_size: usize) -> Result<(), EngineError> {
    if tokens.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    match tokens.iter().position(|&token| token as usize >= vocab_size) {
        Some(index) => Err(EngineError::Token { index, token: tokens[index], vocab_size }),
        None => Ok(()),
    }
}
