//! The definition, one value at a time: what every other implementation is compared with.

use crate::code::Codebook;
use crate::quantize::ABSMAX_MIN;
use crate::values::Element;

pub(super) fn quantize_blocks<E: Element>(
    codebook: &Codebook,
    values: &[u8],
    blocksize: usize,
    packed: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), usize> {
    let blocks = values.chunks_exact(blocksize * E::SIZE);
    let packed = packed.chunks_exact_mut(blocksize / 2);
    for (index, ((block, packed), absmax)) in blocks.zip(packed).zip(absmax).enumerate() {
        *absmax = self::absmax::<E>(block).ok_or(index)?;
        // The product with the reciprocal is not the quotient: at a threshold the difference decides.
        let reciprocal = 1.0 / absmax.max(ABSMAX_MIN);
        let code = |raw| codebook.code_of(E::to_f32(raw) * reciprocal);
        for (byte, pair) in packed.iter_mut().zip(block.chunks_exact(2 * E::SIZE)) {
            let (even, odd) = pair.split_at(E::SIZE);
            *byte = code(even) << 4 | code(odd);
        }
    }
    Ok(())
}

/// The largest magnitude, or nothing when a value is NaN or infinite.
pub(super) fn absmax<E: Element>(values: &[u8]) -> Option<f32> {
    // Magnitudes of floating-point numbers are ordered as their bits are, NaN above infinity.
    let bits = |raw| E::to_f32(raw).abs().to_bits();
    let max = f32::from_bits(values.chunks_exact(E::SIZE).map(bits).max().unwrap_or(0));
    max.is_finite().then_some(max)
}

pub(super) fn dequantize_blocks(
    code: &[f32; 16],
    packed: &[u8],
    blocksize: usize,
    absmax: &[f32],
    out: &mut [f32],
) {
    let blocks = packed.chunks_exact(blocksize / 2).zip(out.chunks_exact_mut(blocksize));
    for ((packed, out), absmax) in blocks.zip(absmax) {
        for (byte, pair) in packed.iter().zip(out.chunks_exact_mut(2)) {
            pair[0] = code[usize::from(byte >> 4)] * absmax;
            pair[1] = code[usize::from(byte & 0xf)] * absmax;
        }
    }
}
