//! Reads Hugging Face checkpoints and runs the model families over a backend.

pub mod config;
pub mod files;
pub mod safetensors;
pub mod checkpoint;
pub mod bitsandbytes;
mod weights;
mod layout;
mod loader;
mod outline;
mod policy;
mod pack;
mod rope;
mod transformer;
pub mod tokenizer;
mod token_text;
pub mod chat_template;
pub mod generation_config;
mod special_tokens;
pub mod quantize;
pub mod locate;
mod error;

pub use chat_template::{Chat, ChatTemplate};
pub use checkpoint::Checkpoint;
pub use config::{Config, Family, LayerConfig, MoeConfig, RopeScaling};
pub use error::{ErrorKind, ModelError, Result};
pub use files::Files;
pub use generation_config::GenerationConfig;
pub use loader::WeightLoader;
pub use policy::QuantizePolicy;
pub use rope::inv_freq;
pub use token_text::TokenText;
pub use tokenizer::{DecodeStream, Tokenizer};
pub use transformer::{Transformer, Workspace};
pub use weights::{ExpertWeights, LayerWeights, LinearWeights, Mlp, ModelWeights};
