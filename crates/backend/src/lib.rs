//! The operations a language model needs, as a trait, and their CPU implementation.

mod weight;

pub use weight::{Dtype, Weight};
