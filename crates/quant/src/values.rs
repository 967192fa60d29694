//! The values to be quantized, as they lie in a checkpoint.

use crate::QuantError;

#[cfg(target_endian = "big")]
compile_error!(
    "checkpoints are little-endian and are read in place: big-endian machines are not supported"
);

/// Type of the values to be quantized. Each converts to `f32` exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// The upper half of an `f32`.
    Bf16,
    /// IEEE 754 half precision.
    F16,
}

impl Dtype {
    /// Bytes a value takes.
    pub const fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }
}

/// Borrowed values of any [`Dtype`]: an `f32` slice, or little-endian bytes of any alignment.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl<'a> Values<'a> {
    /// Little-endian values, as safetensors stores them.
    pub fn from_le_bytes(dtype: Dtype, bytes: &'a [u8]) -> Result<Self, QuantError> {
        if bytes.len().is_multiple_of(dtype.size()) {
            Ok(Values { dtype, bytes })
        } else {
            let expected = bytes.len().next_multiple_of(dtype.size());
            Err(QuantError::Length { what: "value bytes", found: bytes.len(), expected })
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The type of the values.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Value `i`, converted exactly.
    ///
    /// # Panics
    /// If `i` is not below [`Values::len`].
    pub fn get(&self, i: usize) -> f32 {
        let size = self.dtype.size();
        let raw = &self.bytes[i * size..][..size];
        match self.dtype {
            Dtype::F32 => F32::to_f32(raw),
            Dtype::Bf16 => Bf16::to_f32(raw),
            Dtype::F16 => F16::to_f32(raw),
        }
    }

    /// All values in order, converted exactly.
    pub fn iter(&self) -> impl Iterator<Item = f32> + use<'a> {
        let values = *self;
        (0..values.len()).map(move |i| values.get(i))
    }

    /// The first `mid` values and the others.
    ///
    /// # Panics
    /// If `mid` is above [`Values::len`].
    pub fn split_at(&self, mid: usize) -> (Values<'a>, Values<'a>) {
        let (head, tail) = self.bytes.split_at(mid * self.dtype.size());
        (Values { bytes: head, ..*self }, Values { bytes: tail, ..*self })
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(values: &'a [f32]) -> Self {
        Values { dtype: Dtype::F32, bytes: bytemuck::cast_slice(values) }
    }
}

impl<'a> From<&'a Vec<f32>> for Values<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        values.as_slice().into()
    }
}

/// A [`Dtype`] that loops are compiled for.
pub(crate) trait Element {
    const DTYPE: Dtype;
    const SIZE: usize = Self::DTYPE.size();

    /// Converts one little-endian value of [`Element::SIZE`] bytes, exactly.
    fn to_f32(raw: &[u8]) -> f32;

    /// The value with these bits, if it is finite.
    fn finite(bits: u32) -> Option<f32> {
        Some(Self::to_f32(&bits.to_le_bytes()[..Self::SIZE])).filter(|value| value.is_finite())
    }
}

pub(crate) struct F32;
pub(crate) struct Bf16;
pub(crate) struct F16;

impl Element for F32 {
    const DTYPE: Dtype = Dtype::F32;

    #[inline(always)]
    fn to_f32(raw: &[u8]) -> f32 {
        f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]])
    }
}

impl Element for Bf16 {
    const DTYPE: Dtype = Dtype::Bf16;

    #[inline(always)]
    fn to_f32(raw: &[u8]) -> f32 {
        f32::from_le_bytes([0, 0, raw[0], raw[1]])
    }
}

impl Element for F16 {
    const DTYPE: Dtype = Dtype::F16;

    #[inline(always)]
    fn to_f32(raw: &[u8]) -> f32 {
        f16_to_f32(u16::from_le_bytes([raw[0], raw[1]]))
    }
}

/// Converts the bits of a half-precision number. Exact; a NaN stays a NaN.
#[inline(always)]
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let value = if magnitude >= 0x7c00 {
        // Infinity and NaN: all exponent bits stay set.
        f32::from_bits(0x7f80_0000 | (magnitude << 13))
    } else {
        // With the fields moved into place the exponent is biased by 15 instead of 127: off by 2^112, which the
        // product puts right without rounding, for subnormal numbers as well.
        f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)
    };
    f32::from_bits(value.to_bits() | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: sign, exponent and mantissa as numbers. All 65,536 halves.
    #[test]
    fn every_half_converts_exactly() {
        for bits in 0..=u16::MAX {
            let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let magnitude = match exponent {
                0 => mantissa * 2f64.powi(-24),
                31 if mantissa == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1024.0 + mantissa) * 2f64.powi(exponent - 25),
            };
            let expected = if bits >> 15 == 1 { -magnitude } else { magnitude } as f32;
            let found = f16_to_f32(bits);
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "{bits:#06x}: {found} is not {expected}"
            );
        }
    }

    #[test]
    fn bytes_convert_by_type() {
        let bytes = [0xc0, 0x3f, 0x00, 0x80];
        let of = |dtype| Values::from_le_bytes(dtype, &bytes).unwrap();
        assert_eq!(of(Dtype::Bf16).iter().collect::<Vec<_>>(), [1.5, -0.0]);
        assert_eq!(of(Dtype::F16).get(0), 1.9375);
        assert_eq!(of(Dtype::F32).iter().collect::<Vec<_>>(), [f32::from_bits(0x8000_3fc0)]);
        let (head, tail) = of(Dtype::Bf16).split_at(1);
        assert_eq!((head.len(), tail.get(0)), (1, -0.0));
    }

    #[test]
    fn a_torn_value_is_an_error() {
        let error = Values::from_le_bytes(Dtype::F16, &[1, 2, 3]).unwrap_err();
        assert_eq!(error.to_string(), "value bytes holds 3 elements, expected 4");
    }
}
