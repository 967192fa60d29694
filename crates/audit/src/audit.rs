//! One audit: looks at what the targets are, gathers their facts, and has them judged.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::driver::{DRIVERS_SOURCE, Driver};
use crate::error::{AuditError, ProbeError, Result};
use crate::facts::{
    CodeKind, ComputeCapability, DeviceCode, Dockerfile, Evidence, Library, Linking, LogMatch,
    Package, Requirements,
};
use crate::findings::device_code::judge;
use crate::findings::{
    Finding, Judgement, Machine, Severity, bitsandbytes, dockerfile, loading, metadata, on_driver,
    torch,
};
use crate::fix::{self, Fix, Texts};
use crate::gpus;
use crate::limits::{Budget, Limits};
use crate::log;
use crate::probe::source::{FileSource, Source};
use crate::probe::stream::Packing;
use crate::probe::tree::Wheel;
use crate::probe::{self, elf, image, library, package, requirements, site_packages, tar, zip};
use crate::report::{DriverReport, GpuReport, LibraryReport, Report};
use crate::stack::{PYTHON_DEFAULT, Stack, marker_environment};

/// What to judge for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// A card, by [`gpus::find`].
    pub gpu: Option<(String, ComputeCapability)>,
    /// A driver.
    pub driver: Option<Driver>,
    /// A version of Python, as `3.11`.
    pub python: Option<String>,
    /// Environment variables of the program: only `BNB_CUDA_VERSION` decides anything.
    pub environment: Vec<(String, String)>,
    /// Packages that were read already, by [`read_remote`].
    pub packages: Vec<Package>,
    /// Bounds.
    pub limits: Limits,
}

