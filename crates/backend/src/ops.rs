//! The operations, as a trait over the backend's own buffers.

use crate::{BackendError, Weight};

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

/// Rotary position embedding: the angle of pair `i` at position `p` is `p * inv_freq[i]`.
///
/// Pairs are `(x[i], x[i + head_dim / 2])`, the "rotate half" convention of the Hugging Face implementations.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// `head_dim / 2` frequencies, in radians a position.
    pub inv_freq: Vec<f32>,
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

/// The list of operations. Every one takes and leaves activations in buffers of the backend, `f32` or narrower,
/// `[rows, cols]`, and sets the rows of its output.
pub trait Backend: Send {
    /// Activations, `[rows, cols]`.
    type Buffer: Send;
    /// A matrix with its optional bias, resident where it is computed with.
    type Linear: Send + Sync;
    /// A vector: the weight of a norm.
    type Vector: Send + Sync;
    /// The embedding table.
    type Table: Send + Sync;
    /// Keys and values of all layers, in blocks of [`KV_BLOCK_SIZE`] tokens.
    type KvCache: Send;

    /// Takes a matrix `[n, k]` and its bias `[n]`.
    fn load_linear(
        &self,
        weight: Weight,
        bias: Option<Weight>,
        role: Role,
    ) -> Result<Self::Linear, BackendError>;
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

    /// Runs one step; a backend may put it on threads of its own.
    fn run<R: Send>(&mut self, step: impl FnOnce(&mut Self) -> R + Send) -> R
    where
        Self: Sized,
    {
        step(self)
    }

    /// `out[i] = table[tokens[i]]`.
    fn embed(&mut self, table: &Self::Table, tokens: &[u32], out: &mut Self::Buffer);
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row.
    fn rms_norm(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Buffer,
    );
    /// `outs[i] = linears[i](x)`: several projections of the same input.
    fn linear(
        &mut self,
        x: &Self::Buffer,
        linears: &[&Self::Linear],
        outs: &mut [&mut Self::Buffer],
    );
    /// `residual += linear(x)`.
    fn linear_add(&mut self, x: &Self::Buffer, linear: &Self::Linear, residual: &mut Self::Buffer);
    /// Norms every head of `x` (`[rows, heads * head_dim]`) where a norm is given, as Qwen3 has it, then rotates it.
    fn rope(
        &mut self,
        x: &mut Self::Buffer,
        positions: &[u32],
        head_norm: Option<(&Self::Vector, f32)>,
        rope: &Rope,
    );
    /// Stores `k` and `v` of the step's tokens in layer `layer` of the cache, then attends to all that `q` may see.
    #[allow(clippy::too_many_arguments)] // q, k, v, cache, layer, batch, shape, out: attention has that many parts
    fn attention(
        &mut self,
        q: &Self::Buffer,
        k: &Self::Buffer,
        v: &Self::Buffer,
        cache: &mut Self::KvCache,
        layer: usize,
        batch: &Batch<'_>,
        params: &AttentionParams,
        out: &mut Self::Buffer,
    );
    /// `residual += mlp(x)`.
    fn gated_mlp(
        &mut self,
        x: &Self::Buffer,
        mlp: &GatedMlp<Self::Linear>,
        residual: &mut Self::Buffer,
    );
    /// `residual += sum over the chosen experts of probability * expert(x)`.
    fn moe(&mut self, x: &Self::Buffer, moe: &Moe<Self::Linear>, residual: &mut Self::Buffer);
    /// `logits[i] = lm_head(x[rows[i]])`, brought to the host: `[rows.len(), vocab_size]`.
    fn logits(
        &mut self,
        x: &Self::Buffer,
        rows: &[u32],
        lm_head: &Self::Linear,
        logits: &mut Vec<f32>,
    );
}
