//! The operations a language model needs, on NVIDIA GPUs, over the driver alone: no library of CUDA's is linked, and the
//! same binary runs where there is no driver.

pub mod driver;
pub mod images;
mod error;

pub use error::CudaError;
