//! How kernels are launched.

use std::ffi::c_void;

use crate::CudaError;
use crate::backend::Cuda;
use crate::driver::Launch;
use crate::scratch::FEW;

/// Dynamic shared memory of a block.
#[derive(Clone, Copy)]
pub(super) enum Shared {
    /// So many bytes.
    Bytes(u32),
    /// All that a block may have.
    All,
}

impl Shared {
    pub(super) const NONE: Shared = Shared::Bytes(0);
}

impl Cuda {
    /// Launches a kernel of `file` behind the last one, with as many threads to a block as it is compiled for; it may start
    /// while the last one ends.
    pub(super) fn launch(
        &mut self,
        file: &'static str,
        name: &str,
        grid: [u32; 3],
        shared: Shared,
        params: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        self.launch_clusters(file, name, grid, None, shared, params)
    }

    /// The same in clusters of blocks.
    pub(super) fn launch_clusters(
        &mut self,
        file: &'static str,
        name: &str,
        grid: [u32; 3],
        cluster: Option<[u32; 3]>,
        shared: Shared,
        params: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        let kernel = self.kernels.get(file, name)?;
        let shared = match shared {
            Shared::Bytes(bytes) => bytes,
            Shared::All => self.device().max_shared_per_block_optin - kernel.static_shared,
        };
        kernel.allow_shared(shared)?;
        let block = [kernel.threads, 1, 1];
        let dependent = self.overlap && self.kernels.are_dependent();
        let launch = Launch { grid, block, shared, dependent, cluster };
        self.overlap = true;
        // SAFETY: each caller gives the parameters of the kernel's declaration; addresses are of the arena, and the rows
        // and columns are within what it was planned for.
        unsafe { self.stream.launch(&kernel.function, launch, params) }
    }

    /// A kernel of `layer` that takes a row a block.
    pub(super) fn rows_kernel(
        &mut self,
        name: &str,
        rows: u32,
        params: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        self.launch("layer", name, [rows, 1, 1], Shared::NONE, params)
    }

    /// Most rows that go to the kernels for few: they keep the activations in shared memory, of which cards have 99 to
    /// 227 KB a block.
    pub(super) fn few(&self) -> usize {
        match self.device().max_shared_per_block_optin >> 10 {
            200.. => FEW,
            150.. => FEW / 2,
            _ => FEW / 4,
        }
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
