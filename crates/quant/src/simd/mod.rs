//! The loops over whole blocks, one implementation per instruction set, chosen at run time.
//!
//! All give the same bits: every operation is an exact comparison, an integer operation, or a single rounded product.
#![allow(unsafe_code)]

mod scalar;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use std::fmt;
use std::sync::LazyLock;

use crate::code::Codebook;
use crate::values::{Bf16, Dtype, Element, F16, F32, Values};

/// Elements that a kernel handles at a time; every blocksize is a multiple.
pub(crate) const RUN: usize = 32;

/// An instruction set that this machine has: a value of this type is the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The fastest one this machine has.
    pub fn best() -> Isa {
        Isa::available().last().copied().unwrap_or(Isa(Kind::Scalar))
    }

    /// All that this machine has, the scalar one first, the fastest last.
    pub fn available() -> &'static [Isa] {
        static AVAILABLE: LazyLock<Vec<Isa>> = LazyLock::new(|| {
            let mut kinds = vec![Kind::Scalar];
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
                kinds.push(Kind::Avx2);
            }
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
            {
                kinds.push(Kind::Avx512);
            }
            #[cfg(target_arch = "aarch64")]
            if std::arch::is_aarch64_feature_detected!("neon") {
                kinds.push(Kind::Neon);
            }
            kinds.into_iter().map(Isa).collect()
        });
        &AVAILABLE
    }

    /// `scalar`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
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
    let quantize = match values.dtype() {
        Dtype::F32 => quantize_elements::<F32>,
        Dtype::Bf16 => quantize_elements::<Bf16>,
        Dtype::F16 => quantize_elements::<F16>,
    };
    quantize(isa, codebook, values.bytes(), blocksize, packed, absmax)
}

fn quantize_elements<E: Element>(
    isa: Isa,
    codebook: &Codebook,
    values: &[u8],
    blocksize: usize,
    packed: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), usize> {
    match isa.0 {
        Kind::Scalar => scalar::quantize_blocks::<E>(codebook, values, blocksize, packed, absmax),
        // SAFETY: an `Isa` is only made after its instructions were detected.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe {
            avx2::quantize_blocks::<E>(codebook, values, blocksize, packed, absmax)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe {
            avx512::quantize_blocks::<E>(codebook, values, blocksize, packed, absmax)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => unsafe {
            neon::quantize_blocks::<E>(codebook, values, blocksize, packed, absmax)
        },
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
        // SAFETY: an `Isa` is only made after its instructions were detected.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::dequantize_blocks(code, packed, blocksize, absmax, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::dequantize_blocks(code, packed, blocksize, absmax, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => unsafe { neon::dequantize_blocks(code, packed, blocksize, absmax, out) },
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

/// The largest of the unsigned integers, as wide as an element, that `lanes` holds.
fn largest_lane<E: Element>(lanes: &[u8]) -> u32 {
    let lane = |raw: &[u8]| raw.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
    lanes.chunks_exact(E::SIZE).map(lane).max().unwrap_or(0)
}
