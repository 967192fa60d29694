//! The kernels for x86-64 with AVX-512 and its 8-bit and 16-bit dot products (VNNI).
//!
//! `vpdpbusd` multiplies unsigned by signed bytes: weights are biased by 128, and 128 times the sum of the activations is
//! taken off again.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::f16;

use super::{
    BLOCK, DOT_ROWS, Int8Row, Int8Tile, Kernels, PANEL_ROWS, PackedRow, TILE_TOKENS, avx2,
};

/// Whether this processor has what the kernels need.
pub(super) fn is_available() -> bool {
    avx2::is_available()
        && std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vnni")
}

/// Only [`super::available`] hands this table out, after [`is_available`]: every `unsafe` call below rests on it.
pub(super) static KERNELS: Kernels = Kernels {
    name: "avx512-vnni",
    dot_packed: |rows, table, x| {
        let blocks = x.scales.len();
        assert_eq!(x.codes.len(), blocks * BLOCK);
        assert!(rows.iter().all(|row| row.packed.len() == blocks * BLOCK / 2));
        let scales = rows[0].scales.len();
        assert!(rows.iter().all(|row| row.scales.len() == scales));
        // SAFETY: the features are there; the lengths are those the kernel reads.
        unsafe {
            if scales == blocks {
                dot_packed::<false>(rows, table, x)
            } else {
                assert_eq!(scales, 2 * blocks);
                dot_packed::<true>(rows, table, x)
            }
        }
    },
    dot_int8: |weights, scales, x| {
        let blocks = x.scales.len();
        assert!(
            weights.len() == blocks * BLOCK
                && x.codes.len() == weights.len()
                && scales.len() == blocks
        );
        // SAFETY: the features are there; the lengths are those the kernel reads.
        unsafe { dot_int8(weights, scales, x) }
    },
    dot_f32: |a, b| {
        assert_eq!(a.len(), b.len());
        // SAFETY: the features are there; the lengths are equal.
        unsafe { dot_f32(a, b) }
    },
    unpack: |packed, table, out| {
        assert!(out.len() == packed.len() * 2 && out.len().is_multiple_of(BLOCK));
        // SAFETY: the features are there; the lengths are those the kernel reads and writes.
        unsafe { unpack(packed, table, out) }
    },
    interleave: avx2::KERNELS.interleave,
    tile_int8: |tile, out| {
        let per_scale = tile.pairs_per_scale();
        assert_eq!(out.len(), tile.tokens.len());
        // SAFETY: the features are there; `pairs_per_scale` asserted the lengths.
        unsafe {
            match tile.tokens.len() {
                0 => {}
                1 => tile_int8::<1>(tile, per_scale, out),
                2 => tile_int8::<2>(tile, per_scale, out),
                3 => tile_int8::<3>(tile, per_scale, out),
                4 => tile_int8::<4>(tile, per_scale, out),
                5 => tile_int8::<5>(tile, per_scale, out),
                _ => tile_int8::<TILE_TOKENS>(tile, per_scale, out),
            }
        }
    },
    tile_f32: |panel, tokens, out| {
        assert!(tokens.len() <= TILE_TOKENS && out.len() == tokens.len());
        assert!(tokens.iter().all(|t| t.len() == panel.len()));
        // SAFETY: the features are there; the lengths are those the kernel reads and writes.
        unsafe {
            match tokens.len() {
                0 => {}
                1 => tile_f32::<1>(panel, tokens, out),
                2 => tile_f32::<2>(panel, tokens, out),
                3 => tile_f32::<3>(panel, tokens, out),
                4 => tile_f32::<4>(panel, tokens, out),
                5 => tile_f32::<5>(panel, tokens, out),
                _ => tile_f32::<TILE_TOKENS>(panel, tokens, out),
            }
        }
    },
};

/// The values of a code in all four lanes of a register, for `vpshufb`; `bias` is added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_table(table: &[i8; 16], bias: i8) -> __m512i {
    // SAFETY: 16 bytes are there.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    _mm512_xor_si512(table, _mm512_set1_epi8(bias))
}

