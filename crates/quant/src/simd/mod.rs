//! The loops over whole blocks, one implementation per instruction set, chosen at run time.
//!
//! All give the same bits: every operation is an exact comparison, an integer operation, or a single rounded product.

mod scalar;

use std::fmt;

use crate::code::Codebook;
use crate::values::{Bf16, Dtype, F16, F32, Values};

/// Elements that a kernel handles at a time; every blocksize is a multiple.
pub(crate) const RUN: usize = 32;

/// An instruction set that this machine has: a value of this type is the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Scalar,
}

impl Isa {
    /// The fastest one this machine has.
    pub fn best() -> Isa {
        Isa(Kind::Scalar)
    }

    /// All that this machine has, the scalar one first, the fastest last.
    pub fn available() -> Vec<Isa> {
        vec![Isa(Kind::Scalar)]
    }

    /// `scalar`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Quantizes full blocks: `absmax.len()` blocks of `blocksize` values into `blocksize / 2` bytes each.
/// An error is the index of the first block with a value that is not finite.
pub(crate) fn quantize_blocks(
    isa: Isa,
    codebook: &Codebook,
    values: Values<'_>,
    blocksize: usize,
    packed: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), usize> {
    debug_assert!(blocksize.is_multiple_of(RUN));
    debug_assert_eq!(values.len(), blocksize * absmax.len());
    debug_assert_eq!(2 * packed.len(), values.len());
    let bytes = values.bytes();
    match (isa.0, values.dtype()) {
        (Kind::Scalar, Dtype::F32) => {
            scalar::quantize_blocks::<F32>(codebook, bytes, blocksize, packed, absmax)
        }
        (Kind::Scalar, Dtype::Bf16) => {
            scalar::quantize_blocks::<Bf16>(codebook, bytes, blocksize, packed, absmax)
        }
        (Kind::Scalar, Dtype::F16) => {
            scalar::quantize_blocks::<F16>(codebook, bytes, blocksize, packed, absmax)
        }
    }
}

/// Dequantizes full blocks: `absmax.len()` blocks of `blocksize` codes, two to a byte. `blocksize` is any multiple of
/// [`RUN`].
pub(crate) fn dequantize_blocks(
    isa: Isa,
    code: &[f32; 16],
    packed: &[u8],
    blocksize: usize,
    absmax: &[f32],
    out: &mut [f32],
) {
    debug_assert!(blocksize.is_multiple_of(RUN));
    debug_assert_eq!(out.len(), blocksize * absmax.len());
    debug_assert_eq!(2 * packed.len(), out.len());
    match isa.0 {
        Kind::Scalar => scalar::dequantize_blocks(code, packed, blocksize, absmax, out),
    }
}

/// The largest magnitude of a few values, or nothing when one is NaN or infinite.
pub(crate) fn absmax(values: Values<'_>) -> Option<f32> {
    match values.dtype() {
        Dtype::F32 => scalar::absmax::<F32>(values.bytes()),
        Dtype::Bf16 => scalar::absmax::<Bf16>(values.bytes()),
        Dtype::F16 => scalar::absmax::<F16>(values.bytes()),
    }
}
