//! A weight as it lies in host memory, before a backend takes it.

use bytes::Bytes;
use quant::{Dtype, PackedTensor, Values};

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

    /// All values, row-major: for small weights.
    ///
    /// # Panics
    /// If the bytes do not fit the shape.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Weight::Packed(packed) => packed.dequantize(),
            Weight::Dense { dtype, bytes, .. } => {
                let values = Values::from_le_bytes(*dtype, bytes);
                values.expect("whole elements").iter().collect()
            }
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

/// `y = x @ weight.T + bias`, as it lies in host memory.
#[derive(Debug, Clone)]
pub struct LinearWeight {
    /// `[out_features, in_features]`.
    pub weight: Weight,
    /// `[out_features]`, dense.
    pub bias: Option<Weight>,
}
