//! Devices and their contexts.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sys::{self, Api, CUdevice, Handle, api};
use crate::error::CudaError;

/// Machine code of a 12.x compiler needs a driver of CUDA 12.
const OLDEST: (u32, u32) = (12, 0);

/// Whether there is a driver, new enough for this program. Says nothing about devices.
///
/// # Errors
/// [`CudaError::Library`], [`CudaError::Symbol`] or [`CudaError::OldDriver`].
pub fn probe() -> Result<(), CudaError> {
    let found = version()?;
    if found < OLDEST { Err(CudaError::OldDriver { found, needed: OLDEST }) } else { Ok(()) }
}

/// The newest CUDA version that the driver knows: major, minor.
///
/// # Errors
/// Where there is no driver.
pub fn version() -> Result<(u32, u32), CudaError> {
    let api = api()?;
    let mut version = 0;
    // SAFETY: the driver writes one number.
    let code = unsafe { (api.driver_get_version)(&mut version) };
    api.check(code, "asking for the driver's version")?;
    let version = version.unsigned_abs();
    Ok((version / 1000, version % 1000 / 10))
}

/// What is known of a device without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, as in `cuda:N`.
    pub ordinal: u32,
    /// Its name, as `NVIDIA H200`.
    pub name: String,
    /// Compute capability: major, minor.
    pub compute_capability: (u32, u32),
    /// Bytes of its memory.
    pub total_memory: u64,
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of the L2 cache.
    pub l2_bytes: u64,
    /// Most bytes of shared memory that a block can ask for.
    pub max_shared_per_block_optin: u32,
    /// Its lasting name, as `GPU-12345678-…`.
    pub uuid: String,
}

/// All devices that the driver shows; none is no error.
///
/// # Errors
/// Where there is no driver, or it cannot start.
pub fn devices() -> Result<Vec<DeviceInfo>, CudaError> {
    probe()?;
    let api = api()?;
    (0..count(api)?).map(|ordinal| DeviceInfo::read(api, ordinal)).collect()
}

/// Number of devices; starts the driver.
fn count(api: &Api) -> Result<u32, CudaError> {
    // SAFETY: may be called any number of times.
    match unsafe { (api.init)(0) } {
        sys::NO_DEVICE => return Ok(0),
        code => api.check(code, "starting the driver")?,
    }
    let mut count = 0;
    // SAFETY: the driver writes one number.
    api.check(unsafe { (api.device_get_count)(&mut count) }, "counting the devices")?;
    Ok(count.unsigned_abs())
}

fn device(api: &Api, ordinal: u32) -> Result<CUdevice, CudaError> {
    let mut device = 0;
    // SAFETY: the driver writes one number.
    let code = unsafe { (api.device_get)(&mut device, ordinal.cast_signed()) };
    api.check(code, format_args!("looking for cuda:{ordinal}"))?;
    Ok(device)
}

