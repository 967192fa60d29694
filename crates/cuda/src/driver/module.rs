//! Images of kernels, loaded into a context.

#![allow(unsafe_code)]

use std::ffi::{CString, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::context::Context;
use super::sys::{self, Handle};
use crate::error::CudaError;

/// Most bytes of what the driver's compiler says about PTX that it refuses.
const LOG_BYTES: usize = 16 << 10;

/// A loaded image: machine code (a cubin), or PTX that the driver compiled.
#[derive(Debug, Clone)]
pub struct Module(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: Context,
    handle: Handle,
}

// SAFETY: the driver's calls may come from any thread, and from several at once.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// A kernel of a module, which it keeps loaded.
#[derive(Debug, Clone)]
pub struct Function {
    module: Module,
    handle: Handle,
    name: Arc<str>,
}

// SAFETY: as a module.
unsafe impl Send for Function {}
// SAFETY: as a module.
unsafe impl Sync for Function {}

/// What a kernel takes of a multiprocessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionAttributes {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of local memory of a thread: its stack, and registers that did not fit.
    pub local_bytes: u32,
    /// Bytes of shared memory of a block, those asked for at launch aside.
    pub shared_bytes: u32,
    /// Most threads of a block.
    pub max_threads: u32,
}

impl Module {
    /// Loads an image: a cubin, or the text of PTX.
    ///
    /// # Errors
    /// [`CudaError::Image`] with the compiler's log, or [`CudaError::Driver`] where it wrote none.
    pub fn load(context: &Context, image: &[u8]) -> Result<Module, CudaError> {
        let api = context.bound()?;
        // The driver wants an aligned cubin, and a zero after PTX.
        let mut aligned = vec![0_u64; image.len() / 8 + 1];
        bytemuck::cast_slice_mut(&mut aligned)[..image.len()].copy_from_slice(image);
        let mut log = vec![0_u8; LOG_BYTES];
        let mut options = [sys::JIT_ERROR_LOG_BUFFER, sys::JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        // The driver takes the second value as a number in the place of a pointer.
        let mut values =
            [log.as_mut_ptr().cast(), ptr::without_provenance_mut::<c_void>(LOG_BYTES)];
        let mut handle = ptr::null_mut();
        // SAFETY: image, options and log live until the call returns; the driver writes at most LOG_BYTES, and one
        // pointer, which `Drop` unloads.
        let code = unsafe {
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            (api.module_load_data_ex)(&mut handle, aligned.as_ptr().cast(), 2, options, values)
        };
        let doing = format_args!("loading {} bytes of kernels on {context}", image.len());
        match api.check(code, doing) {
            Ok(()) => Ok(Module(Arc::new(Inner { context: context.clone(), handle }))),
            Err(refused) => Err(with_log(refused, &log)),
        }
    }

    /// The kernel `name`.
    ///
    /// # Errors
    /// Where the image holds none of that name.
    pub fn function(&self, name: &str) -> Result<Function, CudaError> {
        let api = self.0.context.bound()?;
        let doing = format_args!("looking for the kernel {name}");
        let c_name =
            CString::new(name).map_err(|_| CudaError::argument(doing, "the name holds a zero"))?;
        let mut handle = ptr::null_mut();
        // SAFETY: the name ends in a zero; the driver writes one pointer, which lives as long as the module.
        let code =
            unsafe { (api.module_get_function)(&mut handle, self.0.handle, c_name.as_ptr()) };
        api.check(code, doing)?;
        Ok(Function { module: self.clone(), handle, name: name.into() })
    }
}

fn with_log(refused: CudaError, log: &[u8]) -> CudaError {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
    if log.is_empty() { refused } else { CudaError::Image { refused: Box::new(refused), log } }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bound() {
            // SAFETY: loaded in `load`, and no function is left. A failure has nobody to tell.
            unsafe { (api.module_unload)(self.handle) };
        }
    }
}

impl Function {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// Allows launches with up to `bytes` of dynamic shared memory, where 48 KiB are not enough.
    ///
    /// # Errors
    /// Where the device has less.
    pub fn set_max_shared(&self, bytes: u32) -> Result<(), CudaError> {
        let api = self.module.0.context.bound()?;
        let attribute = sys::FUNC_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function lives as long as its module.
        let code = unsafe { (api.func_set_attribute)(self.handle, attribute, bytes.cast_signed()) };
        api.check(code, format_args!("giving {} {bytes} bytes of shared memory", self.name))
    }

    /// What it takes of a multiprocessor.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn attributes(&self) -> Result<FunctionAttributes, CudaError> {
        Ok(FunctionAttributes {
            registers: self.attribute(sys::FUNC_NUM_REGS)?,
            local_bytes: self.attribute(sys::FUNC_LOCAL_SIZE_BYTES)?,
            shared_bytes: self.attribute(sys::FUNC_SHARED_SIZE_BYTES)?,
            max_threads: self.attribute(sys::FUNC_MAX_THREADS_PER_BLOCK)?,
        })
    }

    fn attribute(&self, attribute: c_int) -> Result<u32, CudaError> {
        let api = self.module.0.context.bound()?;
        let mut value = 0;
        // SAFETY: the driver writes one number; the function lives as long as its module.
        let code = unsafe { (api.func_get_attribute)(&mut value, attribute, self.handle) };
        api.check(code, format_args!("asking what {} takes", self.name))?;
        Ok(value.unsigned_abs())
    }

    /// Blocks of `threads` with `shared` bytes of dynamic shared memory that a multiprocessor holds at once.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn blocks_per_multiprocessor(&self, threads: u32, shared: u32) -> Result<u32, CudaError> {
        let api = self.module.0.context.bound()?;
        let mut blocks = 0;
        // SAFETY: the driver writes one number; the function lives as long as its module.
        let code = unsafe {
            (api.occupancy)(&mut blocks, self.handle, threads.cast_signed(), shared as usize)
        };
        api.check(code, format_args!("asking how many blocks of {} fit", self.name))?;
        Ok(blocks.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_log_is_kept() {
        let refused = CudaError::argument("loading", "no");
        assert_eq!(with_log(refused.clone(), &[0; 4]), refused);
        let error = with_log(refused, b"ptxas: line 3\n\0\0");
        assert_eq!(error.to_string(), "loading: no; the compiler says: ptxas: line 3");
    }
}
