//! A quantized tensor as it lies in a checkpoint.

use std::sync::Arc;

use bytes::Bytes;

use crate::{QuantError, QuantType};

/// Blocks that share one `nested_absmax` under double quantization, in bitsandbytes.
pub const NESTED_BLOCKSIZE: usize = 256;

/// A 4-bit tensor: codes, two to a byte, and a scale for every `blocksize` of them.
///
/// Cheap to clone: the arrays are shared.
#[derive(Debug, Clone)]
pub struct PackedTensor {
    /// What the codes mean.
    pub quant_type: QuantType,
    /// Elements per scale.
    pub blocksize: usize,
    /// Shape of the tensor that was quantized; blocks run over its flat, row-major index.
    pub shape: Vec<usize>,
    /// Two codes a byte, the even element in the high nibble; `ceil(len / 2)` bytes.
    pub packed: Bytes,
    /// The scales.
    pub absmax: Absmax,
}

/// The scale of every block.
#[derive(Debug, Clone)]
pub enum Absmax {
    /// One `f32` a block.
    Plain(Arc<[f32]>),
    /// Double quantization: block `i` has scale `map[codes[i]] * nested_absmax[(first + i) / blocksize] + offset`.
    Nested {
        /// One 8-bit code a block.
        codes: Bytes,
        /// Value of each 8-bit code.
        map: Arc<[f32; 256]>,
        /// One `f32` for every `blocksize` blocks of the whole tensor.
        nested_absmax: Arc<[f32]>,
        /// Blocks per `nested_absmax`; 256 in bitsandbytes.
        blocksize: usize,
        /// Mean of the scales, taken off before they were quantized.
        offset: f32,
        /// Where `codes` begins in the tensor that `nested_absmax` covers, in blocks: a slice (one expert of a fused
        /// tensor) shares the arrays of the whole.
        first: usize,
    },
}

impl Absmax {
    /// Number of blocks.
    pub fn len(&self) -> usize {
        match self {
            Absmax::Plain(absmax) => absmax.len(),
            Absmax::Nested { codes, .. } => codes.len(),
        }
    }

    /// Whether there is no block at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Scale of block `i`, computed in `f32` as bitsandbytes does: a product, then a sum (no fused multiply-add).
    ///
    /// # Panics
    /// If `i` is not below [`Absmax::len`].
    #[inline]
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Absmax::Plain(absmax) => absmax[i],
            Absmax::Nested { codes, map, nested_absmax, blocksize, offset, first } => {
                map[codes[i] as usize] * nested_absmax[(first + i) / blocksize] + offset
            }
        }
    }
}

impl PackedTensor {
    /// Checks lengths and scales, so that whoever reads the tensor later need not.
    pub fn validate(&self) -> Result<(), QuantError> {
        check_blocksize(self.blocksize)?;
        let len = num_elements(&self.shape)?;
        expect_len("weight", self.packed.len(), len.div_ceil(2))?;
        let num_blocks = len.div_ceil(self.blocksize);
        expect_len("absmax", self.absmax.len(), num_blocks)?;
        match &self.absmax {
            Absmax::Plain(absmax) => finite("absmax", absmax),
            Absmax::Nested { map, nested_absmax, blocksize, offset, first, .. } => {
                if *blocksize == 0 {
                    return Err(QuantError::Blocksize(0));
                }
                let needed = first.saturating_add(num_blocks).div_ceil(*blocksize);
                if nested_absmax.len() < needed {
                    expect_len("nested_absmax", nested_absmax.len(), needed)?;
                }
                finite("nested_quant_map", &map[..])?;
                finite("nested_absmax", nested_absmax)?;
                finite("nested_offset", &[*offset])?;
                finite_scales(&self.absmax, &map[..], nested_absmax, *offset)
            }
        }
    }

    /// Number of elements.
    ///
    /// # Panics
    /// If the dimensions multiply to more than a `usize` holds, which [`PackedTensor::validate`] rules out.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the codes and scales take in memory (maps and offsets, shared or tiny, are left out).
    pub fn num_bytes(&self) -> usize {
        self.packed.len()
            + match &self.absmax {
                Absmax::Plain(absmax) => 4 * absmax.len(),
                Absmax::Nested { codes, nested_absmax, .. } => {
                    codes.len() + 4 * nested_absmax.len()
                }
            }
    }

    /// Value of element `i`: the plain definition, one element at a time.
    ///
    /// # Panics
    /// If `i` is not below [`PackedTensor::len`].
    pub fn get(&self, i: usize) -> f32 {
        let byte = self.packed[i / 2];
        let code = if i.is_multiple_of(2) { byte >> 4 } else { byte & 0xf };
        self.quant_type.code()[code as usize] * self.absmax.get(i / self.blocksize)
    }
}

