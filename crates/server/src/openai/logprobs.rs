//! Log-probabilities of tokens, as both forms of the API write them.

use engine::GeneratedToken;
use model::{TokenText, Tokenizer};
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

/// The texts of all tokens of a model, by id. The same in the middle of a text: a space that begins one is kept.
#[derive(Debug)]
pub(crate) struct TokenTexts(Vec<TokenText>);

impl TokenTexts {
    /// Reads them from the tokenizer.
    ///
    /// # Errors
    /// 500 for a tokenizer that cannot tell the bytes of single tokens.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, ApiError> {
        let texts = tokenizer.token_texts();
        texts.map(TokenTexts).map_err(|error| ApiError::internal(error.to_string()))
    }

    /// The text of a token. Bytes that are no whole character are U+FFFD.
    pub(super) fn text(&self, id: u32) -> String {
        match self.0.get(id as usize) {
            Some(TokenText::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            Some(TokenText::Special(name)) => name.clone(),
            Some(TokenText::Unused) | None => String::new(),
        }
    }

    fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        match self.0.get(id as usize)? {
            TokenText::Bytes(bytes) => Some(bytes.clone()),
            TokenText::Special(name) => Some(name.clone().into_bytes()),
            TokenText::Unused => None,
        }
    }

    /// Entries of the chat API.
    pub(super) fn entries(&self, tokens: &[GeneratedToken]) -> Vec<TokenLogprob> {
        let top = |&(id, logprob): &(u32, f32)| TopLogprob {
            token: self.text(id),
            logprob: finite(logprob),
            bytes: self.bytes(id),
        };
        let entry = |token: &GeneratedToken| TokenLogprob {
            token: self.text(token.token),
            logprob: finite(token.logprob),
            bytes: self.bytes(token.token),
            top_logprobs: token.top_logprobs.iter().map(top).collect(),
        };
        tokens.iter().map(entry).collect()
    }
}
