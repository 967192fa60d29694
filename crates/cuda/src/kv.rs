//! The paged cache of keys and values, and what attention needs beside it.

use backend::{AttentionParams, KV_BLOCK_SIZE, StepLimits};

use crate::params::{KvLayer, Span};

/// Splits of a row's context, at most, in one launch of decoding.
pub(crate) const SPLITS_MAX: usize = 128;
/// Blocks of decoding that a card runs at a time, at most: five on each of 200 multiprocessors.
const RESIDENT_MAX: usize = 1000;
/// Rows of queries in a tile of prefill: (query, query head) pairs.
pub(crate) const QUERY_ROWS: usize = 128;

/// How a step of decoding is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decoding {
    /// Whether blocks have many warps.
    pub(crate) wide: bool,
    /// Splits of every row's context.
    pub(crate) splits: usize,
}

/// Sizes of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvLayout {
    pub(crate) num_layers: usize,
    pub(crate) num_blocks: usize,
    pub(crate) q_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) fp8: bool,
}

impl KvLayout {
    pub(crate) fn new(
        num_layers: usize,
        num_blocks: usize,
        params: &AttentionParams,
        fp8: bool,
    ) -> Self {
        let AttentionParams { num_attention_heads, num_key_value_heads, head_dim, .. } = *params;
        let (q_heads, kv_heads) = (num_attention_heads, num_key_value_heads);
        KvLayout { num_layers, num_blocks, q_heads, kv_heads, head_dim, fp8 }
    }

    /// Keys or values of one head and token, over the whole cache.
    fn vectors(&self) -> usize {
        self.num_layers * self.num_blocks * 2 * self.kv_heads * KV_BLOCK_SIZE
    }

    /// Bytes of a layer's keys and values.
    pub(crate) fn layer_bytes(&self) -> usize {
        self.vectors() / self.num_layers * self.head_dim * if self.fp8 { 1 } else { 2 }
    }

    /// Bytes of a layer's scales.
    pub(crate) fn layer_scale_bytes(&self) -> usize {
        if self.fp8 { 4 * self.vectors() / self.num_layers } else { 0 }
    }

    /// Pieces of memory: keys and values, scales.
    pub(crate) fn pieces(&self) -> [usize; 2] {
        [self.num_layers * self.layer_bytes(), self.num_layers * self.layer_scale_bytes()]
    }

    /// Query heads that share a key head.
    pub(crate) fn group(&self) -> usize {
        self.q_heads / self.kv_heads
    }

    /// Partial results that decoding may leave, (row, key head, split) triples: a few for each multiprocessor of the
    /// largest card, or one for each row and head.
    fn parts(&self, limits: &StepLimits) -> usize {
        let rows = limits.sequences * self.kv_heads;
        rows.max(RESIDENT_MAX.min(rows * SPLITS_MAX))
    }

    /// Pieces of the workspace: rotated queries; partial outputs, their states, arrivals; what describes a step.
    pub(crate) fn workspace(&self, limits: &StepLimits) -> [usize; 5] {
        let parts = self.parts(limits) * self.group();
        [
            2 * limits.tokens * self.q_heads * self.head_dim,
            4 * parts * self.head_dim,
            8 * parts,
            4 * limits.sequences * self.kv_heads,
            self.step_bytes(limits),
        ]
    }

    /// How a step of decoding is shared out, for `rows` sequences of at most `blocks` blocks of the cache each: blocks with
    /// many warps while there are multiprocessors without work, and as many splits of a context as fill the card.
    pub(crate) fn decoding(&self, multiprocessors: usize, rows: usize, blocks: usize) -> Decoding {
        let units = rows * self.kv_heads;
        let wide = units <= multiprocessors && self.group() <= 8;
        let resident = match (wide, self.head_dim, self.group() <= 8) {
            (true, ..) => 1,
            (_, 128, true) => 3,
            (_, 64, true) => 5,
            (_, 64, false) => 3,
            _ => 2,
        };
        // A split has a block of the cache for each of its warps at least.
        let by_keys = blocks.div_ceil(if wide { 12 } else { 4 });
        let splits = (resident * multiprocessors / units).clamp(1, SPLITS_MAX);
        Decoding { wide, splits: splits.min(by_keys) }
    }

    /// Bytes that describe the largest step: ids, positions, tables, spans and tiles.
    pub(crate) fn step_bytes(&self, limits: &StepLimits) -> usize {
        let tables = limits.sequences * self.num_blocks;
        let tiles =
            limits.tokens.div_ceil(QUERY_ROWS / self.group().min(QUERY_ROWS)) + limits.sequences;
        4 * (3 * limits.tokens + limits.rows + 96 + tables)
            + limits.sequences * size_of::<Span>()
            + 8 * tiles
    }

    /// A layer of the cache at `blocks` and `scales`.
    pub(crate) fn layer(&self, blocks: u64, scales: u64, layer: usize) -> KvLayer {
        KvLayer {
            blocks: blocks + (layer * self.layer_bytes()) as u64,
            scales: scales + (layer * self.layer_scale_bytes()) as u64,
            kv_heads: self.kv_heads as u32,
        }
    }
}
