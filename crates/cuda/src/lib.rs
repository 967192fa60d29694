//! The operations a language model needs, on NVIDIA GPUs, over the driver alone: no library of CUDA's is linked, and the
//! same binary runs where there is no driver.

pub mod driver;
pub mod images;
mod error;
mod kernels;
mod params;
mod codes;
mod arena;
mod layout;
mod loader;
mod matrix;
mod buffer;
mod kv;
mod scratch;
mod planner;
mod backend;
mod step;
mod draws;
mod ops;
mod measure;

pub use self::backend::{Cuda, Options};
pub use arena::{MemoryPlan, WeightBytes};
pub use error::CudaError;
pub use measure::{Ceilings, ceilings};
pub use planner::Planner;
