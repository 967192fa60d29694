//! Streams, the events between them, and the launch of kernels.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr;

use super::context::Context;
use super::module::Function;
use super::sys::{self, Handle, LaunchAttribute, LaunchConfig};
use crate::error::CudaError;

/// A queue of work for the device, which runs in order. Independent of the legacy default stream.
///
/// The contract of all work handed over here: addresses are of live memory of the device (or mapped, of the host), slices
/// stay and are left alone until the work is done. Work that is captured is done with its graph's last replay.
#[derive(Debug)]
pub struct Stream {
    context: Context,
    handle: Handle,
}

// SAFETY: the driver's calls may come from any thread, and from several at once.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory; above 48 KiB only after [`Function::set_max_shared`].
    pub shared: u32,
    /// Programmatic dependent launch: the kernel may start before the one before it has ended, and waits by itself. Left
    /// out where the card has none (before compute capability 9.0).
    pub dependent: bool,
    /// Blocks of a cluster, where there are clusters.
    pub cluster: Option<[u32; 3]>,
}

impl Stream {
    /// A new stream.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn new(context: &Context) -> Result<Stream, CudaError> {
        let api = context.bound()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the driver writes one pointer, which `Drop` destroys.
        let code = unsafe { (api.stream_create)(&mut handle, sys::STREAM_NON_BLOCKING) };
        api.check(code, format_args!("making a stream on {context}"))?;
        Ok(Stream { context: context.clone(), handle })
    }

    /// The device that it belongs to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// Copies to the device: beside the program from [`Pinned`](super::Pinned) memory; from other memory the driver takes
    /// a copy first.
    ///
    /// # Safety
    /// `to` is the address of as many bytes of device memory, and both sides keep the contract of [`Stream`].
    ///
    /// # Errors
    /// Those of the driver, also of earlier work.
    pub unsafe fn copy_to_device(&self, to: u64, from: &[u8]) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        let bytes = from.len();
        // SAFETY: the caller's.
        let code = unsafe { (api.memcpy_htod_async)(to, from.as_ptr().cast(), bytes, self.handle) };
        api.check(code, format_args!("copying {bytes} bytes to {}", self.context))
    }

    /// Copies from the device, beside the program to [`Pinned`](super::Pinned) memory.
    ///
    /// # Safety
    /// `from` is the address of as many bytes of device memory, and both sides keep the contract of [`Stream`].
    ///
    /// # Errors
    /// Those of the driver, also of earlier work.
    pub unsafe fn copy_to_host(&self, to: &mut [u8], from: u64) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        let bytes = to.len();
        // SAFETY: the caller's.
        let code =
            unsafe { (api.memcpy_dtoh_async)(to.as_mut_ptr().cast(), from, bytes, self.handle) };
        api.check(code, format_args!("copying {bytes} bytes from {}", self.context))
    }

    /// Copies within the device.
    ///
    /// # Safety
    /// Both are addresses of `bytes` of device memory that do not overlap, and keep the contract of [`Stream`].
    ///
    /// # Errors
    /// Those of the driver, also of earlier work.
    pub unsafe fn copy_on_device(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        // SAFETY: the caller's.
        let code = unsafe { (api.memcpy_dtod_async)(to, from, bytes, self.handle) };
        api.check(code, format_args!("copying {bytes} bytes on {}", self.context))
    }

    /// Sets `bytes` of device memory to `value`.
    ///
    /// # Safety
    /// `ptr` is the address of as many bytes of device memory, and keeps the contract of [`Stream`].
    ///
    /// # Errors
    /// Those of the driver, also of earlier work.
    pub unsafe fn memset(&self, ptr: u64, value: u8, bytes: usize) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        // SAFETY: the caller's.
        let code = unsafe { (api.memset_d8_async)(ptr, value, bytes, self.handle) };
        api.check(code, format_args!("filling {bytes} bytes on {}", self.context))
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// `params` are those that the kernel declares, in number and type ([`params!`](crate::params)); the kernel, launched
    /// so, stays within memory that keeps the contract of [`Stream`]. `function` is loaded until the work is done.
    ///
    /// # Errors
    /// Those of the driver, also of earlier work.
    pub unsafe fn launch(
        &self,
        function: &Function,
        launch: Launch,
        params: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        let (attributes, num_attributes) = self.attributes(launch);
        let config = LaunchConfig {
            grid: launch.grid,
            block: launch.block,
            shared: launch.shared,
            stream: self.handle,
            attributes: attributes.as_ptr(),
            num_attributes,
        };
        // SAFETY: the configuration lives until the call returns; the rest is the caller's.
        let code = unsafe {
            let no_extra = ptr::null_mut();
            (api.launch_kernel_ex)(&config, function.handle(), params.as_mut_ptr(), no_extra)
        };
        api.check(code, format_args!("launching {} with {launch:?}", function.name()))
    }

    /// The attributes of a launch and how many of them count.
    fn attributes(&self, launch: Launch) -> ([LaunchAttribute; 2], u32) {
        let attribute = |id, value: [u32; 3]| {
            let mut padded = [0; 16];
            padded[..3].copy_from_slice(&value);
            LaunchAttribute { id, pad: 0, value: padded }
        };
        let mut attributes = [attribute(0, [0; 3]); 2];
        let mut count = 0;
        if launch.dependent && self.context.info().compute_capability >= (9, 0) {
            let id = sys::LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes[count] = attribute(id, [1, 0, 0]);
            count += 1;
        }
        if let Some(cluster) = launch.cluster {
            attributes[count] = attribute(sys::LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, cluster);
            count += 1;
        }
        (attributes, count as u32)
    }

    /// Waits until all work handed over so far is done.
    ///
    /// # Errors
    /// Those of the driver, and of the work.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        // SAFETY: the stream lives as long as `self`.
        let code = unsafe { (api.stream_synchronize)(self.handle) };
        api.check(code, format_args!("waiting for {}", self.context))
    }

    /// Lets later work of this stream wait for the event.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn wait_event(&self, event: &Event) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        // SAFETY: both handles live; the driver keeps what it needs of the event.
        let code = unsafe { (api.stream_wait_event)(self.handle, event.handle, 0) };
        api.check(code, format_args!("ordering streams of {}", self.context))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bound() {
            // SAFETY: made in `new`; the driver lets running work end. A failure has nobody to tell.
            unsafe { (api.stream_destroy)(self.handle) };
        }
    }
}

