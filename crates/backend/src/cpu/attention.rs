//! Attention over the paged cache.
//!
//! A block holds 16 tokens. Keys lie transposed (`[head_dim][16 tokens]`) and values in chunks of 16 columns
//! (`[head_dim / 16][16 tokens][16]`), so that scores and outputs both are products with a panel of 16 columns: the
//! kernel of the `f32` matrix product serves attention as well.
#![allow(unsafe_code)] // heads are shared out between tasks, see `DisjointColumns::row_part`

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::disjoint::DisjointColumns;
use super::kernels::{Kernels, PANEL_ROWS, TILE_TOKENS};
use super::math::softmax_blocks;
use crate::{AttentionParams, Batch, KV_BLOCK_SIZE, SequenceSpan};

const _: () = assert!(KV_BLOCK_SIZE == PANEL_ROWS, "a block of keys is a panel");

/// Query rows of a prefill task: enough to share the keys, few enough to balance the threads.
const TASK_ROWS: usize = 24;

type Panel = [f32; PANEL_ROWS];

/// Keys and values of all layers.
#[derive(Debug)]
pub struct KvCache {
    /// Per layer `[num_blocks][num_key_value_heads][head_dim]` panels of 16 tokens.
    keys: Vec<Vec<Panel>>,
    /// Per layer `[num_blocks][num_key_value_heads][head_dim / 16, rounded up][16 tokens]` panels of 16 columns.
    values: Vec<Vec<Panel>>,
    num_blocks: usize,
    num_heads: usize,
    head_dim: usize,
}

impl KvCache {
    pub(crate) fn new(num_layers: usize, num_blocks: usize, params: &AttentionParams) -> Self {
        let (num_heads, head_dim) = (params.num_key_value_heads, params.head_dim);
        let blocks = num_blocks * num_heads;
        let zeros = |panels: usize| vec![[0.0; PANEL_ROWS]; panels];
        KvCache {
            keys: (0..num_layers).map(|_| zeros(blocks * head_dim)).collect(),
            values: (0..num_layers).map(|_| zeros(blocks * value_panels(head_dim))).collect(),
            num_blocks,
            num_heads,
            head_dim,
        }
    }

    /// Bytes of the cache with these sizes.
    pub(crate) fn num_bytes(
        num_layers: usize,
        num_blocks: usize,
        params: &AttentionParams,
    ) -> usize {
        let panels = params.head_dim + value_panels(params.head_dim);
        num_layers * num_blocks * params.num_key_value_heads * panels * size_of::<Panel>()
    }

    /// Blocks in the cache.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    fn key_block(&self, layer: usize, block: u32, head: usize) -> &[Panel] {
        let at = (block as usize * self.num_heads + head) * self.head_dim;
        &self.keys[layer][at..at + self.head_dim]
    }

    fn value_block(&self, layer: usize, block: u32, head: usize) -> &[Panel] {
        let len = value_panels(self.head_dim);
        let at = (block as usize * self.num_heads + head) * len;
        &self.values[layer][at..at + len]
    }

    /// Puts the keys and values of a step into their blocks: the last columns of `qkv [num_tokens, cols]`.
    pub(crate) fn store(&mut self, layer: usize, batch: &Batch<'_>, qkv: &[f32], cols: usize) {
        let (head_dim, width) = (self.head_dim, self.num_heads * self.head_dim);
        for span in batch.sequences {
            for row in span.start..span.start + span.len {
                let position = batch.positions[row] as usize;
                let block = span.block_table[position / KV_BLOCK_SIZE] as usize;
                let slot = position % KV_BLOCK_SIZE;
                let (k, v) = qkv[row * cols..(row + 1) * cols][cols - 2 * width..].split_at(width);
                let heads = k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim));
                for (head, (k, v)) in heads.enumerate() {
                    let at = block * self.num_heads + head;
                    for (d, &k) in k.iter().enumerate() {
                        self.keys[layer][at * head_dim + d][slot] = k;
                    }
                    let values = &mut self.values[layer][at * value_panels(head_dim)..];
                    for (chunk, v) in v.chunks(PANEL_ROWS).enumerate() {
                        values[chunk * KV_BLOCK_SIZE + slot][..v.len()].copy_from_slice(v);
                    }
                }
            }
        }
    }
}

fn value_panels(head_dim: usize) -> usize {
    head_dim.div_ceil(PANEL_ROWS) * KV_BLOCK_SIZE
}

/// One layer's attention: what every task shares.
pub(crate) struct Attend<'a> {
    pub(crate) kernels: &'static Kernels,
    pub(crate) cache: &'a KvCache,
    pub(crate) layer: usize,
    pub(crate) params: &'a AttentionParams,
    pub(crate) batch: &'a Batch<'a>,
    /// `[num_tokens, cols]`, of which the first columns are the queries.
    pub(crate) qkv: &'a [f32],
    pub(crate) cols: usize,
    /// `[num_tokens, num_attention_heads * head_dim]`.
    pub(crate) out: DisjointColumns<'a>,
}

