//! How probable a model finds a given text.

use crate::{EngineError, Session, log_sum_exp};

/// Log-probabilities of a text under a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Natural logarithm of the probability of each token but the first, given those before it.
    pub logprobs: Vec<f32>,
}

impl Score {
    /// `exp(-mean(logprobs))`; `None` for a single token, which has no context to be predicted from.
    pub fn perplexity(&self) -> Option<f64> {
        let sum: f64 = self.logprobs.iter().map(|&l| f64::from(l)).sum();
        (!self.logprobs.is_empty()).then(|| (-sum / self.logprobs.len() as f64).exp())
    }
}

/// Scores a text, at most `step` tokens at a time; `on_logits` gets the logits `[some tokens, vocab_size]` of every part
/// as it is computed, in order.
///
/// # Errors
/// [`EngineError`] for tokens that are unknown, too many or none; `E` is whatever `on_logits` fails with.
pub fn score<E: From<EngineError>>(
    session: &mut Session,
    tokens: &[u32],
    step: usize,
    mut on_logits: impl FnMut(&[f32]) -> Result<(), E>,
) -> Result<Score, E> {
    session.check(tokens, 0)?;
    session.keep_common_prefix(&[]);
    let vocab_size = session.config().vocab_size;
    let mut logprobs = Vec::with_capacity(tokens.len() - 1);
    let len = session.limits().tokens.min(session.limits().rows).min(step);
    for (tile, start) in tokens.chunks(len).zip((0..).step_by(len)) {
        let logits = session.append(tile, tile.len())?;
        for (logits, next) in logits.chunks_exact(vocab_size).zip(&tokens[start + 1..]) {
            logprobs.push(logits[*next as usize] - log_sum_exp(logits));
        }
        on_logits(logits)?;
    }
    Ok(Score { logprobs })
}
