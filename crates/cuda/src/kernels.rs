//! The compiled kernels of the card at hand, found by file and name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::CudaError;
use crate::driver::{Context, Function, Module};
use crate::images::{self, Choice};

/// Modules are loaded when the first kernel of theirs is asked for.
#[derive(Debug)]
pub(crate) struct Kernels {
    context: Context,
    choice: Choice,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    modules: HashMap<&'static str, Module>,
    kernels: HashMap<String, Arc<Kernel>>,
}

/// A kernel, and what it was compiled for.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) function: Function,
    /// Threads of a block: its `__launch_bounds__`.
    pub(crate) threads: u32,
    /// Bytes of shared memory that it takes by itself.
    pub(crate) static_shared: u32,
    /// Bytes of dynamic shared memory that it may take.
    allowed: AtomicU32,
}

impl Kernel {
    /// What every kernel may take, in bytes.
    const WITHOUT_LEAVE: u32 = 48 << 10;

    fn new(function: Function) -> Result<Self, CudaError> {
        let attributes = function.attributes()?;
        Ok(Kernel {
            function,
            threads: attributes.max_threads,
            static_shared: attributes.shared_bytes,
            allowed: AtomicU32::new(
                Self::WITHOUT_LEAVE - attributes.shared_bytes.min(Self::WITHOUT_LEAVE),
            ),
        })
    }

    /// Gives leave to take so many bytes of dynamic shared memory.
    pub(crate) fn allow_shared(&self, bytes: u32) -> Result<(), CudaError> {
        if bytes > self.allowed.load(Ordering::Relaxed) {
            self.function.set_max_shared(bytes)?;
            self.allowed.store(bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Kernels {
    /// Chooses the images for a card.
    pub(crate) fn new(context: &Context) -> Result<Self, CudaError> {
        let choice = images::choose(context.info().compute_capability, false)?;
        Ok(Kernels { context: context.clone(), choice, loaded: Mutex::default() })
    }

    /// Which images were chosen.
    pub(crate) fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Whether the kernels are compiled for compute capability 9.0 or later: only those know clusters, and wait for the
    /// kernel before them.
    pub(crate) fn are_dependent(&self) -> bool {
        self.choice.target().architecture() >= 90
    }

    /// Whether the image holds the kernels of `file`.
    pub(crate) fn has(&self, file: &str) -> bool {
        self.choice.image(file).is_some()
    }

    /// The kernel `name` of `file`.
    pub(crate) fn get(&self, file: &'static str, name: &str) -> Result<Arc<Kernel>, CudaError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = loaded.kernels.get(name) {
            return Ok(kernel.clone());
        }
        if !loaded.modules.contains_key(file) {
            let image = self.choice.image(file).ok_or_else(|| {
                CudaError::argument(
                    format!("loading the kernels of {file}"),
                    format!("the image for {} does not hold them", self.choice.target()),
                )
            })?;
            let module = Module::load(&self.context, &image.bytes()?)?;
            loaded.modules.insert(file, module);
        }
        let kernel = Arc::new(Kernel::new(loaded.modules[file].function(name)?)?);
        loaded.kernels.insert(name.to_owned(), kernel.clone());
        Ok(kernel)
    }
}
