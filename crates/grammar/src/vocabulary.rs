//! A model's tokens, as grammars see them.

use std::fmt;
use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::GrammarError;
use crate::failure::quiet;

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

/// Longest text of a token that grammars use, in bytes; a longer one (a thousand spaces) is never needed for an answer.
const MAX_TOKEN_BYTES: usize = 512;

/// Largest vocabulary, in ids: the trie has 22 bits for its nodes.
const MAX_VOCABULARY: usize = 1 << 20;

/// A model's tokens, prepared for all grammars of that model.
pub struct Vocabulary {
    factory: ParserFactory,
    env: TokEnv,
    eos: Vec<u32>,
    /// Whether an id is a token at all; bit `i` of word `w` is token `32 w + i`.
    used: Vec<u32>,
    strips_leading_space: bool,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("vocab_size", &self.trie().vocab_size()).finish()
    }
}

impl Vocabulary {
    /// Prepares `tokens`, by id; `vocab_size` ids of logits (at least as many). `eos` end an answer.
    ///
    /// # Errors
    /// If some character that JSON needs can be written by no token, if an id is out of range, or if there is no `eos`.
    pub fn new(
        tokens: Vec<TokenText>,
        vocab_size: usize,
        eos: &[u32],
    ) -> Result<Self, GrammarError> {
        let broken = |why: String| GrammarError::Vocabulary(why);
        if tokens.len() > vocab_size || vocab_size > MAX_VOCABULARY {
            return Err(broken(format!(
                "{} tokens and {vocab_size} logits: there are at most {MAX_VOCABULARY} logits, and no fewer than tokens",
                tokens.len()
            )));
        }
        if eos.is_empty() {
            return Err(broken("no token ends an answer: eos_token_id is missing".into()));
        }
        if let Some(id) = eos.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(broken(format!("eos_token_id {id} is beyond the {vocab_size} logits")));
        }
        let mut used = vec![0u32; vocab_size.div_ceil(32)];
        let mut words = Vec::with_capacity(vocab_size);
        let mut bytes = [false; 256];
        for (id, token) in tokens.into_iter().enumerate() {
            let word = match token {
                // EOS is never text, whatever its name.
                TokenText::Bytes(_) if eos.contains(&(id as u32)) => special(&format!("eos{id}")),
                TokenText::Bytes(text) if text.len() > MAX_TOKEN_BYTES => Vec::new(),
                TokenText::Bytes(text) => {
                    if let [byte] = text[..] {
                        bytes[usize::from(byte)] = true;
                    }
                    // A text that begins as special tokens do would be taken for one.
                    if text.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                        Vec::new()
                    } else {
                        text
                    }
                }
                TokenText::Special(name) => special(&name),
                TokenText::Unused => Vec::new(),
            };
            if !word.is_empty() {
                used[id / 32] |= 1 << (id % 32);
            }
            words.push(word);
        }
        words.resize(vocab_size, Vec::new());
        if let Some(missing) = (b' '..=b'~').find(|&byte| !bytes[usize::from(byte)]) {
            return Err(broken(format!("no token writes {:?} alone", char::from(missing))));
        }
        let info = TokRxInfo::new(vocab_size as u32, eos[0]);
        let env: TokEnv = quiet("the vocabulary", || {
            let trie = TokTrie::from(&info, &words).with_eos_tokens(eos);
            Ok(Arc::new(Env { trie }) as TokEnv)
        })?;
        let mut factory = quiet("the vocabulary", || {
            ParserFactory::new(
                &env,
                InferenceCapabilities::default(),
                &SlicedBiasComputer::json_slices(),
            )
            .map_err(|e| e.to_string())
        })?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Vocabulary { factory, env, eos: eos.to_vec(), used, strips_leading_space: false })
    }

    /// Says that the tokenizer drops one space at the beginning of an answer (sentencepiece does). Grammars then let an
    /// answer begin with that space, as such a model would; it is no part of the text that is seen.
    #[must_use]
    pub fn strip_leading_space(mut self, strips: bool) -> Self {
        self.strips_leading_space = strips;
        self
    }

    /// Words of 32 bits in a mask.
    pub fn mask_words(&self) -> usize {
        self.used.len()
    }

    pub(crate) fn strips_leading_space(&self) -> bool {
        self.strips_leading_space
    }

    pub(crate) fn factory(&self) -> &ParserFactory {
        &self.factory
    }

    pub(crate) fn trie(&self) -> &TokTrie {
        self.env.tok_trie()
    }

    pub(crate) fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Ids that are tokens.
    pub(crate) fn used(&self) -> &[u32] {
        &self.used
    }

    /// Id of a special token.
    pub(crate) fn special(&self, name: &str) -> Option<u32> {
        self.trie().get_special_token(name)
    }

    /// Bytes of a token's text; `None` for a special one and an unused id.
    pub(crate) fn text(&self, token: u32) -> Option<&[u8]> {
        let word = self.trie().token(token);
        (!word.is_empty() && word[0] != TokTrie::SPECIAL_TOKEN_MARKER).then_some(word)
    }

    /// The fewest tokens that write `bytes`; `None` if some byte is in no token.
    pub(crate) fn fewest_tokens(&self, bytes: &[u8]) -> Option<Vec<u32>> {
        let trie = self.trie();
        // fewest[i]: tokens for bytes[i..], the first of them, and its length.
        let mut fewest: Vec<Option<(u32, u32, usize)>> = vec![None; bytes.len() + 1];
        fewest[bytes.len()] = Some((0, 0, 0));
        for start in (0..bytes.len()).rev() {
            let mut node = trie.root();
            for (len, &byte) in bytes[start..].iter().enumerate() {
                let Some(child) = trie.child_at_byte(node, byte) else { break };
                node = child;
                let rest = fewest[start + len + 1];
                if let (Some(token), Some((count, ..))) = (node.token_id(), rest)
                    && fewest[start].is_none_or(|(best, ..)| count < best)
                {
                    fewest[start] = Some((count + 1, token, len + 1));
                }
            }
        }
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let (_, token, len) = fewest[at]?;
            tokens.push(token);
            at += len;
        }
        Some(tokens)
    }
}

