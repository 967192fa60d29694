//! Whether a library's GPU code runs on a card.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::driver::{CudaVersion, Driver, PTX_SOURCE, cuda_for_ptx};
use crate::facts::{CodeKind, Combination, ComputeCapability, Evidence, Library, Linking, Target};

/// What a card can do with a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeVerdict {
    /// Neither machine code nor PTX for it: "no kernel image".
    None,
    /// A few containers have code for it, most have none.
    Partial,
    /// Only PTX, and of a version that the driver does not know.
    DriverTooOld,
    /// The driver compiles PTX, at the first use.
    Jit,
    /// Machine code.
    Runs,
    /// There is no GPU code to run.
    NoGpuCode,
}

impl CodeVerdict {
    /// Whether kernels start.
    pub fn works(self) -> bool {
        matches!(self, CodeVerdict::Jit | CodeVerdict::Runs | CodeVerdict::NoGpuCode)
    }
}

/// The verdict on a library, and what it rests on.
#[derive(Debug, Clone, Serialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: CodeVerdict,
    /// What is there, in words.
    pub because: String,
    /// Machine code and PTX that is ready to run or to compile.
    pub targets: Vec<String>,
    /// Containers that count.
    pub containers: u64,
    /// Those of them that this card runs or compiles.
    pub covered: u64,
    /// Where the code stands.
    pub evidence: Vec<Evidence>,
}

/// Judges one library for one card. `file` is what evidence calls it.
pub(crate) fn judge(
    library: &Library,
    file: &str,
    gpu: ComputeCapability,
    driver: Option<&Driver>,
) -> Judgement {
    let linked = Coverage::of(library, Linking::Linked, gpu);
    let objects = Coverage::of(library, Linking::Relocatable, gpu);
    // Machine code of objects is not linked, and so does not run. Their PTX can be linked anew, if all of them have it.
    let relinked = objects.containers > 0 && objects.ptx == objects.containers;
    let compiled = if relinked { linked.containers } else { linked.ptx };
    let containers = linked.containers;
    let enough = |covered: u64| covered > 0 && covered * 2 >= best_coverage(library);
    let (verdict, covered) = match () {
        () if containers == 0 && !relinked => (CodeVerdict::NoGpuCode, 0),
        () if enough(linked.machine) => (CodeVerdict::Runs, linked.machine),
        () if relinked && containers == 0 => (ptx_verdict(library, gpu, driver), objects.ptx),
        () if compiled > 0 && enough(linked.machine + compiled) => {
            (ptx_verdict(library, gpu, driver), (linked.machine + compiled).min(containers))
        }
        () if linked.machine > 0 => (CodeVerdict::Partial, linked.machine),
        () => (CodeVerdict::None, 0),
    };
    let targets = usable_targets(library, relinked);
    let because = because(verdict, &targets, gpu, (covered, containers), driver, library);
    Judgement { verdict, because, targets, containers, covered, evidence: evidence(library, file) }
}

/// Containers that the card has code in for which the library has most: some libraries hold a container for each kernel and
/// architecture, and no card runs more than a part of them. Kernels for one architecture's own instructions (`sm_90a`) are not
/// counted: no other card is meant to run them.
fn best_coverage(library: &Library) -> u64 {
    let linked = || library.combinations.iter().filter(|c| c.linking == Linking::Linked);
    let targets: BTreeSet<Target> = linked()
        .flat_map(|combination| &combination.targets)
        .filter_map(|target| target.strip_prefix("sm_")?.parse().ok())
        .filter(|target: &Target| target.suffix.is_none())
        .collect();
    let on = |target: &Target| {
        let (major, minor) = (target.architecture / 10, target.architecture % 10);
        Coverage::of(library, Linking::Linked, ComputeCapability { major, minor }).machine
    };
    let best = targets.iter().map(on).max().unwrap_or(0);
    if best > 0 { best } else { linked().map(|combination| combination.containers).sum() }
}

#[derive(Default)]
struct Coverage {
    containers: u64,
    /// Have machine code that runs.
    machine: u64,
    /// Have none, but PTX that compiles.
    ptx: u64,
}

impl Coverage {
    fn of(library: &Library, linking: Linking, gpu: ComputeCapability) -> Coverage {
        let mut coverage = Coverage::default();
        for combination in library.combinations.iter().filter(|c| c.linking == linking) {
            coverage.containers += combination.containers;
            let ptx = any(combination, "compute_", |target| target.compiles_for(gpu));
            if linking == Linking::Linked && any(combination, "sm_", |target| target.runs_on(gpu)) {
                coverage.machine += combination.containers;
            } else if ptx {
                coverage.ptx += combination.containers;
            }
        }
        coverage
    }
}