/// A mark in a stream's work, with the time at which it was passed.
#[derive(Debug)]
pub struct Event {
    context: Context,
    handle: Handle,
}

// SAFETY: the driver's calls may come from any thread, and from several at once.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// A new event, not recorded yet.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn new(context: &Context) -> Result<Event, CudaError> {
        let api = context.bound()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the driver writes one pointer, which `Drop` destroys.
        let code = unsafe { (api.event_create)(&mut handle, 0) };
        api.check(code, format_args!("making an event on {context}"))?;
        Ok(Event { context: context.clone(), handle })
    }

    /// Marks the end of the work that `stream` has now.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        // SAFETY: both handles live.
        let code = unsafe { (api.event_record)(self.handle, stream.handle) };
        api.check(code, format_args!("marking work of {}", self.context))
    }

    /// Whether the marked work is done; true before any is marked.
    ///
    /// # Errors
    /// Those of the driver, and of the work.
    pub fn query(&self) -> Result<bool, CudaError> {
        let api = self.context.bound()?;
        // SAFETY: the handle lives.
        match unsafe { (api.event_query)(self.handle) } {
            sys::NOT_READY => Ok(false),
            code => {
                api.check(code, format_args!("asking {} for its work", self.context))?;
                Ok(true)
            }
        }
    }

    /// Waits until the marked work is done.
    ///
    /// # Errors
    /// Those of the driver, and of the work.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        // SAFETY: the handle lives.
        let code = unsafe { (api.event_synchronize)(self.handle) };
        api.check(code, format_args!("waiting for {}", self.context))
    }

    /// Milliseconds from this event to `end`, when both have passed; good to about half a microsecond.
    ///
    /// # Errors
    /// Those of the driver; also where one of them was not recorded, or has not passed.
    pub fn elapsed_ms(&self, end: &Event) -> Result<f32, CudaError> {
        let api = self.context.bound()?;
        let mut ms = 0.0;
        // SAFETY: the driver writes one number; both handles live.
        let code = unsafe { (api.event_elapsed_time)(&mut ms, self.handle, end.handle) };
        api.check(code, format_args!("timing work of {}", self.context))?;
        Ok(ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bound() {
            // SAFETY: made in `new`. A failure has nobody to tell.
            unsafe { (api.event_destroy)(self.handle) };
        }
    }
}
