//! What tests and examples of this crate share: a real vocabulary, a seeded chooser of tokens, and schemas.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each of the tests uses a part")]

pub mod generate;
pub mod valid;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use grammar::{Grammar, TokenText, Vocabulary};
use serde_json::Value;

/// Numbers from a seed: splitmix64.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Whether something of a chance of one in `n` happens.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Texts of the demo model's tokens, which are byte-level BPE's; special ones apart. The last EOS is id 2.
pub fn demo_tokens() -> Vec<TokenText> {
    let json = std::fs::read(repository("demo/model/tokenizer.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let special: Vec<&str> = json["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["content"].as_str().unwrap())
        .collect();
    let bytes = byte_of_char();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![TokenText::Unused; vocab.len()];
    for (text, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = if special.contains(&text.as_str()) {
            TokenText::Special(text.clone())
        } else {
            TokenText::Bytes(text.chars().map(|c| bytes[&c]).collect())
        };
    }
    tokens
}

/// The characters that byte-level BPE writes bytes as.
fn byte_of_char() -> HashMap<char, u8> {
    let shown = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut hidden = 0;
    (0..=255u8)
        .map(|byte| {
            if shown(byte) {
                return (char::from(byte), byte);
            }
            hidden += 1;
            (char::from_u32(255 + hidden).unwrap(), byte)
        })
        .collect()
}

/// The demo model's vocabulary.
pub fn demo() -> Arc<Vocabulary> {
    static DEMO: OnceLock<Arc<Vocabulary>> = OnceLock::new();
    let make = || {
        let tokens = demo_tokens();
        let vocab_size = tokens.len() + 30;
        Arc::new(Vocabulary::new(tokens, vocab_size, &[EOS]).unwrap())
    };
    Arc::clone(DEMO.get_or_init(make))
}

pub const EOS: u32 = 2;

/// A vocabulary of `size` tokens: the demo's, then its pieces joined in pairs.
pub fn large(size: usize) -> Vec<TokenText> {
    let mut tokens = demo_tokens();
    let pieces: Vec<Vec<u8>> = tokens
        .iter()
        .filter_map(|token| match token {
            TokenText::Bytes(bytes) if bytes.len() > 1 => Some(bytes.clone()),
            _ => None,
        })
        .collect();
    let mut rng = Rng(7);
    let mut seen = std::collections::HashSet::new();
    while tokens.len() < size {
        let joined = [rng.pick(&pieces).clone(), rng.pick(&pieces).clone()].concat();
        if joined.len() < 16 && seen.insert(joined.clone()) {
            tokens.push(TokenText::Bytes(joined));
        }
    }
    tokens
}

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chooser {
    /// Any token of the mask, each as likely.
    Uniform,
    /// As a model of random weights at temperature 1 does: normal logits, those of a seed for each position.
    Logits,
    /// Tokens that open or go on, rather than close: brackets, commas, quotes.
    Greedy,
}

/// How an answer went.
#[derive(Debug, Clone, Default)]
pub struct Walk {
    pub text: Vec<u8>,
    pub tokens: usize,
    pub was_cut: bool,
    pub refused: usize,
    /// Whether it ended by itself, or in time.
    pub complete: bool,
}

/// Lets a seeded chooser write an answer of at most `budget` tokens, and checks what a matcher promises on the way.
pub fn walk(
    grammar: &Grammar,
    vocabulary: &Vocabulary,
    tokens: &[TokenText],
    budget: usize,
    chooser: Chooser,
    rng: &mut Rng,
) -> Walk {
    let mut matcher = grammar.matcher();
    let mut mask = vec![0u32; vocabulary.mask_words()];
    let mut walk = Walk::default();
    let mut remaining = budget;
    loop {
        matcher
            .mask(remaining, &mut mask)
            .unwrap_or_else(|e| panic!("{e} after {:?}", shown(&walk)));
        let mut left = mask.clone();
        let mut tries = 0;
        let taken = loop {
            let Some(token) = choose(&left, tokens, chooser, rng) else {
                panic!("no token is left after {:?}, {remaining} remaining", shown(&walk))
            };
            if token == EOS {
                break None;
            }
            if matcher.accept(token, remaining).unwrap_or_else(|e| panic!("{e}: {token}")) {
                break Some(token);
            }
            walk.refused += 1;
            tries += 1;
            left[token as usize / 32] &= !(1 << (token % 32));
            if tries == 8 {
                let token = matcher.next_of_completion().unwrap();
                let bit = mask[token as usize / 32] >> (token % 32) & 1;
                assert_eq!(bit, 1, "the next of the completion is in the mask: {:?}", shown(&walk));
                if token == EOS {
                    break None;
                }
                assert!(matcher.accept(token, remaining).unwrap(), "after {:?}", shown(&walk));
                break Some(token);
            }
        };
        let Some(token) = taken else { break };
        remaining -= 1;
        walk.tokens += 1;
        if let TokenText::Bytes(bytes) = &tokens[token as usize] {
            walk.text.extend_from_slice(bytes);
        }
    }
    walk.complete = matcher.is_complete();
    walk.was_cut = matcher.was_cut();
    walk
}

fn shown(walk: &Walk) -> String {
    String::from_utf8_lossy(&walk.text).into_owned()
}

fn choose(mask: &[u32], tokens: &[TokenText], chooser: Chooser, rng: &mut Rng) -> Option<u32> {
    let mut allowed = Vec::new();
    for (at, &word) in mask.iter().enumerate() {
        let mut word = word;
        while word != 0 {
            allowed.push(32 * at as u32 + word.trailing_zeros());
            word &= word - 1;
        }
    }
    if allowed.is_empty() {
        return None;
    }
    if chooser == Chooser::Uniform {
        return Some(*rng.pick(&allowed));
    }
    let opens = |token: u32| match tokens.get(token as usize) {
        Some(TokenText::Bytes(bytes)) => {
            bytes.iter().filter(|b| b"[{,\\\"-e".contains(b)).count() as f64
        }
        _ => -2.0,
    };
    let logit = |rng: &mut Rng, token: u32| match chooser {
        Chooser::Greedy => 2.0 * opens(token) + rng.unit(),
        // The sum of uniform numbers is nearly normal; then Gumbel's noise makes the greatest a sample.
        _ => {
            let normal = (0..4).map(|_| rng.unit() - 0.5).sum::<f64>() * 3.0;
            normal - (-(rng.unit() + 1e-12).ln()).ln()
        }
    };
    let mut best = (f64::MIN, allowed[0]);
    for token in allowed {
        let value = logit(rng, token);
        if value > best.0 {
            best = (value, token);
        }
    }
    Some(best.1)
}
