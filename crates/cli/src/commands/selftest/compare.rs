//! Runs a case on two devices and says how far apart they are.

use anyhow::Result;
use backend::{Batch, KV_BLOCK_SIZE, SequenceSpan, StepLimits};
use engine::ModelRunner;
use model::{Config, ModelWeights};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::cases::{Case, Class, SEQUENCES, STEP_ROWS};

/// A model as devices load it.
pub(super) struct Job<'a> {
    pub(super) config: &'a Config,
    pub(super) weights: ModelWeights,
    /// Tokens of the cache.
    pub(super) context: usize,
    pub(super) limits: StepLimits,
    pub(super) fp8_kv: bool,
}

/// How far logits are from those they should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Distance {
    /// `||d|| / ||ref||` of a step's rows together.
    pub(super) whole: f64,
    /// The same of the row that is off the most.
    pub(super) row: f64,
}

/// A row may be off by so many times the bound: rows whose logits are small are relatively worse.
const ROW_FACTOR: f64 = 3.0;

impl Distance {
    const NONE: Distance = Distance { whole: 0.0, row: 0.0 };

    /// Compares rows of `width` logits. What is not finite, or missing, is infinitely far away.
    pub(super) fn of(logits: &[f32], reference: &[f32], width: usize) -> Distance {
        const FAR: Distance = Distance { whole: f64::INFINITY, row: f64::INFINITY };
        if logits.len() != reference.len() || !logits.iter().all(|logit| logit.is_finite()) {
            return FAR;
        }
        let (mut squares, mut all, mut row) = (0.0, 0.0, 0.0_f64);
        for (logits, reference) in logits.chunks_exact(width).zip(reference.chunks_exact(width)) {
            let pairs = logits.iter().zip(reference);
            let d: f64 = pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
            let norm: f64 = reference.iter().map(|&b| f64::from(b).powi(2)).sum();
            row = row.max((d / norm).sqrt());
            squares += d;
            all += norm;
        }
        Distance { whole: if all > 0.0 { (squares / all).sqrt() } else { 0.0 }, row }
    }

    /// Whether it is within `bound`. No number never is.
    pub(super) fn holds(&self, bound: f64) -> bool {
        self.whole <= bound && self.row <= ROW_FACTOR * bound
    }

    pub(super) fn max(self, other: Distance) -> Distance {
        Distance { whole: self.whole.max(other.whole), row: self.row.max(other.row) }
    }
}

impl Case {
    /// What a device needs to run it.
    pub(super) fn job(&self, weights: ModelWeights) -> Job<'_> {
        let blocks: usize = self.blocks().iter().sum();
        let limits = StepLimits { tokens: STEP_ROWS, rows: STEP_ROWS, sequences: SEQUENCES };
        let context = blocks * KV_BLOCK_SIZE;
        Job { config: &self.config, weights, context, limits, fp8_kv: self.fp8_kv }
    }

    /// Blocks of the cache that each sequence fills in the end.
    fn blocks(&self) -> [usize; SEQUENCES] {
        let mut tokens = [0; SEQUENCES];
        let steps = self.classes.iter().flat_map(|class| class.steps);
        steps.flat_map(|step| step.iter()).for_each(|&(sequence, rows)| tokens[sequence] += rows);
        tokens.map(|tokens: usize| tokens.div_ceil(KV_BLOCK_SIZE))
    }

    /// Blocks of every sequence, anywhere in the cache.
    fn block_tables(&self, rng: &mut ChaCha8Rng) -> Vec<Vec<u32>> {
        let blocks = self.blocks();
        let mut ids: Vec<u32> = (0..blocks.iter().sum::<usize>() as u32).collect();
        for last in (1..ids.len()).rev() {
            ids.swap(last, rng.next_u32() as usize % (last + 1));
        }
        blocks.iter().map(|&count| ids.split_off(ids.len() - count)).collect()
    }
}

/// The steps of a case, one class after another, on two devices.
pub(super) struct Comparison<'a> {
    case: &'a Case,
    device: Box<dyn ModelRunner>,
    reference: Box<dyn ModelRunner>,
    tables: Vec<Vec<u32>>,
    /// Tokens of each sequence so far.
    lengths: [usize; SEQUENCES],
    rng: ChaCha8Rng,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(
        case: &'a Case,
        device: Box<dyn ModelRunner>,
        reference: Box<dyn ModelRunner>,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let tables = case.block_tables(&mut rng);
        Comparison { case, device, reference, tables, lengths: [0; SEQUENCES], rng }
    }

    /// Runs a class: the largest distance of its steps.
    ///
    /// # Errors
    /// Where a device fails.
    pub(super) fn run(&mut self, class: &Class) -> Result<Distance> {
        let mut distance = Distance::NONE;
        for step in class.steps {
            distance = distance.max(self.step(step)?);
        }
        Ok(distance)
    }

    fn step(&mut self, step: &[(usize, usize)]) -> Result<Distance> {
        let vocab_size = self.case.config.vocab_size;
        let (mut positions, mut spans) = (Vec::new(), Vec::new());
        for &(sequence, len) in step {
            let first = self.lengths[sequence];
            let (start, block_table) = (positions.len(), &self.tables[sequence][..]);
            spans.push(SequenceSpan { start, len, block_table });
            positions.extend(first as u32..(first + len) as u32);
            self.lengths[sequence] += len;
        }
        let tokens: Vec<u32> =
            positions.iter().map(|_| self.rng.next_u32() % vocab_size as u32).collect();
        let rows: Vec<u32> = (0..positions.len() as u32).collect();
        let batch = Batch { tokens: &tokens, positions: &positions, sequences: &spans };
        let (mut logits, mut reference) = (Vec::new(), Vec::new());
        self.device.step(&batch, &rows, &mut logits)?;
        self.reference.step(&batch, &rows, &mut reference)?;
        Ok(Distance::of(&logits, &reference, vocab_size))
    }
}
