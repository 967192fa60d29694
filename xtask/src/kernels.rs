//! Compiles the CUDA kernels of `crates/cuda/kernels` into `crates/cuda/images`, where the build finds them.
//!
//! The compiler is NVRTC from PyPI at pinned versions and hashes: no CUDA toolkit, host compiler, GPU or root is needed.

mod toolchain;
mod native;
mod sources;
mod compile;
mod manifest;
mod resources;
mod disassembly;

use std::path::Path;

use anyhow::{Result, bail};

use manifest::Manifest;
use resources::Limits;
use sources::Sources;
use toolchain::Toolchain;

/// What every file of kernels is compiled for, unless its first line says otherwise. The PTX of compute_80 is for cards
/// of no listed generation.
const TARGETS: [&str; 8] =
    ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120", "compute_80", "compute_120"];

/// What was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Compile nothing and fetch nothing: is what lies there of these sources, and within its limits?
    offline_check: bool,
    /// Compile for the GPUs of this machine alone, and nothing where there is none.
    native: bool,
    /// Look for the instructions that are meant.
    disassemble: bool,
    /// Print what each kernel takes.
    report: bool,
    /// Files to compile; all if empty.
    only: Vec<String>,
    /// Targets to compile for; all if empty.
    targets: Vec<String>,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || match arguments.next() {
                Some(value) => Ok((*value).to_owned()),
                None => bail!("{argument} needs a value"),
            };
            match *argument {
                "--offline-check" => options.offline_check = true,
                "--native" => options.native = true,
                "--disassemble" => options.disassemble = true,
                "--report" => options.report = true,
                "--only" => options.only.push(value()?),
                "--target" => options.targets.push(value()?),
                other => bail!("`{other}` is no option of kernels; `cargo xtask help` lists them"),
            }
        }
        if let Some(unknown) = options.targets.iter().find(|name| !TARGETS.contains(&name.as_str()))
        {
            bail!("`{unknown}` is none of the targets {}", TARGETS.join(", "));
        }
        Ok(options)
    }

    /// Everything that CI wants to know.
    pub(crate) fn ci() -> Options {
        Options { disassemble: true, ..Options::default() }
    }

    fn wants(&self, file: &str, target: &str) -> bool {
        let holds = |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
        holds(&self.only, file) && holds(&self.targets, target)
    }
}

/// Compiles what has changed, and checks what came out.
pub(crate) fn kernels(root: &Path, options: &Options) -> Result<()> {
    let mut options = options.clone();
    if options.native {
        let Some(targets) = native::targets() else {
            println!("no NVIDIA GPU here (nvidia-smi shows none): no kernels are needed");
            return Ok(());
        };
        options.targets = targets;
    }
    let folder = root.join("crates/cuda");
    let sources = Sources::read(&folder.join("kernels"))?;
    let limits = Limits::read(&folder.join("kernels/resources.json"))?;
    let manifest = if options.offline_check {
        let manifest = Manifest::read(&folder.join("images"))?;
        manifest.check_sources(&sources)?;
        manifest
    } else {
        let toolchain = Toolchain::install(root)?;
        compile::compile(&toolchain, &sources, &folder.join("images"), &options)?
    };
    if options.report {
        resources::report(&manifest);
    }
    let mut found = limits.check(&manifest);
    if options.disassemble {
        found.extend(disassembly::check(
            &Toolchain::install(root)?,
            &folder.join("images"),
            &manifest,
            &limits,
        )?);
    }
    for line in &found {
        eprintln!("{line}");
    }
    if !found.is_empty() {
        bail!(
            "{} findings in the kernels; crates/cuda/kernels/resources.json holds what is allowed",
            found.len()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options =
            Options::parse(&["--only", "gemv", "--target", "sm_90a", "--report"]).unwrap();
        let expected = Options {
            report: true,
            only: vec!["gemv".into()],
            targets: vec!["sm_90a".into()],
            ..Options::default()
        };
        assert_eq!(options, expected);
        assert!(options.wants("gemv", "sm_90a") && !options.wants("gemv", "sm_80"));
        assert!(Options::ci().wants("gemv", "sm_80"));
        for wrong in [["--target", "sm_75"].as_slice(), &["--only"], &["gemv"]] {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
