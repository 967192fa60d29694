//! torch: the CUDA it was built with, whether its kernels run on the card, and whether the driver starts it.

use serde::Serialize;

use super::device_code::{CodeVerdict, Judgement, judge};
use super::{Finding, Machine, Severity, on_code};
use crate::driver::{CudaVersion, DRIVERS_SOURCE, first_driver};
use crate::facts::{Evidence, Library, Package};
use crate::stack::{Stack, metadata_file};

/// What is known of torch.
#[derive(Debug, Clone, Serialize)]
pub struct TorchReport {
    /// Its version.
    pub version: String,
    /// The CUDA it was built with; `None` without.
    pub cuda: Option<String>,
    /// `Requires-Python`.
    pub requires_python: Option<String>,
    /// What it needs of NVIDIA's packages and triton, as its metadata has it.
    pub pins: Vec<String>,
    /// The library with its kernels, judged for the card; `None` without a card.
    pub device_code: Option<Judgement>,
    /// Where the version of CUDA stands.
    pub evidence: Vec<Evidence>,
}

/// The library without which nothing of torch runs on a GPU. Its others are loaded when they are needed.
const CORE: &str = "libtorch_cuda.so";

/// Reports on torch.
pub(crate) fn report(
    stack: &Stack,
    machine: &Machine,
    findings: &mut Vec<Finding>,
) -> Option<TorchReport> {
    let package = stack.package("torch")?;
    let cuda = package.torch_cuda.as_ref();
    let inside = |evidence: &Evidence| Evidence {
        file: format!("{}!{}", package.origin, evidence.file),
        ..evidence.clone()
    };
    let version = cuda.and_then(|cuda| cuda.version.clone());
    let evidence: Vec<Evidence> = cuda.map(|cuda| inside(&cuda.evidence)).into_iter().collect();
    if version.is_none() {
        findings.push(Finding {
            id: "torch_without_cuda",
            severity: Severity::Error,
            what: format!(
                "torch {} was built without CUDA: it does not see any NVIDIA GPU",
                package.version
            ),
            fix: "install a build with CUDA, as PyPI's wheel for Linux on x86-64".to_owned(),
            evidence: evidence.clone(),
        });
    }
    findings.extend(package.broken_imports.iter().map(|import| Finding {
        id: "mixed_files",
        severity: Severity::Error,
        what: format!(
            "files of two releases of torch are mixed: one imports {} from {}, which does not have it (\"cannot import name\")",
            import.names.join(", "),
            import.module
        ),
        fix: format!("remove torch's folder and install torch {} again", package.version),
        evidence: vec![inside(&import.evidence)],
    }));
    let device_code = code(package, machine, findings);
    if let Some(version) = &version {
        driver(package, version, machine, &evidence, findings);
    }
    let pins = package.requires_dist.iter();
    let pins = pins.filter(|line| line.starts_with("nvidia-") || line.starts_with("triton"));
    Some(TorchReport {
        version: package.version.clone(),
        cuda: version,
        requires_python: package.requires_python.clone(),
        pins: pins.cloned().collect(),
        device_code,
        evidence,
    })
}

fn code(package: &Package, machine: &Machine, findings: &mut Vec<Finding>) -> Option<Judgement> {
    let (gpu_name, gpu) = machine.gpu?;
    let library = package.libraries.iter().find(|library| library.file_name() == CORE)?;
    let judgement = judge_of(package, library, machine)?;
    let oldest = oldest_that_runs(machine);
    let fix = match oldest {
        Some(version) => format!(
            "take torch {version} or another release with code for compute capability {gpu}"
        ),
        None => format!("no release of torch is known that has code for compute capability {gpu}"),
    };
    let name = format!("torch {} ({CORE})", package.version);
    findings.extend(on_code(&name, &judgement, gpu_name, Severity::Error, fix.clone()));
    if judgement.verdict.works() {
        for other in package.libraries.iter().filter(|library| library.file_name() != CORE) {
            let Some(judgement) = judge_of(package, other, machine) else { continue };
            let name = format!("torch {} ({})", package.version, other.file_name());
            let found = on_code(&name, &judgement, gpu_name, Severity::Warning, fix.clone());
            findings.extend(found.filter(|finding| finding.severity < Severity::Note));
        }
    }
    Some(judgement)
}

fn judge_of(package: &Package, library: &Library, machine: &Machine) -> Option<Judgement> {
    let (_, gpu) = machine.gpu?;
    let file = format!("{}!{}", package.origin, library.path);
    Some(judge(library, &file, gpu, machine.driver))
}

/// The oldest known release of torch whose core runs on the card.
fn oldest_that_runs(machine: &Machine) -> Option<String> {
    let known = crate::releases::versions("torch").into_iter();
    let mut running = known.filter(|(_, package)| runs(package, machine) == Some(true));
    running.next().map(|(version, _)| version.to_string())
}

/// Whether torch's core runs on the card and its driver.
pub(crate) fn runs(package: &Package, machine: &Machine) -> Option<bool> {
    let library = package.libraries.iter().find(|library| library.file_name() == CORE)?;
    let judgement = judge_of(package, library, machine)?;
    let starts = match (machine.driver, cuda_version(package)) {
        (Some(driver), Some(cuda)) => driver.starts(cuda),
        _ => true,
    };
    Some(starts && judgement.verdict.works() && judgement.verdict != CodeVerdict::NoGpuCode)
}

/// The CUDA of a torch.
pub(crate) fn cuda_version(package: &Package) -> Option<CudaVersion> {
    package.torch_cuda.as_ref()?.version.as_ref()?.parse().ok()
}

fn driver(
    package: &Package,
    version: &str,
    machine: &Machine,
    evidence: &[Evidence],
    findings: &mut Vec<Finding>,
) {
    let (Some(driver), Ok(cuda)) = (machine.driver, version.parse::<CudaVersion>()) else { return };
    let source =
        Evidence::file(DRIVERS_SOURCE, format!("driver {}: CUDA {}", driver.version, driver.cuda));
    let evidence: Vec<Evidence> = evidence.iter().cloned().chain([source]).collect();
    let torch = format!("torch {}", package.version);
    if !driver.starts(cuda) {
        findings.push(Finding {
            id: "driver_too_old",
            severity: Severity::Error,
            what: format!(
                "{torch} was built with CUDA {version}, and driver {} knows CUDA {} at most: a newer major does not start",
                driver.version, driver.cuda
            ),
            fix: format!(
                "update the host's driver to {} or later, or take a torch built with CUDA {}; NVIDIA's forward compatibility \
                 packages are for data-centre cards only",
                first_driver(cuda.major),
                driver.cuda.major
            ),
            evidence,
        });
    } else if driver.cuda < cuda {
        findings.push(Finding {
            id: "minor_version_compatibility",
            severity: Severity::Note,
            what: format!(
                "{torch} was built with CUDA {version}, newer than the {} of driver {}: it starts (same major), but PTX of that \
                 version does not compile",
                driver.cuda, driver.version
            ),
            fix: "nothing, as long as the card has machine code".to_owned(),
            evidence,
        });
    }
}

/// The line of a package's metadata about another one, if it has one whose marker could hold.
pub(crate) fn requirement_line(package: &Package, name: &str) -> Option<Evidence> {
    let line = package.requires_dist.iter().find(|line| {
        let end =
            line.find(|c: char| !c.is_alphanumeric() && !"-_.".contains(c)).unwrap_or(line.len());
        crate::probe::package::normalize(&line[..end]) == name && !line.contains("extra ==")
    })?;
    Some(Evidence::file(metadata_file(package), format!("Requires-Dist: {line}")))
}
