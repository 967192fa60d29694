//! The kernels for x86-64 with AVX2 and FMA.
//!
//! An int8 product takes `maddubs`, which multiplies unsigned by signed bytes: the sign of the activation moves to the
//! weight. Both stay within ±127, so that the sum of two products fits 16 bits without saturation.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;

use super::{BLOCK, DOT_ROWS, Int8Row, Int8Tile, Kernels, PANEL_ROWS, PackedRow, TILE_TOKENS};

/// Only [`super::available`] hands this table out, after [`is_available`]: every `unsafe` call below rests on it.
pub(super) static KERNELS: Kernels = Kernels {
    name: "avx2",
    dot_packed: |rows, table, x| {
        let blocks = x.scales.len();
        assert_eq!(x.codes.len(), blocks * BLOCK);
        assert!(rows.iter().all(|row| row.packed.len() == blocks * BLOCK / 2));
        let scales = rows[0].scales.len();
        assert!(rows.iter().all(|row| row.scales.len() == scales));
        // SAFETY: the features are there; the lengths are those the kernels read.
        unsafe {
            if scales == blocks {
                return dot_packed(rows, table, x);
            }
            assert_eq!(scales, 2 * blocks);
            rows.map(|row| dot_packed_halves(row, table, x))
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
    interleave: |rows, k, cols, panel| {
        assert!(
            rows.len() == PANEL_ROWS * k
                && cols.end <= k
                && panel.len() * 2 == PANEL_ROWS * cols.len()
        );
        assert!(cols.start.is_multiple_of(BLOCK) && cols.len().is_multiple_of(BLOCK));
        // SAFETY: the features are there; the lengths are those the kernel reads and writes.
        unsafe { interleave(rows, k, cols, panel) }
    },
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

/// Whether this processor has what the kernels need.
pub(super) fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("f16c")
}

/// Blocks whose scales are computed together: as many as a register holds.
const GROUP: usize = 8;

/// How far ahead of the weights in use memory is asked for the next.
pub(super) const PREFETCH_BYTES: usize = 4096;

/// The table in both halves of a register, for `pshufb`.
#[inline]
#[target_feature(enable = "avx2")]
fn load_table(table: &[i8; 16]) -> __m256i {
    // SAFETY: 16 bytes are there.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

/// 32 packed bytes to the values of their high and low nibbles.
#[inline]
#[target_feature(enable = "avx2")]
fn lookup(bytes: __m256i, table: __m256i) -> (__m256i, __m256i) {
    let mask = _mm256_set1_epi8(0xf);
    let high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    let low = _mm256_and_si256(bytes, mask);
    (_mm256_shuffle_epi8(table, high), _mm256_shuffle_epi8(table, low))
}

/// Eight 32-bit sums of 32 products: lane `i` sums elements `4i … 4i + 3`. `x_abs` is `|x|`.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply(w: __m256i, x: __m256i, x_abs: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(x_abs, _mm256_sign_epi8(w, x));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

#[inline]
#[target_feature(enable = "avx2")]
fn horizontal_sum(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)))
}

/// Scales of weights times scales of activations, for [`GROUP`] blocks from `block` on, zeros after the last.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn combine(weights: &[f16], x: &[f32], block: usize, out: &mut [f32; GROUP]) {
    if block + GROUP > x.len().min(weights.len()) {
        return combine_rest(&weights[block..], &x[block..], out);
    }
    // SAFETY: GROUP = 8 scales from `block` on are there, in both.
    unsafe {
        let w = _mm256_cvtph_ps(_mm_loadu_si128(weights.as_ptr().add(block).cast()));
        let x = _mm256_loadu_ps(x.as_ptr().add(block));
        _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(w, x));
    }
}

#[cold]
fn combine_rest(weights: &[f16], x: &[f32], out: &mut [f32; GROUP]) {
    *out = [0.0; GROUP];
    for (out, (w, x)) in out.iter_mut().zip(weights.iter().zip(x)) {
        *out = w.to_f32() * x;
    }
}

/// A block of activations: even and odd elements, and their magnitudes.
#[derive(Clone, Copy)]
struct Block {
    even: __m256i,
    odd: __m256i,
    even_abs: __m256i,
    odd_abs: __m256i,
}

