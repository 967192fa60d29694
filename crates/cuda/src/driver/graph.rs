//! Work recorded once and replayed.

#![allow(unsafe_code)]

use std::ptr;

use super::context::Context;
use super::stream::Stream;
use super::sys::{self, Handle};
use crate::error::CudaError;

/// Recorded work.
#[derive(Debug)]
pub struct Graph {
    context: Context,
    handle: Handle,
}

/// Recorded work, made ready to run.
#[derive(Debug)]
pub struct GraphExec {
    context: Context,
    handle: Handle,
}

// SAFETY: a graph may be used by any thread, by one at a time.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Send for GraphExec {}

impl Stream {
    /// From here to [`end_capture`](Stream::end_capture), by this thread, work of this stream is recorded and not done.
    ///
    /// # Errors
    /// Where the stream is recording already.
    pub fn begin_capture(&self) -> Result<(), CudaError> {
        let api = self.context().bound()?;
        // SAFETY: the stream lives.
        let code = unsafe {
            (api.stream_begin_capture)(self.handle(), sys::STREAM_CAPTURE_MODE_THREAD_LOCAL)
        };
        api.check(code, format_args!("recording work of {}", self.context()))
    }

    /// The work recorded since [`begin_capture`](Stream::begin_capture).
    ///
    /// # Errors
    /// Where none was being recorded, or something in between cannot be.
    pub fn end_capture(&self) -> Result<Graph, CudaError> {
        let api = self.context().bound()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the driver writes one pointer, which `Drop` destroys.
        let code = unsafe { (api.stream_end_capture)(self.handle(), &mut handle) };
        let doing = format_args!("ending the record of {}", self.context());
        api.check(code, doing)?;
        if handle.is_null() {
            return Err(CudaError::argument(doing, "it was broken off"));
        }
        Ok(Graph { context: self.context().clone(), handle })
    }
}

impl Graph {
    /// Makes the work ready to run.
    ///
    /// # Errors
    /// Those of the driver, as when memory is used up.
    pub fn instantiate(&self) -> Result<GraphExec, CudaError> {
        let api = self.context.bound()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the graph lives; the driver writes one pointer, which `Drop` destroys.
        let code = unsafe { (api.graph_instantiate)(&mut handle, self.handle, 0) };
        api.check(code, format_args!("making a graph ready on {}", self.context))?;
        Ok(GraphExec { context: self.context.clone(), handle })
    }
}

impl GraphExec {
    /// Runs the work in `stream`. A run begins when the one before it has ended. That memory and kernels still are where
    /// they were is part of the contract of [`Stream`], agreed to when the work was recorded.
    ///
    /// # Errors
    /// Those of the driver, also of earlier work.
    pub fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        // SAFETY: both handles live; see above for what the work touches.
        let code = unsafe { (api.graph_launch)(self.handle, stream.handle()) };
        api.check(code, format_args!("replaying a graph on {}", self.context))
    }

    /// Brings the graph to the device, so that its first run does not have to.
    ///
    /// # Errors
    /// Those of the driver, also of earlier work.
    pub fn upload(&self, stream: &Stream) -> Result<(), CudaError> {
        let api = self.context.bound()?;
        // SAFETY: both handles live.
        let code = unsafe { (api.graph_upload)(self.handle, stream.handle()) };
        api.check(code, format_args!("uploading a graph to {}", self.context))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bound() {
            // SAFETY: made by `end_capture`. A failure has nobody to tell.
            unsafe { (api.graph_destroy)(self.handle) };
        }
    }
}

impl Drop for GraphExec {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bound() {
            // SAFETY: made by `instantiate`; a running one ends first. A failure has nobody to tell.
            unsafe { (api.graph_exec_destroy)(self.handle) };
        }
    }
}
