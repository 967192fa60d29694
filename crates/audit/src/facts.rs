//! What was read, as plain data: no opinion, and enough evidence to look it up again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An architecture that GPU code is for, as in `sm_90a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Ten times the major compute capability, plus the minor: 86, 120.
    pub architecture: u32,
    /// `a`: this architecture alone; `f`: its family.
    pub suffix: Option<char>,
}

impl Target {
    pub(crate) fn plain(architecture: u32) -> Target {
        Target { architecture, suffix: None }
    }

    /// Whether machine code for this target runs on a GPU of this compute capability.
    ///
    /// CUDA C++ Programming Guide, "Binary Compatibility": the same major and an equal or higher minor.
    pub fn runs_on(self, gpu: ComputeCapability) -> bool {
        let ComputeCapability { major, minor } = gpu;
        let same_major = self.architecture / 10 == major;
        match self.suffix {
            Some('a') => same_major && self.architecture % 10 == minor,
            _ => same_major && self.architecture % 10 <= minor,
        }
    }

    /// Whether PTX for this target can be compiled for a GPU of this compute capability.
    pub fn compiles_for(self, gpu: ComputeCapability) -> bool {
        match self.suffix {
            None => self.architecture <= gpu.major * 10 + gpu.minor,
            Some(_) => self.runs_on(gpu),
        }
    }

    /// Without `sm_`, as `90a`.
    fn short(self) -> String {
        format!("{}{}", self.architecture, self.suffix.map_or(String::new(), String::from))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let wrong = || format!("`{text}` is no architecture like sm_90a");
        let rest = text.strip_prefix("sm_").or_else(|| text.strip_prefix("compute_"));
        let rest = rest.unwrap_or(text);
        let digits = rest.trim_end_matches(['a', 'f']);
        let suffix = match &rest[digits.len()..] {
            "" => None,
            "a" => Some('a'),
            "f" => Some('f'),
            _ => return Err(wrong()),
        };
        let architecture = digits.parse().map_err(|_| wrong())?;
        Ok(Target { architecture, suffix })
    }
}

/// A GPU's generation: 12.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComputeCapability {
    /// Before the point.
    pub major: u32,
    /// After it.
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Two forms of GPU code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeKind {
    /// Machine code.
    Cubin,
    /// Text that the driver compiles.
    Ptx,
}

/// Whether code is ready to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Linking {
    /// As it stands.
    Linked,
    /// Objects from which the linker made the linked code. The driver can link them again, from PTX if all have it.
    Relocatable,
}

/// All code of a library that is of one kind, for one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCode {
    /// Ready to run, or not.
    pub linking: Linking,
    /// Machine code or PTX.
    pub kind: CodeKind,
    /// `sm_90a`, or `compute_90` of PTX.
    pub target: String,
    /// Pieces.
    pub entries: u64,
    /// Bytes of the pieces, as they are stored; 0 in facts of known releases.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// How pieces are stored: `none`, `lz4`, `zstd`; empty in facts of known releases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packing: Vec<String>,
    /// Where the first one stands in the file.
    pub offset: u64,
    /// Newest version of the PTX language that the pieces ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ptx_version: Option<String>,
    /// CUDA of the compiler, as PTX says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl DeviceCode {
    /// [`DeviceCode::target`], parsed. Written by `DeviceCode::name`, it always can be, unless facts were edited.
    pub fn parsed(&self) -> Option<Target> {
        self.target.parse().ok()
    }

    pub(crate) fn name(kind: CodeKind, target: Target) -> String {
        match kind {
            CodeKind::Cubin => format!("sm_{}", target.short()),
            CodeKind::Ptx => format!("compute_{}", target.short()),
        }
    }
}

/// Containers of a library that hold code for the same targets: each is the code of one source file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Combination {
    /// Ready to run, or not.
    pub linking: Linking,
    /// Names as in [`DeviceCode::target`].
    pub targets: Vec<String>,
    /// How many.
    pub containers: u64,
}

/// A shared library.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// Path, within the package if it is of one.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// `DT_SONAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soname: Option<String>,
    /// `DT_NEEDED`, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needed: Vec<String>,
    /// GPU code.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_code: Vec<DeviceCode>,
    /// How it lies in containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub combinations: Vec<Combination>,
    /// Why it could not be read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

impl Library {
    /// The name without its folders.
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// Where a value stands: a file, and a line or an offset in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Evidence {
    /// Path, and within an archive the member's after it.
    pub file: String,
    /// Line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Offset in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What stands there.
    pub value: String,
}

impl Evidence {
    /// A line of a text.
    pub fn line(file: impl Into<String>, line: usize, value: impl Into<String>) -> Evidence {
        Evidence { file: file.into(), line: Some(line), offset: None, value: value.into() }
    }

    /// Something at an offset.
    pub fn offset(file: impl Into<String>, offset: u64, value: impl Into<String>) -> Evidence {
        Evidence { file: file.into(), line: None, offset: Some(offset), value: value.into() }
    }