impl DeviceInfo {
    fn read(api: &Api, ordinal: u32) -> Result<DeviceInfo, CudaError> {
        let device = device(api, ordinal)?;
        let doing = format_args!("asking cuda:{ordinal} what it is");
        let attribute = |attribute: c_int| {
            let mut value = 0;
            // SAFETY: the driver writes one number.
            api.check(unsafe { (api.device_get_attribute)(&mut value, attribute, device) }, doing)?;
            Ok::<u32, CudaError>(value.unsigned_abs())
        };
        let mut name = [0; 256];
        // SAFETY: the driver writes at most 256 bytes, the last a zero.
        api.check(unsafe { (api.device_get_name)(name.as_mut_ptr(), 256, device) }, doing)?;
        let name = name.map(c_char_to_u8);
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy();
        let mut total_memory = 0;
        // SAFETY: the driver writes one number.
        api.check(unsafe { (api.device_total_mem)(&mut total_memory, device) }, doing)?;
        let mut uuid = [0; 16];
        // SAFETY: the driver writes 16 bytes.
        api.check(unsafe { (api.device_get_uuid)(&mut uuid, device) }, doing)?;
        Ok(DeviceInfo {
            ordinal,
            name: name.into_owned(),
            compute_capability: (
                attribute(sys::DEVICE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(sys::DEVICE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            total_memory: total_memory as u64,
            multiprocessors: attribute(sys::DEVICE_MULTIPROCESSOR_COUNT)?,
            l2_bytes: attribute(sys::DEVICE_L2_CACHE_SIZE)?.into(),
            max_shared_per_block_optin: attribute(sys::DEVICE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            uuid: uuid_text(uuid),
        })
    }
}

/// `char` of C has a sign on one machine and none on another.
#[allow(clippy::unnecessary_cast)]
fn c_char_to_u8(c: std::ffi::c_char) -> u8 {
    c as u8
}

/// As `nvidia-smi` writes it.
fn uuid_text(uuid: [u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The primary context of a device: everything else here lives in one. Clones share it.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    api: &'static Api,
    device: CUdevice,
    handle: Handle,
    /// Distinguishes this context from an earlier one at the same address.
    id: u64,
    info: DeviceInfo,
}

// SAFETY: the driver's calls may come from any thread, and from several at once.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

thread_local! {
    /// The id of the context that was last made this thread's; ids begin at 1.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

impl Context {
    /// Opens a device.
    ///
    /// # Errors
    /// Where there is no driver or no such device, or the driver refuses, as when its memory is used up.
    pub fn new(ordinal: u32) -> Result<Context, CudaError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        probe()?;
        let api = api()?;
        let count = count(api)?;
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let device = device(api, ordinal)?;
        let info = DeviceInfo::read(api, ordinal)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the driver writes one pointer; `Inner` releases what is retained here.
        let code = unsafe { (api.primary_ctx_retain)(&mut handle, device) };
        api.check(code, format_args!("opening cuda:{ordinal} ({})", info.name))?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let context = Context(Arc::new(Inner { api, device, handle, id, info }));
        context.bind()?;
        Ok(context)
    }

    /// What is known of the device.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// Makes this context the current one of this thread. Every handle does so by itself.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn bind(&self) -> Result<(), CudaError> {
        if CURRENT.get() == self.0.id {
            return Ok(());
        }
        // SAFETY: the context is open as long as `self`.
        let code = unsafe { (self.0.api.ctx_set_current)(self.0.handle) };
        self.0.api.check(code, format_args!("making {self} the thread's device"))?;
        CURRENT.set(self.0.id);
        Ok(())
    }

    /// Bytes of device memory: free, total.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn mem_info(&self) -> Result<(u64, u64), CudaError> {
        let (mut free, mut total) = (0, 0);
        let api = self.bound()?;
        // SAFETY: the driver writes two numbers.
        let code = unsafe { (api.mem_get_info)(&mut free, &mut total) };
        api.check(code, format_args!("asking {self} for its memory"))?;
        Ok((free as u64, total as u64))
    }

    /// The driver's functions, with this context bound.
    pub(super) fn bound(&self) -> Result<&'static Api, CudaError> {
        self.bind()?;
        Ok(self.0.api)
    }
}

/// `cuda:0`, for messages.
impl std::fmt::Display for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{}", self.0.info.ordinal)
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({self}, {})", self.0.info.name)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: retained once, in `Context::new`. A failure has nobody to tell.
        unsafe { (self.api.primary_ctx_release)(self.device) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_reads_as_in_nvidia_smi() {
        let uuid = std::array::from_fn(|i| i as u8 * 17);
        assert_eq!(uuid_text(uuid), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn without_a_driver_every_way_in_says_so() {
        let Err(error) = probe() else { return };
        assert_eq!(devices().unwrap_err(), error);
        assert_eq!(Context::new(0).unwrap_err(), error);
        assert!(error.to_string().contains("driver"), "{error}");
    }
}