/// Some rows of a sequence, for the query heads of one key head.
struct Task<'a> {
    span: &'a SequenceSpan<'a>,
    rows: Range<usize>,
    head: usize,
}

thread_local! {
    static SCORES: RefCell<Vec<Panel>> = RefCell::default();
}

impl Attend<'_> {
    pub(crate) fn run(&self) {
        let mut tasks = Vec::new();
        let mut row = 0;
        for span in self.batch.sequences {
            // Spans that share rows would have two tasks write the same output.
            assert_eq!(span.start, row, "sequences must follow one another");
            row += span.len;
            for start in (span.start..span.start + span.len).step_by(TASK_ROWS) {
                let rows = start..(start + TASK_ROWS).min(span.start + span.len);
                tasks.extend((0..self.params.num_key_value_heads).map(|head| Task {
                    span,
                    rows: rows.clone(),
                    head,
                }));
            }
        }
        // The last rows see the most keys: long tasks first, so that no thread ends with one.
        tasks.par_iter().rev().with_max_len(1).for_each(|task| self.run_task(task));
    }

    fn run_task(&self, task: &Task<'_>) {
        let group = self.params.num_attention_heads / self.params.num_key_value_heads;
        let queries: Vec<(usize, usize)> = (task.head * group..(task.head + 1) * group)
            .flat_map(|head| task.rows.clone().map(move |row| (row, head)))
            .collect();
        SCORES.with_borrow_mut(|scores| {
            for queries in queries.chunks(TILE_TOKENS) {
                self.attend(task, queries, scores);
            }
        });
    }

    /// Attention of up to [`TILE_TOKENS`] queries (row, head) that share their keys.
    fn attend(&self, task: &Task<'_>, queries: &[(usize, usize)], scores: &mut Vec<Panel>) {
        let head_dim = self.params.head_dim;
        let position = |row: usize| self.batch.positions[row] as usize;
        let first_key =
            |row| self.params.sliding_window.map_or(0, |w| (position(row) + 1).saturating_sub(w));
        let begin =
            queries.iter().map(|&(row, _)| first_key(row)).min().unwrap_or(0) / KV_BLOCK_SIZE;
        let end =
            queries.iter().map(|&(row, _)| position(row)).max().unwrap_or(0) / KV_BLOCK_SIZE + 1;
        let blocks = &task.span.block_table[begin..end];

        let mut tokens: [&[f32]; TILE_TOKENS] = [&[]; TILE_TOKENS];
        for (token, &(row, head)) in tokens.iter_mut().zip(queries) {
            *token = &self.qkv[row * self.cols + head * head_dim..][..head_dim];
        }
        scores.clear();
        scores.resize(blocks.len() * queries.len(), [0.0; PANEL_ROWS]);
        for (&block, scores) in blocks.iter().zip(scores.chunks_mut(queries.len())) {
            let keys = self.cache.key_block(self.layer, block, task.head);
            (self.kernels.tile_f32)(keys, &tokens[..queries.len()], scores);
        }
        for (t, &(row, _)) in queries.iter().enumerate() {
            let offset = begin * KV_BLOCK_SIZE;
            let visible = first_key(row).max(offset) - offset..position(row) + 1 - offset;
            softmax_blocks(scores, queries.len(), t, visible, self.params.scale);
        }
        self.weigh_values(task.head, blocks, queries, scores);
    }

    /// `out = probabilities * values`, 16 columns at a time.
    fn weigh_values(
        &self,
        head: usize,
        blocks: &[u32],
        queries: &[(usize, usize)],
        scores: &[Panel],
    ) {
        let head_dim = self.params.head_dim;
        for chunk in 0..head_dim.div_ceil(PANEL_ROWS) {
            let mut out = [[0.0; PANEL_ROWS]; TILE_TOKENS];
            for (&block, scores) in blocks.iter().zip(scores.chunks(queries.len())) {
                let values = self.cache.value_block(self.layer, block, head);
                let panel = &values[chunk * KV_BLOCK_SIZE..(chunk + 1) * KV_BLOCK_SIZE];
                let mut tokens: [&[f32]; TILE_TOKENS] = [&[]; TILE_TOKENS];
                for (token, scores) in tokens.iter_mut().zip(scores) {
                    *token = scores;
                }
                (self.kernels.tile_f32)(panel, &tokens[..queries.len()], &mut out[..queries.len()]);
            }
            let columns = PANEL_ROWS.min(head_dim - chunk * PANEL_ROWS);
            for (&(row, head), out) in queries.iter().zip(&out) {
                let start = head * head_dim + chunk * PANEL_ROWS;
                // SAFETY: a row's columns of a query head belong to the one task of its key head and rows.
                let to = unsafe { self.out.row_part(row, start, columns) };
                to.copy_from_slice(&out[..columns]);
            }
        }
    }
}
