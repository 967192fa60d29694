//! From facts to verdicts. Pure: nothing here opens a file.

pub(crate) mod device_code;
pub(crate) mod torch;
pub(crate) mod bitsandbytes;
pub(crate) mod loading;
pub(crate) mod metadata;
pub(crate) mod dockerfile;

use serde::Serialize;

use crate::driver::{DRIVERS_SOURCE, Driver, cuda_for_gpu};
use crate::facts::{ComputeCapability, Evidence};

pub use bitsandbytes::{BitsandbytesReport, WhatHappens};
pub use device_code::{CodeVerdict, Judgement};
pub use torch::TorchReport;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It does not work.
    Error,
    /// It may not work, or not as meant.
    Warning,
    /// Good to know; no finding that the exit code counts.
    Note,
}

/// Something that was found, and what to do.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// A short name that stays the same, as `no_kernel_image`.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is the matter, with its cause: one sentence.
    pub what: String,
    /// The one thing to do.
    pub fix: String,
    /// What it rests on.
    pub evidence: Vec<Evidence>,
}

/// What is judged for.
#[derive(Debug, Clone)]
pub(crate) struct Machine<'m> {
    pub(crate) gpu: Option<(&'m str, ComputeCapability)>,
    pub(crate) driver: Option<&'m Driver>,
    /// `BNB_CUDA_VERSION`, and where it is set.
    pub(crate) bnb_cuda_version: Option<(&'m str, Evidence)>,
}

/// Whether the driver knows the card at all.
pub(crate) fn on_driver(machine: &Machine) -> Option<Finding> {
    let (driver, (name, gpu)) = (machine.driver?, machine.gpu?);
    let needed = cuda_for_gpu(gpu);
    (driver.cuda < needed).then(|| Finding {
        id: "driver_too_old_for_gpu",
        severity: Severity::Error,
        what: format!(
            "driver {} knows CUDA {}, and the {name} (compute capability {gpu}) needs one of CUDA {needed} or later",
            driver.version, driver.cuda
        ),
        fix: "update NVIDIA's driver on the host".to_owned(),
        evidence: vec![Evidence::file(DRIVERS_SOURCE, format!("compute capability {gpu}: CUDA {needed}"))],
    })
}

/// The findings on the code of a library that has to run.
pub(crate) fn on_code(
    name: &str,
    judgement: &Judgement,
    gpu: &str,
    severity: Severity,
    fix: String,
) -> Option<Finding> {
    let Judgement { verdict, because, evidence, .. } = judgement;
    let (id, severity, what, fix) = match verdict {
        CodeVerdict::None | CodeVerdict::Partial => (
            "no_kernel_image",
            severity,
            format!(
                "{name} has no GPU code for the {gpu} (\"no kernel image is available\"): {because}"
            ),
            fix,
        ),
        CodeVerdict::DriverTooOld => (
            "driver_too_old_for_ptx",
            severity,
            format!("{name} cannot be compiled for the {gpu} by this driver: {because}"),
            "update NVIDIA's driver on the host".to_owned(),
        ),
        CodeVerdict::Jit => (
            "compiled_at_first_use",
            Severity::Note,
            format!("{name} starts slowly on the {gpu}: {because}"),
            "nothing; or take a release with machine code for it".to_owned(),
        ),
        CodeVerdict::Runs | CodeVerdict::NoGpuCode => return None,
    };
    Some(Finding { id, severity, what, fix, evidence: evidence.clone() })
}
