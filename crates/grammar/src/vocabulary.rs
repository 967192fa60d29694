//! A model's tokens, as grammars see them.

use crate::GrammarError;

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenText {
    /// Bytes of text; a character may be spread over several tokens.
    Bytes(Vec<u8>),
    /// A special token: it stands for no text.
    Special(String),
    /// An id without a token.
    Unused,
}

/// A model's tokens, prepared for all grammars of that model.
#[derive(Debug)]
pub struct Vocabulary {}

impl Vocabulary {
    /// Prepares `tokens`, by id; `vocab_size` ids of logits (at least as many). `eos` end an answer.
    ///
    /// # Errors
    /// If some byte can be written by no token.
    pub fn new(
        tokens: Vec<TokenText>,
        vocab_size: usize,
        eos: &[u32],
    ) -> Result<Self, GrammarError> {
        let _ = (tokens, vocab_size, eos);
        unimplemented!()
    }

    /// Words of 32 bits in a mask.
    pub fn mask_words(&self) -> usize {
        unimplemented!()
    }
}
