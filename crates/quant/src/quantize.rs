//! Values to 4-bit codes.

use crate::code::Codebook;
use crate::packed::{expect_len, num_elements};
use crate::simd::{self, Isa};
use crate::{Absmax, PackedTensor, QuantError, QuantType, Values, check_blocksize};

/// The smallest scale that values are divided by; a block whose scale is smaller has (almost) nothing but zeros.
pub(crate) const ABSMAX_MIN: f32 = 1e-38;

/// How to quantize. The default is the product's: NF4, blocks of 64, double quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantConfig {
    /// What the codes mean.
    pub quant_type: QuantType,
    /// Elements per scale: a power of two within 32…4096.
    pub blocksize: usize,
    /// Whether the scales are quantized as well, to 8 bits.
    pub double_quant: bool,
}

impl Default for QuantConfig {
    fn default() -> Self {
        QuantConfig { quant_type: QuantType::Nf4, blocksize: 64, double_quant: true }
    }
}

/// Quantizes a tensor of `shape` as the default operators of bitsandbytes 0.50.2 do: the same codes, and the same
/// scales; under double quantization the 8-bit codes of the scales may differ by one (see [`Absmax::nested`]).
///
/// # Errors
/// [`QuantError::Blocksize`]; [`QuantError::Shape`] or [`QuantError::Length`] when `shape` does not have as many elements
/// as there are values; [`QuantError::NotFinite`] for the first value that is NaN or infinite.
pub fn quantize<'a>(
    values: impl Into<Values<'a>>,
    shape: &[usize],
    config: QuantConfig,
) -> Result<PackedTensor, QuantError> {
    let QuantConfig { quant_type, blocksize, double_quant } = config;
    let values = values.into();
    check_blocksize(blocksize)?;
    expect_len("values", values.len(), num_elements(shape)?)?;
    let mut packed = vec![0; values.len().div_ceil(2)];
    let mut absmax = vec![0.0; values.len().div_ceil(blocksize)];
    quantize_into(values, quant_type, blocksize, &mut packed, &mut absmax)?;
    let absmax = if double_quant { Absmax::nested(&absmax)? } else { Absmax::Plain(absmax.into()) };
    Ok(PackedTensor { quant_type, blocksize, shape: shape.to_vec(), packed: packed.into(), absmax })
}

/// Quantizes a run of whole blocks into arrays that the caller owns: `ceil(len / 2)` bytes of codes and
/// `ceil(len / blocksize)` scales.
///
/// Blocks do not depend on each other, so a tensor can be quantized piece by piece, in bounded memory or on several
/// threads, as long as every piece but the last has a multiple of `blocksize` values. ([`Absmax::nested`] then needs
/// all scales at once.)
///
/// # Errors
/// As [`quantize`]; the index of a value that is not finite counts from the start of `values`, and the arrays then
/// hold nothing of use.
pub fn quantize_into(
    values: Values<'_>,
    quant_type: QuantType,
    blocksize: usize,
    packed: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), QuantError> {
    quantize_into_with(Isa::best(), values, quant_type, blocksize, packed, absmax)
}

/// [`quantize_into`] on a given instruction set, for tests and measurements.
///
/// # Errors
/// As [`quantize_into`].
pub fn quantize_into_with(
    isa: Isa,
    values: Values<'_>,
    quant_type: QuantType,
    blocksize: usize,
    packed: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), QuantError> {
    check_blocksize(blocksize)?;
    let len = values.len();
    expect_len("packed", packed.len(), len.div_ceil(2))?;
    expect_len("absmax", absmax.len(), len.div_ceil(blocksize))?;
    let num_full = len / blocksize;
    let (full, tail) = values.split_at(num_full * blocksize);
    let (full_packed, tail_packed) = packed.split_at_mut(full.len() / 2);
    let (full_absmax, tail_absmax) = absmax.split_at_mut(num_full);
    let codebook = quant_type.codebook();
    simd::quantize_blocks(isa, codebook, full, blocksize, full_packed, full_absmax)
        .map_err(|block| not_finite(full, block * blocksize))?;
    if let [scale] = tail_absmax {
        *scale = quantize_tail(codebook, tail, tail_packed)
            .ok_or_else(|| not_finite(values, full.len()))?;
    }
    Ok(())
}

/// Quantizes the incomplete last block of a tensor and returns its scale, or nothing when a value is not finite.
/// Unlike a full block its values are divided by the scale, and the scale is never below [`ABSMAX_MIN`].
fn quantize_tail(codebook: &Codebook, tail: Values<'_>, packed: &mut [u8]) -> Option<f32> {
    let absmax = simd::absmax(tail)?.max(ABSMAX_MIN);
    // Past the end of an odd tensor lies a zero.
    let code = |i| codebook.code_of(if i < tail.len() { tail.get(i) / absmax } else { 0.0 });
    for (i, byte) in packed.iter_mut().enumerate() {
        *byte = code(2 * i) << 4 | code(2 * i + 1);
    }
    Some(absmax)
}

/// The error for the first value at or after `start` that is not finite.
fn not_finite(values: Values<'_>, start: usize) -> QuantError {
    let index = (start..values.len()).find(|i| !values.get(*i).is_finite()).unwrap_or(start);
    QuantError::NotFinite { index, value: values.get(index) }
}