fn any(combination: &Combination, prefix: &str, test: impl Fn(Target) -> bool) -> bool {
    let targets = combination.targets.iter().filter(|target| target.starts_with(prefix));
    targets.filter_map(|target| target.parse().ok()).any(test)
}

fn ptx_verdict(library: &Library, gpu: ComputeCapability, driver: Option<&Driver>) -> CodeVerdict {
    match (driver, needed_for_ptx(library, gpu)) {
        (Some(driver), Some(needed)) if driver.cuda < needed => CodeVerdict::DriverTooOld,
        _ => CodeVerdict::Jit,
    }
}

/// The CUDA that a driver needs for the PTX that it would compile.
fn needed_for_ptx(library: &Library, gpu: ComputeCapability) -> Option<CudaVersion> {
    let ptx = library.device_code.iter().filter(|code| code.kind == CodeKind::Ptx);
    let ptx = ptx.filter(|code| code.parsed().is_some_and(|target| target.compiles_for(gpu)));
    let version = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let versions = ptx.filter_map(|code| version(code.ptx_version.as_deref()?));
    versions.max().map(cuda_for_ptx)
}

/// Names of what is ready, in ascending order of architecture.
fn usable_targets(library: &Library, relinked: bool) -> Vec<String> {
    let usable = library
        .device_code
        .iter()
        .filter(|code| code.linking == Linking::Linked || relinked && code.kind == CodeKind::Ptx);
    usable.map(|code| code.target.clone()).collect()
}

fn because(
    verdict: CodeVerdict,
    targets: &[String],
    gpu: ComputeCapability,
    (covered, containers): (u64, u64),
    driver: Option<&Driver>,
    library: &Library,
) -> String {
    let wanted = format!("compute capability {gpu}");
    let has = match targets {
        [] => "nothing that is ready to run".to_owned(),
        targets => targets.join(", "),
    };
    match verdict {
        CodeVerdict::None => format!(
            "it has {has}; {wanted} runs machine code of major {} up to minor {}, or compiles PTX of {}{} or older, and \
             neither is there",
            gpu.major, gpu.minor, gpu.major, gpu.minor
        ),
        CodeVerdict::Partial => format!(
            "it has {has}, but only {covered} of {containers} containers have any for {wanted}: the other kernels have none"
        ),
        CodeVerdict::DriverTooOld => {
            let needed = needed_for_ptx(library, gpu).map_or(String::new(), |v| v.to_string());
            let driver = driver.map_or(String::new(), |driver| driver.cuda.to_string());
            format!(
                "for {wanted} it has only PTX, which needs a driver of CUDA {needed}; this one knows {driver} ({PTX_SOURCE})"
            )
        }
        CodeVerdict::Jit => {
            format!("it has {has}; the driver compiles the PTX for {wanted} at the first use")
        }
        CodeVerdict::Runs => {
            format!(
                "it has {has}; {covered} of {containers} containers have machine code that {wanted} runs"
            )
        }
        CodeVerdict::NoGpuCode => "it has no GPU code".to_owned(),
    }
}