    /// A file, or what is true of all of it.
    pub fn file(file: impl Into<String>, value: impl Into<String>) -> Evidence {
        Evidence { file: file.into(), line: None, offset: None, value: value.into() }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        match (self.line, self.offset) {
            (Some(line), _) => write!(f, ":{line}")?,
            (None, Some(offset)) => write!(f, "@{offset:#x}")?,
            (None, None) => {}
        }
        write!(f, ": {}", self.value)
    }
}

/// A distribution: a wheel, or what one left in `site-packages`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Name as PEP 503 writes it: lower case, dashes.
    pub name: String,
    /// Version as the metadata has it.
    pub version: String,
    /// The wheel, the folder, or the data file.
    pub origin: String,
    /// SHA-256 of the wheel, if it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// `Tag` lines of WHEEL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// `Requires-Python`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires_python: Option<String>,
    /// `Requires-Dist` lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires_dist: Vec<String>,
    /// Shared libraries that hold GPU code, or belong to a framework that loads some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub libraries: Vec<Library>,
    /// `torch.version.cuda`, of torch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torch_cuda: Option<TorchCuda>,
    /// How bitsandbytes chooses its library, of bitsandbytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library_choice: Option<LibraryChoice>,
    /// Modules of other packages that are imported when the package is, of packages whose chain is followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// Imports among its own files that cannot hold, where that is looked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken_imports: Vec<Import>,
    /// Modules that the package has, of those that others import.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
}

/// What torch says of its CUDA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorchCuda {
    /// `12.1`; `None` in a build for the CPU or for another vendor's GPUs.
    pub version: Option<String>,
    /// The line of `torch/version.py`.
    pub evidence: Evidence,
}

/// What bitsandbytes does when the library for torch's CUDA is not in the wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenMissing {
    /// `import bitsandbytes` raises.
    RaiseAtImport,
    /// Loads the CPU library, with a warning.
    LoadCpu,
    /// The first use of a function of the library raises.
    FailAtUse,
    /// Takes the nearest version of the same major; without one, the first use raises.
    NearestOfMajor,
}

/// How bitsandbytes chooses its library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryChoice {
    /// What happens without the exact one.
    pub when_missing: WhenMissing,
    /// Lines of its Python that say so.
    pub evidence: Vec<Evidence>,
}

/// A module of another package that an import needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Import {
    /// `triton.ops.matmul_perf_model`.
    pub module: String,
    /// Names that are taken out of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Whether an `except` would catch that it is missing.
    pub guarded: bool,
    /// The condition before it; `not (…)` after an `else`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Where.
    pub evidence: Evidence,
    /// Files that lead there, from the package's `__init__.py` on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

/// A requirement file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirements {
    /// Its path.
    pub path: String,
    /// What it asks for.
    pub requirements: Vec<Requirement>,
    /// Files that it includes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub includes: Vec<Evidence>,
    /// Where packages come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub index_urls: Vec<Evidence>,
    /// Lines that are no requirement, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_understood: Vec<Evidence>,
}

/// Something that has to be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// Name as PEP 503 writes it.
    pub name: String,
    /// `>=1,<2`; empty for any.
    pub specifier: String,
    /// When it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
    /// Where it comes from, if it is a certain file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The index that the command names, if it is not PyPI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Evidence>,
    /// The line.
    pub evidence: Evidence,
}

/// A known failure in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMatch {
    /// Its name, as `no_kernel_image`.
    pub failure: String,
    /// Why it happens.
    pub cause: String,
    /// What to do.
    pub fix: String,
    /// What the line says about versions, if it does: `torch_cuda` -> `12.1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub says: Vec<(String, String)>,
    /// The line.
    pub evidence: Evidence,
}

/// What a Dockerfile says of CUDA and Python.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dockerfile {
    /// Its path.
    pub path: String,
    /// Images that stages begin with.
    pub base_images: Vec<BaseImage>,
    /// What `pip install` is told, in order.
    pub installs: Vec<PipInstall>,
    /// `ENV`, and `ARG` with a default.
    pub environment: Vec<Evidence>,
    /// Commands that run Python while the image is built.
    pub python_runs: Vec<Evidence>,
    /// What they assert of `torch.version.cuda`.
    pub assertions: Vec<Assertion>,
}

/// An assertion on `torch.version.cuda`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assertion {
    /// Versions that it lets pass.
    pub allowed: Vec<String>,
    /// The statement.
    pub evidence: Evidence,
}

/// An image that another begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseImage {
    /// Its name, with arguments filled in.
    pub image: String,
    /// CUDA, as its tag says it.
    pub cuda: Option<String>,
    /// torch, as its tag says it.
    pub torch: Option<String>,
    /// Whether this stage is the one that the image ends with.
    pub is_final: bool,
    /// The line.
    pub evidence: Evidence,
}

/// One `pip install`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipInstall {
    /// What it installs.
    pub requirements: Vec<Requirement>,
    /// Requirement files, as they are called in the image.
    pub files: Vec<Evidence>,
    /// Indexes that it names.
    pub index_urls: Vec<Evidence>,
    /// Whether it replaces what is there already (`--upgrade`, `--force-reinstall`).
    pub upgrades: bool,
    /// Whether it leaves dependencies alone (`--no-deps`).
    pub no_deps: bool,
    /// The command.
    pub evidence: Evidence,
}
