//! The operations a language model needs, as a trait, and their CPU implementation.
//!
//! A model (crate `model`) is written once, over [`Backend`]; a backend owns where weights and activations live. The
//! CPU backend ([`Cpu`]) is the reference that every other backend is compared with: with [`Precision::F32`] it
//! computes in `f32` throughout.

mod ops;
mod sampling;
mod weight;

pub mod cpu;
pub mod reference;

pub use cpu::{Cpu, Precision};
pub use ops::{
    Attention, AttentionParams, Backend, Batch, GatedMlp, KV_BLOCK_SIZE, Moe, Norm, Role,
    SequenceSpan, StepLimits, Storage,
};
pub use quant::Dtype;
pub use sampling::{Draw, Drawn, Draws, argmax, draw, log_sum_exp, mask_words};
pub use weight::{LinearWeight, Weight};

/// Why a backend cannot take a weight or a size.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The weight has another shape than its use asks for.
    #[error("weight has shape {found:?}, expected {expected}")]
    Shape {
        /// The weight's shape.
        found: Vec<usize>,
        /// What was expected, in words.
        expected: &'static str,
    },
    /// The threads could not be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
    /// The device refused, or failed.
    #[error("{0}")]
    Device(String),
    /// A buffer does not fit into memory.
    #[error("cannot allocate {bytes} bytes for {what}; {hint}")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// What to do.
        hint: &'static str,
    },
}