impl Block {
    /// # Safety
    /// `codes` holds the block.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(codes: &[i8], block: usize) -> Self {
        // SAFETY: the block is there.
        let (even, odd) = unsafe {
            let x = codes.as_ptr().add(block * BLOCK).cast::<__m256i>();
            (_mm256_loadu_si256(x), _mm256_loadu_si256(x.add(1)))
        };
        Block { even, odd, even_abs: _mm256_abs_epi8(even), odd_abs: _mm256_abs_epi8(odd) }
    }

    /// Eight sums of products with the block of `packed`; the lower four are those of its first 32 elements.
    ///
    /// # Safety
    /// `packed` holds the block.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot(self, packed: &[u8], block: usize, table: __m256i) -> __m256 {
        // SAFETY: the block is there.
        let bytes = unsafe { _mm256_loadu_si256(packed.as_ptr().add(block * BLOCK / 2).cast()) };
        let (high, low) = lookup(bytes, table);
        let high = multiply(high, self.even, self.even_abs);
        let low = multiply(low, self.odd, self.odd_abs);
        _mm256_cvtepi32_ps(_mm256_add_epi32(high, low))
    }
}

/// # Safety
/// The rows and `x` hold a block for every scale of `x`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_packed(
    rows: &[PackedRow<'_>; DOT_ROWS],
    table: &[i8; 16],
    x: Int8Row<'_>,
) -> [f32; DOT_ROWS] {
    // Rows follow one another in memory, so they are one stream, read two cache lines a block. Far enough ahead for
    // memory latency at the rate of one core, near enough to stay in L1.
    let ahead = rows[0].packed.as_ptr().wrapping_add(PREFETCH_BYTES);
    let table = load_table(table);
    let mut sums = [_mm256_setzero_ps(); DOT_ROWS];
    let mut scales = [[0.0; GROUP]; DOT_ROWS];
    for group in (0..x.scales.len()).step_by(GROUP) {
        for r in 0..DOT_ROWS {
            combine(rows[r].scales, x.scales, group, &mut scales[r]);
        }
        for i in 0..GROUP.min(x.scales.len() - group) {
            let block = group + i;
            let line = ahead.wrapping_add(block * BLOCK * DOT_ROWS / 2);
            _mm_prefetch::<_MM_HINT_T0>(line.cast());
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(64).cast());
            // SAFETY: block < the number of blocks in the rows and in x.
            unsafe {
                let x = Block::load(x.codes, block);
                for r in 0..DOT_ROWS {
                    let dot = x.dot(rows[r].packed, block, table);
                    sums[r] = _mm256_fmadd_ps(dot, _mm256_broadcast_ss(&scales[r][i]), sums[r]);
                }
            }
        }
    }
    let mut out = [0.0; DOT_ROWS];
    for r in 0..DOT_ROWS {
        out[r] = horizontal_sum(sums[r]);
    }
    out
}

/// [`dot_packed`] for one row with a scale for every 32 elements.
///
/// # Safety
/// The row and `x` hold a block for every scale of `x`; the row has twice as many scales.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_packed_halves(row: PackedRow<'_>, table: &[i8; 16], x: Int8Row<'_>) -> f32 {
    let table = load_table(table);
    let mut sum = _mm256_setzero_ps();
    for (block, x_scale) in x.scales.iter().enumerate() {
        // SAFETY: block < the number of blocks in the row and in x.
        let dot = unsafe { Block::load(x.codes, block).dot(row.packed, block, table) };
        let scale = |i: usize| _mm_set1_ps(row.scales[2 * block + i].to_f32() * x_scale);
        sum = _mm256_fmadd_ps(dot, _mm256_set_m128(scale(1), scale(0)), sum);
    }
    horizontal_sum(sum)
}

