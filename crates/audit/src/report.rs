//! What an audit found, for programs (it serializes) and for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::facts::{Dockerfile, Evidence, Library, Linking, LogMatch};
use crate::findings::{BitsandbytesReport, Finding, Judgement, Severity, TorchReport};
use crate::stack::{Chosen, Origin};

/// The result of an audit.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether all that was found works together on the card; `None` if too little is known to say so.
    pub works: Option<bool>,
    /// The card.
    pub gpu: Option<GpuReport>,
    /// The driver.
    pub driver: Option<DriverReport>,
    /// The version of Python that markers and bounds are decided for.
    pub python: String,
    /// What was audited.
    pub targets: Vec<String>,
    /// Versions that run together.
    pub packages: BTreeMap<String, Chosen>,
    /// torch.
    pub torch: Option<TorchReport>,
    /// bitsandbytes.
    pub bitsandbytes: Option<BitsandbytesReport>,
    /// Every library with GPU code.
    pub libraries: Vec<LibraryReport>,
    /// Dockerfiles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dockerfiles: Vec<Dockerfile>,
    /// Known failures in logs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogMatch>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What could not be read, or is not known.
    pub not_known: Vec<Evidence>,
}

/// A card.
#[derive(Debug, Clone, Serialize)]
pub struct GpuReport {
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub compute_capability: String,
    /// Where that comes from.
    pub evidence: Vec<Evidence>,
}

/// A driver.
#[derive(Debug, Clone, Serialize)]
pub struct DriverReport {
    /// As it was given.
    pub version: String,
    /// The newest CUDA that it knows.
    pub cuda: String,
    /// Where that comes from.
    pub evidence: Vec<Evidence>,
}

/// A library, and the verdict on it.
#[derive(Debug, Clone, Serialize)]
pub struct LibraryReport {
    /// The package it is of.
    pub package: Option<String>,
    /// Whether the stack is known to load it, as torch's core and the one that bitsandbytes picks.
    pub decides: bool,
    /// What it holds.
    #[serde(flatten)]
    pub library: Library,
    /// For the card; `None` without one.
    pub judgement: Option<Judgement>,
}

impl Report {
    /// Findings that count: all but notes.
    pub fn findings_count(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity < Severity::Note).count()
    }

    /// Some lines for people. `all` lists every library, else only those that decide and those with findings.
    pub fn text(&self, all: bool) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out, all);
        out
    }

    fn write(&self, out: &mut String, all: bool) -> std::fmt::Result {
        if let Some(gpu) = &self.gpu {
            writeln!(out, "gpu: {} (compute capability {})", gpu.name, gpu.compute_capability)?;
        }
        if let Some(driver) = &self.driver {
            writeln!(out, "driver: {} (CUDA {})", driver.version, driver.cuda)?;
        }
        if let Some(torch) = &self.torch {
            let cuda =
                torch.cuda.as_deref().map_or("no CUDA".into(), |cuda| format!("CUDA {cuda}"));
            writeln!(out, "torch {}: {cuda}{}", torch.version, judged(torch.device_code.as_ref()))?;
        }
        if let Some(bnb) = &self.bitsandbytes {
            let loaded = bnb.loaded.as_deref().unwrap_or("no library");
            let judged = judged(bnb.device_code.as_ref());
            writeln!(out, "bitsandbytes {}: {loaded}{judged}", bnb.version)?;
        }
        for (name, chosen) in &self.packages {
            let how = match chosen.origin {
                Origin::Found => continue,
                Origin::Pinned => "pinned",
                // What torch pins is dozens of lines; of interest is the one with modules that others import.
                Origin::PinnedBy if name != "triton" => continue,
                Origin::PinnedBy => "pinned by a package",
                Origin::Newest => "not pinned: the newest that is known",
            };
            writeln!(out, "{name} {}: {how} ({})", chosen.version, chosen.evidence)?;
        }
        for library in self.libraries.iter().filter(|library| all || library.decides) {
            write_library(out, library)?;
        }
        self.write_findings(out)
    }

    fn write_findings(&self, out: &mut String) -> std::fmt::Result {
        for log in &self.logs {
            writeln!(
                out,
                "log: {} ({})\n  cause: {}\n  fix: {}",
                log.failure, log.evidence, log.cause, log.fix
            )?;
        }
        for unknown in &self.not_known {
            writeln!(out, "not known: {unknown}")?;
        }
        if self.findings.is_empty() {
            writeln!(out, "findings: none")?;
        }
        for finding in &self.findings {
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            writeln!(out, "{severity}: {}", finding.what)?;
            let shown = if finding.severity == Severity::Note { 2 } else { EVIDENCE_SHOWN };
            for evidence in finding.evidence.iter().take(shown) {
                writeln!(out, "  {evidence}")?;
            }
            if let Some(more) = finding.evidence.len().checked_sub(shown).filter(|n| *n > 0) {
                writeln!(out, "  and {more} more, with --json")?;
            }
            writeln!(out, "  -> {}", finding.fix)?;
        }
        let verdict = match self.works {
            Some(true) => "works",
            Some(false) => "does not work",
            None => "cannot be decided: too little is known",
        };
        writeln!(out, "verdict: {verdict}")
    }
}

/// Pieces of evidence that text shows of a finding.
const EVIDENCE_SHOWN: usize = 12;

fn judged(judgement: Option<&Judgement>) -> String {
    judgement.map_or(String::new(), |judgement| format!("; {}", judgement.because))
}

fn write_library(out: &mut String, library: &LibraryReport) -> std::fmt::Result {
    let LibraryReport { library, judgement, package, .. } = library;
    let package = package.as_ref().map_or(String::new(), |package| format!("{package}: "));
    let ready = library.device_code.iter().filter(|code| code.linking == Linking::Linked);
    let codes: Vec<&str> = ready.map(|code| code.target.as_str()).collect();
    let codes = if codes.is_empty() { "no GPU code".to_owned() } else { codes.join(" ") };
    let verdict = judgement.as_ref().map_or(String::new(), |judgement| {
        format!(" [{}]", if judgement.verdict.works() { "runs" } else { "does not run" })
    });
    writeln!(out, "{package}{}: {codes}{verdict}", library.path)?;
    if let Some(damage) = &library.damage {
        writeln!(out, "  {damage}")?;
    }
    Ok(())
}
