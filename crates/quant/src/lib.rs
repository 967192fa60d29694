//! The 4-bit formats of bitsandbytes, NF4 and FP4, in both directions.
//!
//! Pure functions over slices: no I/O, no device, no threads. A weight of shape `[n, k]` is quantized over its flat,
//! row-major index in blocks of `blocksize` elements. Two elements share a byte, the even one in the high nibble. A
//! block's scale (`absmax`) is an `f32`, or, with double quantization, an 8-bit code of its own.
//!
//! ```
//! use quant::{QuantConfig, quantize};
//!
//! let weights = vec![0.5f32, -1.0, 0.25, 0.0];
//! let tensor = quantize(&weights, &[2, 2], QuantConfig { double_quant: false, ..Default::default() })?;
//! assert_eq!(tensor.dequantize()[1], -1.0);
//! # Ok::<(), quant::QuantError>(())
//! ```
//!
//! The reference is bitsandbytes 0.50.2: its default operators, in `f32`. Whatever the instruction set, the same bytes
//! give the same bits (`tests/bitsandbytes.rs`).

mod code;
mod packed;
mod values;
mod quantize;
mod nested;
mod dequantize;
mod simd;

pub use code::QuantType;
pub use nested::dynamic_map;
pub use packed::{Absmax, NESTED_BLOCKSIZE, PackedTensor, check_blocksize};
pub use quantize::{QuantConfig, quantize, quantize_into, quantize_into_with};
pub use simd::Isa;
pub use values::{Dtype, Values};

/// What can be wrong with a 4-bit tensor or with the values to be quantized.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// The blocksize is not a power of two within 32…4096.
    #[error("blocksize {0} is not one of 32, 64, 128, 256, 512, 1024, 2048, 4096")]
    Blocksize(usize),
    /// The dimensions multiply to more elements than can be counted.
    #[error("shape {0:?} has too many elements")]
    Shape(Vec<usize>),
    /// An array of the format has another length than the shape asks for.
    #[error("{what} holds {found} elements, expected {expected}")]
    Length {
        /// Which array.
        what: &'static str,
        /// Its length, in elements.
        found: usize,
        /// The length that the shape and blocksize ask for.
        expected: usize,
    },
    /// A scale is NaN or infinite.
    #[error("{what}[{index}] is {value}, not a finite scale")]
    Scale {
        /// Which array.
        what: &'static str,
        /// Index into it.
        index: usize,
        /// The offending value.
        value: f32,
    },
    /// A value to be quantized is NaN or infinite.
    #[error("value [{index}] is {value}; only finite values can be quantized")]
    NotFinite {
        /// Flat index of the value.
        index: usize,
        /// The value.
        value: f32,
    },
}