/// # Safety
/// `weights`, `scales` and `x` hold as many blocks as `x` has scales.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_int8(weights: &[i8], scales: &[f16], x: Int8Row<'_>) -> f32 {
    let ahead = weights.as_ptr().wrapping_add(PREFETCH_BYTES);
    let mut sum = _mm256_setzero_ps();
    let mut combined = [0.0; GROUP];
    for group in (0..x.scales.len()).step_by(GROUP) {
        combine(scales, x.scales, group, &mut combined);
        for i in 0..GROUP.min(x.scales.len() - group) {
            let at = (group + i) * BLOCK;
            // SAFETY: a block is there in both; a prefetch may point anywhere.
            let (w, x) = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(at));
                let w = weights.as_ptr().add(at).cast::<__m256i>();
                let x = x.codes.as_ptr().add(at).cast::<__m256i>();
                (
                    [_mm256_loadu_si256(w), _mm256_loadu_si256(w.add(1))],
                    [_mm256_loadu_si256(x), _mm256_loadu_si256(x.add(1))],
                )
            };
            let first = multiply(w[0], x[0], _mm256_abs_epi8(x[0]));
            let second = multiply(w[1], x[1], _mm256_abs_epi8(x[1]));
            let dot = _mm256_cvtepi32_ps(_mm256_add_epi32(first, second));
            sum = _mm256_fmadd_ps(dot, _mm256_broadcast_ss(&combined[i]), sum);
        }
    }
    horizontal_sum(sum)
}

/// # Safety
/// The lengths are equal.
#[target_feature(enable = "avx2,fma")]
unsafe fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 4];
    let whole = a.len() / 32 * 32;
    for i in (0..whole).step_by(32) {
        for (j, sum) in sums.iter_mut().enumerate() {
            // SAFETY: i + 8 j + 8 <= whole <= len.
            let (x, y) = unsafe {
                (
                    _mm256_loadu_ps(a.as_ptr().add(i + 8 * j)),
                    _mm256_loadu_ps(b.as_ptr().add(i + 8 * j)),
                )
            };
            *sum = _mm256_fmadd_ps(x, y, *sum);
        }
    }
    let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    let tail: f32 = a[whole..].iter().zip(&b[whole..]).map(|(a, b)| a * b).sum();
    horizontal_sum(sum) + tail
}

/// # Safety
/// `out` holds two elements for every byte, a whole number of blocks.
#[target_feature(enable = "avx2")]
unsafe fn unpack(packed: &[u8], table: &[i8; 16], out: &mut [i8]) {
    let table = load_table(table);
    for block in 0..out.len() / BLOCK {
        // SAFETY: block < the number of blocks in both.
        unsafe {
            let bytes = _mm256_loadu_si256(packed.as_ptr().add(block * BLOCK / 2).cast());
            let (high, low) = lookup(bytes, table);
            let out = out.as_mut_ptr().add(block * BLOCK).cast::<__m256i>();
            _mm256_storeu_si256(out, high);
            _mm256_storeu_si256(out.add(1), low);
        }
    }
}

/// # Safety
/// `rows` holds `PANEL_ROWS` rows of `k`; `cols` are whole blocks of them; `panel` holds as many pairs.
#[target_feature(enable = "avx2")]
unsafe fn interleave(rows: &[i8], k: usize, cols: Range<usize>, panel: &mut [[i16; 2]]) {
    for block in 0..cols.len() / BLOCK {
        for half in 0..PANEL_ROWS / 8 {
            // Eight pairs of eight rows at a time: widened to 16 bits, then transposed as 32-bit words.
            for part in 0..4 {
                let mut words = [_mm256_setzero_si256(); 8];
                for (r, word) in words.iter_mut().enumerate() {
                    // SAFETY: 8 bytes at 8 * part of the even half, and of the odd half, of a block within the row.
                    *word = unsafe {
                        let at = rows
                            .as_ptr()
                            .add((half * 8 + r) * k + cols.start + block * BLOCK + 8 * part);
                        let even = _mm_loadl_epi64(at.cast());
                        let odd = _mm_loadl_epi64(at.add(BLOCK / 2).cast());
                        _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(even, odd))
                    };
                }
                for (i, column) in transpose(words).into_iter().enumerate() {
                    let pair = block * BLOCK / 2 + 8 * part + i;
                    // SAFETY: 8 pairs from this place lie within the panel.
                    unsafe {
                        let to = panel.as_mut_ptr().add(pair * PANEL_ROWS + half * 8);
                        _mm256_storeu_si256(to.cast(), column);
                    }
                }
            }
        }
    }
}

