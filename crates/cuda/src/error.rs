//! What can go wrong between this process and the GPU.

use std::fmt::Display;

/// A failure of the driver, or of what it was given. Each says what was tried, what the driver answers, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// There is no driver library.
    #[error(
        "NVIDIA's driver library cannot be opened ({reason}); install the driver, in a container start it with \
         `--gpus all`"
    )]
    Library {
        /// The loader's reason.
        reason: String,
    },
    /// The driver is older than what this program is built on.
    #[error(
        "the driver knows CUDA {}.{} at most, {}.{} is needed; update NVIDIA's driver to 525 or later",
        found.0, found.1, needed.0, needed.1
    )]
    OldDriver {
        /// The newest CUDA version that the driver knows: major, minor.
        found: (u32, u32),
        /// The oldest that serves.
        needed: (u32, u32),
    },
    /// The driver library lacks a function.
    #[error("the driver library has no function {name}; reinstall NVIDIA's driver (525 or later)")]
    Symbol {
        /// The function.
        name: &'static str,
    },
    /// The driver refused.
    #[error("{doing}: {name} ({text}){}{hint}", if hint.is_empty() { "" } else { "; " })]
    Driver {
        /// What was tried, as `allocating 4096 bytes on cuda:0`.
        doing: String,
        /// The driver's code.
        code: u32,
        /// The driver's name of the code, as `CUDA_ERROR_OUT_OF_MEMORY`.
        name: String,
        /// The driver's text for it.
        text: String,
        /// What to do; empty where nothing general can be said.
        hint: &'static str,
    },
    /// The driver refused an image of kernels.
    #[error("{refused}; the compiler says: {log}")]
    Image {
        /// The refusal, a [`CudaError::Driver`].
        refused: Box<CudaError>,
        /// What the driver's compiler wrote.
        log: String,
    },
    /// A size or place that cannot be.
    #[error("{doing}: {reason}")]
    Argument {
        /// What was tried.
        doing: String,
        /// Why it cannot be.
        reason: String,
    },
    /// The model does not fit.
    #[error("{:.2} GB are needed on the GPU, {:.2} GB are free", *needed as f64 / 1e9, *free as f64 / 1e9)]
    DoesNotFit {
        /// Bytes of the plan.
        needed: u64,
        /// Bytes that the driver would give.
        free: u64,
    },
    /// There is no such device.
    #[error(
        "there is no cuda:{ordinal}; the driver shows {count} devices, and CUDA_VISIBLE_DEVICES may hide some"
    )]
    NoDevice {
        /// The number asked for.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// The binary holds no kernels at all.
    #[error(
        "this binary holds no CUDA kernels: {reason}; run `cargo xtask kernels` and build again"
    )]
    NoImages {
        /// Why the build left them out.
        reason: &'static str,
    },
    /// None of the images runs on the card.
    #[error("no kernels for compute capability {}.{}: {reason}; this binary holds {held}", capability.0, capability.1)]
    NoImageForDevice {
        /// Compute capability of the card.
        capability: (u32, u32),
        /// Why none serves.
        reason: String,
        /// The targets of the images.
        held: String,
    },
}

impl CudaError {
    pub(crate) fn argument(doing: impl Display, reason: impl Display) -> Self {
        CudaError::Argument { doing: doing.to_string(), reason: reason.to_string() }
    }

    /// Whether the driver said that its memory is used up.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, CudaError::Driver { code: 2, .. })
    }
}

/// What to do about a code of the driver's.
pub(crate) fn hint(code: u32) -> &'static str {
    match code {
        2 => {
            "another program may hold memory of the GPU (`nvidia-smi` shows which), or a shorter context fits"
        }
        46 => {
            "another program holds the GPU for itself; `nvidia-smi -q -d COMPUTE` shows the compute mode"
        }
        100 => "start the container with `--gpus all`, and look at CUDA_VISIBLE_DEVICES",
        200 | 218 => "the kernels in this binary are damaged; build it again",
        209 => "no kernel here is for this GPU; `halfbyte doctor` shows which this binary holds",
        214 => "the GPU's memory is faulty or needs a reset; `nvidia-smi -q -d ECC` says more",
        222 => "the driver is older than the PTX in this binary; update it to 575 or later",
        700 | 714..=719 => {
            "a fault of ours, please report it; start again, this process cannot use the GPU any more"
        }
        701 => "a fault of ours, please report it with the model's name",
        802 => {
            "the machine is not ready yet; on a machine with NVSwitch look at nvidia-fabricmanager"
        }
        803 | 804 => {
            "the driver's library and its kernel module differ; reboot, or load the module that fits"
        }
        999 => {
            "the driver's kernel modules may not be loaded; `nvidia-modprobe -u -c=0`, or a reboot"
        }
        _ => "",
    }
}
