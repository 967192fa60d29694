//! The driver, asked through its own library: the way that every computation takes.

use cuda::CudaError;
use cuda::driver::{self, Context, DeviceInfo};
use cuda::images;

use super::super::facts::{Cuda, CudaDevice, DriverError};
use super::os;

pub(super) fn probe() -> Cuda {
    let version = driver::version();
    let devices = driver::devices();
    let error = version.as_ref().err().or(devices.as_ref().err()).map(error);
    Cuda {
        cuda_version: version.ok(),
        library: library(),
        error,
        devices: devices.unwrap_or_default().into_iter().map(device).collect(),
    }
}

/// The file that was loaded as the driver's library.
fn library() -> Option<String> {
    let maps = os::text("/proc/self/maps")?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let mut paths = paths
        .filter(|path| path.rsplit('/').next().is_some_and(|name| name.starts_with("libcuda.so")));
    paths.next().map(str::to_owned)
}

fn device(info: DeviceInfo) -> CudaDevice {
    let image = images::choose(info.compute_capability, false).map(|choice| choice.target());
    let opened = Context::new(info.ordinal).and_then(|context| context.mem_info());
    CudaDevice {
        ordinal: info.ordinal,
        name: info.name,
        uuid: info.uuid,
        compute_capability: info.compute_capability,
        total_memory: info.total_memory,
        multiprocessors: info.multiprocessors,
        l2_bytes: info.l2_bytes,
        free_memory: opened.as_ref().ok().map(|(free, _)| *free),
        error: opened.as_ref().err().map(error),
        kernels: image.as_ref().ok().map(ToString::to_string),
        kernels_are_ptx: image.as_ref().is_ok_and(images::Target::is_ptx),
        no_kernels: image.err().map(|error| error.to_string()),
    }
}

fn error(error: &CudaError) -> DriverError {
    DriverError {
        no_library: matches!(error, CudaError::Library { .. }),
        code: match error {
            CudaError::Driver { code, .. } => Some(*code),
            _ => None,
        },
        message: error.to_string(),
    }
}
