//! The compiler: a folder of Python packages from PyPI.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::run;

const REQUIREMENTS: &str = "crates/cuda/kernels/requirements.txt";

/// Where the compiler lies.
pub(super) struct Toolchain {
    packages: PathBuf,
    /// As `NVRTC 12.9.86`.
    pub(super) name: String,
}

impl Toolchain {
    /// The packages in the folder that `HALFBYTE_NVRTC` names, else in `target/nvrtc`, where they are put if need be.
    pub(super) fn install(root: &Path) -> Result<Toolchain> {
        if let Some(packages) = env::var_os("HALFBYTE_NVRTC") {
            return Toolchain::of(packages.into())
                .context("HALFBYTE_NVRTC names no folder of packages");
        }
        let packages = root.join("target/nvrtc");
        let requirements = fs::read(root.join(REQUIREMENTS)).context(REQUIREMENTS)?;
        // The requirements stand beside what was installed from them, written last.
        let mark = packages.join("requirements.txt");
        if fs::read(&mark).is_ok_and(|installed| installed == requirements) {
            return Toolchain::of(packages);
        }
        if packages.exists() {
            fs::remove_dir_all(&packages).with_context(|| packages.display().to_string())?;
        }
        println!("fetching the compiler of the kernels (about 100 MB), once");
        run(Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"])
            .args(["--no-deps", "--only-binary", ":all:", "--require-hashes"])
            .args(["--requirement", REQUIREMENTS, "--target"])
            .arg(&packages))
        .context(
            "the kernels need python3 with pip and a package index, or HALFBYTE_NVRTC, a folder of the packages of \
             crates/cuda/kernels/requirements.txt",
        )?;
        fs::write(&mark, requirements).with_context(|| mark.display().to_string())?;
        Toolchain::of(packages)
    }

    fn of(packages: PathBuf) -> Result<Toolchain> {
        let names = fs::read_dir(&packages).with_context(|| packages.display().to_string())?;
        let version = names.flatten().find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version =
                name.strip_prefix("nvidia_cuda_nvrtc_cu12-")?.strip_suffix(".dist-info")?;
            Some(version.to_owned())
        });
        let Some(version) = version else {
            bail!("{} holds no nvidia-cuda-nvrtc-cu12", packages.display());
        };
        Ok(Toolchain { packages, name: format!("NVRTC {version}") })
    }

    /// A process that compiles: see `nvrtc.py`.
    pub(super) fn compiler(&self) -> Command {
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/kernels/nvrtc.py"));
        command.arg(self.packages.join("nvidia/cuda_nvrtc/lib"));
        command
    }

    /// Folders of headers.
    pub(super) fn includes(&self) -> [PathBuf; 2] {
        ["cuda_runtime", "cuda_cccl"]
            .map(|package| self.packages.join("nvidia").join(package).join("include"))
    }

    pub(super) fn nvdisasm(&self) -> Command {
        Command::new(self.packages.join("nvidia/cu13/bin/nvdisasm"))
    }
}
