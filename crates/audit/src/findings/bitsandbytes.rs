//! bitsandbytes: the library it picks for a torch, what that holds, and whether what it imports is there.
//!
//! It picks by `torch.version.cuda`, never by the GPU. What happens when that library is not in the wheel differs by release, and
//! is read out of its Python ([`crate::LibraryChoice`]).

use std::str::FromStr;

use pep440_rs::Version;
use serde::Serialize;

use super::device_code::{CodeVerdict, Judgement, judge};
use super::torch::{cuda_version, requirement_line};
use super::{Finding, Machine, Severity, on_code};
use crate::driver::CudaVersion;
use crate::facts::{Evidence, Import, Library, Package, WhenMissing};
use crate::releases;
use crate::stack::{Stack, specifiers};

/// What is known of bitsandbytes.
#[derive(Debug, Clone, Serialize)]
pub struct BitsandbytesReport {
    /// Its version.
    pub version: String,
    /// The library that it asks for.
    pub wanted: Option<String>,
    /// The library that it loads.
    pub loaded: Option<String>,
    /// Whether the wheel has the one that it asks for.
    pub shipped: bool,
    /// CUDA libraries in the wheel.
    pub libraries: Vec<String>,
    /// What comes of it.
    pub happens: WhatHappens,
    /// The loaded library, judged for the card; `None` without a card.
    pub device_code: Option<Judgement>,
    /// What it says it needs of torch: empty is any version.
    pub requires_torch: String,
    /// Whether all modules are there that it imports; `None` if that is not known.
    pub imports_hold: Option<bool>,
    /// What the choice rests on.
    pub evidence: Vec<Evidence>,
}

/// What comes of the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhatHappens {
    /// The library loads.
    Loads,
    /// Another library of the same major loads.
    LoadsNearest,
    /// `import bitsandbytes` raises.
    RaisesAtImport,
    /// The CPU library loads: 4-bit layers fail on the GPU.
    FallsToCpu,
    /// The first 4-bit layer raises.
    FailsAtUse,
    /// It needs CUDA libraries of another major than torch brings.
    CannotLoad,
    /// Torch, or its CUDA, is not known.
    Unknown,
}

impl WhatHappens {
    fn works(self) -> bool {
        matches!(self, WhatHappens::Loads | WhatHappens::LoadsNearest)
    }
}

/// Reports on bitsandbytes.
pub(crate) fn report(
    stack: &Stack,
    machine: &Machine,
    findings: &mut Vec<Finding>,
) -> Option<BitsandbytesReport> {
    let package = stack.package("bitsandbytes")?;
    let mut found = Vec::new();
    let report = examine(package, stack, machine, &mut found);
    let fix = |finding: Finding| match &finding.fix {
        fix if fix.is_empty() => Finding { fix: suggest(stack, machine), ..finding },
        _ => finding,
    };
    findings.extend(found.into_iter().map(fix));
    Some(report)
}

/// Whether a bitsandbytes works with the torch of the stack on the card.
pub(crate) fn works(package: &Package, stack: &Stack, machine: &Machine) -> bool {
    let mut findings = Vec::new();
    let report = examine(package, stack, machine, &mut findings);
    let torch = stack.version("torch").and_then(|version| Version::from_str(version).ok());
    let wanted = specifiers(&report.requires_torch);
    let takes_torch = torch.zip(wanted).is_none_or(|(torch, wanted)| wanted.contains(&torch));
    takes_torch
        && report.happens.works()
        && findings.iter().all(|finding| finding.severity != Severity::Error)
}

