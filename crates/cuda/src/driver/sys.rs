//! The functions of `libcuda.so.1` that are used here, found when the first of them is needed: the program starts, and
//! says what is missing, on machines without a driver. The only foreign functions of this crate.
//!
//! Names, constants and types are those of CUDA's `cuda.h`. Codes stay numbers: a driver may answer with one that is
//! younger than this program.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Display;
use std::ptr;
use std::sync::OnceLock;

use crate::error::{CudaError, hint};

pub(super) type CUresult = u32;
pub(super) type CUdevice = c_int;
pub(super) type CUdeviceptr = u64;
/// Contexts, streams, events, modules, functions and graphs are all opaque pointers.
pub(super) type Handle = *mut c_void;

pub(super) const SUCCESS: CUresult = 0;
pub(super) const NO_DEVICE: CUresult = 100;
pub(super) const NOT_READY: CUresult = 600;

pub(super) const DEVICE_MULTIPROCESSOR_COUNT: c_int = 16;
pub(super) const DEVICE_L2_CACHE_SIZE: c_int = 38;
pub(super) const DEVICE_COMPUTE_CAPABILITY_MAJOR: c_int = 75;
pub(super) const DEVICE_COMPUTE_CAPABILITY_MINOR: c_int = 76;
pub(super) const DEVICE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: c_int = 97;

pub(super) const FUNC_MAX_THREADS_PER_BLOCK: c_int = 0;
pub(super) const FUNC_SHARED_SIZE_BYTES: c_int = 1;
pub(super) const FUNC_LOCAL_SIZE_BYTES: c_int = 3;
pub(super) const FUNC_NUM_REGS: c_int = 4;
pub(super) const FUNC_MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;

pub(super) const MEMHOSTALLOC_PORTABLE: c_uint = 1;
pub(super) const MEMHOSTALLOC_DEVICEMAP: c_uint = 2;
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
pub(super) const STREAM_CAPTURE_MODE_THREAD_LOCAL: c_int = 1;

pub(super) const JIT_ERROR_LOG_BUFFER: c_int = 5;
pub(super) const JIT_ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;

pub(super) const LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION: c_uint = 4;
pub(super) const LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: c_uint = 6;

