//! A model on a backend, and the tokens that its cache holds.

use backend::{
    Backend, BackendError, Batch, Draw, Drawn, Draws, KV_BLOCK_SIZE, SequenceSpan, StepLimits,
};
use model::{Config, Transformer, Workspace};

use crate::EngineError;

/// A model that computes steps, whatever the backend.
pub trait ModelRunner: Send {
    /// The model's configuration.
    fn config(&self) -> &Config;
    /// Tokens that the cache holds.
    fn context(&self) -> usize;
    /// How much a step may hold.
    fn limits(&self) -> StepLimits;
    /// Computes the tokens of `batch` and leaves the logits of `rows`.
    ///
    /// # Errors
    /// Where the device fails.
    fn step(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        logits: &mut Vec<f32>,
    ) -> Result<(), BackendError>;
    /// Computes the tokens of `batch` and draws a token for each of `rows`, as `choose` says: it is called once, with empty
    /// [`Draws`], and a device computes meanwhile. Leaves in `logits` those of the rows `rows[kept[i]]`, ascending:
    /// `[kept.len(), vocab_size]`. At most as many masks as [`StepLimits::rows`].
    ///
    /// # Errors
    /// Where the device fails.
    fn step_and_draw(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        kept: &[u32],
        choose: &mut (dyn FnMut(&mut Draws) + Send),
        drawn: &mut Vec<Drawn>,
        logits: &mut Vec<f32>,
    ) -> Result<(), BackendError>;
}

/// A model, its backend and its cache.
pub struct Runner<B: Backend> {
    backend: B,
    model: Transformer<B>,
    workspace: Workspace<B>,
    cache: B::KvCache,
    context: usize,
    limits: StepLimits,
}

impl<B: Backend> Runner<B> {
    /// Makes room for `context` tokens, rounded up to whole blocks, and for steps within `limits`.
    ///
    /// # Errors
    /// If the backend cannot hold that much.
    pub fn new(
        backend: B,
        model: Transformer<B>,
        context: usize,
        limits: StepLimits,
    ) -> Result<Self, BackendError> {
        let context = context.next_multiple_of(KV_BLOCK_SIZE);
        let workspace = model.workspace(&backend, limits.tokens)?;
        let cache = model.kv_cache(&backend, context)?;
        Ok(Runner { backend, model, workspace, cache, context, limits })
    }

    /// Panics where the step is not what was agreed: a fault of the caller.
    fn check(&self, batch: &Batch<'_>, rows: &[u32]) {
        batch.assert_valid(self.model.config().vocab_size, self.context / KV_BLOCK_SIZE);
        assert!(batch.tokens.len() <= self.limits.tokens && rows.len() <= self.limits.rows);
        assert!(batch.sequences.len() <= self.limits.sequences);
    }

    /// The backend.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }
}

impl<B: Backend> ModelRunner for Runner<B> {
    fn config(&self) -> &Config {
        self.model.config()
    }

    fn context(&self) -> usize {
        self.context
    }

    fn limits(&self) -> StepLimits {
        self.limits
    }

    fn step(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        logits: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        self.check(batch, rows);
        let Runner { backend, model, workspace, cache, .. } = self;
        model.step(backend, workspace, cache, batch, rows, logits)
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
        self.check(batch, rows);
        assert!(kept.is_sorted_by(|a, b| a < b), "kept rows must ascend");
        assert!(kept.last().is_none_or(|&last| (last as usize) < rows.len()), "a kept row of none");
        let (vocab_size, masks_max) = (self.model.config().vocab_size, self.limits.rows);
        let mut choose = |draws: &mut Draws| {
            choose(draws);
            draws.assert_valid(rows.len(), vocab_size, masks_max);
        };
        let Runner { backend, model, workspace, cache, .. } = self;
        let choose = &mut choose;
        model.step_and_draw(backend, workspace, cache, batch, rows, kept, choose, drawn, logits)
    }
}

/// One sequence at a time on a runner. What the cache holds of the last one is used again as far as the next begins
/// alike, so that a chat computes only what is new.
pub struct Session {
    runner: Box<dyn ModelRunner>,
    block_table: Vec<u32>,
    /// Tokens whose keys and values the cache holds.
    cached: Vec<u32>,
    logits: Vec<f32>,
    drawn: Vec<Drawn>,
}

