//! The smallest change of pins that makes a stack work: every known release of torch and bitsandbytes is tried, those nearest
//! to what is there first, and judged exactly as an audit judges.

mod diff;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::audit::{Facts, Query, assess};
use crate::facts::{Evidence, Package, Requirement};
use crate::findings::metadata::wanted_instead;
use crate::findings::{Finding, Severity};
use crate::releases;
use crate::report::Report;
use crate::stack::{Origin, exact, marker_environment};
use diff::Edit;

/// What to change.
#[derive(Debug, Clone, Serialize)]
pub struct Fix {
    /// Whether something has to change, and can.
    pub outcome: FixOutcome,
    /// One sentence.
    pub because: String,
    /// The changes, none if there is nothing to do or nothing that helps.
    pub changes: Vec<Change>,
    /// A unified diff of the files that were given.
    pub diff: String,
    /// How to undo it.
    pub rollback: String,
    /// What remains to be said of the stack after the change.
    pub remaining: Vec<Finding>,
}

/// What came of looking for a fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FixOutcome {
    /// It works as it is.
    NothingToDo,
    /// The changes make it work.
    Fixed,
    /// No known release does.
    NoneExists,
}

/// One pin that changes.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// The package, or the variable.
    pub name: String,
    /// What it is.
    pub from: Option<String>,
    /// What it becomes; `None` if it goes.
    pub to: Option<String>,
    /// Why.
    pub reason: String,
    /// Where it stands.
    pub evidence: Evidence,
}

/// The packages whose versions are moved, and that moves of them bring along.
const MOVED: [&str; 2] = ["torch", "bitsandbytes"];

/// Looks for the smallest change.
pub(crate) fn fix(facts: &Facts, query: &Query, before: &Report) -> Fix {
    let after = |outcome, because: String, remaining: &Report| Fix {
        outcome,
        because,
        changes: Vec::new(),
        diff: String::new(),
        rollback: String::new(),
        remaining: remaining.findings.clone(),
    };
    match before.works {
        Some(true) => {
            return after(FixOutcome::NothingToDo, "it works as it is".to_owned(), before);
        }
        None if before.gpu.is_none() => {
            let because = "no card was named: give --gpu".to_owned();
            return after(FixOutcome::NoneExists, because, before);
        }
        _ => {}
    }
    for candidate in candidates(before) {
        let (facts, query) = candidate.apply(facts, query);
        let Ok(report) = assess(&facts, &query, &before.targets) else { continue };
        if report.works == Some(true) {
            return candidate.describe(&facts, before, &report);
        }
    }
    after(FixOutcome::NoneExists, why_none(before), before)
}

/// A set of versions to try.
#[derive(Debug, Clone)]
struct Candidate {
    /// Name to release.
    packages: BTreeMap<&'static str, &'static Package>,
    /// Packages that nothing is known of, and what those ask of them with which they clash.
    loosened: BTreeMap<String, String>,
    without_override: bool,
}

