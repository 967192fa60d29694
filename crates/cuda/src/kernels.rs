//! The compiled kernels of the card at hand, found by file and name.

use std::collections::HashMap;
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
    functions: HashMap<String, Arc<Function>>,
    /// Dynamic shared memory that a kernel was given leave to take.
    shared: HashMap<String, u32>,
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

    /// Whether the image holds the kernels of `file`.
    pub(crate) fn has(&self, file: &str) -> bool {
        self.choice.image(file).is_some()
    }

    /// The kernel `name` of `file`.
    pub(crate) fn get(&self, file: &'static str, name: &str) -> Result<Arc<Function>, CudaError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(name) {
            return Ok(function.clone());
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
        let function = Arc::new(loaded.modules[file].function(name)?);
        loaded.functions.insert(name.to_owned(), function.clone());
        Ok(function)
    }

    /// The same, with leave to take so many bytes of dynamic shared memory.
    pub(crate) fn with_shared(
        &self,
        file: &'static str,
        name: &str,
        bytes: u32,
    ) -> Result<Arc<Function>, CudaError> {
        /// What every kernel may take.
        const WITHOUT_LEAVE: u32 = 48 << 10;
        let function = self.get(file, name)?;
        if bytes > WITHOUT_LEAVE {
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            let allowed = loaded.shared.get(name).copied().unwrap_or(WITHOUT_LEAVE);
            if bytes > allowed {
                function.set_max_shared(bytes)?;
                loaded.shared.insert(name.to_owned(), bytes);
            }
        }
        Ok(function)
    }
}
