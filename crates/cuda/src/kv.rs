//! The paged cache of keys and values, and what attention needs beside it.

use backend::{AttentionParams, KV_BLOCK_SIZE, StepLimits};

use crate::params::{KvLayer, Span};

/// Splits of a row's context, at most, in one launch of decoding.
pub(crate) const SPLITS_MAX: usize = 128;
/// Rows of queries in a tile of prefill: (query, query head) pairs.
pub(crate) const QUERY_ROWS: usize = 128;

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

    /// Partial results that decoding may leave: (row, key head, split) triples.
    fn parts(&self, limits: &StepLimits) -> usize {
        // Few rows split far; from a wave of blocks on, rows alone fill the card.
        (limits.sequences * self.kv_heads * 4).max(SPLITS_MAX * self.kv_heads * 4)
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

    /// Splits of every row's context, for `rows` sequences of at most `blocks` blocks each: as many as fill the card about
    /// twice, each with enough keys to be worth its start.
    pub(crate) fn splits(&self, limits: &StepLimits, rows: usize, blocks: usize) -> usize {
        let by_parts = self.parts(limits) / (rows * self.kv_heads).max(1);
        let by_keys = (blocks * KV_BLOCK_SIZE).div_ceil(256);
        by_keys.min(by_parts).clamp(1, SPLITS_MAX)
    }

    /// Bytes that describe the largest step: ids, positions, tables, spans and tiles.
    pub(crate) fn step_bytes(&self, limits: &StepLimits) -> usize {
        let tables = limits.sequences * self.num_blocks;
        let tiles =
            limits.tokens.div_ceil(QUERY_ROWS / self.group().min(QUERY_ROWS)) + limits.sequences;
        4 * (3 * limits.tokens + limits.rows + 32 + tables)
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
