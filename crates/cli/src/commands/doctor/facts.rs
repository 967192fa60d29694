//! What is seen on a machine, before anybody judges it. All of it is printed by `--json`, and can be read back: the tests judge
//! such records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) program: Program,
    pub(super) system: Probed<System>,
    pub(super) driver: Probed<DriverFiles>,
    pub(super) cuda: Probed<Cuda>,
    pub(super) nvml: Probed<Nvml>,
    /// Where models lie: the model's folder, else `--model-dir`; `None` without either.
    pub(super) storage: Option<Probed<Storage>>,
    /// `None` where no model was named.
    pub(super) model: Option<Probed<Model>>,
}

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Probed<T> {
    /// Its facts.
    Found(T),
    /// It could not look, and why.
    Failed(String),
    /// Its process ended without a word, as by a fault in a driver's library.
    Died(String),
    /// It had no answer after so many seconds.
    TimedOut(u64),
}

impl<T> Probed<T> {
    pub(super) fn found(&self) -> Option<&T> {
        match self {
            Probed::Found(facts) => Some(facts),
            _ => None,
        }
    }
}

/// This binary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Program {
    pub(super) build: String,
    pub(super) target: String,
    /// Instruction set of the CPU's kernels, chosen on this machine.
    pub(super) cpu_kernels: String,
    pub(super) cuda_kernels: CudaKernels,
}

/// The GPU kernels in this binary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CudaKernels {
    pub(super) targets: Vec<String>,
    pub(super) compiler: String,
    /// CUDA version of the compiler: a driver must know it to compile the PTX.
    pub(super) compiler_version: Option<(u32, u32)>,
    /// Why there are none.
    pub(super) absent: Option<String>,
}

/// The machine, or what a container leaves of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct System {
    /// Release of the operating system's kernel.
    pub(super) kernel: Option<String>,
    /// The kind of container, and what shows it.
    pub(super) container: Option<String>,
    pub(super) cpu: CpuFacts,
    pub(super) memory: MemoryFacts,
    /// `/dev/shm`.
    pub(super) shm: Option<Space>,
    /// `ulimit -l` in bytes; `None` is unlimited or not known.
    pub(super) memlock_bytes: Option<u64>,
    /// `ulimit -n`.
    pub(super) open_files: Option<u64>,
    /// Variables that decide which GPUs are seen, and how.
    pub(super) environment: BTreeMap<String, String>,
}

/// Processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CpuFacts {
    pub(super) model: Option<String>,
    /// Those of the instruction sets that the kernels here could use.
    pub(super) features: Vec<String>,
    /// Logical processors of the machine.
    pub(super) online: Option<usize>,
    /// Processors that this process may run on, by affinity and quota.
    pub(super) usable: usize,
    /// Processors' worth of time that the control group may use.
    pub(super) quota: Option<f64>,
    /// Threads that the CPU backend takes unasked.
    pub(super) threads: usize,
}

/// Memory, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MemoryFacts {
    pub(super) total: Option<u64>,
    /// What a new allocation can have, limits considered.
    pub(super) available: Option<u64>,
    /// The control group's limit.
    pub(super) limit: Option<u64>,
}

/// Room in a file system, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Space {
    pub(super) total: u64,
    pub(super) free: u64,
}

/// What NVIDIA's driver shows in files, without asking it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct DriverFiles {
    /// The kernel module, if one is loaded.
    pub(super) module: Option<KernelModule>,
    /// `/dev/nvidia*`.
    pub(super) nodes: Vec<Node>,
    /// NVIDIA's GPUs on the PCI bus, whether a driver has them or not.
    pub(super) pci: Vec<PciGpu>,
    /// The driver's libraries where the loader would look, and compatibility packages beside them.
    pub(super) libraries: Vec<LibraryFile>,
}

/// The driver in the kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KernelModule {
    pub(super) version: String,
    /// Whether it is the open one.
    pub(super) open: bool,
    /// The file that says so.
    pub(super) file: String,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) path: String,
    /// As `crw-rw-rw- 0:0 195,255`.
    pub(super) mode: String,
    /// Why it cannot be opened for reading and writing.
    pub(super) problem: Option<String>,
}

/// A GPU on the PCI bus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PciGpu {
    /// As `0000:01:00.0`.
    pub(super) address: String,
    /// As `10de:2335`.
    pub(super) id: String,
    /// The kernel's driver for it: `nvidia`, `nouveau`, `vfio-pci`.
    pub(super) driver: Option<String>,
}

/// A library of the driver's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LibraryFile {
    /// As `libcuda.so.1`.
    pub(super) name: String,
    pub(super) path: String,
    /// From the name of the file that it leads to.
    pub(super) version: Option<String>,
    /// Whether it was mounted into a container.
    pub(super) mounted: bool,
    /// Whether it is of a compatibility package, not of the driver.
    pub(super) compat: bool,
}

/// What the driver says through `libcuda.so.1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cuda {
    /// The newest CUDA version that the driver knows.
    pub(super) cuda_version: Option<(u32, u32)>,
    /// The file that was loaded.
    pub(super) library: Option<String>,
    /// Why it cannot be used.
    pub(super) error: Option<DriverError>,
    pub(super) devices: Vec<CudaDevice>,
}

