//! The one allocation on the device: planned before it is made, then handed out from front to back, and never grown.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::CudaError;
use crate::driver::{Context, DeviceMemory};

/// Every piece begins at a multiple of this many bytes.
const ALIGNMENT: usize = 256;

/// What a piece of the arena is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Weights,
    KeysAndValues,
    Workspace,
}

/// Bytes of device memory by what they are for. The driver's own context comes on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryPlan {
    /// Weights in the form that kernels read.
    pub weights: usize,
    /// Keys and values of all tokens in the context.
    pub keys_and_values: usize,
    /// Activations of a step, and what kernels need beside them.
    pub workspace: usize,
}

impl MemoryPlan {
    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.keys_and_values + self.workspace
    }

    /// Counts a piece.
    pub(crate) fn add(&mut self, bytes: usize, purpose: Purpose) {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        match purpose {
            Purpose::Weights => self.weights += bytes,
            Purpose::KeysAndValues => self.keys_and_values += bytes,
            Purpose::Workspace => self.workspace += bytes,
        }
    }
}

/// Device memory that is handed out once.
#[derive(Debug)]
pub(crate) struct Arena {
    memory: DeviceMemory,
    used: AtomicUsize,
}

impl Arena {
    /// Allocates what `plan` counted.
    pub(crate) fn new(context: &Context, plan: &MemoryPlan) -> Result<Self, CudaError> {
        let memory = DeviceMemory::alloc(context, plan.total())?;
        Ok(Arena { memory, used: AtomicUsize::new(0) })
    }

    /// The address of the next `bytes`.
    pub(crate) fn take(&self, bytes: usize) -> Result<u64, CudaError> {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let start = self.used.fetch_add(bytes, Ordering::Relaxed);
        if start + bytes > self.memory.len() {
            let doing = format!("taking {bytes} bytes of the planned {}", self.memory.len());
            return Err(CudaError::argument(doing, format!("{start} are in use")));
        }
        Ok(self.memory.ptr() + start as u64)
    }

    /// The last `bytes`, for use while loading: free as long as what was taken does not reach them.
    pub(crate) fn tail(&self, bytes: usize) -> Result<u64, CudaError> {
        let used = self.used.load(Ordering::Relaxed);
        match self.memory.len().checked_sub(bytes) {
            Some(start) if start >= used => {
                Ok(self.memory.ptr() + (start - start % ALIGNMENT) as u64)
            }
            _ => Err(CudaError::argument(
                format!("staging {bytes} bytes while loading"),
                format!("{used} of the planned {} are in use", self.memory.len()),
            )),
        }
    }

    /// All bytes.
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    /// Bytes handed out.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}
