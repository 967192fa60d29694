//! A model on a backend.

use backend::{Backend, BackendError, Batch, Drawn, Draws, KV_BLOCK_SIZE, StepLimits};
use model::{Config, Transformer, Workspace};

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
    /// Leaves in `logits` those of the last [`ModelRunner::step_and_draw`], of its `rows[which[i]]`, ascending:
    /// `[which.len(), vocab_size]`.
    ///
    /// # Errors
    /// Where the device fails.
    fn last_logits(&mut self, which: &[u32], logits: &mut Vec<f32>) -> Result<(), BackendError>;
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

    fn last_logits(&mut self, which: &[u32], logits: &mut Vec<f32>) -> Result<(), BackendError> {
        self.backend.last_logits(which, logits)
    }
}
