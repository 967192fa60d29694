//! How kernels are launched.

use std::ffi::c_void;

use crate::CudaError;
use crate::backend::Cuda;
use crate::driver::Launch;

impl Cuda {
    /// Launches a kernel of `file` behind the last one; it may start while that one ends.
    pub(super) fn launch(
        &mut self,
        file: &'static str,
        name: &str,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        let function = self.kernels.with_shared(file, name, shared)?;
        let launch =
            Launch { grid, block: [block, 1, 1], shared, dependent: self.overlap, cluster: None };
        self.overlap = true;
        // SAFETY: each caller gives the parameters of the kernel's declaration; addresses are of the arena, and the rows
        // and columns are within what it was planned for.
        unsafe { self.stream.launch(&function, launch, params) }
    }

    /// A kernel of `layer` that takes a row a block.
    pub(super) fn rows_kernel(
        &mut self,
        name: &str,
        rows: u32,
        params: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        self.launch("layer", name, [rows, 1, 1], 256, 0, params)
    }

    /// Multiprocessors of the card.
    pub(super) fn multiprocessors(&self) -> u32 {
        self.device().multiprocessors
    }

    /// Addresses beside the model's buffers.
    pub(super) fn scratch(&self) -> Result<crate::scratch::Scratch, CudaError> {
        let scratch = self.scratch.get().copied();
        scratch.ok_or_else(|| CudaError::argument("running a step", "no model has been loaded"))
    }
}
