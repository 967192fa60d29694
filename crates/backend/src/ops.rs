//! The operations, as a trait over the backend's own buffers.

use crate::sampling::{Drawn, Draws};
use crate::{BackendError, LinearWeight, Weight};

/// Tokens in one block of the paged KV cache.
pub const KV_BLOCK_SIZE: usize = 16;

/// What a matrix is used for: a backend may keep each role in another form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A projection inside a layer.
    Projection,
    /// The router of a mixture of experts: always computed in `f32`, for a wrong choice of experts is no rounding error.
    Router,
    /// The projection to the vocabulary.
    LmHead,
}

/// The feed-forward block `down(silu(gate(x)) * up(x))`.
#[derive(Debug, Clone)]
pub struct GatedMlp<L> {
    /// `[intermediate_size, hidden_size]`.
    pub gate_proj: L,
    /// `[intermediate_size, hidden_size]`.
    pub up_proj: L,
    /// `[hidden_size, intermediate_size]`.
    pub down_proj: L,
}

/// A mixture of experts: each token goes through the `num_experts_per_tok` experts its router scores highest.
#[derive(Debug, Clone)]
pub struct Moe<L> {
    /// The router, `[num_experts, hidden_size]`.
    pub gate: L,
    /// The experts.
    pub experts: Vec<GatedMlp<L>>,
    /// How many experts a token visits.
    pub num_experts_per_tok: usize,
    /// Whether the chosen experts' probabilities are scaled to sum to one.
    pub norm_topk_prob: bool,
}

/// RMS norm, `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Debug, Clone)]
pub struct Norm<V> {
    /// As long as a row, or as a head.
    pub weight: V,
    /// Added to the mean of the squares.
    pub eps: f32,
}

/// Attention of one layer, but for its projections.
#[derive(Debug, Clone)]
pub struct Attention<V> {
    /// Its shape.
    pub params: AttentionParams,
    /// Norm of every query head, of the Qwen3 families.
    pub q_norm: Option<Norm<V>>,
    /// Norm of every key head.
    pub k_norm: Option<Norm<V>>,
    /// Rotary position embedding: the angle of pair `i` at position `p` is `p * inv_freq[i]`, `[head_dim / 2]` in radians
    /// a position. Pairs are `(x[i], x[i + head_dim / 2])`, the "rotate half" convention of the Hugging Face
    /// implementations.
    pub inv_freq: V,
}

