//! A thin layer over NVIDIA's driver: handles that free what they hold, errors that say what was tried.
//!
//! Device memory is an address (`u64`), as in the driver. Handing one to a copy or a kernel is `unsafe`, and everything
//! else here is safe: a handle keeps alive what it needs, and makes its context the thread's before it calls the driver.

mod sys;
mod context;
mod memory;
mod stream;
mod module;
mod graph;

pub use context::{Context, DeviceInfo, devices, probe, version};
pub use graph::{Graph, GraphExec};
pub use memory::{DeviceMemory, Pinned};
pub use module::{Function, FunctionAttributes, Module};
pub use stream::{Event, Launch, Stream};

/// The parameters of a kernel as [`Stream::launch`] takes them: `params![&address, &rows]`.
///
/// Each is a reference to a value of exactly the type that the kernel declares, and must outlive the call.
#[macro_export]
macro_rules! params {
    ($($parameter:expr),* $(,)?) => {
        &mut [$(::std::ptr::from_ref($parameter).cast_mut().cast::<::std::ffi::c_void>()),*]
    };
}