/// An error of the driver's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct DriverError {
    /// Whether there is no library at all.
    pub(super) no_library: bool,
    /// The driver's code.
    pub(super) code: Option<u32>,
    pub(super) message: String,
}

/// A GPU as programs see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CudaDevice {
    pub(super) ordinal: u32,
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) compute_capability: (u32, u32),
    pub(super) total_memory: u64,
    pub(super) multiprocessors: u32,
    pub(super) l2_bytes: u64,
    /// Bytes that a program can have now, of all; asked with the device open.
    pub(super) free_memory: Option<u64>,
    /// Why it cannot be opened.
    pub(super) error: Option<DriverError>,
    /// What the kernels for it are compiled for.
    pub(super) kernels: Option<String>,
    pub(super) kernels_are_ptx: bool,
    /// Why there are no kernels for it.
    pub(super) no_kernels: Option<String>,
}

/// What the driver says through NVML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Nvml {
    pub(super) driver_version: Option<String>,
    pub(super) gpus: Vec<NvmlGpu>,
}

/// A GPU as its management sees it. What a card or a container does not tell is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NvmlGpu {
    pub(super) index: u32,
    pub(super) name: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) pci_bus_id: Option<String>,
    pub(super) memory: Option<GpuMemory>,
    pub(super) pcie: Pcie,
    pub(super) persistence: Option<bool>,
    pub(super) ecc: Ecc,
    /// Why the clocks are held back, in NVML's words.
    pub(super) throttling: Vec<String>,
    pub(super) temperature_c: Option<u32>,
    pub(super) slowdown_c: Option<u32>,
    pub(super) power: Power,
    pub(super) sm_clock_mhz: Option<u32>,
    pub(super) sm_clock_max_mhz: Option<u32>,
    /// 0 is the fastest.
    pub(super) performance_state: Option<u32>,
    pub(super) utilization_percent: Option<u32>,
    /// `default`, `exclusive process`, `exclusive thread` or `prohibited`.
    pub(super) compute_mode: Option<String>,
    pub(super) mig: Option<bool>,
    /// Those that hold memory of it, as far as this container can see.
    pub(super) processes: Vec<GpuProcess>,
}

/// Memory of a card, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct GpuMemory {
    pub(super) total: u64,
    pub(super) used: u64,
    pub(super) free: u64,
}

/// The link to the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Pcie {
    pub(super) generation: Option<u32>,
    pub(super) generation_max: Option<u32>,
    pub(super) width: Option<u32>,
    pub(super) width_max: Option<u32>,
}

/// Errors of the card's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ecc {
    pub(super) enabled: Option<bool>,
    /// Errors that were not corrected since the driver started.
    pub(super) uncorrected: Option<u64>,
    /// And in the card's life.
    pub(super) uncorrected_ever: Option<u64>,
    /// Whether a part of the memory is to be replaced by a spare one at the next reset.
    pub(super) repair_pending: Option<bool>,
    /// Whether that failed.
    pub(super) repair_failed: Option<bool>,
}

/// Power, in watts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Power {
    pub(super) usage_w: Option<u32>,
    pub(super) cap_w: Option<u32>,
    pub(super) default_cap_w: Option<u32>,
}

/// A process that uses a GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct GpuProcess {
    pub(super) pid: u32,
    /// Known where process numbers are the host's.
    pub(super) name: Option<String>,
    pub(super) bytes: Option<u64>,
}

/// Where models lie, and how fast they are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Storage {
    pub(super) directory: String,
    pub(super) file_system: Option<FileSystem>,
    pub(super) space: Option<Space>,
    /// Safetensors files.
    pub(super) files: usize,
    pub(super) bytes: u64,
    /// Bytes of them in the page cache.
    pub(super) cached_bytes: Option<u64>,
    pub(super) reading: Option<Reading>,
}

impl Storage {
    /// What a read past the page cache got.
    pub(super) fn bytes_per_second(&self) -> Option<f64> {
        let reading = self.reading.as_ref()?;
        let whole = reading.problem.is_none() && reading.bytes > 0;
        whole.then(|| reading.bytes as f64 / reading.seconds.max(1e-6))
    }
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FileSystem {
    /// As `ext4`.
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) mount_point: String,
}

/// A short read past the page cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Reading {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) threads: usize,
    /// Why it was not done, or not to its end.
    pub(super) problem: Option<String>,
}

/// A model, and whether it fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) directory: String,
    /// The 4-bit type of its weights.
    pub(super) quantized: Option<String>,
    /// Tokens that `prompt` would take unasked, memory allowing.
    pub(super) context: usize,
    /// What it takes on a GPU with this context, in bytes.
    pub(super) gpu_plan: Plan,
    /// What it takes on the CPU with this context.
    pub(super) cpu_bytes: u64,
    /// On each GPU, by its ordinal.
    pub(super) fits: Vec<Fit>,
}

/// Bytes on a GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) weights: u64,
    pub(super) keys_and_values: u64,
    pub(super) workspace: u64,
}

impl Plan {
    pub(super) fn total(&self) -> u64 {
        self.weights + self.keys_and_values + self.workspace
    }
}

/// Whether the model fits on a GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Fit {
    pub(super) ordinal: u32,
    /// Bytes that were free.
    pub(super) free: u64,
    /// The longest context that fits, up to the one wanted; 0 is none.
    pub(super) context: usize,
}
