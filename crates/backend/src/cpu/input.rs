//! The rows that a matrix is multiplied with, in the forms the kernels want.

use rayon::prelude::*;

use super::kernels::{BLOCK, Int8Row};

/// Input rows `[m, k]` in `f32`, and rounded to int8 where a matrix asks for it.
pub(crate) struct Input<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) k: usize,
    pub(crate) int8: Option<Int8Rows>,
}

/// Rows rounded to int8 with a scale for every [`BLOCK`] elements.
pub(crate) struct Int8Rows {
    /// `[m][k]` in split order, within ±127: what the dot products take.
    codes: Vec<i8>,
    /// `[m][k / 2]` neighbours, widened to 16 bits: what the tiles take. Empty unless asked for.
    pairs: Vec<[i16; 2]>,
    /// `[m][k / BLOCK]`.
    scales: Vec<f32>,
    k: usize,
}

impl<'a> Input<'a> {
    /// Takes rows; `int8` says whether a matrix needs them rounded, `pairs` whether in the form of the tiles.
    pub(crate) fn new(x: &'a [f32], k: usize, int8: bool, pairs: bool) -> Self {
        Input { x, k, int8: int8.then(|| Int8Rows::new(x, k, pairs)) }
    }

    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        &self.x[row * self.k..(row + 1) * self.k]
    }

    pub(crate) fn int8(&self) -> &Int8Rows {
        self.int8.as_ref().expect("an int8 matrix was announced")
    }
}

impl Int8Rows {
    fn new(x: &[f32], k: usize, with_pairs: bool) -> Self {
        let m = x.len() / k;
        let mut codes = vec![0; m * k];
        let mut scales = vec![0.0; m * k / BLOCK];
        let rows = x
            .chunks_exact(k)
            .zip(codes.chunks_exact_mut(k))
            .zip(scales.chunks_exact_mut(k / BLOCK));
        if m < 8 {
            rows.for_each(|((x, codes), scales)| quantize_row(x, codes, scales));
        } else {
            x.par_chunks_exact(k)
                .zip(codes.par_chunks_exact_mut(k))
                .zip(scales.par_chunks_exact_mut(k / BLOCK))
                .for_each(|((x, codes), scales)| quantize_row(x, codes, scales));
        }
        let mut pairs = vec![[0; 2]; if with_pairs { m * k / 2 } else { 0 }];
        if with_pairs {
            let blocks = codes.par_chunks_exact(BLOCK).zip(pairs.par_chunks_exact_mut(BLOCK / 2));
            blocks.with_min_len(64).for_each(|(codes, pairs)| {
                let (even, odd) = codes.split_at(BLOCK / 2);
                for i in 0..BLOCK / 2 {
                    pairs[i] = [i16::from(even[i]), i16::from(odd[i])];
                }
            });
        }
        Int8Rows { codes, pairs, scales, k }
    }

    /// A row for the dot products.
    pub(crate) fn row(&self, row: usize) -> Int8Row<'_> {
        Int8Row { codes: &self.codes[row * self.k..(row + 1) * self.k], scales: self.scales(row) }
    }

    pub(crate) fn pairs(&self, row: usize) -> &[[i16; 2]] {
        &self.pairs[row * self.k / 2..(row + 1) * self.k / 2]
    }

    pub(crate) fn scales(&self, row: usize) -> &[f32] {
        &self.scales[row * self.k / BLOCK..(row + 1) * self.k / BLOCK]
    }
}

/// Rounds a row, block by block: `code = round(x / scale)`, `scale = max |x| / 127`. What is not finite makes the scale
/// NaN, so that it shows in the result as it would in `f32`.
fn quantize_row(x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
    for ((x, codes), scale) in x.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK)).zip(scales)
    {
        // Sixteen running maxima, and zeros that a value which is not finite turns into NaN: the loop becomes vector code.
        let (mut maxima, mut zeros) = ([0.0f32; 16], [0.0f32; 16]);
        for part in x.chunks_exact(16) {
            for i in 0..16 {
                maxima[i] = if part[i].abs() > maxima[i] { part[i].abs() } else { maxima[i] };
                zeros[i] += part[i] * 0.0;
            }
        }
        let absmax = maxima.iter().fold(0.0f32, |max, &v| if v > max { v } else { max });
        *scale = absmax / 127.0 + zeros.iter().sum::<f32>();
        // Below this the reciprocal would overflow; such a block contributes nothing.
        let inverse = if absmax > 1e-30 { 127.0 / absmax } else { 0.0 };
        let (even, odd) = codes.split_at_mut(BLOCK / 2);
        for i in 0..BLOCK / 2 {
            even[i] = round(x[2 * i] * inverse);
            odd[i] = round(x[2 * i + 1] * inverse);
        }
    }
}

/// To the nearest integer, ties to even; for |v| < 2^22.
#[inline(always)]
fn round(v: f32) -> i8 {
    // Adding 1.5 * 2^23 leaves the rounded integer in the low mantissa bits.
    ((v + 12_582_912.0).to_bits() as i32 - 12_582_912.0f32.to_bits() as i32) as i8
}
