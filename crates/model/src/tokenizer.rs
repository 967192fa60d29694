//! `tokenizer.json`: text to token ids and back.

use std::collections::HashMap;
use std::path::Path;

use crate::files::Files;
use crate::special_tokens::SpecialTokens;
use crate::{ModelError, Result};

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The token that begins every text, if this tokenizer begins texts with one.
    bos_token_id: Option<u32>,
}

impl Tokenizer {
    /// The tokenizer of a model.
    pub fn load(files: &Files) -> Result<Self> {
        let json = files.read("tokenizer.json")?.ok_or_else(|| ModelError::MissingFile {
            path: files.root().to_owned(),
            file: "tokenizer.json",
            hint: "fetch it with the model, or give token ids where they are taken",
        })?;
        let tokens = SpecialTokens::load(files)?;
        Self::from_json(&json, &files.path("tokenizer.json"), tokens.get("bos_token"))
    }

    /// Parses the bytes of a `tokenizer.json`; `file` is named in errors. `bos_token` is the text of the token that the
    /// model's `tokenizer_config.json` says begins a text.
    pub fn from_json(json: &[u8], file: &Path, bos_token: Option<&str>) -> Result<Self> {
        let broken = |e: tokenizers::Error| {
            ModelError::malformed(file, format!("not a tokenizer: {}", one_line(&e.to_string())))
        };
        serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(|e| broken(e.into()))?;
        // The crate panics on a decoder that it does not know.
        let parsed = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json));
        let parsed = parsed.unwrap_or_else(|_| Err("it asks for an unknown decoder".into()));
        let mut inner = parsed.map_err(broken)?;
        // A tokenizer that was saved with truncation would cut prompts silently.
        inner.with_truncation(None).map_err(broken)?;
        inner.with_padding(None);
        // What the post-processor adds to an empty text shows whether texts begin with a BOS here.
        let added = inner.encode_fast("", true).map_err(broken)?;
        let bos = bos_token.and_then(|token| inner.token_to_id(token));
        let bos_token_id = bos.filter(|id| added.get_ids().first() == Some(id));
        Ok(Tokenizer { inner, bos_token_id })
    }

    /// Ids of a raw text, with the special tokens that `tokenizer.json` adds. BOS comes once, even if the text begins
    /// with it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, true)
    }

    /// Ids of a text that a chat template rendered. The template writes the special tokens, so none are added; but should
    /// it leave out the BOS that this tokenizer begins texts with, it is put first.
    pub fn encode_chat(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, false)
    }

    /// Ids of a text and nothing else: no special token is added, BOS neither.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        self.encoded(text, false)
    }

    fn encoded(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special_tokens).map_err(|e| {
            ModelError::Tokenizer(format!("cannot encode the text: {}", one_line(&e.to_string())))
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    fn ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let mut ids = self.encoded(text, add_special_tokens)?;
        if let Some(bos) = self.bos_token_id {
            let count = ids.iter().take_while(|&&id| id == bos).count();
            ids.splice(..count, [bos]);
        }
        Ok(ids)
    }

    /// The text of ids; an id beyond the vocabulary is skipped.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|e| {
            ModelError::Tokenizer(format!("cannot decode the ids: {}", one_line(&e.to_string())))
        })
    }

    /// Decodes ids one by one as they are generated.
    pub fn stream(&self, skip_special_tokens: bool) -> DecodeStream {
        DecodeStream { skip_special_tokens, ids: Vec::new(), shown: 0 }
    }

    /// Number of ids, added tokens included; a model's `vocab_size` may be larger.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Id of the token with exactly this text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Tokens that were added to the vocabulary, by id: their text, and whether they are special.
    pub(crate) fn added_tokens(&self) -> HashMap<u32, (String, bool)> {
        let added = self.inner.get_added_tokens_decoder();
        added.into_iter().map(|(id, token)| (id, (token.content, token.special))).collect()
    }

    /// What `tokenizer.json` says of decoding.
    pub(crate) fn decoder_json(&self) -> Option<serde_json::Value> {
        serde_json::to_value(self.inner.get_decoder()?).ok()
    }

    /// Text of a token as the vocabulary has it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}

/// Ids that may wait for the rest of a character before the text is shown as it is. A character takes at most four bytes,
/// so at most four tokens; but a U+FFFD that was meant looks like an unfinished character, and the next may be one.
const MAX_HELD: usize = 16;

/// Decodes a growing sequence of ids. Text is given out as soon as it can no longer change: a character whose bytes are
/// spread over several tokens is held back until it is whole.
/// It belongs to one tokenizer, which every call has to be given.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    skip_special_tokens: bool,
    /// Some ids that have been shown, as context (a token may decode differently at the start of a text), then those
    /// that have not.
    ids: Vec<u32>,
    /// How many of `ids` have been shown.
    shown: usize,
}

impl DecodeStream {
    /// Takes the next id and gives the text that it completes, which may be empty.
    pub fn step(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.ids.push(id);
        let held = self.ids.len() - self.shown;
        let text = self.unshown(tokenizer)?;
        if text.ends_with('\u{FFFD}') && held < MAX_HELD {
            return Ok(String::new());
        }
        if !text.is_empty() {
            // Ids that show nothing (special tokens) are no context: the next would decode as at the start of a text.
            self.ids.drain(..self.shown);
        }
        self.shown = self.ids.len();
        Ok(text)
    }

    /// Ends the stream and gives what was held back: bytes that never became a character, as U+FFFD.
    pub fn finish(&self, tokenizer: &Tokenizer) -> Result<String> {
        self.unshown(tokenizer)
    }

    fn unshown(&self, tokenizer: &Tokenizer) -> Result<String> {
        let decode = |ids: &[u32]| tokenizer.decode(ids, self.skip_special_tokens);
        let context = decode(&self.ids[..self.shown])?;
        let mut text = decode(&self.ids)?;
        // The context decodes to the same text with and without what follows, unless the tokenizer is a strange one.
        let common = context.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let start = (0..=common).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        Ok(text.split_off(start))
    }
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
