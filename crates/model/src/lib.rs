//! Reads Hugging Face checkpoints and runs the model families over a backend.

pub mod config;
pub mod files;
pub mod safetensors;
pub mod checkpoint;
pub mod bitsandbytes;
mod weights;
mod layout;
mod loader;
mod policy;
mod pack;
mod error;

pub use checkpoint::Checkpoint;
pub use config::{Config, Family, LayerConfig, MoeConfig, RopeScaling};
pub use error::{ErrorKind, ModelError, Result};
pub use loader::WeightLoader;
pub use policy::QuantizePolicy;
pub use weights::{ExpertWeights, LayerWeights, LinearWeights, Mlp, ModelWeights};