impl Session {
    /// A session with an empty cache.
    pub fn new(runner: Box<dyn ModelRunner>) -> Self {
        let blocks = (runner.context() / KV_BLOCK_SIZE) as u32;
        Session {
            runner,
            block_table: (0..blocks).collect(),
            cached: Vec::new(),
            logits: Vec::new(),
            drawn: Vec::new(),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        self.runner.config()
    }

    /// How much a step may hold.
    pub(crate) fn limits(&self) -> StepLimits {
        self.runner.limits()
    }

    /// Tokens that a sequence may have, prompt and answer together.
    pub fn context(&self) -> usize {
        self.runner.context()
    }

    /// Checks that the model has these tokens and that they fit, with room for `more`.
    pub(crate) fn check(&self, tokens: &[u32], more: usize) -> Result<(), EngineError> {
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if tokens.len() + more > self.context() {
            return Err(EngineError::TooLong { tokens: tokens.len(), context: self.context() });
        }
        let vocab_size = self.config().vocab_size;
        match tokens.iter().position(|&token| token as usize >= vocab_size) {
            Some(index) => Err(EngineError::Token { index, token: tokens[index], vocab_size }),
            None => Ok(()),
        }
    }

    /// Forgets everything beyond the tokens with which `tokens` begins, the last excepted: its logits are wanted.
    /// Returns how many remain.
    pub(crate) fn keep_common_prefix(&mut self, tokens: &[u32]) -> usize {
        let common = self.cached.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let kept = common.min(tokens.len().saturating_sub(1));
        self.cached.truncate(kept);
        kept
    }

    /// Appends tokens, as many as a step may hold; returns the logits of the last `wanted` of them.
    pub(crate) fn append(
        &mut self,
        tokens: &[u32],
        wanted: usize,
    ) -> Result<&mut [f32], EngineError> {
        let rows: Vec<u32> = ((tokens.len() - wanted) as u32..tokens.len() as u32).collect();
        let start = self.cached.len();
        self.step(tokens, |runner, batch, logits, _| runner.step(batch, &rows, logits))?;
        let vocab_size = self.runner.config().vocab_size;
        for (row, logits) in self.logits.chunks_exact(vocab_size).enumerate() {
            if logits.iter().any(|v| !v.is_finite()) {
                self.cached.clear();
                return Err(EngineError::NotFinite { position: start + rows[row] as usize });
            }
        }
        Ok(&mut self.logits)
    }

    /// Appends tokens and draws the one that follows.
    pub(crate) fn append_and_draw(
        &mut self,
        tokens: &[u32],
        how: &Draw,
    ) -> Result<Drawn, EngineError> {
        let rows = [tokens.len() as u32 - 1];
        self.step(tokens, |runner, batch, logits, drawn| {
            let mut choose = |draws: &mut Draws| draws.draws.push(*how);
            runner.step_and_draw(batch, &rows, &[], &mut choose, drawn, logits)
        })?;
        let drawn = self.drawn[0];
        if !drawn.is_finite {
            let position = self.cached.len() - 1;
            self.cached.clear();
            return Err(EngineError::NotFinite { position });
        }
        Ok(drawn)
    }

    /// One step with more tokens of the sequence.
    fn step(
        &mut self,
        tokens: &[u32],
        step: impl FnOnce(
            &mut dyn ModelRunner,
            &Batch<'_>,
            &mut Vec<f32>,
            &mut Vec<Drawn>,
        ) -> Result<(), BackendError>,
    ) -> Result<(), EngineError> {
        let (start, len) = (self.cached.len(), tokens.len());
        let positions: Vec<u32> = (start as u32..(start + len) as u32).collect();
        let spans = [SequenceSpan { start: 0, len, block_table: &self.block_table }];
        let batch = Batch { tokens, positions: &positions, sequences: &spans };
        let done = step(&mut *self.runner, &batch, &mut self.logits, &mut self.drawn);
        if let Err(error) = done {
            // What the cache holds of a step that broke off is unknown.
            self.cached.clear();
            return Err(error.into());
        }
        self.cached.extend_from_slice(tokens);
        Ok(())
    }
}