/// The values of a block in split order: of the high nibbles of 32 bytes, then of the low ones.
///
/// # Safety
/// 32 bytes are at `packed`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn lookup(packed: *const u8, table: __m512i) -> __m512i {
    // SAFETY: the caller's promise.
    let bytes = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(packed.cast()) });
    // Words of the lower half move by 4 bits, those of the upper half stay.
    let shifts = _mm512_inserti64x4::<0>(_mm512_setzero_si512(), _mm256_set1_epi16(4));
    let codes = _mm512_and_si512(_mm512_srlv_epi16(bytes, shifts), _mm512_set1_epi8(0xf));
    _mm512_shuffle_epi8(table, codes)
}

/// A block of activations, and what the bias of the weights adds to its products, negated.
///
/// # Safety
/// `codes` holds the block.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn load_block(codes: &[i8], block: usize) -> (__m512i, __m512i) {
    // SAFETY: the block is there.
    let x = unsafe { _mm512_loadu_si512(codes.as_ptr().add(block * BLOCK).cast()) };
    let bias = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(-128), x);
    (x, _mm512_sub_epi32(_mm512_setzero_si512(), bias))
}

/// # Safety
/// The rows and `x` hold a block for every scale of `x`; the rows' scales are as many (`HALVES`: twice as many).
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn dot_packed<const HALVES: bool>(
    rows: &[PackedRow<'_>; DOT_ROWS],
    table: &[i8; 16],
    x: Int8Row<'_>,
) -> [f32; DOT_ROWS] {
    // The first 16 bytes of a block are its first 32 elements: lanes 0…3 their high, lanes 8…11 their low nibbles.
    const SECOND_HALF: __mmask16 = 0xf0f0;
    let ahead = rows[0].packed.as_ptr().wrapping_add(avx2::PREFETCH_BYTES);
    let table = load_table(table, -128);
    let mut sums = [_mm512_setzero_ps(); DOT_ROWS];
    for (block, &x_scale) in x.scales.iter().enumerate() {
        let line = ahead.wrapping_add(block * BLOCK * DOT_ROWS / 2);
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(64).cast());
        // SAFETY: block < the number of blocks in the rows and in x.
        unsafe {
            let (x, bias) = load_block(x.codes, block);
            for r in 0..DOT_ROWS {
                let w = lookup(rows[r].packed.as_ptr().add(block * BLOCK / 2), table);
                let dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(bias, w, x));
                let scale = |i: usize| {
                    let bits = i32::from(rows[r].scales.get_unchecked(i).to_bits());
                    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))) * x_scale
                };
                let scale = if HALVES {
                    let (first, second) = (_mm512_set1_ps(scale(2 * block)), scale(2 * block + 1));
                    _mm512_mask_mov_ps(first, SECOND_HALF, _mm512_set1_ps(second))
                } else {
                    _mm512_set1_ps(scale(block))
                };
                sums[r] = _mm512_fmadd_ps(dot, scale, sums[r]);
            }
        }
    }
    let mut out = [0.0; DOT_ROWS];
    for r in 0..DOT_ROWS {
        out[r] = _mm512_reduce_add_ps(sums[r]);
    }
    out
}

/// # Safety
/// `weights`, `scales` and `x` hold as many blocks as `x` has scales.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dot_int8(weights: &[i8], scales: &[f16], x: Int8Row<'_>) -> f32 {
    let ahead = weights.as_ptr().wrapping_add(avx2::PREFETCH_BYTES);
    let mut sum = _mm512_setzero_ps();
    for (block, (scale, x_scale)) in scales.iter().zip(x.scales).enumerate() {
        // SAFETY: the block is there in both; a prefetch may point anywhere.
        let (w, (x, bias)) = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(block * BLOCK));
            let w = _mm512_loadu_si512(weights.as_ptr().add(block * BLOCK).cast());
            (_mm512_xor_si512(w, _mm512_set1_epi8(-128)), load_block(x.codes, block))
        };
        let dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(bias, w, x));
        sum = _mm512_fmadd_ps(dot, _mm512_set1_ps(scale.to_f32() * x_scale), sum);
    }
    _mm512_reduce_add_ps(sum)
}

