//! What a step is about, as kernels read it: token ids, positions, block tables.

use backend::{Batch, KV_BLOCK_SIZE};
use bytemuck::cast_slice;

use crate::kv::{KvLayout, QUERY_ROWS};
use crate::params::{Routes, Span};

/// What two steps must share for the recording of one to do for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Shape {
    pub(crate) tokens: usize,
    pub(crate) sequences: usize,
    /// Rows whose logits are wanted.
    pub(crate) rows: usize,
    /// Entries of a block table.
    pub(crate) table_len: usize,
    /// Tiles of queries; 0 where every sequence has one row, which is decoding.
    pub(crate) tiles: usize,
}

impl Shape {
    /// Whether every sequence has one row.
    pub(crate) fn is_decode(&self) -> bool {
        self.tiles == 0
    }
}

/// A step's description: where each part lies on the device.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Step {
    pub(crate) shape: Shape,
    pub(crate) tokens: u64,
    pub(crate) positions: u64,
    pub(crate) row_sequence: u64,
    pub(crate) logit_rows: u64,
    pub(crate) block_tables: u64,
    pub(crate) spans: u64,
    pub(crate) tiles: u64,
    /// Routes of a dense block, all tokens to one expert; and of the rows whose logits are wanted.
    pub(crate) dense: Routes,
    pub(crate) logits: Routes,
    /// Bytes in all.
    pub(crate) len: usize,
}

impl Step {
    /// Writes the description to `host`, for the device to read at `address`.
    pub(crate) fn describe(
        batch: &Batch<'_>,
        rows: &[u32],
        layout: &KvLayout,
        host: &mut [u8],
        address: u64,
    ) -> Step {
        let mut words = Words { host, at: 0, address };
        let tiles = tiles(batch, layout);
        let longest = batch.sequences.iter().map(|span| blocks(batch, span.start + span.len - 1));
        // A power of two, so that a growing context changes the shape rarely.
        let table_len =
            longest.max().unwrap_or(1).next_power_of_two().min(layout.num_blocks.max(1));
        let shape = Shape {
            tokens: batch.tokens.len(),
            sequences: batch.sequences.len(),
            rows: rows.len(),
            table_len,
            tiles: tiles.len(),
        };
        let mut step = Step { shape, ..Step::default() };
        step.tokens = words.put(batch.tokens);
        step.positions = words.put(batch.positions);
        let sequences = batch.sequences.iter().enumerate();
        let row_sequence: Vec<u32> = sequences
            .flat_map(|(index, span)| std::iter::repeat_n(index as u32, span.len))
            .collect();
        step.row_sequence = words.put(&row_sequence);
        step.logit_rows = words.put(rows);
        step.dense = words.put_routes(batch.tokens.len());
        step.logits = words.put_routes(rows.len());
        step.block_tables = words.put_tables(batch, table_len);
        let spans: Vec<Span> = spans(batch);
        step.spans = words.put(cast_slice(&spans));
        step.tiles = words.put(cast_slice(&tiles));
        step.len = words.at;
        step
    }
}

/// Blocks of the cache that a row's sequence fills up to the row.
fn blocks(batch: &Batch<'_>, row: usize) -> usize {
    batch.positions[row] as usize / KV_BLOCK_SIZE + 1
}

fn spans(batch: &Batch<'_>) -> Vec<Span> {
    let sequences = batch.sequences.iter().enumerate();
    let span = |(index, span): (usize, &backend::SequenceSpan<'_>)| Span {
        row: span.start as i32,
        len: span.len as i32,
        first_position: batch.positions[span.start] as i32,
        sequence: index as i32,
    };
    sequences.map(span).collect()
}

