//! The kernels in plain Rust: they run everywhere, and the SIMD ones are tested against them.

use std::ops::Range;

use half::f16;

use super::{BLOCK, DOT_ROWS, Int8Row, Int8Tile, Kernels, PANEL_ROWS, PackedRow};

pub(super) static KERNELS: Kernels = Kernels {
    name: "portable",
    dot_packed,
    dot_int8,
    dot_f32,
    unpack,
    interleave,
    tile_int8,
    tile_f32,
};

fn dot_packed(
    rows: &[PackedRow<'_>; DOT_ROWS],
    table: &[i8; 16],
    x: Int8Row<'_>,
) -> [f32; DOT_ROWS] {
    rows.map(|row| {
        let parts = row.scales.len() / x.scales.len();
        let blocks = row.packed.chunks_exact(BLOCK / 2).zip(x.codes.chunks_exact(BLOCK));
        blocks
            .zip(row.scales.chunks_exact(parts).zip(x.scales))
            .map(|((bytes, codes), (scales, x_scale))| {
                let parts = bytes.len() / scales.len();
                let sums = scales.iter().enumerate().map(|(part, scale)| {
                    dot_packed_part(bytes, table, codes, part * parts..(part + 1) * parts) as f32
                        * (scale.to_f32() * x_scale)
                });
                sums.sum::<f32>()
            })
            .sum()
    })
}

/// Sum of the products of some bytes of a block.
fn dot_packed_part(bytes: &[u8], table: &[i8; 16], codes: &[i8], range: Range<usize>) -> i32 {
    let (even, odd) = codes.split_at(BLOCK / 2);
    let value = |nibble: u8| i32::from(table[usize::from(nibble)]);
    range
        .map(|i| {
            value(bytes[i] >> 4) * i32::from(even[i]) + value(bytes[i] & 0xf) * i32::from(odd[i])
        })
        .sum()
}

fn dot_int8(weights: &[i8], scales: &[f16], x: Int8Row<'_>) -> f32 {
    let blocks = weights.chunks_exact(BLOCK).zip(x.codes.chunks_exact(BLOCK));
    blocks
        .zip(scales.iter().zip(x.scales))
        .map(|((w, codes), (scale, x_scale))| {
            let dot: i32 = w.iter().zip(codes).map(|(&w, &c)| i32::from(w) * i32::from(c)).sum();
            dot as f32 * (scale.to_f32() * x_scale)
        })
        .sum()
}

fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums, so that the compiler may use vector registers.
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

fn unpack(packed: &[u8], table: &[i8; 16], out: &mut [i8]) {
    for (bytes, out) in packed.chunks_exact(BLOCK / 2).zip(out.chunks_exact_mut(BLOCK)) {
        let (even, odd) = out.split_at_mut(BLOCK / 2);
        for i in 0..BLOCK / 2 {
            even[i] = table[(bytes[i] >> 4) as usize];
            odd[i] = table[(bytes[i] & 0xf) as usize];
        }
    }
}

fn interleave(rows: &[i8], k: usize, cols: Range<usize>, panel: &mut [[i16; 2]]) {
    for (r, row) in rows.chunks_exact(k).enumerate() {
        for (b, block) in row[cols.clone()].chunks_exact(BLOCK).enumerate() {
            let (even, odd) = block.split_at(BLOCK / 2);
            for i in 0..BLOCK / 2 {
                panel[(b * BLOCK / 2 + i) * PANEL_ROWS + r] =
                    [i16::from(even[i]), i16::from(odd[i])];
            }
        }
    }
}

fn tile_int8(tile: &Int8Tile<'_>, out: &mut [[f32; PANEL_ROWS]]) {
    let per_scale = tile.pairs_per_scale();
    for (t, out) in out.iter_mut().enumerate() {
        for (block, scales) in tile.panel_scales.iter().enumerate() {
            let mut dots = [0i32; PANEL_ROWS];
            for pair in block * per_scale..(block + 1) * per_scale {
                let [a0, a1] = tile.tokens[t][pair].map(i32::from);
                for (dot, w) in dots.iter_mut().zip(&tile.panel[pair * PANEL_ROWS..]) {
                    *dot += a0 * i32::from(w[0]) + a1 * i32::from(w[1]);
                }
            }
            let token_scale = tile.token_scales[t][block * per_scale * 2 / BLOCK];
            for r in 0..PANEL_ROWS {
                out[r] += dots[r] as f32 * (scales[r] * token_scale);
            }
        }
    }
}

fn tile_f32(panel: &[[f32; PANEL_ROWS]], tokens: &[&[f32]], out: &mut [[f32; PANEL_ROWS]]) {
    for (token, out) in tokens.iter().zip(out) {
        let mut sums = [0.0f32; PANEL_ROWS];
        for (w, &x) in panel.iter().zip(*token) {
            for r in 0..PANEL_ROWS {
                sums[r] += w[r] * x;
            }
        }
        for r in 0..PANEL_ROWS {
            out[r] += sums[r];
        }
    }
}
