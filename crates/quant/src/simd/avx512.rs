//! x86-64 with AVX-512 F, BW and VL: 16 lanes, and a register that holds a whole code.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::RUN;
use crate::code::Codebook;
use crate::quantize::ABSMAX_MIN;
use crate::values::{Dtype, Element};

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_blocks<E: Element>(
    codebook: &Codebook,
    values: &[u8],
    blocksize: usize,
    packed: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), usize> {
    let search = Search::new(codebook);
    let blocks = values.chunks_exact(blocksize * E::SIZE);
    let packed = packed.chunks_exact_mut(blocksize / 2);
    for (index, ((block, packed), absmax)) in blocks.zip(packed).zip(absmax).enumerate() {
        *absmax = E::finite(largest_magnitude::<E>(block)).ok_or(index)?;
        let reciprocal = _mm512_set1_ps(1.0 / absmax.max(ABSMAX_MIN));
        let runs = block.chunks_exact(RUN * E::SIZE).zip(packed.as_chunks_mut::<{ RUN / 2 }>().0);
        for (run, packed) in runs {
            let a = search.pairs(_mm512_mul_ps(load::<E>(run, 0), reciprocal));
            let b = search.pairs(_mm512_mul_ps(load::<E>(run, 1), reciprocal));
            // SAFETY: `packed` has the 16 bytes that are written.
            unsafe { _mm_storeu_si128(packed.as_mut_ptr().cast(), _mm_packus_epi16(a, b)) };
        }
    }
    Ok(())
}

/// The bits of the largest magnitude, in the values' own type. `block` holds a multiple of 32 values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn largest_magnitude<E: Element>(block: &[u8]) -> u32 {
    let mut max = _mm512_setzero_si512();
    for bytes in block.as_chunks::<64>().0 {
        // SAFETY: `bytes` has the 64 bytes that are read.
        let bits = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        max = if E::SIZE == 4 {
            _mm512_max_epu32(max, _mm512_and_si512(bits, _mm512_set1_epi32(i32::MAX)))
        } else {
            _mm512_max_epu16(max, _mm512_and_si512(bits, _mm512_set1_epi16(i16::MAX)))
        };
    }
    let mut lanes = [0u8; 64];
    // SAFETY: `lanes` has the 64 bytes that are written.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), max) };
    super::largest_lane::<E>(&lanes)
}

/// Values `16 * index..16 * (index + 1)` of a run, as `f32`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load<E: Element>(run: &[u8], index: usize) -> __m512 {
    let raw = &run[16 * index * E::SIZE..][..16 * E::SIZE];
    match E::DTYPE {
        // SAFETY: `raw` has 16 values of 4 bytes.
        Dtype::F32 => unsafe { _mm512_loadu_ps(raw.as_ptr().cast()) },
        Dtype::Bf16 => {
            // SAFETY: `raw` has 16 values of 2 bytes.
            let bits = unsafe { _mm256_loadu_si256(raw.as_ptr().cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        }
        // SAFETY: `raw` has 16 values of 2 bytes.
        Dtype::F16 => _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(raw.as_ptr().cast()) }),
    }
}

/// A binary search over the 15 thresholds, laid out as a heap: node 1 is the root, node `n` has the children `2n` and
/// `2n + 1`, and the leaves 16..32 are the ranks.
struct Search {
    heap: __m512,
    codes: __m128i,
}

impl Search {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn new(codebook: &Codebook) -> Self {
        let t = &codebook.thresholds;
        // Entry 0 is never looked up.
        let heap = [
            0.0, t[7], t[3], t[11], t[1], t[5], t[9], t[13], t[0], t[2], t[4], t[6], t[8], t[10],
            t[12], t[14],
        ];
        // SAFETY: `heap` has 16 floats, `codes` 16 bytes.
        unsafe {
            Search {
                heap: _mm512_loadu_ps(heap.as_ptr()),
                codes: _mm_loadu_si128(codebook.codes.as_ptr().cast()),
            }
        }
    }

    /// Codes of 16 scaled values as 8 sums `16 * even + odd` of 16 bits each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn pairs(&self, scaled: __m512) -> __m128i {
        let one = _mm512_set1_epi32(1);
        let mut node = one;
        for _level in 0..4 {
            let threshold = _mm512_permutexvar_ps(node, self.heap);
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(scaled, threshold);
            let left = _mm512_add_epi32(node, node);
            node = _mm512_mask_add_epi32(left, above, left, one);
        }
        // The shuffle takes the lower four bits of a leaf: the rank.
        let codes = _mm_shuffle_epi8(self.codes, _mm512_cvtepi32_epi8(node));
        _mm_maddubs_epi16(codes, _mm_set1_epi16(0x0110))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn dequantize_blocks(
    code: &[f32; 16],
    packed: &[u8],
    blocksize: usize,
    absmax: &[f32],
    out: &mut [f32],
) {
    // SAFETY: `code` has the 16 floats that are read.
    let code = unsafe { _mm512_loadu_ps(code.as_ptr()) };
    let blocks = packed.chunks_exact(blocksize / 2).zip(out.chunks_exact_mut(blocksize));
    for ((packed, out), absmax) in blocks.zip(absmax) {
        // All 16 products of the block at once: the values are looked up already scaled.
        let code = _mm512_mul_ps(code, _mm512_set1_ps(*absmax));
        for (bytes, out) in packed.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<16>().0) {
            // A byte in every 64-bit lane: its high nibble goes to the even 32-bit lane, the byte itself to the odd one,
            // where the lookup takes the lower four bits.
            let bytes = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(i64::from_le_bytes(*bytes)));
            let even = _mm512_srli_epi64::<4>(bytes);
            let odd = _mm512_slli_epi64::<32>(bytes);
            let value = _mm512_permutexvar_ps(_mm512_or_si512(even, odd), code);
            // SAFETY: `out` has the 16 floats that are written.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), value) };
        }
    }
}