/// `CUlaunchAttribute`: its value is a union of 64 bytes, of which we use the first words only.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct LaunchAttribute {
    pub(super) id: c_uint,
    pub(super) pad: u32,
    pub(super) value: [u32; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
pub(super) struct LaunchConfig {
    pub(super) grid: [c_uint; 3],
    pub(super) block: [c_uint; 3],
    pub(super) shared: c_uint,
    pub(super) stream: Handle,
    pub(super) attributes: *const LaunchAttribute,
    pub(super) num_attributes: c_uint,
}

const _: () = assert!(size_of::<LaunchAttribute>() == 72 && size_of::<LaunchConfig>() == 56);

/// Declares the functions, and how the library's symbols become them.
macro_rules! functions {
    ($($name:ident: $symbol:literal ($($parameter:ty),*);)*) => {
        /// The driver's functions.
        pub(super) struct Api {
            $(pub(super) $name: unsafe extern "C" fn($($parameter),*) -> CUresult,)*
        }

        impl Api {
            fn load(library: &Library) -> Result<Api, CudaError> {
                Ok(Api {
                    $($name: {
                        let symbol = library.symbol($symbol)?;
                        // SAFETY: the symbol is a function with the signature that `cuda.h` gives it, written above.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($parameter),*) -> CUresult>(symbol) }
                    },)*
                })
            }
        }
    };
}

functions! {
    get_error_name: c"cuGetErrorName" (CUresult, *mut *const c_char);
    get_error_string: c"cuGetErrorString" (CUresult, *mut *const c_char);
    init: c"cuInit" (c_uint);
    driver_get_version: c"cuDriverGetVersion" (*mut c_int);
    device_get_count: c"cuDeviceGetCount" (*mut c_int);
    device_get: c"cuDeviceGet" (*mut CUdevice, c_int);
    device_get_name: c"cuDeviceGetName" (*mut c_char, c_int, CUdevice);
    device_get_uuid: c"cuDeviceGetUuid_v2" (*mut [u8; 16], CUdevice);
    device_total_mem: c"cuDeviceTotalMem_v2" (*mut usize, CUdevice);
    device_get_attribute: c"cuDeviceGetAttribute" (*mut c_int, c_int, CUdevice);
    primary_ctx_retain: c"cuDevicePrimaryCtxRetain" (*mut Handle, CUdevice);
    primary_ctx_release: c"cuDevicePrimaryCtxRelease_v2" (CUdevice);
    ctx_set_current: c"cuCtxSetCurrent" (Handle);
    mem_get_info: c"cuMemGetInfo_v2" (*mut usize, *mut usize);
    mem_alloc: c"cuMemAlloc_v2" (*mut CUdeviceptr, usize);
    mem_free: c"cuMemFree_v2" (CUdeviceptr);
    mem_host_alloc: c"cuMemHostAlloc" (*mut *mut c_void, usize, c_uint);
    mem_free_host: c"cuMemFreeHost" (*mut c_void);
    mem_host_get_device_pointer: c"cuMemHostGetDevicePointer_v2" (*mut CUdeviceptr, *mut c_void, c_uint);
    memcpy_htod_async: c"cuMemcpyHtoDAsync_v2" (CUdeviceptr, *const c_void, usize, Handle);
    memcpy_dtoh_async: c"cuMemcpyDtoHAsync_v2" (*mut c_void, CUdeviceptr, usize, Handle);
    memcpy_dtod_async: c"cuMemcpyDtoDAsync_v2" (CUdeviceptr, CUdeviceptr, usize, Handle);
    memset_d8_async: c"cuMemsetD8Async" (CUdeviceptr, u8, usize, Handle);
    stream_create: c"cuStreamCreate" (*mut Handle, c_uint);
    stream_destroy: c"cuStreamDestroy_v2" (Handle);
    stream_synchronize: c"cuStreamSynchronize" (Handle);
    stream_wait_event: c"cuStreamWaitEvent" (Handle, Handle, c_uint);
    stream_begin_capture: c"cuStreamBeginCapture_v2" (Handle, c_int);
    stream_end_capture: c"cuStreamEndCapture" (Handle, *mut Handle);
    event_create: c"cuEventCreate" (*mut Handle, c_uint);
    event_destroy: c"cuEventDestroy_v2" (Handle);
    event_record: c"cuEventRecord" (Handle, Handle);
    event_query: c"cuEventQuery" (Handle);
    event_synchronize: c"cuEventSynchronize" (Handle);
    event_elapsed_time: c"cuEventElapsedTime" (*mut f32, Handle, Handle);
    module_load_data_ex: c"cuModuleLoadDataEx" (*mut Handle, *const c_void, c_uint, *mut c_int, *mut *mut c_void);
    module_unload: c"cuModuleUnload" (Handle);
    module_get_function: c"cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    func_get_attribute: c"cuFuncGetAttribute" (*mut c_int, c_int, Handle);
    func_set_attribute: c"cuFuncSetAttribute" (Handle, c_int, c_int);
    occupancy: c"cuOccupancyMaxActiveBlocksPerMultiprocessor" (*mut c_int, Handle, c_int, usize);
    launch_kernel_ex: c"cuLaunchKernelEx" (*const LaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
    graph_instantiate: c"cuGraphInstantiateWithFlags" (*mut Handle, Handle, u64);
    graph_launch: c"cuGraphLaunch" (Handle, Handle);
    graph_upload: c"cuGraphUpload" (Handle, Handle);
    graph_destroy: c"cuGraphDestroy" (Handle);
    graph_exec_destroy: c"cuGraphExecDestroy" (Handle);
}

/// The driver's functions, loaded by the first call.
pub(super) fn api() -> Result<&'static Api, CudaError> {
    static API: OnceLock<Result<Api, CudaError>> = OnceLock::new();
    let api = API.get_or_init(|| Api::load(&Library::open(c"libcuda.so.1")?));
    api.as_ref().map_err(Clone::clone)
}

impl Api {
    /// Turns a code into an error that says what was being done.
    pub(super) fn check(&self, code: CUresult, doing: impl Display) -> Result<(), CudaError> {
        if code == SUCCESS { Ok(()) } else { Err(self.error(code, doing)) }
    }

    #[cold]
    fn error(&self, code: CUresult, doing: impl Display) -> CudaError {
        let text = |get: unsafe extern "C" fn(CUresult, *mut *const c_char) -> CUresult| {
            let mut text = ptr::null();
            // SAFETY: the driver writes a pointer to a text that lives as long as the library, or null.
            let code = unsafe { get(code, &mut text) };
            (code == SUCCESS && !text.is_null()).then(|| {
                // SAFETY: as above, and it ends in a zero.
                unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
            })
        };
        CudaError::Driver {
            doing: doing.to_string(),
            code,
            name: text(self.get_error_name).unwrap_or_else(|| format!("error {code}")),
            text: text(self.get_error_string)
                .unwrap_or_else(|| "the driver has no text for it".into()),
            hint: hint(code),
        }
    }
}

/// A shared library; it is never closed.
struct Library(*mut c_void);

#[cfg(unix)]
mod loader {
    use std::ffi::{c_char, c_int, c_void};

    pub(super) const NOW: c_int = 2;

    unsafe extern "C" {
        pub(super) fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
        pub(super) fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
        pub(super) fn dlerror() -> *const c_char;
    }
}

#[cfg(unix)]
impl Library {
    fn open(name: &CStr) -> Result<Library, CudaError> {
        // SAFETY: a name that ends in a zero; the driver's constructors may run anywhere.
        let library = unsafe { loader::dlopen(name.as_ptr(), loader::NOW) };
        if !library.is_null() {
            return Ok(Library(library));
        }
        // SAFETY: the text is this thread's until its next call of the loader.
        let reason = unsafe {
            let text = loader::dlerror();
            if text.is_null() { c"no reason given" } else { CStr::from_ptr(text) }
        };
        Err(CudaError::Library { reason: reason.to_string_lossy().into_owned() })
    }

    fn symbol(&self, name: &'static CStr) -> Result<*mut c_void, CudaError> {
        // SAFETY: the library is open, the name ends in a zero.
        let symbol = unsafe { loader::dlsym(self.0, name.as_ptr()) };
        let name = name.to_str().unwrap_or_default();
        if symbol.is_null() { Err(CudaError::Symbol { name }) } else { Ok(symbol) }
    }
}

#[cfg(not(unix))]
impl Library {
    fn open(_name: &CStr) -> Result<Library, CudaError> {
        Err(CudaError::Library { reason: "not known how to on this system".into() })
    }

    fn symbol(&self, name: &'static CStr) -> Result<*mut c_void, CudaError> {
        Err(CudaError::Symbol { name: name.to_str().unwrap_or_default() })
    }
}
