//! The one allocation on the device: planned before it is made, then handed out from front to back, and never grown.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::CudaError;
use crate::driver::{Context, DeviceMemory};

/// Every piece begins at a multiple of this many bytes.
const ALIGNMENT: usize = 256;

/// What a piece of the arena is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Weights(Kind),
    KeysAndValues,
    Workspace,
}

/// Kinds of weights, as [`WeightBytes`] has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Codes,
    Scales,
    Dense,
    LmHead,
    Router,
    Small,
}

/// Bytes of device memory by what they are for. The driver's own context comes on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryPlan {
    /// Weights in the form that kernels read.
    pub weights: WeightBytes,
    /// Keys and values of all tokens in the context.
    pub keys_and_values: usize,
    /// Activations of a step, and what kernels need beside them.
    pub workspace: usize,
    /// Not of the device: page-locked memory of the host, which the embeddings lie in.
    pub host: usize,
}

/// Bytes of weights on the device by kind, padding and alignment included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WeightBytes {
    /// 4-bit codes.
    pub codes: usize,
    /// Scales of the codes, and the scales of those.
    pub scales: usize,
    /// Linear layers in 16 bits.
    pub dense: usize,
    /// The projection to the vocabulary, in whatever form.
    pub lm_head: usize,
    /// Routers of mixtures, in 32 bits.
    pub router: usize,
    /// Norms, biases, rotary frequencies and the tables of 4-bit codes.
    pub small: usize,
    /// How many of all these are in experts: a token reads a part of them.
    pub in_experts: usize,
}

impl WeightBytes {
    /// All of them.
    pub fn total(&self) -> usize {
        self.codes + self.scales + self.dense + self.lm_head + self.router + self.small
    }

    fn of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Codes => &mut self.codes,
            Kind::Scales => &mut self.scales,
            Kind::Dense => &mut self.dense,
            Kind::LmHead => &mut self.lm_head,
            Kind::Router => &mut self.router,
            Kind::Small => &mut self.small,
        }
    }
}

impl MemoryPlan {
    /// All of the device's memory.
    pub fn total(&self) -> usize {
        self.weights.total() + self.keys_and_values + self.workspace
    }

    /// Counts a piece.
    pub(crate) fn add(&mut self, bytes: usize, purpose: Purpose) {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        match purpose {
            Purpose::Weights(kind) => *self.weights.of(kind) += bytes,
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
