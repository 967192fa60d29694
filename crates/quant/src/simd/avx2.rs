//! x86-64 with AVX2 and F16C: 8 lanes.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::RUN;
use crate::code::Codebook;
use crate::quantize::ABSMAX_MIN;
use crate::values::{Dtype, Element};

#[target_feature(enable = "avx2,f16c")]
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
        let reciprocal = _mm256_set1_ps(1.0 / absmax.max(ABSMAX_MIN));
        let runs = block.chunks_exact(RUN * E::SIZE).zip(packed.as_chunks_mut::<{ RUN / 2 }>().0);
        for (run, packed) in runs {
            let a = search.rank(_mm256_mul_ps(load::<E>(run, 0), reciprocal));
            let b = search.rank(_mm256_mul_ps(load::<E>(run, 1), reciprocal));
            let c = search.rank(_mm256_mul_ps(load::<E>(run, 2), reciprocal));
            let d = search.rank(_mm256_mul_ps(load::<E>(run, 3), reciprocal));
            let codes = search.pack(a, b, c, d);
            // SAFETY: `packed` has the 16 bytes that are written.
            unsafe { _mm_storeu_si128(packed.as_mut_ptr().cast(), codes) };
        }
    }
    Ok(())
}

/// The bits of the largest magnitude, in the values' own type. `block` holds a multiple of 32 values.
#[inline]
#[target_feature(enable = "avx2")]
fn largest_magnitude<E: Element>(block: &[u8]) -> u32 {
    let mut max = _mm256_setzero_si256();
    for bytes in block.as_chunks::<32>().0 {
        // SAFETY: `bytes` has the 32 bytes that are read.
        let bits = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        max = if E::SIZE == 4 {
            _mm256_max_epu32(max, _mm256_and_si256(bits, _mm256_set1_epi32(i32::MAX)))
        } else {
            _mm256_max_epu16(max, _mm256_and_si256(bits, _mm256_set1_epi16(i16::MAX)))
        };
    }
    let mut lanes = [0u8; 32];
    // SAFETY: `lanes` has the 32 bytes that are written.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), max) };
    super::largest_lane::<E>(&lanes)
}

/// Values `8 * index..8 * (index + 1)` of a run, as `f32`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load<E: Element>(run: &[u8], index: usize) -> __m256 {
    let raw = &run[8 * index * E::SIZE..][..8 * E::SIZE];
    match E::DTYPE {
        // SAFETY: `raw` has 8 values of 4 bytes.
        Dtype::F32 => unsafe { _mm256_loadu_ps(raw.as_ptr().cast()) },
        Dtype::Bf16 => {
            // SAFETY: `raw` has 8 values of 2 bytes.
            let bits = unsafe { _mm_loadu_si128(raw.as_ptr().cast()) };
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))
        }
        // SAFETY: `raw` has 8 values of 2 bytes.
        Dtype::F16 => _mm256_cvtph_ps(unsafe { _mm_loadu_si128(raw.as_ptr().cast()) }),
    }
}

/// A binary search over the 15 thresholds, a level at a time: every level looks its threshold up by the bits of the
/// rank that are known so far.
struct Search {
    level_1: __m256,
    level_2: [__m256; 2],
    level_3: __m256,
    level_4: __m256,
    codes: __m256i,
}

impl Search {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(codebook: &Codebook) -> Self {
        let t = &codebook.thresholds;
        // SAFETY: `codes` has the 16 bytes that are read.
        let codes = unsafe { _mm_loadu_si128(codebook.codes.as_ptr().cast()) };
        Search {
            level_1: _mm256_set1_ps(t[7]),
            level_2: [_mm256_set1_ps(t[3]), _mm256_set1_ps(t[11])],
            level_3: _mm256_setr_ps(t[1], t[5], t[9], t[13], t[1], t[5], t[9], t[13]),
            level_4: _mm256_setr_ps(t[0], t[2], t[4], t[6], t[8], t[10], t[12], t[14]),
            codes: _mm256_broadcastsi128_si256(codes),
        }
    }

    /// Number of thresholds strictly below each scaled value.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn rank(&self, scaled: __m256) -> __m256i {
        let above = |threshold| _mm256_cmp_ps::<_CMP_GT_OQ>(scaled, threshold);
        // A comparison that holds is -1: subtracting it appends a one to the rank.
        let append = |rank, above| {
            _mm256_sub_epi32(_mm256_add_epi32(rank, rank), _mm256_castps_si256(above))
        };
        let first = above(self.level_1);
        let rank = append(_mm256_setzero_si256(), first);
        let rank = append(rank, above(_mm256_blendv_ps(self.level_2[0], self.level_2[1], first)));
        let rank = append(rank, above(_mm256_permutevar8x32_ps(self.level_3, rank)));
        append(rank, above(_mm256_permutevar8x32_ps(self.level_4, rank)))
    }

    /// The codes of 32 ranks, two to a byte, the even one in the high nibble.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn pack(&self, a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m128i {
        // Packing works within 128-bit halves: the bytes are a0-3 b0-3 c0-3 d0-3, then a4-7 b4-7 c4-7 d4-7.
        let ranks = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
        let codes = _mm256_shuffle_epi8(self.codes, ranks);
        // 16 * even + odd, as 16-bit sums.
        let pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0110));
        let bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        let in_order = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
        _mm_shuffle_epi8(bytes, in_order)
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn dequantize_blocks(
    code: &[f32; 16],
    packed: &[u8],
    blocksize: usize,
    absmax: &[f32],
    out: &mut [f32],
) {
    // SAFETY: `code` has two times 8 floats.
    let [low, high] =
        unsafe { [_mm256_loadu_ps(code.as_ptr()), _mm256_loadu_ps(code.as_ptr().add(8))] };
    // The even element of a byte is in its high nibble.
    let shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    let blocks = packed.chunks_exact(blocksize / 2).zip(out.chunks_exact_mut(blocksize));
    for ((packed, out), absmax) in blocks.zip(absmax) {
        // All 16 products of the block at once: the values are looked up already scaled.
        let scale = _mm256_set1_ps(*absmax);
        let (low, high) = (_mm256_mul_ps(low, scale), _mm256_mul_ps(high, scale));
        for (word, out) in packed.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<8>().0) {
            let word = _mm256_set1_epi32(i32::from_le_bytes(*word));
            // The lookup takes the lower three bits of a lane, the blend its sign.
            let index = _mm256_srlv_epi32(word, shifts);
            let upper_half = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
            let value = _mm256_blendv_ps(
                _mm256_permutevar8x32_ps(low, index),
                _mm256_permutevar8x32_ps(high, index),
                upper_half,
            );
            // SAFETY: `out` has the 8 floats that are written.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) };
        }
    }
}