fn special(name: &str) -> Vec<u8> {
    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    word.extend_from_slice(name.as_bytes());
    word
}

/// What a grammar and a mask may cost. A mask's two limits come to about 20 ms where both are reached; most take 20 µs.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 200_000,
        max_grammar_size: 30_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// Tokens for llguidance. Texts are never tokenized here as the model would: forced text is left to the mask.
struct Env {
    trie: TokTrie,
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bytes_and;

    #[test]
    fn the_fewest_tokens_are_not_the_longest_first() {
        let vocabulary = bytes_and(&["ab", "abc", "cdef", "d", "ef"]);
        let tokens = vocabulary.fewest_tokens(b"abcdef").unwrap();
        let texts: Vec<_> = tokens.iter().map(|&t| vocabulary.text(t).unwrap()).collect();
        assert_eq!(texts, [&b"ab"[..], b"cdef"]);
        assert_eq!(vocabulary.fewest_tokens(b""), Some(vec![]));
    }

    #[test]
    fn what_cannot_write_json_is_refused() {
        let letters = |skip: u8| {
            (b' '..=b'~')
                .filter(|&b| b != skip)
                .map(|b| TokenText::Bytes(vec![b]))
                .collect::<Vec<_>>()
        };
        let error = Vocabulary::new(letters(b'{'), 200, &[150]).unwrap_err();
        assert_eq!(error.to_string(), "the vocabulary: no token writes '{' alone");
        assert!(Vocabulary::new(letters(0), 95, &[95]).is_err(), "an EOS beyond the logits");
        assert!(Vocabulary::new(letters(0), 95, &[]).is_err(), "no EOS");
        assert!(Vocabulary::new(letters(0), 94, &[1]).is_err(), "fewer logits than tokens");
        assert_eq!(Vocabulary::new(letters(0), 200, &[150]).unwrap().mask_words(), 7);
    }
}
