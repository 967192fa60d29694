//! The demo model on both devices: the likeliest token each time, and many steps without more memory.

use anyhow::Result;
use backend::{Batch, KV_BLOCK_SIZE, SequenceSpan};
use engine::ModelRunner;
use serde_json::{Value, json};

use crate::commands::demo::task;
use crate::embedded;
use crate::models::TextSide;

/// Tokens that follow each prompt; an end of the text does not end them.
pub(super) const TOKENS: usize = 200;

/// Relative error of logits that may decide between two tokens: `||d|| / ||ref||`, as everywhere here.
const LOGITS_BOUND: f64 = 1e-2;

/// Prompts for the demo model: its sample document, then the same with other digits and in another order of lines.
pub(super) fn prompts(side: &TextSide, count: usize) -> Result<Vec<Vec<u32>>> {
    let lines: Vec<&str> = embedded::SAMPLE.lines().collect();
    let prompt = |index: usize| {
        let (before, after) = lines.split_at(index % lines.len());
        let text = [after, before].concat().join("\n");
        let other = |c: char| match c.to_digit(10) {
            Some(digit) => char::from_digit((digit + index as u32) % 10, 10).unwrap_or(c),
            None => c,
        };
        let text: String = text.chars().map(other).collect();
        let content = task::message(embedded::OUR_BUSINESS, &text);
        side.encode_chat(&[json!({ "role": "user", "content": content })])
    };
    (0..count).map(prompt).collect()
}

/// A token and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Choice {
    pub(super) token: u32,
    /// Distance to the logit of the next likeliest token.
    pub(super) gap: f64,
    /// A gap that rounding errors may close.
    pub(super) bound: f64,
}

impl Choice {
    /// The likeliest token. With an error of [`LOGITS_BOUND`] a logit is off by that much of the logits' root mean square,
    /// a gap by `sqrt(2)` times that; three times that is no accident.
    pub(super) fn of(logits: &[f32]) -> Choice {
        let (mut first, mut second) = ((0, f32::NEG_INFINITY), f32::NEG_INFINITY);
        for (token, &logit) in logits.iter().enumerate() {
            if logit > first.1 {
                (first, second) = ((token as u32, logit), first.1);
            } else if logit > second {
                second = logit;
            }
        }
        let squares: f64 = logits.iter().map(|&logit| f64::from(logit).powi(2)).sum();
        let rms = (squares / logits.len().max(1) as f64).sqrt();
        let bound = 3.0 * 2.0_f64.sqrt() * LOGITS_BOUND * rms;
        Choice { token: first.0, gap: f64::from(first.1) - f64::from(second), bound }
    }
}

/// Continues a prompt by [`TOKENS`] tokens.
///
/// # Errors
/// Where the device fails.
pub(super) fn generate(runner: &mut dyn ModelRunner, prompt: &[u32]) -> Result<Vec<Choice>> {
    let mut logits = Vec::new();
    let mut done = 0;
    for tokens in prompt.chunks(runner.limits().tokens) {
        step(runner, tokens, done, &mut logits)?;
        done += tokens.len();
    }
    let mut choices = vec![Choice::of(&logits)];
    while choices.len() < TOKENS {
        let token = choices[choices.len() - 1].token;
        step(runner, &[token], done, &mut logits)?;
        done += 1;
        choices.push(Choice::of(&logits));
    }
    Ok(choices)
}

/// Computes tokens of the one sequence and leaves the logits of the last.
fn step(
    runner: &mut dyn ModelRunner,
    tokens: &[u32],
    done: usize,
    logits: &mut Vec<f32>,
) -> Result<()> {
    let len = tokens.len();
    let table: Vec<u32> = (0..(runner.context() / KV_BLOCK_SIZE) as u32).collect();
    let positions: Vec<u32> = (done as u32..(done + len) as u32).collect();
    let spans = [SequenceSpan { start: 0, len, block_table: &table }];
    let batch = Batch { tokens, positions: &positions, sequences: &spans };
    Ok(runner.step(&batch, &[len as u32 - 1], logits)?)
}

/// Where two texts part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Parting {
    pub(super) prompt: usize,
    /// Tokens that agree.
    pub(super) step: usize,
    pub(super) gap: f64,
    pub(super) bound: f64,
}

impl Parting {
    /// The first token that differs. What lies behind it says nothing: the inputs differ.
    pub(super) fn find(prompt: usize, device: &[Choice], reference: &[Choice]) -> Option<Parting> {
        let step = device.iter().zip(reference).position(|(a, b)| a.token != b.token)?;
        let Choice { gap, bound, .. } = reference[step];
        Some(Parting { prompt, step, gap, bound })
    }

    /// Whether rounding errors alone may have done it.
    pub(super) fn is_a_tie(&self) -> bool {
        self.gap < self.bound
    }

    pub(super) fn line(&self) -> String {
        let Parting { prompt, step, gap, bound } = self;
        format!(
            "  prompt {prompt} parts after {step} tokens, where the gap is {gap:.3} (bound {bound:.3})\n"
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "prompt": self.prompt,
            "tokens_that_agree": self.step,
            "gap": self.gap,
            "bound": self.bound,
            "tie": self.is_a_tie(),
        })
    }
}

/// Runs `steps` steps of decoding, from the beginning again where the context ends. Whether all logits were finite.
///
/// # Errors
/// Where the device fails.
pub(super) fn decode(runner: &mut dyn ModelRunner, steps: usize) -> Result<bool> {
    let (context, vocab_size) = (runner.context(), runner.config().vocab_size);
    let (mut logits, mut finite) = (Vec::new(), true);
    for index in 0..steps {
        // Any tokens: what they mean costs no memory.
        let token = (index * 7919 % vocab_size) as u32;
        step(runner, &[token], index % context, &mut logits)?;
        finite &= logits.iter().all(|logit| logit.is_finite());
    }
    Ok(finite)
}

/// Decodes at every length of a context where a step is recorded anew, often enough that it is repeated.
///
/// # Errors
/// Where the device fails.
pub(super) fn warm_up(runner: &mut dyn ModelRunner) -> Result<()> {
    let mut logits = Vec::new();
    let mut blocks = 1;
    while blocks * KV_BLOCK_SIZE <= runner.context() {
        for _ in 0..3 {
            step(runner, &[1], blocks * KV_BLOCK_SIZE - 1, &mut logits)?;
        }
        blocks *= 2;
    }
    Ok(())
}