/// Shape of attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionParams {
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; a divisor of the query heads.
    pub num_key_value_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on the scores, `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A query sees this many positions, itself included; `None`: all before it.
    pub sliding_window: Option<usize>,
}

/// The rows of one step that belong to one sequence.
#[derive(Debug, Clone, Copy)]
pub struct SequenceSpan<'a> {
    /// First row in the step.
    pub start: usize,
    /// Number of rows; their positions are consecutive.
    pub len: usize,
    /// Blocks of the KV cache that hold this sequence, in order: position `p` lies in block `p / KV_BLOCK_SIZE`.
    pub block_table: &'a [u32],
}

/// The tokens of one step: rows of several sequences, one after another.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Token ids, `[num_tokens]`.
    pub tokens: &'a [u32],
    /// Position of each token in its sequence, `[num_tokens]`.
    pub positions: &'a [u32],
    /// Which rows belong to which sequence; they cover all rows, in order.
    pub sequences: &'a [SequenceSpan<'a>],
}

/// How much one step may hold: what a backend makes room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    /// Tokens of a step: enough to share every weight among many, few enough that their activations stay small.
    pub tokens: usize,
    /// Rows whose logits a step may ask for.
    pub rows: usize,
    /// Sequences that a step may mix.
    pub sequences: usize,
}

impl Batch<'_> {
    /// Panics where the parts of the batch do not fit each other: a fault of the caller, never of user input.
    pub fn assert_valid(&self, vocab_size: usize, num_blocks: usize) {
        assert_eq!(self.tokens.len(), self.positions.len());
        assert!(
            self.tokens.iter().all(|&t| (t as usize) < vocab_size),
            "token out of the vocabulary"
        );
        let mut row = 0;
        for span in self.sequences {
            assert_eq!(span.start, row, "sequences must follow one another");
            assert!(span.len > 0, "a sequence without rows");
            row += span.len;
            let first = self.positions[span.start] as usize;
            for (i, &position) in self.positions[span.start..row].iter().enumerate() {
                assert_eq!(position as usize, first + i, "positions must be consecutive");
            }
            let needed = (first + span.len).div_ceil(KV_BLOCK_SIZE);
            assert!(span.block_table.len() >= needed, "block table too short");
            assert!(span.block_table[..needed].iter().all(|&b| (b as usize) < num_blocks));
        }
        assert_eq!(row, self.tokens.len(), "sequences must cover all rows");
    }
}

/// Where a model's weights, activations and cache lie. [`Backend`] computes with them; a planner only counts them.
pub trait Storage: Send {
    /// Activations, `[rows, cols]`.
    type Buffer: Send;
    /// Matrices with the same input, one above the other, resident where they are computed with.
    type Linear: Send + Sync;
    /// A dense feed-forward block.
    type Mlp: Send + Sync;
    /// A mixture of experts.
    type Moe: Send + Sync;
    /// A vector: the weight of a norm, or frequencies.
    type Vector: Clone + Send + Sync;
    /// The embedding table.
    type Table: Send + Sync;
    /// Keys and values of all layers, in blocks of [`KV_BLOCK_SIZE`] tokens.
    type KvCache: Send;

    /// Takes matrices `[n_i, k]` that are multiplied with the same input.
    fn load_linear(
        &self,
        stack: Vec<LinearWeight>,
        role: Role,
    ) -> Result<Self::Linear, BackendError>;
    /// Takes a feed-forward block.
    fn load_mlp(&self, mlp: GatedMlp<LinearWeight>) -> Result<Self::Mlp, BackendError>;
    /// Takes a mixture of experts.
    fn load_moe(&self, moe: Moe<LinearWeight>) -> Result<Self::Moe, BackendError>;
    /// Takes a vector.
    fn load_vector(&self, weight: Weight) -> Result<Self::Vector, BackendError>;
    /// Takes the embedding table `[vocab_size, hidden_size]`.
    fn load_table(&self, weight: Weight) -> Result<Self::Table, BackendError>;
    /// Room for activations of `cols` columns and at most `rows_max` rows.
    fn buffer(&self, rows_max: usize, cols: usize) -> Result<Self::Buffer, BackendError>;
    /// Room for `num_blocks` blocks of keys and values in each of `num_layers` layers.
    fn kv_cache(
        &self,
        num_layers: usize,
        num_blocks: usize,
        params: &AttentionParams,
    ) -> Result<Self::KvCache, BackendError>;

    /// Waits until every weight that was handed over has arrived.
    fn finish_loading(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

/// The list of operations, as coarse as the parts of a model, so that a backend may fuse what lies inside them. Every one
/// takes and leaves activations in buffers of the backend, and sets the rows of its output. What a device answers only
/// later, as a failure, [`Backend::run`] returns.
pub trait Backend: Storage {
    /// Runs the operations of one step, which computes `batch` and the logits of its `rows`. A backend may put it on
    /// threads of its own, and one that has recorded a step of the same shape may repeat that instead of calling `step`:
    /// nothing else than `batch` and `rows` may differ from call to call.
    ///
    /// # Errors
    /// [`BackendError::Device`] where the device fails.
    fn run(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        logits: &mut Vec<f32>,
        step: impl FnOnce(&mut Self, &mut Vec<f32>) + Send,
    ) -> Result<(), BackendError>
    where
        Self: Sized;

    /// [`Backend::run`], but the rows give tokens: `drawn[i]` is drawn from row `rows[i]` as `draws[i]` says. A device that
    /// draws by itself leaves the logits where they are, but for those of the rows `rows[kept[i]]`, ascending, which come to
    /// the host in `logits`, `[kept.len(), vocab_size]`; what is drawn from those is for the caller to use or not.
    ///
    /// `choose` says how to draw. It is called once, with empty [`Draws`]: where a device computes the forward pass, after
    /// that has been handed over, so that what `choose` does costs no time; else before it. A step that fails before calls
    /// it never.
    ///
    /// # Errors
    /// As those of [`Backend::run`].
    #[allow(clippy::too_many_arguments)] // what goes in, what comes out, and what to do
    fn run_and_draw(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        kept: &[u32],
        choose: &mut (dyn FnMut(&mut Draws) + Send),
        drawn: &mut Vec<Drawn>,
        logits: &mut Vec<f32>,
        step: impl FnOnce(&mut Self, &mut Vec<f32>) + Send,
    ) -> Result<(), BackendError>
    where
        Self: Sized;

    /// Brings logits of the last [`Backend::run_and_draw`] to the host: of its rows `rows[i]`, ascending,
    /// `[rows.len(), vocab_size]`. For the rare token that is not to be taken.
    ///
    /// # Errors
    /// As those of [`Backend::run`].
    fn last_logits(&mut self, rows: &[u32], logits: &mut Vec<f32>) -> Result<(), BackendError>;

    /// `out[i] = table[tokens[i]]`.
    fn embed(&mut self, table: &Self::Table, tokens: &[u32], out: &mut Self::Buffer);
    /// `out = linear(norm(x))`, the outputs of the stack side by side.
    fn linear(
        &mut self,
        x: &Self::Buffer,
        norm: Option<&Norm<Self::Vector>>,
        linear: &Self::Linear,
        out: &mut Self::Buffer,
    );
    /// `residual += linear(x)`.
    fn linear_add(&mut self, x: &Self::Buffer, linear: &Self::Linear, residual: &mut Self::Buffer);
    /// Takes `[q, k, v]` side by side; norms and rotates the heads of `q` and `k`, stores `k` and `v` in layer `layer` of
    /// the cache, then attends to all that `q` may see. Leaves `qkv` undefined.
    #[allow(clippy::too_many_arguments)] // attention has that many parts
    fn attention(
        &mut self,
        qkv: &mut Self::Buffer,
        attention: &Attention<Self::Vector>,
        cache: &mut Self::KvCache,
        layer: usize,
        batch: &Batch<'_>,
        out: &mut Self::Buffer,
    );
    /// `residual += mlp(norm(residual))`.
    fn gated_mlp(
        &mut self,
        residual: &mut Self::Buffer,
        norm: &Norm<Self::Vector>,
        mlp: &Self::Mlp,
    );
    /// `residual += sum over the chosen experts of probability * expert(norm(residual))`.
    fn moe(&mut self, residual: &mut Self::Buffer, norm: &Norm<Self::Vector>, moe: &Self::Moe);
    /// `logits[i] = lm_head(norm(x[rows[i]]))`, brought to the host: `[rows.len(), vocab_size]`.
    fn logits(
        &mut self,
        x: &Self::Buffer,
        norm: Option<&Norm<Self::Vector>>,
        rows: &[u32],
        lm_head: &Self::Linear,
        logits: &mut Vec<f32>,
    );
}
