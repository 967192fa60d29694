//! Sequences that are decoded together, on any backend: a step of each is one more random token for all of them, so that
//! a mixture spreads over its experts.

use std::time::Instant;

use anyhow::Result;
use backend::{Backend, Batch, Draw, Drawn, Draws, KV_BLOCK_SIZE, SequenceSpan};
use engine::{ModelRunner, Runner};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Steps that do not count: caches, and on a GPU the recording of a step.
pub(super) const WARM_UP: usize = 4;

/// Tokens of the cache that one sequence takes: `context` before `len` measured ones.
pub(super) fn tokens_of_one(context: usize, len: usize) -> usize {
    (context + WARM_UP + len).next_multiple_of(KV_BLOCK_SIZE)
}

/// A model that is measured.
pub(super) struct Steps<B: Backend> {
    pub(super) runner: Runner<B>,
    pub(super) logits: Vec<f32>,
    drawn: Vec<Drawn>,
    rng: ChaCha8Rng,
}

/// Sequences of random tokens, each with blocks of its own.
#[derive(Clone)]
pub(super) struct Sequences {
    tables: Vec<Vec<u32>>,
    len: usize,
}

impl<B: Backend> Steps<B> {
    pub(super) fn new(runner: Runner<B>) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(1);
        Steps { runner, logits: Vec::new(), drawn: Vec::new(), rng }
    }

    /// Whether the logits of the last step that drew were numbers.
    pub(super) fn is_finite(&self) -> bool {
        self.drawn.iter().all(|drawn| drawn.is_finite)
    }

    /// `batch` sequences of `context` tokens, with room for `len` more and the warm-up. As many at once as a step holds.
    pub(super) fn sequences(
        &mut self,
        batch: usize,
        context: usize,
        len: usize,
    ) -> Result<Sequences> {
        let blocks = (tokens_of_one(context, len) / KV_BLOCK_SIZE) as u32;
        let tables = (0..batch as u32).map(|i| (i * blocks..(i + 1) * blocks).collect()).collect();
        let sequences = Sequences { tables, len: context };
        let limit = self.runner.limits().tokens;
        let chunk = limit.min(context.max(1));
        let together = (limit / chunk).max(1);
        for start in (0..context).step_by(chunk) {
            let rows = chunk.min(context - start);
            for tables in sequences.tables.chunks(together) {
                let positions: Vec<u32> =
                    tables.iter().flat_map(|_| start as u32..(start + rows) as u32).collect();
                self.run(tables, &positions, rows, &[])?;
            }
        }
        Ok(sequences)
    }

    /// Tokens per second of all sequences together, over `len` steps after `context` tokens.
    pub(super) fn rate(
        &mut self,
        sequences: &mut Sequences,
        context: usize,
        len: usize,
    ) -> Result<f64> {
        sequences.len = context;
        for _ in 0..WARM_UP {
            self.step(sequences)?;
        }
        let start = Instant::now();
        for _ in 0..len {
            self.step(sequences)?;
        }
        Ok((sequences.tables.len() * len) as f64 / start.elapsed().as_secs_f64())
    }

    /// One more token for every sequence.
    pub(super) fn step(&mut self, sequences: &mut Sequences) -> Result<()> {
        let positions = vec![sequences.len as u32; sequences.tables.len()];
        let rows: Vec<u32> = (0..sequences.tables.len() as u32).collect();
        sequences.len += 1;
        self.run(&sequences.tables, &positions, 1, &rows)
    }

    /// Computes `len` random tokens of each sequence; draws after `rows`.
    pub(super) fn run(
        &mut self,
        tables: &[Vec<u32>],
        positions: &[u32],
        len: usize,
        rows: &[u32],
    ) -> Result<()> {
        let vocab_size = self.runner.config().vocab_size as u32;
        let tokens: Vec<u32> = positions.iter().map(|_| self.rng.next_u32() % vocab_size).collect();
        let spans: Vec<SequenceSpan<'_>> = tables
            .iter()
            .enumerate()
            .map(|(i, table)| SequenceSpan { start: i * len, len, block_table: table })
            .collect();
        let batch = Batch { tokens: &tokens, positions, sequences: &spans };
        let Steps { runner, drawn, logits, .. } = self;
        if rows.is_empty() {
            return Ok(runner.step(&batch, rows, logits)?);
        }
        // The likeliest tokens are found as they would be, though the next step takes random ones.
        let mut choose = |draws: &mut Draws| draws.draws.resize(rows.len(), Draw::GREEDY);
        Ok(runner.step_and_draw(&batch, rows, &[], &mut choose, drawn, logits)?)
    }
}