/// A file that lies elsewhere, and is read at offsets.
pub trait ReadAt {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` with what begins at `offset`.
    ///
    /// # Errors
    ///
    /// When the bytes are not there or cannot be had.
    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// What was read out of the targets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) packages: Vec<Package>,
    pub(crate) libraries: Vec<Library>,
    pub(crate) requirements: Vec<Requirements>,
    pub(crate) dockerfiles: Vec<Dockerfile>,
    logs: Vec<LogMatch>,
    python: Option<String>,
    not_known: Vec<Evidence>,
    /// Variables that images set.
    environment: Vec<Evidence>,
    /// Requirement files and Dockerfiles as they stand.
    pub(crate) texts: Texts,
}

/// Texts are not larger.
const TEXT_MAX: u64 = 256 << 20;
const INCLUDES_MAX: usize = 64;

/// Audits all targets as one stack.
///
/// # Errors
///
/// When a target cannot be read, is none of the kinds that are audited, or a bound is reached.
pub fn audit(targets: &[PathBuf], query: &Query) -> Result<Report, AuditError> {
    let (facts, targets) = gather_all(targets, query)?;
    assess(&facts, query, &targets)
}

/// Looks for the smallest change of pins that makes the stack work.
///
/// # Errors
///
/// As [`audit`].
pub fn fix(targets: &[PathBuf], query: &Query) -> Result<Fix, AuditError> {
    let (facts, targets) = gather_all(targets, query)?;
    let before = assess(&facts, query, &targets)?;
    Ok(fix::fix(&facts, query, &before))
}

fn gather_all(targets: &[PathBuf], query: &Query) -> Result<(Facts, Vec<String>), AuditError> {
    let budget = Budget::new(query.limits);
    let mut facts = Facts { packages: query.packages.clone(), ..Facts::default() };
    for target in targets {
        gather(target, &budget, &mut facts)?;
    }
    let remote = query.packages.iter().map(|package| package.origin.clone());
    let paths = targets.iter().map(|target| target.display().to_string());
    Ok((facts, remote.chain(paths).collect()))
}

/// Judges facts.
pub(crate) fn assess(
    facts: &Facts,
    query: &Query,
    targets: &[String],
) -> Result<Report, AuditError> {
    let python = query.python.clone().or_else(|| facts.python.clone());
    let python = python.unwrap_or_else(|| PYTHON_DEFAULT.to_owned());
    let markers = marker_environment(&python).ok_or_else(|| AuditError {
        path: PathBuf::from("--python"),
        reason: ProbeError::Unsupported(format!("`{python}` is no version of Python like 3.11")),
    })?;
    let asked = facts.requirements.iter().flat_map(|file| &file.requirements);
    let asked: Vec<_> = asked.cloned().collect();
    let stack = Stack::new(&facts.packages, &asked, &markers);
    let machine = machine(query, facts);
    let mut findings: Vec<Finding> = on_driver(&machine).into_iter().collect();
    let torch = torch::report(&stack, &machine, &mut findings);
    let bitsandbytes = bitsandbytes::report(&stack, &machine, &mut findings);
    findings.extend(metadata::findings(&stack, &markers, &python));
    for file in &facts.dockerfiles {
        findings.extend(dockerfile::findings(file, &stack, &machine));
    }
    let loaded = bitsandbytes.as_ref().and_then(|report| report.loaded.clone());
    let libraries = judge_libraries(facts, loaded.as_deref(), &machine, &mut findings);
    findings.extend(loading(facts, loaded.as_deref()));
    let not_known = not_known(facts, &stack);
    findings.sort_by_key(|finding| finding.severity);
    let works = works(&findings, &libraries, torch.is_some(), &stack, query, facts);
    Ok(Report {
        works,
        gpu: query.gpu.as_ref().map(gpu_report),
        driver: query.driver.as_ref().map(driver_report),
        python,
        targets: targets.to_vec(),
        packages: stack.chosen,
        torch,
        bitsandbytes,
        libraries,
        dockerfiles: facts.dockerfiles.clone(),
        logs: facts.logs.clone(),
        findings,
        not_known,
    })
}

/// Measures wheels, for the data file of releases.
///
/// # Errors
///
/// When one cannot be read.
pub fn learn(wheel: &Path, limits: Limits) -> Result<Package, AuditError> {
    let budget = Budget::new(limits);
    let mut package = read_wheel(wheel, &budget).map_err(|error| error.at(wheel))?;
    let name = wheel.file_name().map(|name| name.to_string_lossy().into_owned());
    package.origin = name.unwrap_or_default();
    package.sha256 = Some(probe::hash::sha256(wheel, &budget).map_err(|error| error.at(wheel))?);
    Ok(for_releases(package))
}

/// Reads a wheel that lies elsewhere: its directory, and of its members those that are wanted.
///
/// # Errors
///
/// When it cannot be read.
pub fn read_remote(
    name: &str,
    wheel: &mut dyn ReadAt,
    limits: Limits,
) -> Result<Package, AuditError> {
    let budget = Budget::new(limits);
    wheel_of(Elsewhere(wheel), name, &budget).map_err(|error| error.at(name))
}

struct Elsewhere<'r>(&'r mut dyn ReadAt);

impl Source for Elsewhere<'_> {
    fn len(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(offset, buffer)
    }
}

/// What the data file keeps of a package.
pub fn for_releases(mut package: Package) -> Package {
    package.libraries.retain(|library| {
        !library.device_code.is_empty() || library.file_name().contains("_cpu.so")
    });
    package.libraries.retain(|library| !library.file_name().contains(FOR_OLD_CARDS));
    package.libraries.iter_mut().for_each(shorten);
    package
}

/// Variants of bitsandbytes' libraries that are picked below compute capability 7.5.
const FOR_OLD_CARDS: &str = "_nocublaslt";

/// Leaves out what no verdict rests on: machine code of objects, which does not run, and how pieces are packed.
fn shorten(library: &mut Library) {
    let relinks = |code: &DeviceCode| code.linking == Linking::Linked || code.kind == CodeKind::Ptx;
    library.device_code.retain(relinks);
    for code in &mut library.device_code {
        (code.bytes, code.packing) = (0, Vec::new());
    }
    if library.device_code.iter().all(|code| code.linking == Linking::Linked) {
        library.combinations.retain(|combination| combination.linking == Linking::Linked);
    }
}

fn gather(target: &Path, budget: &Budget, facts: &mut Facts) -> Result<(), AuditError> {
    let at = |error: ProbeError| error.at(target);
    let metadata = fs::metadata(target).map_err(|error| at(error.into()))?;
    if metadata.is_dir() {
        return if image::is_oci_folder(target) {
            gather_image(target, budget, facts)
        } else {
            gather_folder(target, budget, facts)
        };
    }
    let mut source = FileSource::open(target).map_err(at)?;
    let mut head = vec![0; source.len().min(512) as usize];
    source.read_exact_at(0, &mut head).map_err(|error| at(error.into()))?;
    let shown = target.display().to_string();
    let name = target.file_name().map_or(String::new(), |n| n.to_string_lossy().to_lowercase());
    if head.starts_with(&elf::MAGIC) {
        facts.libraries.push(library::read(&shown, &mut source, budget).map_err(at)?);
    } else if zip::is_zip(&head) {
        facts.packages.push(read_wheel(target, budget).map_err(at)?);
    } else if tar::is_tar(&head) || Packing::of(&head) != Packing::None {
        gather_image(target, budget, facts)?;
    } else if head.contains(&0) {
        let what =
            "is neither a folder with packages, a wheel, an ELF library, an image, nor a text"
                .to_owned();
        return Err(at(ProbeError::Unsupported(what)));
    } else {
        let text = probe::text::read(target, TEXT_MAX, budget).map_err(at)?;
        if name.starts_with("dockerfile") || name.ends_with("dockerfile") || name == "containerfile"
        {
            let parsed = probe::dockerfile::parse(&shown, &text).map_err(at)?;
            facts.requirements.push(Requirements {
                path: shown,
                requirements: dockerfile::left_by(&parsed.installs),
                ..Requirements::default()
            });
            facts.dockerfiles.push(parsed);
            facts.texts.insert(target.to_owned(), text);
        } else if name.ends_with(".txt") || name.ends_with(".in") {
            gather_requirements(target, &text, budget, facts)?;
        } else {
            facts.logs.extend(log::matches(&shown, &text));
        }
    }
    Ok(())
}

fn gather_folder(target: &Path, budget: &Budget, facts: &mut Facts) -> Result<(), AuditError> {
    let folders = site_packages::find(target);
    if folders.is_empty() {
        let what = "has no installed Python packages: neither *.dist-info in it, nor in lib/python3.*/site-packages";
        return Err(ProbeError::Unsupported(what.to_owned()).at(target));
    }
    for folder in folders {
        let (packages, damaged) = site_packages::read(&folder, budget)?;
        facts.packages.extend(packages);
        let unknown = |error: AuditError| {
            Evidence::file(error.path.display().to_string(), error.reason.to_string())
        };
        facts.not_known.extend(damaged.into_iter().map(unknown));
        facts.python = facts.python.take().or_else(|| site_packages::python_version(&folder));
    }
    Ok(())
}

/// An image in an archive or a folder, or an archive of a root file system.
fn gather_image(target: &Path, budget: &Budget, facts: &mut Facts) -> Result<(), AuditError> {
    let found = image::read(target, budget).map_err(|error| error.at(target))?;
    facts.packages.extend(found.packages);
    facts.not_known.extend(found.not_known);
    facts.environment.extend(found.environment);
    facts.python = facts.python.take().or(found.python);
    Ok(())
}

/// Reads a file and those it includes, each once; those that lead out of its folder are not read.
fn gather_requirements(
    target: &Path,
    text: &str,
    budget: &Budget,
    facts: &mut Facts,
) -> Result<(), AuditError> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut queue = vec![(target.to_owned(), text.to_owned())];
    let mut seen = BTreeSet::from([target.to_owned()]);
    while let Some((path, text)) = queue.pop() {
        let parsed = requirements::parse(&path.display().to_string(), &text);
        for include in &parsed.includes {
            let included = path.parent().unwrap_or(folder).join(&include.value);
            if !probe::tree::is_inside(&include.value) {
                let value = format!("{} is not read: it leads out of the folder", include.value);
                facts.not_known.push(Evidence { value, ..include.clone() });
            } else if seen.insert(included.clone()) {
                if seen.len() > INCLUDES_MAX {
                    let max = INCLUDES_MAX as u64;
                    return Err(ProbeError::TooMuch { what: "included files", max }.at(included));
                }
                let text = probe::text::read(&included, TEXT_MAX, budget);
                queue.push((included.clone(), text.map_err(|error| error.at(included))?));
            }
        }
        facts.not_known.extend(parsed.not_understood.iter().cloned());
        facts.requirements.push(parsed);
        facts.texts.insert(path, text);
    }
    Ok(())
}

fn read_wheel(path: &Path, budget: &Budget) -> Result<Package> {
    wheel_of(FileSource::open(path)?, &path.display().to_string(), budget)
}

fn wheel_of(source: impl Source, shown: &str, budget: &Budget) -> Result<Package> {
    let mut wheel = Wheel::new(source, budget)?;
    let info = package::info_folder(&probe::tree::Tree::names(&wheel));
    let info = info.ok_or_else(|| {
        ProbeError::Unsupported(
            "is a zip archive, but no wheel: it has no *.dist-info/METADATA".into(),
        )
    })?;
    package::read(&mut wheel, &info, shown, budget)
}

fn machine<'q>(query: &'q Query, facts: &'q Facts) -> Machine<'q> {
    const VARIABLE: &str = "BNB_CUDA_VERSION";
    let given = query.environment.iter().find(|(name, _)| name == VARIABLE);
    let given = given
        .map(|(name, value)| (value.as_str(), Evidence::file("--env", format!("{name}={value}"))));
    let files = facts.dockerfiles.iter().flat_map(|file| &file.environment);
    let mut set = files.chain(&facts.environment).rev().filter_map(|evidence| {
        let (name, value) = evidence.value.split_once('=')?;
        (name == VARIABLE).then_some((value, evidence.clone()))
    });
    Machine {
        gpu: query.gpu.as_ref().map(|(name, capability)| (name.as_str(), *capability)),
        driver: query.driver.as_ref(),
        bnb_cuda_version: given.or_else(|| set.next()),
    }
}

/// Whether the libraries that decide load, in an environment; beside single wheels nothing is installed.
fn loading(facts: &Facts, loaded: Option<&str>) -> Vec<Finding> {
    let installed: Vec<&Package> = facts
        .packages
        .iter()
        .filter(|p| p.sha256.is_none() && !p.origin.ends_with(".whl"))
        .collect();
    let deciding: Vec<(&Package, &Library)> = installed
        .iter()
        .flat_map(|package| package.libraries.iter().map(|library| (*package, library)))
        .filter(|(package, library)| decides(Some(&package.name), library, loaded))
        .collect();
    loading::findings(&installed, &deciding)
}

/// Whether the stack is known to load a library.
fn decides(package: Option<&str>, library: &Library, loaded: Option<&str>) -> bool {
    match package {
        Some("torch") => library.file_name() == "libtorch_cuda.so",
        Some("bitsandbytes") => Some(library.file_name()) == loaded,
        Some(_) => false,
        None => true,
    }
}

/// Judges every library that was found, and adds findings on those that torch and bitsandbytes have not decided.
fn judge_libraries(
    facts: &Facts,
    loaded: Option<&str>,
    machine: &Machine,
    findings: &mut Vec<Finding>,
) -> Vec<LibraryReport> {
    let mut reports = Vec::new();
    let of_packages = facts
        .packages
        .iter()
        .flat_map(|package| package.libraries.iter().map(move |library| (Some(package), library)));
    for (package, library) in of_packages.chain(facts.libraries.iter().map(|l| (None, l))) {
        let file =
            package.map_or(library.path.clone(), |p| format!("{}!{}", p.origin, library.path));
        let judgement = machine.gpu.map(|(_, gpu)| judge(library, &file, gpu, machine.driver));
        let name = package.map(|package| package.name.as_str());
        let decides = decides(name, library, loaded);
        let judged_already = matches!(name, Some("torch" | "bitsandbytes"));
        if let (Some(judgement), Some((gpu, _)), false) = (&judgement, machine.gpu, judged_already)
        {
            findings.extend(on_other_library(&file, name, judgement, gpu));
        }
        if let Some(damage) = &library.damage {
            findings.push(Finding {
                id: "damaged_library",
                severity: Severity::Warning,
                what: format!("{file} could not be read to its end: {damage}"),
                fix: "install the package again".to_owned(),
                evidence: vec![Evidence::file(&file, damage.as_str())],
            });
        }
        if decides || !library.device_code.is_empty() || library.damage.is_some() {
            let package = name.map(str::to_owned);
            let library = library.clone();
            reports.push(LibraryReport { package, decides, library, judgement });
        }
    }
    reports
}

fn on_other_library(
    file: &str,
    package: Option<&str>,
    judgement: &Judgement,
    gpu: &str,
) -> Option<Finding> {
    // A library that was asked about by its name decides; one of a package may never be loaded.
    let severity = if package.is_none() { Severity::Error } else { Severity::Warning };
    let fix = match package {
        None => "take a build of it for this card".to_owned(),
        Some(package) => {
            format!("take a release of {package} with code for this card, if the program uses it")
        }
    };
    let finding = crate::findings::on_code(file, judgement, gpu, severity, fix)?;
    (package.is_none() || finding.severity < Severity::Note).then_some(finding)
}

/// What the verdict would have needed.
fn not_known(facts: &Facts, stack: &Stack) -> Vec<Evidence> {
    let mut unknown = facts.not_known.clone();
    for name in ["torch", "bitsandbytes"] {
        if let Some(chosen) = stack.chosen.get(name).filter(|chosen| chosen.package.is_none()) {
            let value =
                format!("nothing was measured of {name} {}; give its wheel", chosen.version);
            unknown.push(Evidence { value, ..chosen.evidence.clone() });
        }
    }
    let elsewhere = stack.asked.iter().filter(|requirement| {
        let name = requirement.name.as_str();
        let unmet = stack.unmet.iter().any(|unmet| unmet.name == name);
        ["torch", "bitsandbytes"].contains(&name) && !stack.chosen.contains_key(name) && !unmet
    });
    unknown.extend(elsewhere.map(|requirement| {
        let index = requirement.index.as_ref().map_or("this index", |index| index.value.as_str());
        let value = format!(
            "nothing was measured of what {index} has of {}; give its wheel",
            requirement.name
        );
        Evidence { value, ..requirement.evidence.clone() }
    }));
    for requirement in &stack.unmet {
        let name = &requirement.name;
        let known: Vec<&str> =
            crate::releases::versions(name).iter().map(|(_, p)| p.version.as_str()).collect();
        let value = format!(
            "no known version of {name} is {} together with the other lines (known: {})",
            requirement.specifier,
            known.join(", ")
        );
        unknown.push(Evidence { value, ..requirement.evidence.clone() });
    }
    unknown
}

fn works(
    findings: &[Finding],
    libraries: &[LibraryReport],
    torch: bool,
    stack: &Stack,
    query: &Query,
    facts: &Facts,
) -> Option<bool> {
    if findings.iter().any(|finding| finding.severity == Severity::Error) || !facts.logs.is_empty()
    {
        return Some(false);
    }
    // The system may have what no package has.
    if findings.iter().any(|finding| finding.id == "needed_library_missing") {
        return None;
    }
    let complete = ["torch", "bitsandbytes"]
        .iter()
        .all(|name| stack.chosen.get(*name).is_none_or(|chosen| chosen.package.is_some()));
    let something = torch || libraries.iter().any(|library| library.package.is_none());
    let bitsandbytes = stack.chosen.contains_key("bitsandbytes");
    let asked = stack.asked.iter().map(|requirement| requirement.name.as_str());
    let mut asked = asked.filter(|name| ["torch", "bitsandbytes"].contains(name));
    let complete = complete && asked.all(|name| stack.chosen.contains_key(name));
    let decided = complete && something && (torch || !bitsandbytes) && stack.unmet.is_empty();
    (query.gpu.is_some() && decided).then_some(true)
}

fn gpu_report((name, capability): &(String, ComputeCapability)) -> GpuReport {
    let evidence = Evidence::file(gpus::SOURCE, format!("{name}: {capability}"));
    GpuReport {
        name: name.clone(),
        compute_capability: capability.to_string(),
        evidence: vec![evidence],
    }
}

fn driver_report(driver: &Driver) -> DriverReport {
    let value = format!("{}: CUDA {}", driver.version, driver.cuda);
    DriverReport {
        version: driver.version.clone(),
        cuda: driver.cuda.to_string(),
        evidence: vec![Evidence::file(DRIVERS_SOURCE, value)],
    }
}
