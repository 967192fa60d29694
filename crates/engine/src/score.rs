//! How probable a model finds a given text.

use backend::{Batch, KV_BLOCK_SIZE, SequenceSpan};

use crate::{EngineError, ModelRunner, check_tokens, log_sum_exp};

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
    runner: &mut dyn ModelRunner,
    tokens: &[u32],
    step: usize,
    mut on_logits: impl FnMut(&[f32]) -> Result<(), E>,
) -> Result<Score, E> {
    let (vocab_size, context) = (runner.config().vocab_size, runner.context());
    check_tokens(tokens, vocab_size)?;
    if tokens.len() > context {
        return Err(EngineError::TooLong { tokens: tokens.len(), context }.into());
    }
    let block_table: Vec<u32> = (0..tokens.len().div_ceil(KV_BLOCK_SIZE) as u32).collect();
    let mut logprobs = Vec::with_capacity(tokens.len() - 1);
    let mut logits = Vec::new();
    let len = runner.limits().tokens.min(runner.limits().rows).min(step);
    for (tile, start) in tokens.chunks(len).zip((0..).step_by(len)) {
        let positions: Vec<u32> = (start as u32..(start + tile.len()) as u32).collect();
        let rows: Vec<u32> = (0..tile.len() as u32).collect();
        let spans = [SequenceSpan { start: 0, len: tile.len(), block_table: &block_table }];
        let batch = Batch { tokens: tile, positions: &positions, sequences: &spans };
        runner.step(&batch, &rows, &mut logits).map_err(EngineError::from)?;
        let finite = |logits: &[f32]| logits.iter().all(|logit| logit.is_finite());
        if let Some(row) = logits.chunks_exact(vocab_size).position(|logits| !finite(logits)) {
            return Err(EngineError::NotFinite { position: start + row }.into());
        }
        for (logits, next) in logits.chunks_exact(vocab_size).zip(&tokens[start + 1..]) {
            logprobs.push(logits[*next as usize] - log_sum_exp(logits));
        }
        on_logits(&logits)?;
    }
    Ok(Score { logprobs })
}
