//! Names a device and opens it. Nothing outside this file knows which devices there are.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::Result;
use backend::{Cpu, Precision};

use crate::args::{DeviceArgs, DeviceChoice, KvChoice, PrecisionChoice};
use crate::gpu::Gpu;
use crate::output::{self, CliError};

/// A device that can be used.
pub(crate) enum Device {
    /// This processor.
    Cpu(Cpu),
    /// A GPU.
    Gpu(Gpu),
}

/// Opens the device and says on stderr which it is.
///
/// # Errors
/// [`CliError::Device`] if it cannot be used: one that was asked for is never replaced by another.
pub(crate) fn open(args: &DeviceArgs, precision: PrecisionChoice) -> Result<Device> {
    let ordinal = match (args.device, visible_gpu(Path::new("/"))) {
        (DeviceChoice::Cuda(ordinal), _) => Some(ordinal),
        (DeviceChoice::Auto, Some(_)) => Some(0),
        (DeviceChoice::Auto | DeviceChoice::Cpu, _) => None,
    };
    let device = match ordinal {
        Some(ordinal) => Device::Gpu(open_gpu(args, ordinal)?),
        None => Device::Cpu(open_cpu(args, precision)?),
    };
    output::note(&format!("device: {}", device.describe()));
    Ok(device)
}

fn open_gpu(args: &DeviceArgs, ordinal: u32) -> Result<Gpu> {
    let gpu = Gpu::open(ordinal, args.kv == KvChoice::Fp8);
    if args.device != DeviceChoice::Auto {
        return gpu;
    }
    gpu.map_err(|error| {
        let message =
            format!("an NVIDIA GPU is visible, but {error}; give --device cpu to run on the CPU");
        CliError::Device(message).into()
    })
}

fn open_cpu(args: &DeviceArgs, precision: PrecisionChoice) -> Result<Cpu> {
    if args.kv == KvChoice::Fp8 {
        let message = "--kv fp8 needs a GPU: on the CPU, keys and values have 32 bits";
        return Err(CliError::usage(message).into());
    }
    let threads = args.threads.map_or_else(default_threads, usize::from);
    let precision = match precision {
        PrecisionChoice::Int8 => Precision::Int8,
        PrecisionChoice::F32 => Precision::F32,
    };
    Ok(Cpu::new(threads, precision)?)
}

impl Device {
    /// The device in words: `cpu (avx2, 2 threads, int8 activations)`.
    pub(crate) fn describe(&self) -> String {
        match self {
            Device::Gpu(gpu) => gpu.describe(),
            Device::Cpu(cpu) => describe_cpu(cpu),
        }
    }
}

/// The CPU in words.
pub(crate) fn describe_cpu(cpu: &Cpu) -> String {
    let threads = match cpu.threads() {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    format!("cpu ({}, {threads}, {} activations)", cpu.isa(), precision_name(cpu.precision()))
}

/// `f32` or `int8`.
pub(crate) fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Int8 => "int8",
    }
}

/// One thread for each physical core that this process may use: a second thread on a core shares its units and its
/// path to memory.
pub(crate) fn default_threads() -> usize {
    let available = thread::available_parallelism().map_or(1, usize::from);
    physical_cores(Path::new("/sys/devices/system/cpu")).map_or(available, |n| n.min(available))
}

/// Number of different lists of sibling threads, as Linux shows them; `None` elsewhere.
fn physical_cores(cpus: &Path) -> Option<usize> {
    let siblings = fs::read_dir(cpus).ok()?.flatten().filter_map(|entry| {
        fs::read_to_string(entry.path().join("topology/thread_siblings_list")).ok()
    });
    let cores: HashSet<String> = siblings.collect();
    (!cores.is_empty()).then_some(cores.len())
}

/// A GPU that NVIDIA's driver shows under `root`, by the path that shows it.
pub(crate) fn visible_gpu(root: &Path) -> Option<String> {
    let is_gpu = |name: &str| {
        name.strip_prefix("nvidia")
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let first = |directory: &str, wanted: &dyn Fn(&str) -> bool| {
        let mut names: Vec<String> = fs::read_dir(root.join(directory))
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| wanted(name))
            .collect();
        names.sort();
        names.first().map(|name| format!("/{directory}/{name}"))
    };
    first("dev", &is_gpu).or_else(|| first("proc/driver/nvidia/gpus", &|_| true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_shows_in_dev_or_in_proc() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(visible_gpu(root.path()), None);
        fs::create_dir_all(root.path().join("dev")).unwrap();
        for name in ["nvidiactl", "nvidia-uvm", "nvidia"] {
            fs::write(root.path().join("dev").join(name), "").unwrap();
        }
        assert_eq!(visible_gpu(root.path()), None);
        fs::create_dir_all(root.path().join("proc/driver/nvidia/gpus/0000:01:00.0")).unwrap();
        assert_eq!(visible_gpu(root.path()).unwrap(), "/proc/driver/nvidia/gpus/0000:01:00.0");
        fs::write(root.path().join("dev/nvidia0"), "").unwrap();
        assert_eq!(visible_gpu(root.path()).unwrap(), "/dev/nvidia0");
    }

    #[test]
    fn siblings_share_a_core() {
        let cpus = tempfile::tempdir().unwrap();
        assert_eq!(physical_cores(cpus.path()), None);
        for (cpu, siblings) in [("cpu0", "0,2"), ("cpu1", "1,3"), ("cpu2", "0,2"), ("cpu3", "1,3")]
        {
            let topology = cpus.path().join(cpu).join("topology");
            fs::create_dir_all(&topology).unwrap();
            fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
        }
        assert_eq!(physical_cores(cpus.path()), Some(2));
    }
}
