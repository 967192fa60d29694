//! Log-probabilities of tokens, as both forms of the API write them.

use engine::GeneratedToken;
use model::Tokenizer;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ApiError;

/// Most alternatives of a token.
pub(super) const MAX_TOP_LOGPROBS: u32 = 20;

/// Stands for log-probabilities that JSON cannot write, as in OpenAI's API.
const LOWEST: f32 = -9999.0;

/// Log-probabilities of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Logprobs {
    /// Each token, in order; that which ended the answer excepted.
    pub content: Vec<TokenLogprob>,
    /// Always null: this server does not refuse.
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A token of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TokenLogprob {
    /// Its text; bytes that are no whole character are U+FFFD.
    pub token: String,
    /// Its log-probability under the model, before temperature and penalties.
    pub logprob: f32,
    /// The bytes of its text.
    pub bytes: Option<Vec<u8>>,
    /// The most probable tokens in its place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// A token that could have come.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Its log-probability.
    pub logprob: f32,
    /// The bytes of its text.
    pub bytes: Option<Vec<u8>>,
}

/// Checks how many alternatives are asked for.
///
/// # Errors
/// 400 for more than [`MAX_TOP_LOGPROBS`].
pub(super) fn check_count(param: &str, count: u32) -> Result<(), ApiError> {
    if count <= MAX_TOP_LOGPROBS {
        return Ok(());
    }
    let message = format!("`{param}` is {count}; at most {MAX_TOP_LOGPROBS} can be had");
    Err(ApiError::invalid(param.to_owned(), message))
}

/// A log-probability that JSON can write.
pub(super) fn finite(logprob: f32) -> f32 {
    logprob.max(LOWEST)
}

/// The text of one token.
pub(super) fn text(tokenizer: &Tokenizer, id: u32) -> String {
    tokenizer.decode(&[id], false).unwrap_or_default()
}

/// Entries of the chat API.
pub(super) fn entries(tokenizer: &Tokenizer, tokens: &[GeneratedToken]) -> Vec<TokenLogprob> {
    let top = |&(id, logprob): &(u32, f32)| {
        let (token, bytes) = text_and_bytes(tokenizer, id);
        TopLogprob { token, logprob: finite(logprob), bytes }
    };
    let entry = |token: &GeneratedToken| {
        let (text, bytes) = text_and_bytes(tokenizer, token.token);
        TokenLogprob {
            token: text,
            logprob: finite(token.logprob),
            bytes,
            top_logprobs: token.top_logprobs.iter().map(top).collect(),
        }
    };
    tokens.iter().map(entry).collect()
}

fn text_and_bytes(tokenizer: &Tokenizer, id: u32) -> (String, Option<Vec<u8>>) {
    let text = text(tokenizer, id);
    // A part of a character decodes to U+FFFD: its own bytes are not known here.
    let bytes = (!text.contains('\u{FFFD}')).then(|| text.clone().into_bytes());
    (text, bytes)
}
