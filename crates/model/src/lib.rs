//! Reads Hugging Face checkpoints and runs the model families over a backend.

pub mod config;
mod error;
mod weights;

pub use config::{Config, Family, LayerConfig, MoeConfig, RopeScaling};
pub use error::{ErrorKind, ModelError, Result};
pub use weights::{ExpertWeights, LayerWeights, LinearWeights, Mlp, ModelWeights};