/// One piece of evidence for each target: where its first piece stands, and how many there are.
fn evidence(library: &Library, file: &str) -> Vec<Evidence> {
    let line = |code: &crate::facts::DeviceCode| {
        let linking = match code.linking {
            Linking::Linked => "",
            Linking::Relocatable => " in objects, not linked",
        };
        let version = code.ptx_version.as_ref().map_or(String::new(), |v| format!(", PTX {v}"));
        let value = format!("{} x {}{version}{linking}", code.entries, code.target);
        Evidence::offset(file, code.offset, value)
    };
    library.device_code.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::DeviceCode;

    /// A library out of `(linking, targets, containers)`.
    fn library(combinations: &[(Linking, &[&str], u64)]) -> Library {
        let mut library = Library { path: "x.so".into(), ..Library::default() };
        for (linking, targets, containers) in combinations {
            let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
            for target in &targets {
                let ptx = target.starts_with("compute_");
                library.device_code.push(DeviceCode {
                    linking: *linking,
                    kind: if ptx { CodeKind::Ptx } else { CodeKind::Cubin },
                    target: target.clone(),
                    entries: *containers,
                    bytes: 0,
                    packing: vec![],
                    offset: 64,
                    ptx_version: ptx.then(|| "8.7".to_owned()),
                    cuda: None,
                });
            }
            let containers = *containers;
            library.combinations.push(Combination { linking: *linking, targets, containers });
        }
        library
    }

    #[track_caller]
    fn check(
        combinations: &[(Linking, &[&str], u64)],
        gpu: (u32, u32),
        driver: Option<&str>,
        expected: CodeVerdict,
    ) {
        let gpu = ComputeCapability { major: gpu.0, minor: gpu.1 };
        let driver = driver.map(|driver| driver.parse().unwrap());
        let judgement = judge(&library(combinations), "x.so", gpu, driver.as_ref());
        assert_eq!(judgement.verdict, expected, "{}", judgement.because);
    }

    #[test]
    fn the_same_major_and_an_equal_or_higher_minor() {
        let ampere: [(Linking, &[&str], u64); 1] = [(Linking::Linked, &["sm_86"], 1)];
        check(&ampere, (8, 9), None, CodeVerdict::Runs);
        check(&ampere, (8, 6), None, CodeVerdict::Runs);
        check(&ampere, (8, 0), None, CodeVerdict::None);
        check(&ampere, (12, 0), None, CodeVerdict::None);
        let hopper: [(Linking, &[&str], u64); 1] = [(Linking::Linked, &["sm_90", "sm_100"], 1)];
        check(&hopper, (12, 0), None, CodeVerdict::None);
    }

    #[test]
    fn accelerated_code_runs_on_one_device() {
        let a: [(Linking, &[&str], u64); 1] = [(Linking::Linked, &["sm_120a"], 1)];
        check(&a, (12, 0), None, CodeVerdict::Runs);
        check(&a, (12, 1), None, CodeVerdict::None);
        check(&[(Linking::Linked, &["compute_90a"], 1)], (10, 0), None, CodeVerdict::None);
        check(&[(Linking::Linked, &["sm_120f"], 1)], (12, 1), None, CodeVerdict::Runs);
    }

    #[test]
    fn ptx_needs_a_driver_that_knows_it() {
        let ptx: [(Linking, &[&str], u64); 1] = [(Linking::Linked, &["sm_70", "compute_80"], 1)];
        check(&ptx, (12, 0), None, CodeVerdict::Jit);
        check(&ptx, (12, 0), Some("12.8"), CodeVerdict::Jit);
        check(&ptx, (12, 0), Some("12.4"), CodeVerdict::DriverTooOld);
        check(&ptx, (7, 5), None, CodeVerdict::Runs);
    }

    #[test]
    fn code_in_objects_counts_as_ptx_of_all_of_them() {
        let linked: (Linking, &[&str], u64) = (Linking::Linked, &["sm_80"], 1);
        check(
            &[linked, (Linking::Relocatable, &["sm_80", "sm_120"], 6)],
            (12, 0),
            None,
            CodeVerdict::None,
        );
        check(
            &[linked, (Linking::Relocatable, &["sm_80", "compute_80"], 6)],
            (12, 0),
            None,
            CodeVerdict::Jit,
        );
        let some: [(Linking, &[&str], u64); 3] = [
            linked,
            (Linking::Relocatable, &["sm_80", "compute_80"], 5),
            (Linking::Relocatable, &["sm_80"], 1),
        ];
        check(&some, (12, 0), None, CodeVerdict::None);
    }

    #[test]
    fn a_few_containers_are_no_build() {
        let few: [(Linking, &[&str], u64); 2] =
            [(Linking::Linked, &["sm_90", "sm_120"], 2), (Linking::Linked, &["sm_90"], 376)];
        check(&few, (12, 0), None, CodeVerdict::Partial);
        check(&few, (9, 0), None, CodeVerdict::Runs);
        // A container for each kernel and architecture.
        let apart: [(Linking, &[&str], u64); 3] = [
            (Linking::Linked, &["sm_80"], 170),
            (Linking::Linked, &["sm_86"], 260),
            (Linking::Linked, &["sm_90"], 500),
        ];
        check(&apart, (8, 9), None, CodeVerdict::Runs);
        check(&apart, (12, 0), None, CodeVerdict::None);
        // And most of them for one card's own instructions.
        let own: (Linking, &[&str], u64) = (Linking::Linked, &["sm_90a"], 2500);
        check(&[apart[0], apart[1], own], (8, 6), None, CodeVerdict::Runs);
        check(&[apart[0], apart[1], own], (12, 0), None, CodeVerdict::None);
        check(&[own], (8, 6), None, CodeVerdict::None);
    }
}