/// Reports and finds; the fix of a finding is left empty where another release would be the way out.
fn examine(
    package: &Package,
    stack: &Stack,
    machine: &Machine,
    findings: &mut Vec<Finding>,
) -> BitsandbytesReport {
    let torch = stack.package("torch");
    let torch_cuda = torch.and_then(cuda_version);
    let pick = Pick::new(package, torch_cuda, machine);
    let mut evidence = pick.evidence.clone();
    evidence.extend(torch.and_then(|torch| Some((torch, torch.torch_cuda.as_ref()?))).map(
        |(torch, cuda)| Evidence {
            file: format!("{}!{}", torch.origin, cuda.evidence.file),
            ..cuda.evidence.clone()
        },
    ));
    findings.extend(pick.finding(package, torch, &evidence));
    let device_code = pick.loaded.and_then(|library| {
        let (name, gpu) = machine.gpu?;
        let file = format!("{}!{}", package.origin, library.path);
        let judgement = judge(library, &file, gpu, machine.driver);
        let called = format!("bitsandbytes {} ({})", package.version, library.file_name());
        if pick.happens.works() {
            if judgement.verdict == CodeVerdict::NoGpuCode {
                return Some(judgement);
            }
            findings.extend(on_code(&called, &judgement, name, Severity::Error, String::new()));
        }
        Some(judgement)
    });
    let imports_hold = imports(package, stack, findings);
    let requires = requirement_line(package, "torch");
    let requires_torch = requires.as_ref().map_or("", |evidence| evidence.value.as_str());
    let requires_torch =
        requires_torch.trim_start_matches("Requires-Dist: ").trim_start_matches("torch");
    let requires_torch = requires_torch.trim().to_owned();
    evidence.extend(requires);
    BitsandbytesReport {
        version: package.version.clone(),
        wanted: pick.wanted.clone(),
        loaded: pick.loaded.map(|library| library.file_name().to_owned()),
        shipped: pick.shipped,
        libraries: cuda_libraries(package).map(|(_, l)| l.file_name().to_owned()).collect(),
        happens: pick.happens,
        device_code,
        requires_torch,
        imports_hold,
        evidence,
    }
}

/// Which library it is.
struct Pick<'p> {
    wanted: Option<String>,
    loaded: Option<&'p Library>,
    shipped: bool,
    happens: WhatHappens,
    overridden: bool,
    evidence: Vec<Evidence>,
}