/// # Safety
/// The lengths are equal.
#[target_feature(enable = "avx512f")]
unsafe fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 4];
    let whole = a.len() / 64 * 64;
    for i in (0..whole).step_by(64) {
        for (j, sum) in sums.iter_mut().enumerate() {
            // SAFETY: i + 16 j + 16 <= whole <= len.
            let (x, y) = unsafe {
                let at = i + 16 * j;
                (_mm512_loadu_ps(a.as_ptr().add(at)), _mm512_loadu_ps(b.as_ptr().add(at)))
            };
            *sum = _mm512_fmadd_ps(x, y, *sum);
        }
    }
    let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    let tail: f32 = a[whole..].iter().zip(&b[whole..]).map(|(a, b)| a * b).sum();
    _mm512_reduce_add_ps(sum) + tail
}

/// # Safety
/// `out` holds two elements for every byte, a whole number of blocks.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack(packed: &[u8], table: &[i8; 16], out: &mut [i8]) {
    let table = load_table(table, 0);
    for block in 0..out.len() / BLOCK {
        // SAFETY: block < the number of blocks in both.
        unsafe {
            let values = lookup(packed.as_ptr().add(block * BLOCK / 2), table);
            _mm512_storeu_si512(out.as_mut_ptr().add(block * BLOCK).cast(), values);
        }
    }
}

/// # Safety
/// The parts of the tile fit each other, and it has `T` tokens, as has `out`.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile_int8<const T: usize>(
    tile: &Int8Tile<'_>,
    per_scale: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let mut totals = [_mm512_setzero_ps(); T];
    for (block, scales) in tile.panel_scales.iter().enumerate() {
        // Two sums a token, for even and odd pairs: the instruction takes five cycles.
        let mut dots = [[_mm512_setzero_si512(); 2]; T];
        for pair in (block * per_scale..(block + 1) * per_scale).step_by(2) {
            // SAFETY: pair + 1 is below the number of pairs in the panel and in every token.
            unsafe {
                let w = tile.panel.as_ptr().add(pair * PANEL_ROWS).cast::<__m512i>();
                let w = [_mm512_loadu_si512(w), _mm512_loadu_si512(w.add(1))];
                for t in 0..T {
                    let x = tile.tokens.get_unchecked(t).as_ptr().add(pair).cast::<i32>();
                    for i in 0..2 {
                        let x = _mm512_set1_epi32(x.add(i).read_unaligned());
                        dots[t][i] = _mm512_dpwssd_epi32(dots[t][i], w[i], x);
                    }
                }
            }
        }
        // SAFETY: 16 scales.
        let scales = unsafe { _mm512_loadu_ps(scales.as_ptr()) };
        for t in 0..T {
            let scale = _mm512_set1_ps(tile.token_scales[t][block * per_scale * 2 / BLOCK]);
            let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(dots[t][0], dots[t][1]));
            totals[t] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scales, scale), totals[t]);
        }
    }
    for (out, total) in out.iter_mut().zip(totals) {
        add_to(out, total);
    }
}

/// # Safety
/// There are `T` tokens, each as long as the panel, and `T` outputs.
#[target_feature(enable = "avx512f")]
unsafe fn tile_f32<const T: usize>(
    panel: &[[f32; PANEL_ROWS]],
    tokens: &[&[f32]],
    out: &mut [[f32; PANEL_ROWS]],
) {
    // Two sums a token, for even and odd columns: the instruction takes four cycles.
    let mut sums = [[_mm512_setzero_ps(); 2]; T];
    let (pairs, rest) = panel.as_chunks::<2>();
    for (pair, columns) in pairs.iter().enumerate() {
        for i in 0..2 {
            // SAFETY: 16 weights; every token has an element for every column.
            unsafe {
                let w = _mm512_loadu_ps(columns[i].as_ptr());
                for t in 0..T {
                    let x = _mm512_set1_ps(*tokens.get_unchecked(t).get_unchecked(2 * pair + i));
                    sums[t][i] = _mm512_fmadd_ps(w, x, sums[t][i]);
                }
            }
        }
    }
    for column in rest {
        // SAFETY: 16 weights.
        let w = unsafe { _mm512_loadu_ps(column.as_ptr()) };
        for t in 0..T {
            sums[t][0] = _mm512_fmadd_ps(w, _mm512_set1_ps(tokens[t][panel.len() - 1]), sums[t][0]);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        add_to(out, _mm512_add_ps(sum[0], sum[1]));
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_to(out: &mut [f32; PANEL_ROWS], sum: __m512) {
    // SAFETY: 16 elements.
    unsafe {
        let to = out.as_mut_ptr();
        _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sum));
    }
}
