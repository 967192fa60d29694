//! A weight as it lies in host memory, before a backend takes it.

use bytes::Bytes;
use quant::PackedTensor;

/// Element types of unquantized weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// Brain floating point: the upper half of an `f32`.
    Bf16,
    /// IEEE 754 half precision.
    F16,
    /// IEEE 754 single precision.
    F32,
}

impl Dtype {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Dtype::Bf16 | Dtype::F16 => 2,
            Dtype::F32 => 4,
        }
    }
}

/// A weight matrix (or vector) in host memory, row-major.
///
/// Cheap to clone: bytes are shared, and may lie in a mapped file.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Plain numbers, little-endian, not necessarily aligned.
    Dense {
        /// Type of the elements.
        dtype: Dtype,
        /// Row-major shape: `[n, k]` for a matrix, `[n]` for a vector.
        shape: Vec<usize>,
        /// `shape.product() * dtype.size()` bytes.
        bytes: Bytes,
    },
    /// 4-bit codes and scales.
    Packed(PackedTensor),
}

impl Weight {
    /// The shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        match self {
            Weight::Dense { shape, .. } => shape,
            Weight::Packed(packed) => &packed.shape,
        }
    }

    /// Bytes it takes in memory.
    pub fn num_bytes(&self) -> usize {
        match self {
            Weight::Dense { bytes, .. } => bytes.len(),
            Weight::Packed(packed) => packed.num_bytes(),
        }
    }
}