impl<'p> Pick<'p> {
    fn new(package: &'p Package, torch: Option<CudaVersion>, machine: &Machine) -> Pick<'p> {
        let mut evidence = Vec::new();
        let choice = package.library_choice.as_ref();
        if let Some(choice) = choice {
            let inside = choice.evidence.iter();
            evidence.extend(
                inside.map(|e| Evidence {
                    file: format!("{}!{}", package.origin, e.file),
                    ..e.clone()
                }),
            );
        }
        let mut pick = Pick {
            wanted: None,
            loaded: None,
            shipped: false,
            happens: WhatHappens::Unknown,
            overridden: false,
            evidence,
        };
        let (Some(torch), Some(choice)) = (torch, choice) else { return pick };
        // The variable is looked at only where a GPU is visible, which is what an audit is about.
        let digits = match &machine.bnb_cuda_version {
            Some((value, evidence)) if !value.is_empty() => {
                pick.overridden = true;
                pick.evidence.push(evidence.clone());
                (*value).to_owned()
            }
            _ => format!("{}{}", torch.major, torch.minor),
        };
        let wanted = format!("libbitsandbytes_cuda{digits}.so");
        let exact = cuda_libraries(package).find(|(_, library)| library.file_name() == wanted);
        pick.wanted = Some(wanted);
        pick.shipped = exact.is_some();
        if let Some((version, library)) = exact {
            pick.loaded = Some(library);
            pick.happens = loads(library, version, torch);
            return pick;
        }
        let cpu = package.libraries.iter().find(|l| l.file_name() == "libbitsandbytes_cpu.so");
        match choice.when_missing {
            WhenMissing::RaiseAtImport => pick.happens = WhatHappens::RaisesAtImport,
            WhenMissing::LoadCpu => (pick.loaded, pick.happens) = (cpu, WhatHappens::FallsToCpu),
            WhenMissing::FailAtUse => pick.happens = WhatHappens::FailsAtUse,
            // The override names a file, and no other is looked for.
            WhenMissing::NearestOfMajor if pick.overridden => {
                pick.happens = WhatHappens::FailsAtUse
            }
            WhenMissing::NearestOfMajor => match nearest(package, torch) {
                Some(library) => {
                    (pick.loaded, pick.happens) = (Some(library), WhatHappens::LoadsNearest);
                }
                None => pick.happens = WhatHappens::FailsAtUse,
            },
        }
        pick
    }

    fn finding(
        &self,
        package: &Package,
        torch: Option<&Package>,
        evidence: &[Evidence],
    ) -> Option<Finding> {
        let wanted = self.wanted.as_deref()?;
        let own = torch.and_then(cuda_version).map(library_name);
        let torch = torch.map_or(String::new(), |torch| {
            let cuda = cuda_version(torch).map_or("?".to_owned(), |cuda| cuda.to_string());
            format!("torch {} was built with CUDA {cuda}", torch.version)
        });
        let named = match self.overridden {
            true => format!("BNB_CUDA_VERSION names {wanted}"),
            false => format!("{torch}, so bitsandbytes {} asks for {wanted}", package.version),
        };
        let has: Vec<&str> =
            cuda_libraries(package).map(|(_, library)| library.file_name()).collect();
        let absent = format!("{named}, which its wheel does not have (it has {})", has.join(", "));
        let (id, what) = match self.happens {
            WhatHappens::Loads if self.overridden => {
                return Some(self.override_note(wanted, &torch, own.as_deref(), evidence));
            }
            WhatHappens::Loads | WhatHappens::Unknown => return None,
            WhatHappens::LoadsNearest => {
                let loaded = self.loaded.map_or("", Library::file_name);
                return Some(Finding {
                    id: "bitsandbytes_library_nearest",
                    severity: Severity::Note,
                    what: format!("{absent}; it takes {loaded}, of the same major"),
                    fix: "nothing".to_owned(),
                    evidence: evidence.to_vec(),
                });
            }
            WhatHappens::RaisesAtImport => (
                "bitsandbytes_library_missing",
                format!(
                    "{absent}: `import bitsandbytes` raises \"CUDA Setup failed despite GPU being available\""
                ),
            ),
            WhatHappens::FallsToCpu => (
                "bitsandbytes_library_missing",
                format!(
                    "{absent}: it loads the CPU library with a warning, and 4-bit layers fail on the GPU"
                ),
            ),
            WhatHappens::FailsAtUse => {
                ("bitsandbytes_library_missing", format!("{absent}: the first 4-bit layer raises"))
            }
            WhatHappens::CannotLoad => {
                let needed = self.loaded.map_or(String::new(), |library| library.needed.join(", "));
                (
                    "bitsandbytes_other_cuda_major",
                    format!(
                        "{named}, which needs {needed}; {torch}, whose packages bring another major"
                    ),
                )
            }
        };
        let fix =
            if self.overridden { "remove BNB_CUDA_VERSION".to_owned() } else { String::new() };
        Some(Finding { id, severity: Severity::Error, what, fix, evidence: evidence.to_vec() })
    }

    /// What the variable does where the library that it names loads.
    fn override_note(
        &self,
        wanted: &str,
        torch: &str,
        own: Option<&str>,
        evidence: &[Evidence],
    ) -> Finding {
        let what = if own == Some(wanted) {
            format!(
                "BNB_CUDA_VERSION changes nothing: {torch}, for which bitsandbytes takes {wanted} anyway; the name says a \
                 CUDA version, never a card"
            )
        } else {
            format!(
                "BNB_CUDA_VERSION makes bitsandbytes load {wanted}, for another CUDA than torch's: {torch}"
            )
        };
        let set = evidence.iter().filter(|evidence| evidence.value.starts_with("BNB_CUDA_VERSION"));
        Finding {
            id: "bitsandbytes_override",
            severity: Severity::Note,
            what,
            fix: "remove BNB_CUDA_VERSION".to_owned(),
            evidence: set.cloned().collect(),
        }
    }
}

/// What a library for this CUDA is called.
fn library_name(cuda: CudaVersion) -> String {
    format!("libbitsandbytes_cuda{}{}.so", cuda.major, cuda.minor)
}

/// A library for another major of CUDA needs `libcublas.so.11` where torch brings `.12`.
fn loads(library: &Library, version: CudaVersion, torch: CudaVersion) -> WhatHappens {
    let major = |name: &String| name.strip_prefix("libcublas.so.")?.parse::<u32>().ok();
    let needed = library.needed.iter().find_map(major).unwrap_or(version.major);
    if needed == torch.major { WhatHappens::Loads } else { WhatHappens::CannotLoad }
}

/// The CUDA libraries of a wheel by their version, without those for old cards (`_nocublaslt`).
fn cuda_libraries(package: &Package) -> impl Iterator<Item = (CudaVersion, &Library)> {
    package.libraries.iter().filter_map(|library| {
        let name = library.file_name().strip_prefix("libbitsandbytes_cuda")?;
        let digits = name.strip_suffix(".so")?;
        let (major, minor) = digits.split_at_checked(2)?;
        let version = CudaVersion { major: major.parse().ok()?, minor: minor.parse().ok()? };
        Some((version, library))
    })
}

/// The highest of torch's major that is not newer, else the lowest that is.
fn nearest(package: &Package, torch: CudaVersion) -> Option<&Library> {
    let same = || cuda_libraries(package).filter(|(version, _)| version.major == torch.major);
    let lower = same().filter(|(version, _)| *version < torch).max_by_key(|(version, _)| *version);
    let higher = same().filter(|(version, _)| *version > torch).min_by_key(|(version, _)| *version);
    lower.or(higher).map(|(_, library)| library)
}

/// Whether the modules that `import bitsandbytes` needs are in the packages of the stack.
fn imports(package: &Package, stack: &Stack, findings: &mut Vec<Finding>) -> Option<bool> {
    let mut all_known = true;
    let mut missing: Vec<&Import> = Vec::new();
    for import in &package.imports {
        match is_there(import, stack) {
            Some(true) => {}
            Some(false) => missing.push(import),
            None => all_known = false,
        }
    }
    missing.retain(|import| !import.guarded);
    let Some(first) = missing.first() else { return all_known.then_some(true) };
    let provider = first.module.split('.').next().unwrap_or_default();
    let version = stack.version(provider).unwrap_or("?");
    let certain = first.condition.as_deref().is_none_or(|c| c.contains("triton_available"));
    let mut evidence: Vec<Evidence> = missing
        .iter()
        .map(|import| Evidence {
            file: format!("{}!{}", package.origin, import.evidence.file),
            ..import.evidence.clone()
        })
        .collect();
    evidence.extend(stack.chosen.get(provider).map(|chosen| chosen.evidence.clone()));
    let chain = first.chain.join(" -> ");
    findings.push(Finding {
        id: "import_missing",
        severity: if certain { Severity::Error } else { Severity::Warning },
        what: format!(
            "`import bitsandbytes` {} asks for {}, which {provider} {version} does not have (\"No module named \
             '{}'\"); it gets there by {chain}",
            package.version,
            first.module,
            absent_part(first, stack)
        ),
        fix: String::new(),
        evidence,
    });
    certain.then_some(false)
}

/// Whether a module is there; `None` if that was not recorded.
fn is_there(import: &Import, stack: &Stack) -> Option<bool> {
    let provider = import.module.split('.').next()?;
    let modules = &stack.package(provider)?.modules;
    if modules.is_empty() {
        return None;
    }
    if modules.contains(&import.module) {
        return Some(true);
    }
    // Recorded to the second level, and `triton.ops` in full.
    let second = import.module.split('.').take(2).collect::<Vec<_>>().join(".");
    if !modules.contains(&second) {
        return Some(false);
    }
    let in_full = import.module.starts_with("triton.ops") || import.module == second;
    in_full.then_some(false)
}

/// The first part of a module's name that is not there, as Python's message names it.
fn absent_part(import: &Import, stack: &Stack) -> String {
    let provider = import.module.split('.').next().unwrap_or_default();
    let modules = stack.package(provider).map(|package| package.modules.as_slice());
    let ends = import.module.match_indices('.').map(|(at, _)| at).chain([import.module.len()]);
    let mut parts = ends.skip(1).map(|end| &import.module[..end]);
    let absent = parts.find(|part| !modules.unwrap_or_default().iter().any(|m| m == part));
    absent.unwrap_or(&import.module).to_owned()
}

/// A release that works with this torch on this card.
fn suggest(stack: &Stack, machine: &Machine) -> String {
    let Some(torch) = stack.package("torch") else {
        return "say which torch is used".to_owned();
    };
    let known = releases::versions("bitsandbytes").into_iter().rev();
    let mut working = known.filter(|(_, package)| works(package, stack, machine));
    match working.next() {
        Some((version, _)) => {
            format!("take bitsandbytes {version}, which works with torch {} here", torch.version)
        }
        None => format!(
            "change torch first: with torch {} no known release of bitsandbytes works here",
            torch.version
        ),
    }
}
