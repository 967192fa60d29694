//! `halfbyte doctor`: what this machine's GPUs are to this binary.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use cuda::CudaError;
use cuda::driver::{self, DeviceInfo};
use cuda::images::{self, Target};
use serde_json::{Value, json};

use crate::output::{self, CliError};
use crate::{build, device};

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
A finding is something that keeps a GPU of this machine from being used. A machine without a GPU is none.

Exit codes: 0 no findings, 1 failed, 2 usage, 5 findings.")]
pub(crate) struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Looks, and reports.
pub(crate) fn run(args: &DoctorArgs) -> Result<()> {
    let facts = Facts::gather();
    let findings = facts.findings();
    if args.json {
        output::print_json(&facts.json(&findings))?;
    } else {
        output::print(&facts.text(&findings))?;
    }
    match findings.len() {
        0 => Ok(()),
        1 => Err(CliError::Findings("1 finding".to_owned()).into()),
        n => Err(CliError::Findings(format!("{n} findings")).into()),
    }
}

/// What was seen.
struct Facts {
    /// The path by which the system shows a GPU.
    visible: Option<String>,
    /// The newest CUDA version that the driver knows, or why it cannot be asked.
    driver: Result<(u32, u32), CudaError>,
    devices: Result<Vec<Device>, CudaError>,
}

struct Device {
    info: DeviceInfo,
    /// What its kernels are compiled for, or why there are none.
    image: Result<Target, CudaError>,
}

impl Facts {
    fn gather() -> Facts {
        let with_image = |info: DeviceInfo| {
            let image =
                images::choose(info.compute_capability, false).map(|choice| choice.target());
            Device { info, image }
        };
        Facts {
            visible: device::visible_gpu(Path::new("/")),
            driver: driver::probe().and_then(|()| driver::version()),
            devices: driver::devices().map(|infos| infos.into_iter().map(with_image).collect()),
        }
    }

    fn devices(&self) -> &[Device] {
        self.devices.as_deref().unwrap_or_default()
    }

    /// What keeps a GPU from being used. Without a GPU in sight nothing does.
    fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        match (&self.driver, &self.devices, &self.visible) {
            (Err(error), _, Some(gpu)) => {
                findings.push(format!("an NVIDIA GPU is visible ({gpu}), but {error}"));
            }
            // The library is there: whoever installed it means to use it.
            (Err(error), _, None) if !matches!(error, CudaError::Library { .. }) => {
                findings.push(error.to_string());
            }
            (Ok(_), Err(error), _) => findings.push(error.to_string()),
            (Ok(_), Ok(devices), Some(gpu)) if devices.is_empty() => {
                findings
                    .push(format!("an NVIDIA GPU is visible ({gpu}), but the driver shows none"));
            }
            _ => {}
        }
        findings.extend(self.devices().iter().filter_map(|device| self.finding(device)));
        findings
    }

    fn finding(&self, Device { info, image }: &Device) -> Option<String> {
        let name = format!("cuda:{} ({})", info.ordinal, info.name);
        match image {
            Err(error) => Some(format!("{name}: {error}")),
            Ok(target) if target.is_ptx() => {
                let (driver, compiler) = (self.driver.as_ref().ok()?, images::compiler_version()?);
                let (major, minor) = compiler;
                (*driver < compiler).then(|| {
                    format!(
                        "{name}: its kernels are PTX of CUDA {major}.{minor}, which a driver of CUDA {}.{} cannot \
                         compile; update NVIDIA's driver",
                        driver.0, driver.1
                    )
                })
            }
            Ok(_) => None,
        }
    }

    fn text(&self, findings: &[String]) -> String {
        let mut lines = vec![format!("halfbyte: {} for {}", build::name(), build::TARGET)];
        lines.push(format!("cpu kernels: {}", backend::cpu::isa()));
        lines.push(format!("cuda kernels: {}", build::cuda_kernels()));
        lines.push(match &self.driver {
            Ok((major, minor)) => format!("driver: CUDA {major}.{minor}"),
            Err(CudaError::Library { reason }) => format!("driver: none ({reason})"),
            Err(error) => format!("driver: {error}"),
        });
        lines.extend(self.devices().iter().map(Device::line));
        if self.devices().is_empty() {
            lines.push("gpus: none".to_owned());
        }
        if findings.is_empty() {
            lines.push("findings: none".to_owned());
        } else {
            lines.push("findings:".to_owned());
            lines.extend(findings.iter().map(|finding| format!("- {finding}")));
        }
        lines.join("\n") + "\n"
    }

    fn json(&self, findings: &[String]) -> Value {
        let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
        let driver = self.driver.as_ref();
        let targets: Vec<String> = images::targets().iter().map(Target::to_string).collect();
        json!({
            "build": build::name(),
            "target": build::TARGET,
            "cpu_kernels": backend::cpu::isa().to_string(),
            "cuda_kernels": {
                "targets": targets,
                "compiler": images::compiler(),
                "absent": images::absent(),
            },
            "driver": {
                "cuda_version": driver.ok().copied().map(version),
                "error": driver.err().map(CudaError::to_string),
            },
            "visible_gpu": self.visible,
            "gpus": self.devices().iter().map(Device::json).collect::<Vec<_>>(),
            "findings": findings,
        })
    }
}