/// Transposes an 8 x 8 matrix of 32-bit words.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let pair = |a, b| (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (a0, a1) = pair(rows[0], rows[1]);
    let (b0, b1) = pair(rows[2], rows[3]);
    let (c0, c1) = pair(rows[4], rows[5]);
    let (d0, d1) = pair(rows[6], rows[7]);
    let quad = |a, b| (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (e0, e1) = quad(a0, b0);
    let (e2, e3) = quad(a1, b1);
    let (f0, f1) = quad(c0, d0);
    let (f2, f3) = quad(c1, d1);
    let low = |a, b| _mm256_permute2x128_si256::<0x20>(a, b);
    let high = |a, b| _mm256_permute2x128_si256::<0x31>(a, b);
    [
        low(e0, f0),
        low(e1, f1),
        low(e2, f2),
        low(e3, f3),
        high(e0, f0),
        high(e1, f1),
        high(e2, f2),
        high(e3, f3),
    ]
}

/// # Safety
/// The parts of the tile fit each other, and it has `T` tokens, as has `out`.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_int8<const T: usize>(
    tile: &Int8Tile<'_>,
    per_scale: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let mut totals = [[_mm256_setzero_ps(); 2]; T];
    for (block, scales) in tile.panel_scales.iter().enumerate() {
        let mut dots = [[_mm256_setzero_si256(); 2]; T];
        for pair in block * per_scale..(block + 1) * per_scale {
            // SAFETY: pair is below the number of pairs in the panel and in every token.
            unsafe {
                let w = tile.panel.as_ptr().add(pair * PANEL_ROWS).cast::<__m256i>();
                let (w0, w1) = (_mm256_loadu_si256(w), _mm256_loadu_si256(w.add(1)));
                for t in 0..T {
                    let x = tile.tokens.get_unchecked(t).as_ptr().add(pair).cast::<i32>();
                    let x = _mm256_set1_epi32(x.read_unaligned());
                    dots[t][0] = _mm256_add_epi32(dots[t][0], _mm256_madd_epi16(w0, x));
                    dots[t][1] = _mm256_add_epi32(dots[t][1], _mm256_madd_epi16(w1, x));
                }
            }
        }
        // SAFETY: 16 scales.
        let (s0, s1) =
            unsafe { (_mm256_loadu_ps(scales.as_ptr()), _mm256_loadu_ps(scales.as_ptr().add(8))) };
        for t in 0..T {
            let scale = _mm256_set1_ps(tile.token_scales[t][block * per_scale * 2 / BLOCK]);
            let (d0, d1) = (_mm256_cvtepi32_ps(dots[t][0]), _mm256_cvtepi32_ps(dots[t][1]));
            totals[t][0] = _mm256_fmadd_ps(d0, _mm256_mul_ps(s0, scale), totals[t][0]);
            totals[t][1] = _mm256_fmadd_ps(d1, _mm256_mul_ps(s1, scale), totals[t][1]);
        }
    }
    for (out, total) in out.iter_mut().zip(totals) {
        add_to(out, total);
    }
}

/// # Safety
/// There are `T` tokens, each as long as the panel, and `T` outputs.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_f32<const T: usize>(
    panel: &[[f32; PANEL_ROWS]],
    tokens: &[&[f32]],
    out: &mut [[f32; PANEL_ROWS]],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    for (k, w) in panel.iter().enumerate() {
        // SAFETY: 16 weights; every token has an element k.
        unsafe {
            let (w0, w1) = (_mm256_loadu_ps(w.as_ptr()), _mm256_loadu_ps(w.as_ptr().add(8)));
            for t in 0..T {
                let x = _mm256_broadcast_ss(tokens.get_unchecked(t).get_unchecked(k));
                sums[t][0] = _mm256_fmadd_ps(w0, x, sums[t][0]);
                sums[t][1] = _mm256_fmadd_ps(w1, x, sums[t][1]);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        add_to(out, sum);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_to(out: &mut [f32; PANEL_ROWS], sum: [__m256; 2]) {
    // SAFETY: 16 elements.
    unsafe {
        let to = out.as_mut_ptr();
        _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), sum[0]));
        _mm256_storeu_ps(to.add(8), _mm256_add_ps(_mm256_loadu_ps(to.add(8)), sum[1]));
    }
}