/// All candidates, the smallest change first: fewer packages, then releases that are nearer.
fn candidates(before: &Report) -> Vec<Candidate> {
    let overridden = before.bitsandbytes.as_ref().is_some_and(|report| {
        report.evidence.iter().any(|e| e.value.starts_with("BNB_CUDA_VERSION="))
    });
    let options = |name: &'static str| -> Vec<(usize, Option<&'static Package>)> {
        let mut options = vec![(0, None)];
        let Some(chosen) = before.packages.get(name) else { return options };
        let known = releases::versions(name);
        let public = |version: &str| version.split('+').next().unwrap_or(version).to_owned();
        let now = known.iter().position(|(_, p)| public(&p.version) == public(&chosen.version));
        let here = now.unwrap_or(known.len());
        for (at, (_, package)) in known.iter().enumerate().filter(|(at, _)| Some(*at) != now) {
            options.push((at.abs_diff(here), Some(*package)));
        }
        options
    };
    let loosened = loosened(before);
    let overrides = if overridden { [true, false].as_slice() } else { [false].as_slice() };
    let mut ranked = Vec::new();
    for without_override in overrides {
        for (torch_steps, torch) in options("torch") {
            for (steps, bitsandbytes) in options("bitsandbytes") {
                let packages: BTreeMap<&'static str, &'static Package> =
                    [("torch", torch), ("bitsandbytes", bitsandbytes)]
                        .into_iter()
                        .filter_map(|(name, package)| Some((name, package?)))
                        .collect();
                let changes = packages.len() + loosened.len() + usize::from(*without_override);
                let (loosened, without_override) = (loosened.clone(), *without_override);
                let candidate = Candidate { packages, loosened, without_override };
                if changes > 0 {
                    ranked.push(((changes, torch_steps + steps), candidate));
                }
            }
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Pins of packages that nothing is known of, which others contradict.
fn loosened(before: &Report) -> BTreeMap<String, String> {
    let Some(markers) = marker_environment(&before.python) else { return BTreeMap::new() };
    let pinned = before.packages.iter().filter(|(name, chosen)| {
        chosen.origin == Origin::Pinned && !MOVED.contains(&name.as_str())
    });
    let wanted = pinned.filter_map(|(name, _)| {
        Some((name.clone(), wanted_instead(&before.packages, name, &markers)?))
    });
    wanted.collect()
}

impl Candidate {
    /// The facts as they would be.
    fn apply(&self, facts: &Facts, query: &Query) -> (Facts, Query) {
        let (mut facts, mut query) = (facts.clone(), query.clone());
        for (name, release) in &self.packages {
            if let Some(found) = facts.packages.iter_mut().find(|package| package.name == *name) {
                *found = (*release).clone();
            }
            for requirement in requirements(&mut facts).filter(|r| r.name == *name) {
                requirement.specifier = format!("=={}", release.version);
                // Other indexes have other builds, which nothing is known of.
                requirement.index = None;
            }
        }
        // The pin gives way; what else is asked of the package stays.
        let pins = requirements(&mut facts).filter(|r| exact(&r.specifier).is_some());
        for requirement in pins {
            if let Some(specifier) = self.loosened.get(&requirement.name) {
                requirement.specifier.clone_from(specifier);
            }
        }
        if self.packages.contains_key("torch") {
            // torch brings these in the versions that it pins.
            facts.packages.retain(|p| p.name != "triton" && !p.name.starts_with("nvidia-"));
        }
        if self.without_override {
            query.environment.clear();
            for file in &mut facts.dockerfiles {
                file.environment.retain(|e| !e.value.starts_with("BNB_CUDA_VERSION="));
            }
        }
        (facts, query)
    }

    fn describe(&self, facts: &Facts, before: &Report, after: &Report) -> Fix {
        let mut changes = Vec::new();
        let mut edits = Vec::new();
        for (name, release) in &self.packages {
            let Some(chosen) = before.packages.get(*name) else { continue };
            changes.push(Change {
                name: (*name).to_owned(),
                from: Some(chosen.version.clone()),
                to: Some(release.version.clone()),
                reason: reason(name, before),
                evidence: chosen.evidence.clone(),
            });
            if matches!(chosen.origin, Origin::Pinned | Origin::Newest) {
                let to = format!("{name}=={}", release.version);
                edits.push(Edit { at: chosen.evidence.clone(), name: (*name).to_owned(), to });
            }
        }
        for (name, specifier) in &self.loosened {
            let Some(chosen) = before.packages.get(name) else { continue };
            changes.push(Change {
                name: name.clone(),
                from: Some(chosen.version.clone()),
                to: Some(specifier.clone()),
                reason: reason(name, before),
                evidence: chosen.evidence.clone(),
            });
            let to = format!("{name}{}", specifier.replace(' ', ""));
            edits.push(Edit { at: chosen.evidence.clone(), name: name.clone(), to });
        }
        if self.without_override {
            let set = before.bitsandbytes.iter().flat_map(|report| &report.evidence);
            let set = set.filter(|e| e.value.starts_with("BNB_CUDA_VERSION=")).cloned();
            changes.extend(set.map(|evidence| Change {
                name: "BNB_CUDA_VERSION".to_owned(),
                from: evidence.value.split_once('=').map(|(_, value)| value.to_owned()),
                to: None,
                reason: "it names another library file, and adds support for no GPU".to_owned(),
                evidence,
            }));
        }
        let list: Vec<String> = changes.iter().map(Change::words).collect();
        Fix {
            outcome: FixOutcome::Fixed,
            because: format!(
                "{} makes it work; no smaller change among the known releases does",
                list.join(", ")
            ),
            diff: diff::unified(&facts.texts, &edits),
            rollback: rollback(&changes, !edits.is_empty()),
            changes,
            remaining: after.findings.clone(),
        }
    }
}

impl Change {
    fn words(&self) -> String {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => format!("{} {from} -> {to}", self.name),
            _ => format!("without {}", self.name),
        }
    }
}

fn requirements(facts: &mut Facts) -> impl Iterator<Item = &mut Requirement> {
    facts.requirements.iter_mut().flat_map(|file| &mut file.requirements)
}

/// The error that is about this package, else that about the other one.
fn reason(name: &str, before: &Report) -> String {
    let errors = || before.findings.iter().filter(|finding| finding.severity == Severity::Error);
    let own = errors().find(|finding| finding.what.contains(name));
    let any = own.or_else(|| errors().next());
    any.map_or_else(|| "its facts are not known".to_owned(), |finding| finding.what.clone())
}

fn rollback(changes: &[Change], files: bool) -> String {
    let old = changes.iter().filter(|change| change.to.is_some());
    let old: Vec<String> = old
        .filter_map(|change| Some(format!("{}=={}", change.name, change.from.as_ref()?)))
        .collect();
    match (files, old.is_empty()) {
        (true, _) => {
            "apply the diff backwards (`patch -R -p0`), and build or install again".to_owned()
        }
        (false, false) => format!("pip install {}", old.join(" ")),
        (false, true) => "set the variable again".to_owned(),
    }
}

fn why_none(before: &Report) -> String {
    let unmoved = before.findings.iter().filter(|finding| {
        finding.severity == Severity::Error && !MOVED.iter().any(|name| finding.what.contains(name))
    });
    let what: Vec<&str> = unmoved.map(|finding| finding.what.as_str()).collect();
    match what.as_slice() {
        [] => {
            let count = MOVED.map(|name| releases::versions(name).len());
            format!(
                "none of {} known releases of torch with any of {} of bitsandbytes works under the other constraints",
                count[0], count[1]
            )
        }
        what => format!("no release of torch or bitsandbytes changes this: {}", what.join("; ")),
    }
}

/// What an audit reads again to write a diff.
pub(crate) type Texts = BTreeMap<PathBuf, String>;
