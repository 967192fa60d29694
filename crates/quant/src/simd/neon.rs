//! AArch64, where NEON is always there: 4 lanes, and byte lookups in tables of up to 64 bytes.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use super::RUN;
use crate::code::Codebook;
use crate::quantize::ABSMAX_MIN;
use crate::values::{Dtype, Element};

#[target_feature(enable = "neon")]
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
        let reciprocal = 1.0 / absmax.max(ABSMAX_MIN);
        let runs = block.chunks_exact(RUN * E::SIZE).zip(packed.as_chunks_mut::<{ RUN / 2 }>().0);
        for (run, packed) in runs {
            let first = search.codes(run_ranks::<E>(&search, run, 0, reciprocal));
            let second = search.codes(run_ranks::<E>(&search, run, 1, reciprocal));
            // Even elements shifted into the high nibble, with the odd ones below.
            let even = vuzp1q_u8(first, second);
            let odd = vuzp2q_u8(first, second);
            // SAFETY: `packed` has the 16 bytes that are written.
            unsafe { vst1q_u8(packed.as_mut_ptr(), vsliq_n_u8::<4>(odd, even)) };
        }
    }
    Ok(())
}

/// The bits of the largest magnitude, in the values' own type. `block` holds a multiple of 32 values.
#[inline]
#[target_feature(enable = "neon")]
fn largest_magnitude<E: Element>(block: &[u8]) -> u32 {
    let mut max = vdupq_n_u8(0);
    for bytes in block.as_chunks::<16>().0 {
        // SAFETY: `bytes` has the 16 bytes that are read.
        let bits = unsafe { vld1q_u8(bytes.as_ptr()) };
        max = if E::SIZE == 4 {
            let bits = vbicq_u32(vreinterpretq_u32_u8(bits), vdupq_n_u32(1 << 31));
            vreinterpretq_u8_u32(vmaxq_u32(vreinterpretq_u32_u8(max), bits))
        } else {
            let bits = vbicq_u16(vreinterpretq_u16_u8(bits), vdupq_n_u16(1 << 15));
            vreinterpretq_u8_u16(vmaxq_u16(vreinterpretq_u16_u8(max), bits))
        };
    }
    let mut lanes = [0u8; 16];
    // SAFETY: `lanes` has the 16 bytes that are written.
    unsafe { vst1q_u8(lanes.as_mut_ptr(), max) };
    super::largest_lane::<E>(&lanes)
}

/// Ranks of the values `16 * half..16 * (half + 1)` of a run, a byte each.
#[inline]
#[target_feature(enable = "neon")]
fn run_ranks<E: Element>(search: &Search, run: &[u8], half: usize, reciprocal: f32) -> uint8x16_t {
    let a = search.rank(vmulq_n_f32(load::<E>(run, 4 * half), reciprocal));
    let b = search.rank(vmulq_n_f32(load::<E>(run, 4 * half + 1), reciprocal));
    let c = search.rank(vmulq_n_f32(load::<E>(run, 4 * half + 2), reciprocal));
    let d = search.rank(vmulq_n_f32(load::<E>(run, 4 * half + 3), reciprocal));
    // The lower half of every lane, twice: 4 * 4 lanes of 32 bits to 16 of 8.
    let ab = vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
    let cd = vuzp1q_u16(vreinterpretq_u16_u32(c), vreinterpretq_u16_u32(d));
    vuzp1q_u8(vreinterpretq_u8_u16(ab), vreinterpretq_u8_u16(cd))
}

/// Values `4 * index..4 * (index + 1)` of a run, as `f32`.
#[inline]
#[target_feature(enable = "neon")]
fn load<E: Element>(run: &[u8], index: usize) -> float32x4_t {
    let raw = &run[4 * index * E::SIZE..][..4 * E::SIZE];
    if let Dtype::F32 = E::DTYPE {
        // SAFETY: `raw` has 4 values of 4 bytes; a byte load has no alignment.
        return vreinterpretq_f32_u8(unsafe { vld1q_u8(raw.as_ptr()) });
    }
    // SAFETY: `raw` has 4 values of 2 bytes; a byte load has no alignment.
    let bits = vreinterpret_u16_u8(unsafe { vld1_u8(raw.as_ptr()) });
    if let Dtype::Bf16 = E::DTYPE {
        return vreinterpretq_f32_u32(vshll_n_u16::<16>(bits));
    }
    // As the scalar conversion: the fields moved into place, the exponent put right by an exact product.
    let sign = vandq_u32(vshll_n_u16::<16>(bits), vdupq_n_u32(1 << 31));
    let magnitude = vshll_n_u16::<13>(vbic_u16(bits, vdup_n_u16(1 << 15)));
    let value = vmulq_n_f32(vreinterpretq_f32_u32(magnitude), f32::from_bits((127 + 112) << 23));
    vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(value), sign))
}