/// Accepts the blocksizes that bitsandbytes has: powers of two, 32…4096.
pub fn check_blocksize(blocksize: usize) -> Result<(), QuantError> {
    if (32..=4096).contains(&blocksize) && blocksize.is_power_of_two() {
        Ok(())
    } else {
        Err(QuantError::Blocksize(blocksize))
    }
}

/// The product of the dimensions.
pub(crate) fn num_elements(shape: &[usize]) -> Result<usize, QuantError> {
    let product = shape.iter().try_fold(1usize, |len, dim| len.checked_mul(*dim));
    product.ok_or_else(|| QuantError::Shape(shape.to_vec()))
}

pub(crate) fn expect_len(
    what: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), QuantError> {
    if found == expected { Ok(()) } else { Err(QuantError::Length { what, found, expected }) }
}

fn finite(what: &'static str, values: &[f32]) -> Result<(), QuantError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(QuantError::Scale { what, index, value: values[index] }),
    }
}

/// Finite parts can still make an infinite scale. Scales near the largest number are all looked at; any others are ruled
/// out by the largest that the parts could make.
fn finite_scales(
    absmax: &Absmax,
    map: &[f32],
    nested_absmax: &[f32],
    offset: f32,
) -> Result<(), QuantError> {
    let largest = |values: &[f32]| values.iter().fold(0.0, |max: f32, v| max.max(v.abs()));
    if (largest(map) * largest(nested_absmax) + offset.abs()).is_finite() {
        return Ok(());
    }
    match (0..absmax.len()).find(|i| !absmax.get(*i).is_finite()) {
        None => Ok(()),
        Some(index) => Err(QuantError::Scale { what: "absmax", index, value: absmax.get(index) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamic_map;

    fn nested(nested_absmax: f32, offset: f32, codes: &'static [u8]) -> PackedTensor {
        PackedTensor {
            quant_type: QuantType::Nf4,
            blocksize: 64,
            shape: vec![codes.len(), 64],
            packed: vec![0; 32 * codes.len()].into(),
            absmax: Absmax::Nested {
                codes: Bytes::from_static(codes),
                map: dynamic_map(),
                nested_absmax: [nested_absmax].into(),
                blocksize: NESTED_BLOCKSIZE,
                offset,
                first: 0,
            },
        }
    }

    #[track_caller]
    fn check(tensor: &PackedTensor, expected: &str) {
        let found = tensor.validate().err().map(|error| error.to_string());
        assert_eq!(found.as_deref().unwrap_or("ok"), expected);
    }

    #[test]
    fn a_sound_tensor_passes() {
        check(&nested(0.5, 1.0, &[0, 127, 255]), "ok");
        check(&nested(3e38, 2e38, &[0, 127]), "ok");
    }

    #[test]
    fn scales_that_are_not_finite_are_named() {
        check(&nested(3e38, 2e38, &[0, 255]), "absmax[1] is inf, not a finite scale");
        check(&nested(f32::NAN, 0.0, &[0]), "nested_absmax[0] is NaN, not a finite scale");
        check(&nested(1.0, f32::INFINITY, &[0]), "nested_offset[0] is inf, not a finite scale");
        let absmax = Absmax::Plain([1.0, f32::NEG_INFINITY].into());
        let tensor = PackedTensor { absmax, ..nested(1.0, 0.0, &[0, 0]) };
        check(&tensor, "absmax[1] is -inf, not a finite scale");
    }

    #[test]
    fn lengths_follow_from_the_shape() {
        let tensor = nested(1.0, 0.0, &[0, 0]);
        let shape = |shape: &[usize]| PackedTensor { shape: shape.to_vec(), ..tensor.clone() };
        check(&shape(&[3, 64]), "weight holds 64 elements, expected 96");
        check(&shape(&[127]), "ok");
        check(
            &shape(&[usize::MAX, 2]),
            &format!("shape [{}, 2] has too many elements", usize::MAX),
        );
        let blocksize = |blocksize| PackedTensor { blocksize, ..tensor.clone() };
        check(&blocksize(32), "absmax holds 2 elements, expected 4");
        let valid = "is not one of 32, 64, 128, 256, 512, 1024, 2048, 4096";
        check(&blocksize(0), &format!("blocksize 0 {valid}"));
        check(&blocksize(96), &format!("blocksize 96 {valid}"));
    }

    #[test]
    fn a_slice_reaches_into_the_nested_scales_of_the_whole() {
        let mut tensor = nested(1.0, 0.0, &[0, 0]);
        let Absmax::Nested { first, .. } = &mut tensor.absmax else { panic!("not nested") };
        *first = 254;
        check(&tensor, "ok");
        let Absmax::Nested { first, .. } = &mut tensor.absmax else { panic!("not nested") };
        *first = 255;
        check(&tensor, "nested_absmax holds 1 elements, expected 2");
    }
}
