//! A model whose answers depend on everything that the cache holds of a sequence, and on nothing else.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use backend::{BackendError, Batch, Drawn, Draws, KV_BLOCK_SIZE, StepLimits, draw};
use model::{Config, Tokenizer};

use crate::ModelRunner;

/// Ids of the mock's model; few, so that end tokens and stop strings come often.
pub(crate) const VOCAB_SIZE: usize = 45;
/// All that the tokenizer has, where grammars ask for them.
pub(crate) const WHOLE_VOCAB_SIZE: usize = 300;

/// What a slot of the cache holds before anything was written to it.
const NOTHING: u32 = u32::MAX;

/// What the test and the mock both see.
#[derive(Debug, Default)]
pub(crate) struct Device {
    /// Steps until the device fails; `None`: it does not.
    pub(crate) fails_in: Option<u32>,
    /// A token after which logits are not finite.
    pub(crate) poison: Option<u32>,
    /// Steps that were run, and tokens that they computed.
    pub(crate) steps: u64,
    pub(crate) tokens: u64,
}

/// A runner whose cache holds token ids, written and read through the block tables.
pub(crate) struct Mock {
    config: Config,
    limits: StepLimits,
    /// `[blocks][KV_BLOCK_SIZE]`.
    cache: Vec<[u32; KV_BLOCK_SIZE]>,
    /// Logits of the last step's rows.
    last: Vec<Vec<f32>>,
    device: Arc<Mutex<Device>>,
}

impl Mock {
    pub(crate) fn new(
        vocab_size: usize,
        blocks: usize,
        limits: StepLimits,
        device: Arc<Mutex<Device>>,
    ) -> Self {
        let json = include_bytes!("../../../../fixtures/models/qwen3-bf16/config.json");
        let mut config = Config::from_json(json, "config.json".as_ref()).unwrap();
        config.vocab_size = vocab_size;
        let cache = vec![[NOTHING; KV_BLOCK_SIZE]; blocks];
        Mock { config, limits, cache, last: Vec::new(), device }
    }

    /// Writes the batch's tokens to the cache.
    fn write(&mut self, batch: &Batch<'_>) {
        let mut written = BTreeSet::new();
        for span in batch.sequences {
            for row in span.start..span.start + span.len {
                let position = batch.positions[row] as usize;
                let block = span.block_table[position / KV_BLOCK_SIZE];
                let slot = (block, position % KV_BLOCK_SIZE);
                assert!(written.insert(slot), "two rows of a step share slot {slot:?}");
                self.cache[block as usize][slot.1] = batch.tokens[row];
            }
        }
    }

    /// Logits after a row: a function of all tokens that its sequence's table leads to.
    fn logits(&self, batch: &Batch<'_>, row: u32) -> Vec<f32> {
        let row = row as usize;
        let span = batch.sequences.iter().find(|span| row < span.start + span.len).unwrap();
        let history = (0..=batch.positions[row] as usize).map(|position| {
            let block = span.block_table[position / KV_BLOCK_SIZE];
            self.cache[block as usize][position % KV_BLOCK_SIZE]
        });
        let history: Vec<u32> = history.collect();
        assert!(!history.contains(&NOTHING), "a position that was never computed");
        let poison = self.device.lock().unwrap_or_else(PoisonError::into_inner).poison;
        if poison == Some(batch.tokens[row]) {
            return vec![f32::NAN; self.config.vocab_size];
        }
        logits_after(&history, self.config.vocab_size)
    }
}

/// Logits after some tokens: a function of all of them and their order.
pub(crate) fn logits_after(history: &[u32], vocab_size: usize) -> Vec<f32> {
    let state = history.iter().fold(0, |state, &token| mix(state ^ u64::from(token + 1)));
    let logit = |token| (mix(state.wrapping_add(token)) >> 40) as f32 / (1u64 << 24) as f32;
    (0..vocab_size as u64).map(|token| 6.0 * logit(token)).collect()
}

impl ModelRunner for Mock {
    fn config(&self) -> &Config {
        &self.config
    }

    fn context(&self) -> usize {
        self.cache.len() * KV_BLOCK_SIZE
    }

    fn limits(&self) -> StepLimits {
        self.limits
    }

    fn step(&mut self, _: &Batch<'_>, _: &[u32], _: &mut Vec<f32>) -> Result<(), BackendError> {
        unreachable!("the engine draws in every step")
    }

    fn step_and_draw(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        kept: &[u32],
        choose: &mut (dyn FnMut(&mut Draws) + Send),
        drawn: &mut Vec<Drawn>,
        logits: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let vocab_size = self.config.vocab_size;
        batch.assert_valid(vocab_size, self.cache.len());
        assert!(batch.tokens.len() <= self.limits.tokens && rows.len() <= self.limits.rows);
        assert!(batch.sequences.len() <= self.limits.sequences);
        let fails = {
            let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
            device.steps += 1;
            device.tokens += batch.tokens.len() as u64;
            device.fails_in = device.fails_in.map(|steps| steps.saturating_sub(1));
            device.fails_in == Some(0)
        };
        self.write(batch);
        // A device fails before it is asked to draw, or while it does.
        if fails && rows.len().is_multiple_of(2) {
            return Err(BackendError::Device("the mock fails".to_owned()));
        }
        let mut draws = Draws::default();
        choose(&mut draws);
        draws.assert_valid(rows.len(), vocab_size, self.limits.rows);
        if fails {
            return Err(BackendError::Device("the mock fails".to_owned()));
        }
        self.last = rows.iter().map(|&row| self.logits(batch, row)).collect();
        drawn.clear();
        drawn.extend(
            self.last.iter().zip(&draws.draws).map(|(row, how)| draw(row, how, &draws.masks)),
        );
        self.last_logits(kept, logits)
    }

    fn last_logits(&mut self, which: &[u32], logits: &mut Vec<f32>) -> Result<(), BackendError> {
        logits.clear();
        logits.extend(which.iter().flat_map(|&row| &self.last[row as usize]));
        Ok(())
    }
}

/// One step of SplitMix64.
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A tokenizer that has the mock's ids.
pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    let json = include_bytes!("../../../../fixtures/models/qwen3-bf16/tokenizer.json");
    Arc::new(Tokenizer::from_json(json, "tokenizer.json".as_ref(), None).unwrap())
}
