//! Memory of the device, and memory of the host that the device can reach.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::{ptr, slice};

use super::context::Context;
use super::sys::{self, CUdeviceptr};
use crate::error::CudaError;

/// A piece of device memory, freed when dropped. Its bytes are not initialised.
#[derive(Debug)]
pub struct DeviceMemory {
    context: Context,
    ptr: CUdeviceptr,
    len: usize,
}

impl DeviceMemory {
    /// Allocates `bytes`, aligned to 256 at least. None is no allocation, at address 0.
    ///
    /// # Errors
    /// [`CudaError::is_out_of_memory`] where it does not fit.
    pub fn alloc(context: &Context, bytes: usize) -> Result<DeviceMemory, CudaError> {
        let api = context.bound()?;
        let mut ptr = 0;
        if bytes > 0 {
            // SAFETY: the driver writes one address, which `Drop` frees.
            let code = unsafe { (api.mem_alloc)(&mut ptr, bytes) };
            api.check(code, format_args!("allocating {bytes} bytes on {context}"))?;
        }
        Ok(DeviceMemory { context: context.clone(), ptr, len: bytes })
    }

    /// The address of the first byte.
    pub fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let (Ok(api), true) = (self.context.bound(), self.len > 0) {
            // SAFETY: allocated in `alloc`; the driver waits for the work that uses it. A failure has nobody to tell.
            unsafe { (api.mem_free)(self.ptr) };
        }
    }
}

/// Page-locked memory of the host: copies from and to it run beside the program, and kernels can read it.
#[derive(Debug)]
pub struct Pinned {
    context: Context,
    start: *mut u8,
    len: usize,
}

// SAFETY: plain memory, owned.
unsafe impl Send for Pinned {}
// SAFETY: shared access reads only.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Allocates `bytes`, aligned to a page. What they hold is not defined.
    ///
    /// # Errors
    /// Where the system cannot lock so many, as under `ulimit -l` in a container.
    pub fn alloc(context: &Context, bytes: usize) -> Result<Pinned, CudaError> {
        let api = context.bound()?;
        let mut start = ptr::null_mut();
        let flags = sys::MEMHOSTALLOC_PORTABLE | sys::MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: the driver writes one pointer, which `Drop` frees. No allocation is empty.
        let code = unsafe { (api.mem_host_alloc)(&mut start, bytes.max(1), flags) };
        api.check(code, format_args!("locking {bytes} bytes of the host's memory"))?;
        Ok(Pinned { context: context.clone(), start: start.cast(), len: bytes })
    }

    /// The address of the first byte for kernels.
    ///
    /// # Errors
    /// Where the device cannot reach the host's memory.
    pub fn device_ptr(&self) -> Result<u64, CudaError> {
        let api = self.context.bound()?;
        let mut ptr = 0;
        // SAFETY: the memory was allocated with the flag that maps it.
        let code =
            unsafe { (api.mem_host_get_device_pointer)(&mut ptr, self.start.cast::<c_void>(), 0) };
        api.check(
            code,
            format_args!("mapping {} bytes of the host's memory on {}", self.len, self.context),
        )?;
        Ok(ptr)
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes at `start` are ours. Whoever lets the device write them answers for when (see `Stream`).
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed for writing.
        unsafe { slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bound() {
            // SAFETY: allocated in `alloc`. A failure has nobody to tell.
            unsafe { (api.mem_free_host)(self.start.cast()) };
        }
    }
}