impl Device {
    fn line(&self) -> String {
        let DeviceInfo { ordinal, name, compute_capability: (major, minor), total_memory, .. } =
            &self.info;
        let memory = *total_memory as f64 / 1e9;
        let image = match &self.image {
            Ok(target) => format!("kernels for {target}"),
            Err(_) => "no kernels".to_owned(),
        };
        format!(
            "cuda:{ordinal}: {name}, compute capability {major}.{minor}, {memory:.1} GB, {image}"
        )
    }

    fn json(&self) -> Value {
        let DeviceInfo { ordinal, name, compute_capability: (major, minor), .. } = &self.info;
        json!({
            "ordinal": ordinal,
            "name": name,
            "uuid": self.info.uuid,
            "compute_capability": format!("{major}.{minor}"),
            "total_memory": self.info.total_memory,
            "multiprocessors": self.info.multiprocessors,
            "l2_bytes": self.info.l2_bytes,
            "kernels": self.image.as_ref().ok().map(Target::to_string),
            "error": self.image.as_ref().err().map(CudaError::to_string),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(image: Result<Target, CudaError>) -> Device {
        let info = DeviceInfo {
            ordinal: 0,
            name: "NVIDIA H200".into(),
            compute_capability: (9, 0),
            total_memory: 150_110_011_392,
            multiprocessors: 132,
            l2_bytes: 60 << 20,
            max_shared_per_block_optin: 227 << 10,
            uuid: "GPU-0".into(),
        };
        Device { info, image }
    }

    fn library() -> CudaError {
        CudaError::Library { reason: "no such file".into() }
    }

    fn check_findings(facts: &Facts, expected: &[&str]) {
        assert_eq!(facts.findings(), expected);
    }

    #[test]
    fn no_gpu_is_no_finding() {
        let facts = Facts { visible: None, driver: Err(library()), devices: Err(library()) };
        check_findings(&facts, &[]);
        assert!(
            facts.text(&[]).ends_with("driver: none (no such file)\ngpus: none\nfindings: none\n")
        );
        let facts = Facts { visible: None, driver: Ok((12, 9)), devices: Ok(vec![]) };
        check_findings(&facts, &[]);
    }

    #[test]
    fn a_gpu_without_a_driver_is_one() {
        let visible = Some("/dev/nvidia0".to_owned());
        let facts = Facts { visible, driver: Err(library()), devices: Err(library()) };
        let expected = format!("an NVIDIA GPU is visible (/dev/nvidia0), but {}", library());
        check_findings(&facts, &[&expected]);
    }

    #[test]
    fn a_gpu_without_kernels_is_one() {
        let error = CudaError::NoImages { reason: "they were not compiled" };
        let expected = format!("cuda:0 (NVIDIA H200): {error}");
        let devices = Ok(vec![gpu(Err(error))]);
        let facts = Facts { visible: None, driver: Ok((12, 9)), devices };
        check_findings(&facts, &[&expected]);
        let line = "cuda:0: NVIDIA H200, compute capability 9.0, 150.1 GB, no kernels";
        assert_eq!(facts.devices()[0].line(), line);
    }

    #[test]
    fn machine_code_needs_no_new_driver() {
        let devices = Ok(vec![gpu(Ok(Target::of("sm_90a")))]);
        check_findings(&Facts { visible: None, driver: Ok((12, 0)), devices }, &[]);
    }
}
