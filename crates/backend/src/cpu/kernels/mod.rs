//! The inner loops, one table of functions per instruction set, chosen once at start.
//!
//! All kernels work on blocks of [`BLOCK`] consecutive elements of a row. In *split* order a block holds its 32 even
//! elements, then its 32 odd ones: that is what the high and the low nibbles of 32 packed bytes unpack to.

// Kernels walk several arrays by one index, and a table of functions spells its types out.
#![allow(clippy::needless_range_loop, clippy::type_complexity)]

use std::ops::Range;

use half::f16;

mod portable;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

/// Elements per activation scale, and the step of every kernel.
pub(crate) const BLOCK: usize = 64;
/// Packed rows that one dot kernel computes together: they share the activations they load.
pub(crate) const DOT_ROWS: usize = 4;
/// Rows of a panel: the weights of this many rows lie side by side, so that a vector register holds one column of them.
pub(crate) const PANEL_ROWS: usize = 16;
/// Tokens that one call of a tile kernel computes at most.
pub(crate) const TILE_TOKENS: usize = 6;

/// A row of packed weights.
#[derive(Clone, Copy)]
pub(crate) struct PackedRow<'a> {
    /// `k / 2` bytes.
    pub(crate) packed: &'a [u8],
    /// A scale for every 64 elements, or for every 32.
    pub(crate) scales: &'a [f16],
}

/// A row of activations rounded to int8.
#[derive(Clone, Copy)]
pub(crate) struct Int8Row<'a> {
    /// `k` codes in split order, within ±127.
    pub(crate) codes: &'a [i8],
    /// `k / BLOCK` scales.
    pub(crate) scales: &'a [f32],
}

/// Functions of one instruction set.
pub(crate) struct Kernels {
    /// Name for start-up messages and tests.
    pub(crate) name: &'static str,
    /// Dot products of packed rows that follow one another in memory with one row of activations.
    pub(crate) dot_packed:
        fn(rows: &[PackedRow<'_>; DOT_ROWS], table: &[i8; 16], x: Int8Row<'_>) -> [f32; DOT_ROWS],
    /// Dot product of int8 weights in split order, a scale for every block, with one row of activations.
    pub(crate) dot_int8: fn(weights: &[i8], scales: &[f16], x: Int8Row<'_>) -> f32,
    /// Dot product in `f32`.
    pub(crate) dot_f32: fn(a: &[f32], b: &[f32]) -> f32,
    /// Unpacks a row into the int8 values of its codes, in split order.
    pub(crate) unpack: fn(packed: &[u8], table: &[i8; 16], out: &mut [i8]),
    /// Columns `cols` of [`PANEL_ROWS`] int8 rows of `k` (split order, whole blocks) to one panel of 16-bit pairs:
    /// `panel[pair * PANEL_ROWS + row]`.
    pub(crate) interleave: fn(rows: &[i8], k: usize, cols: Range<usize>, panel: &mut [[i16; 2]]),
    /// `out[t][r] += sum over k of panel * tokens`, in 16-bit products: see [`Int8Tile`].
    pub(crate) tile_int8: fn(tile: &Int8Tile<'_>, out: &mut [[f32; PANEL_ROWS]]),
    /// `out[t][r] += sum over k of panel[k][r] * tokens[t][k]`, in `f32`.
    pub(crate) tile_f32:
        fn(panel: &[[f32; PANEL_ROWS]], tokens: &[&[f32]], out: &mut [[f32; PANEL_ROWS]]),
}

/// A panel of weights and up to [`TILE_TOKENS`] tokens.
pub(crate) struct Int8Tile<'a> {
    /// `[k / 2][PANEL_ROWS]` pairs of neighbouring elements.
    pub(crate) panel: &'a [[i16; 2]],
    /// Weight scales, `[scale blocks][PANEL_ROWS]`; a scale block is 64 or 32 elements.
    pub(crate) panel_scales: &'a [[f32; PANEL_ROWS]],
    /// Per token `k / 2` pairs.
    pub(crate) tokens: &'a [&'a [[i16; 2]]],
    /// Per token `k / BLOCK` scales.
    pub(crate) token_scales: &'a [&'a [f32]],
}

impl Int8Tile<'_> {
    /// Pairs per scale block; asserts that the parts fit each other, which the SIMD kernels rely on.
    fn pairs_per_scale(&self) -> usize {
        let pairs = self.panel.len() / PANEL_ROWS;
        let per_scale = pairs / self.panel_scales.len();
        assert_eq!(self.panel.len(), pairs * PANEL_ROWS);
        assert_eq!(self.panel_scales.len() * per_scale, pairs);
        assert!(per_scale == BLOCK / 2 || per_scale == BLOCK / 4);
        assert!(self.tokens.len() <= TILE_TOKENS && self.tokens.len() == self.token_scales.len());
        assert!(self.tokens.iter().all(|t| t.len() == pairs));
        assert!(self.token_scales.iter().all(|s| s.len() * BLOCK == pairs * 2));
        per_scale
    }
}

/// The best table for this processor.
pub(crate) fn detect() -> &'static Kernels {
    available()[0]
}

/// All tables that run on this processor, the best first.
pub(crate) fn available() -> Vec<&'static Kernels> {
    #[cfg(target_arch = "x86_64")]
    let simd = [
        avx512::is_available().then_some(&avx512::KERNELS),
        avx2::is_available().then_some(&avx2::KERNELS),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let simd = [];
    simd.into_iter().flatten().chain([&portable::KERNELS]).collect()
}
