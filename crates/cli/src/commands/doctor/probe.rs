//! Looking: each probe runs in a process of its own, this program again with `--probe`, and prints its facts.

mod os;
mod system;
mod driver;
mod cuda;
mod nvml;
mod storage;
mod model;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use ::model::locate::Places;
use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::DoctorArgs;
use super::bounded::{self, Running};
use super::facts::{CudaKernels, Facts, Probed, Program};
use crate::{build, embedded, output};

/// A thing to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Probe {
    System,
    Driver,
    Cuda,
    Nvml,
    Storage,
    Model,
}

/// Looks at everything, within twice the time for a probe.
pub(super) fn gather(args: &DoctorArgs) -> Facts {
    let first = Round::new(args);
    let system = first.start(Probe::System, &[]);
    let driver = first.start(Probe::Driver, &[]);
    let cuda = first.start(Probe::Cuda, &[]);
    let nvml = first.start(Probe::Nvml, &[]);
    let has_storage = args
        .model
        .as_ref()
        .map_or(args.places.model_dir.is_some(), |model| model != embedded::NAME);
    let storage = has_storage.then(|| first.start(Probe::Storage, &[]));
    let (system, driver) = (first.end(system), first.end(driver));
    let cuda: Probed<super::facts::Cuda> = first.end(cuda);
    let nvml = first.end(nvml);
    let storage = storage.map(|storage| first.end(storage));
    // Whether a model fits is asked once it is known what is free.
    let devices = cuda.found().map_or(&[][..], |cuda| &cuda.devices);
    let free = devices.iter().filter_map(|device| Some((device.ordinal, device.free_memory?)));
    let free: Vec<String> =
        free.map(|(ordinal, free)| format!("--free={ordinal}={free}")).collect();
    let second = Round::new(args);
    let model = args.model.as_ref().map(|_| second.start(Probe::Model, &free));
    let model = model.map(|model| second.end(model));
    Facts { program: program(), system, driver, cuda, nvml, storage, model }
}

fn program() -> Program {
    use ::cuda::images;
    Program {
        build: build::name(),
        target: build::TARGET.to_owned(),
        cpu_kernels: backend::cpu::isa().to_string(),
        cuda_kernels: CudaKernels {
            targets: images::targets().iter().map(images::Target::to_string).collect(),
            compiler: images::compiler().to_owned(),
            compiler_version: images::compiler_version(),
            absent: images::absent().map(str::to_owned),
        },
    }
}

/// Probes that run side by side.
struct Round<'a> {
    args: &'a DoctorArgs,
    deadline: Instant,
}

impl<'a> Round<'a> {
    fn new(args: &'a DoctorArgs) -> Self {
        Round { args, deadline: Instant::now() + Duration::from_secs(args.timeout) }
    }

    fn start(&self, probe: Probe, more: &[String]) -> Result<Running, String> {
        let program = if cfg!(target_os = "linux") {
            // It serves also where the file was replaced meanwhile.
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe().map_err(|error| error.to_string())?
        };
        let mut command = Command::new(program);
        let name =
            probe.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
        command.args(["doctor", "--probe", &name]).args(more);
        command.args(self.args.model.iter());
        if let Some(folder) = &self.args.places.model_dir {
            command.arg("--model-dir").arg(folder);
        }
        bounded::start(&mut command).map_err(|error| format!("it could not be started: {error}"))
    }

    fn end<T: DeserializeOwned>(&self, running: Result<Running, String>) -> Probed<T> {
        match running {
            Ok(running) => running.wait(self.deadline, self.args.timeout),
            Err(why) => Probed::Failed(why),
        }
    }
}

/// Runs one probe in this process, and prints its facts.
pub(super) fn run(probe: Probe, args: &DoctorArgs) -> Result<()> {
    let facts = match probe {
        Probe::System => value(&system::probe())?,
        Probe::Driver => value(&driver::probe())?,
        Probe::Cuda => value(&cuda::probe())?,
        Probe::Nvml => value(&nvml::probe()?)?,
        Probe::Storage => value(&storage::probe(&folder(args)?)?)?,
        Probe::Model => value(&model::probe(args)?)?,
    };
    Ok(output::print_json(&facts)?)
}

fn value(facts: &impl Serialize) -> Result<Value> {
    Ok(serde_json::to_value(facts)?)
}

/// Where the model lies, or where models do.
fn folder(args: &DoctorArgs) -> Result<PathBuf> {
    let folder = args.places.model_dir.clone();
    match &args.model {
        Some(model) => Ok(Places::from_env(folder).find(model)?),
        None => Ok(folder.unwrap_or_default()),
    }
}
