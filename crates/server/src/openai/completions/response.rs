//! What `/v1/completions` answers.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::openai::generation::Usage;

/// Texts, continued; in a stream, pieces of them.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Completions {
    /// Names the request.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// Name of the model.
    pub model: String,
    /// The server's build.
    pub system_fingerprint: String,
    /// The answers: `n` to the first prompt, then `n` to the second …
    pub choices: Vec<CompletionChoice>,
    /// Tokens that they took. In a stream with `include_usage`, in the last piece, and null before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// An answer, or a piece of it.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Its number.
    pub index: usize,
    /// The text.
    pub text: String,
    /// If asked for.
    pub logprobs: Option<TextLogprobs>,
    /// `stop`: the model ended it, or a stop string came. `length`: the tokens ran out. In a stream, in an answer's last
    /// piece.
    pub finish_reason: Option<&'static str>,
}

/// Log-probabilities of tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct TextLogprobs {
    /// Their texts.
    pub tokens: Vec<String>,
    /// Their log-probabilities; null for the first token of a prompt, which follows nothing.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens in the place of each, by their text; the token itself is among them.
    #[schema(value_type = Vec<Object>)]
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each begins in the text, in characters.
    pub text_offset: Vec<usize>,
}

impl TextLogprobs {
    /// Adds what follows.
    pub(super) fn extend(&mut self, more: TextLogprobs) {
        self.tokens.extend(more.tokens);
        self.token_logprobs.extend(more.token_logprobs);
        self.top_logprobs.extend(more.top_logprobs);
        self.text_offset.extend(more.text_offset);
    }
}