/// A binary search over the 15 thresholds, a level at a time: every level looks its threshold up by the bits of the
/// rank that are known so far.
struct Search {
    level_1: float32x4_t,
    level_2: [float32x4_t; 2],
    level_3: uint8x16_t,
    level_4: uint8x16x2_t,
    codes: uint8x16_t,
}

impl Search {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(codebook: &Codebook) -> Self {
        let t = &codebook.thresholds;
        // SAFETY: every array has the 16 bytes that are read.
        let (level_3, level_4, codes) = unsafe {
            let level_3 = vld1q_f32([t[1], t[5], t[9], t[13]].as_ptr());
            let level_4_low = vld1q_f32([t[0], t[2], t[4], t[6]].as_ptr());
            let level_4_high = vld1q_f32([t[8], t[10], t[12], t[14]].as_ptr());
            (level_3, [level_4_low, level_4_high], vld1q_u8(codebook.codes.as_ptr()))
        };
        Search {
            level_1: vdupq_n_f32(t[7]),
            level_2: [vdupq_n_f32(t[3]), vdupq_n_f32(t[11])],
            level_3: vreinterpretq_u8_f32(level_3),
            level_4: uint8x16x2_t(
                vreinterpretq_u8_f32(level_4[0]),
                vreinterpretq_u8_f32(level_4[1]),
            ),
            codes,
        }
    }

    /// Number of thresholds strictly below each scaled value.
    #[inline]
    #[target_feature(enable = "neon")]
    fn rank(&self, scaled: float32x4_t) -> uint32x4_t {
        let first = vcgtq_f32(scaled, self.level_1);
        let rank = append(vdupq_n_u32(0), first);
        let threshold = vbslq_f32(first, self.level_2[1], self.level_2[0]);
        let rank = append(rank, vcgtq_f32(scaled, threshold));
        let threshold = vreinterpretq_f32_u8(vqtbl1q_u8(self.level_3, float_bytes(rank)));
        let rank = append(rank, vcgtq_f32(scaled, threshold));
        let threshold = vreinterpretq_f32_u8(vqtbl2q_u8(self.level_4, float_bytes(rank)));
        append(rank, vcgtq_f32(scaled, threshold))
    }

    /// The codes of 16 ranks.
    #[inline]
    #[target_feature(enable = "neon")]
    fn codes(&self, ranks: uint8x16_t) -> uint8x16_t {
        vqtbl1q_u8(self.codes, ranks)
    }
}

/// Appends a bit to every rank: a comparison that holds is all ones, -1.
#[inline]
#[target_feature(enable = "neon")]
fn append(rank: uint32x4_t, above: uint32x4_t) -> uint32x4_t {
    vsubq_u32(vaddq_u32(rank, rank), above)
}

/// Where the four bytes of float `index` lie in a table, for every lane.
#[inline]
#[target_feature(enable = "neon")]
fn float_bytes(index: uint32x4_t) -> uint8x16_t {
    vreinterpretq_u8_u32(vmlaq_n_u32(vdupq_n_u32(0x0302_0100), index, 0x0404_0404))
}

#[target_feature(enable = "neon")]
pub(super) fn dequantize_blocks(
    code: &[f32; 16],
    packed: &[u8],
    blocksize: usize,
    absmax: &[f32],
    out: &mut [f32],
) {
    let blocks = packed.chunks_exact(blocksize / 2).zip(out.chunks_exact_mut(blocksize));
    for ((packed, out), absmax) in blocks.zip(absmax) {
        // All 16 products of the block at once: the values are looked up already scaled, a byte of them at a time.
        let scaled = code.map(|code| code * absmax);
        // SAFETY: `scaled` has the 64 bytes that are read; plane `p` gets byte `p` of all 16 floats.
        let planes = unsafe { vld4q_u8(scaled.as_ptr().cast()) };
        for (bytes, out) in packed.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            // SAFETY: `bytes` has the 16 bytes that are read.
            let bytes = unsafe { vld1q_u8(bytes.as_ptr()) };
            let (even, odd) = (vshrq_n_u8::<4>(bytes), vandq_u8(bytes, vdupq_n_u8(0xf)));
            let (first, second) = out.split_at_mut(16);
            store_values(planes, vzip1q_u8(even, odd), first);
            store_values(planes, vzip2q_u8(even, odd), second);
        }
    }
}

/// Looks up 16 codes and writes their values.
#[inline]
#[target_feature(enable = "neon")]
fn store_values(planes: uint8x16x4_t, codes: uint8x16_t, out: &mut [f32]) {
    let values = uint8x16x4_t(
        vqtbl1q_u8(planes.0, codes),
        vqtbl1q_u8(planes.1, codes),
        vqtbl1q_u8(planes.2, codes),
        vqtbl1q_u8(planes.3, codes),
    );
    assert_eq!(out.len(), 16);
    // SAFETY: `out` has the 64 bytes that are written, interleaved to floats again.
    unsafe { vst4q_u8(out.as_mut_ptr().cast(), values) };
}
