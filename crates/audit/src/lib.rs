//! What GPU code and which bounds a Python stack really holds, read from its bytes: libraries, wheels, environments, requirement
//! files, Dockerfiles, images and logs. Nothing is imported, run or downloaded, and no GPU is needed.
//!
//! `probe` reads facts, `findings` judges them, [`audit`] does both, and [`Report`] is the result. What is known of releases that
//! are not at hand was measured the same way by [`learn`].

pub mod gpus;

mod audit;
mod report;
mod fix;
mod assertions;
mod findings;
mod stack;
mod releases;
mod driver;
mod log;
mod facts;
mod probe;
mod limits;
mod error;

pub use assertions::{Assertions, Outcome, Truth};
pub use audit::{Query, ReadAt, audit, fix, for_releases, learn, read_remote};
pub use driver::{CudaVersion, Driver};
pub use error::{AuditError, ProbeError};
pub use facts::{
    Assertion, BaseImage, CodeKind, Combination, ComputeCapability, DeviceCode, Dockerfile,
    Evidence, Import, Library, LibraryChoice, Linking, LogMatch, Package, PipInstall, Requirement,
    Requirements, Target, TorchCuda, WhenMissing,
};
pub use findings::{
    BitsandbytesReport, CodeVerdict, Finding, Judgement, Severity, TorchReport, WhatHappens,
};
pub use fix::{Change, Fix, FixOutcome};
pub use limits::Limits;
pub use report::{DriverReport, GpuReport, LibraryReport, Report};
pub use stack::{Chosen, Origin};