/// Tiles of queries, (span, first query), those that see the most keys first; none where all spans are of one row.
fn tiles(batch: &Batch<'_>, layout: &KvLayout) -> Vec<[i32; 2]> {
    if batch.sequences.iter().all(|span| span.len == 1) {
        return Vec::new();
    }
    let queries = QUERY_ROWS / layout.group().min(QUERY_ROWS);
    let mut tiles: Vec<(u32, [i32; 2])> = Vec::new();
    for (index, span) in batch.sequences.iter().enumerate() {
        for first in (0..span.len).step_by(queries) {
            let last = span.start + (first + queries).min(span.len) - 1;
            tiles.push((batch.positions[last], [index as i32, first as i32]));
        }
    }
    tiles.sort_by_key(|&(position, _)| std::cmp::Reverse(position));
    tiles.into_iter().map(|(_, tile)| tile).collect()
}

/// Words in page-locked memory, and where they will lie on the device.
struct Words<'a> {
    host: &'a mut [u8],
    at: usize,
    address: u64,
}

impl Words<'_> {
    /// Appends words, from a multiple of 16 bytes on; returns their address.
    fn put(&mut self, words: &[u32]) -> u64 {
        let start = self.at.next_multiple_of(16);
        let bytes: &[u8] = cast_slice(words);
        self.host[start..start + bytes.len()].copy_from_slice(bytes);
        self.at = start + bytes.len();
        self.address + start as u64
    }

    /// One expert that takes `tokens` rows, row by row.
    fn put_routes(&mut self, tokens: usize) -> Routes {
        let end = tokens.next_multiple_of(8) as u32;
        // Start and end, count, the active expert, how many are active; then tokens and weights of the first slots, which
        // only the kernels for few rows read.
        let one = 1.0_f32.to_bits();
        let start = self.put(&[0, end, tokens as u32, 0, 1, 0, 0, 0]);
        let tokens = self.put(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let weights = self.put(&[one; 8]);
        Routes {
            slot_token: tokens,
            slot_weight: weights,
            expert_start: start,
            expert_count: start + 8,
            active: start + 12,
            num_active: start + 16,
            ..Routes::default()
        }
    }

    fn put_tables(&mut self, batch: &Batch<'_>, table_len: usize) -> u64 {
        let mut tables = vec![0; batch.sequences.len() * table_len];
        for (span, to) in batch.sequences.iter().zip(tables.chunks_exact_mut(table_len)) {
            let len = blocks(batch, span.start + span.len - 1);
            to[..len].copy_from_slice(&span.block_table[..len]);
        }
        self.put(&tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::SequenceSpan;

    const LAYOUT: KvLayout = KvLayout {
        num_layers: 1,
        num_blocks: 100,
        q_heads: 8,
        kv_heads: 2,
        head_dim: 16,
        fp8: false,
    };

    fn describe(batch: &Batch<'_>, rows: &[u32]) -> (Step, Vec<u8>) {
        let mut host = vec![0; 4096];
        (Step::describe(batch, rows, &LAYOUT, &mut host, 0), host)
    }

    #[test]
    fn decoding_needs_no_tiles() {
        let spans = [
            SequenceSpan { start: 0, len: 1, block_table: &[7, 8, 9] },
            SequenceSpan { start: 1, len: 1, block_table: &[3] },
        ];
        let batch = Batch { tokens: &[5, 6], positions: &[40, 2], sequences: &spans };
        let (step, host) = describe(&batch, &[1]);
        assert!(step.shape.is_decode());
        assert_eq!((step.shape.table_len, step.shape.rows), (4, 1));
        let words: &[u32] = cast_slice(&host[step.block_tables as usize..][..32]);
        assert_eq!(words, [7, 8, 9, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn tiles_with_many_keys_come_first() {
        let spans = [
            SequenceSpan { start: 0, len: 40, block_table: &[0, 1, 2] },
            SequenceSpan { start: 40, len: 1, block_table: &[5, 6, 7, 8, 9, 10, 11] },
        ];
        let positions: Vec<u32> = (0..40).chain([100]).collect();
        let batch = Batch { tokens: &positions, positions: &positions, sequences: &spans };
        // 128 rows of 4 query heads are 32 queries.
        assert_eq!(tiles(&batch, &LAYOUT), [[1, 0], [0, 32], [0, 0]]);
    }
}
