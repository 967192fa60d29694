//! What packages ask of each other, and of Python: PEP 440 and PEP 508.

use std::collections::BTreeMap;
use std::str::FromStr;

use pep440_rs::{Version, release_specifiers_to_ranges};
use pep508_rs::{MarkerEnvironment, VersionOrUrl};

use super::{Finding, Severity};
use crate::facts::{Evidence, Package};
use crate::probe::package::normalize;
use crate::probe::requirements::parse_pep508;
use crate::stack::{Chosen, Stack, metadata_file, specifiers};

/// One side of what has to fit together.
struct Demand {
    specifier: String,
    who: String,
    evidence: Evidence,
}

/// Finds what does not fit.
pub(crate) fn findings(stack: &Stack, markers: &MarkerEnvironment, python: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut demands: BTreeMap<String, Vec<Demand>> = BTreeMap::new();
    for requirement in &stack.asked {
        demands.entry(requirement.name.clone()).or_default().push(Demand {
            specifier: requirement.specifier.clone(),
            who: "the requirements".to_owned(),
            evidence: requirement.evidence.clone(),
        });
    }
    for package in stack.chosen.values().filter_map(|chosen| chosen.package.as_ref()) {
        found.extend(python_bound(package, python));
        for (name, demand) in demands_of(package, markers) {
            demands.entry(name).or_default().push(demand);
        }
    }
    for (name, demands) in &demands {
        found.extend(conflict(name, demands, stack));
    }
    found
}

/// What packages ask of another one whose own pin is in their way: all of it, as one specifier. `None` if its version suits them.
pub(crate) fn wanted_instead(
    packages: &BTreeMap<String, Chosen>,
    name: &str,
    markers: &MarkerEnvironment,
) -> Option<String> {
    let version = Version::from_str(&packages.get(name)?.version).ok()?;
    let known = packages.values().filter_map(|chosen| chosen.package.as_ref());
    let demands = known.flat_map(|package| demands_of(package, markers));
    let demands =
        demands.filter(|(demanded, _)| demanded == name).map(|(_, demand)| demand.specifier);
    let demands: Vec<String> = demands.filter(|specifier| !specifier.is_empty()).collect();
    let all = demands.join(",");
    (!specifiers(&all)?.contains(&version)).then_some(all)
}

fn python_bound(package: &Package, python: &str) -> Option<Finding> {
    let bound = package.requires_python.as_deref()?;
    let full =
        if python.matches('.').count() > 1 { python.to_owned() } else { format!("{python}.0") };
    let fits = specifiers(bound)?.contains(&Version::from_str(&full).ok()?);
    (!fits).then(|| Finding {
        id: "python_version",
        severity: Severity::Error,
        what: format!(
            "{} {} needs Python {bound}, and this is {python}",
            package.name, package.version
        ),
        fix: "take a release for this Python, or another Python".to_owned(),
        evidence: vec![Evidence::file(metadata_file(package), format!("Requires-Python: {bound}"))],
    })
}

fn demands_of(package: &Package, markers: &MarkerEnvironment) -> Vec<(String, Demand)> {
    let demand = |line: &String| {
        let parsed = parse_pep508(line).ok()?;
        if !parsed.evaluate_markers(markers, &[]) {
            return None;
        }
        let Some(VersionOrUrl::VersionSpecifier(specifiers)) = &parsed.version_or_url else {
            return None;
        };
        let demand = Demand {
            specifier: specifiers.to_string(),
            who: format!("{} {}", package.name, package.version),
            evidence: Evidence::file(metadata_file(package), format!("Requires-Dist: {line}")),
        };
        Some((normalize(parsed.name.as_ref()), demand))
    };
    package.requires_dist.iter().filter_map(demand).collect()
}

/// A version that is chosen and does not fit, or demands that no version meets.
fn conflict(name: &str, demands: &[Demand], stack: &Stack) -> Option<Finding> {
    if let Some(chosen) = stack.chosen.get(name) {
        let version = Version::from_str(&chosen.version).ok()?;
        let unmet = |demand: &&Demand| {
            specifiers(&demand.specifier).is_some_and(|specifiers| !specifiers.contains(&version))
        };
        let unmet: Vec<&Demand> = demands.iter().filter(unmet).collect();
        let first = unmet.first()?;
        let evidence = unmet.iter().map(|demand| demand.evidence.clone());
        return Some(Finding {
            id: "version_conflict",
            severity: Severity::Error,
            what: format!(
                "{} needs {name}{}, and {name} is {}",
                first.who, first.specifier, chosen.version
            ),
            fix: format!("pin {name}{}", first.specifier),
            evidence: evidence.chain([chosen.evidence.clone()]).collect(),
        });
    }
    // Versions of this package are not known: candidates are those that the demands themselves name.
    let (a, b) = disjoint(demands)?;
    Some(Finding {
        id: "version_conflict",
        severity: Severity::Error,
        what: format!(
            "{} needs {name}{} and {} needs {name}{}: no version is both",
            a.who, a.specifier, b.who, b.specifier
        ),
        fix: format!("change one of the two; {name}{} is what {} can do", b.specifier, b.who),
        evidence: vec![a.evidence.clone(), b.evidence.clone()],
    })
}

/// Two demands that exclude each other.
fn disjoint(demands: &[Demand]) -> Option<(&Demand, &Demand)> {
    let ranges =
        |demand: &Demand| Some(release_specifiers_to_ranges(specifiers(&demand.specifier)?));
    let known: Vec<_> =
        demands.iter().filter_map(|demand| Some((demand, ranges(demand)?))).collect();
    known.iter().enumerate().find_map(|(at, (a, range))| {
        let (b, _) = known[..at].iter().find(|(_, other)| other.is_disjoint(range))?;
        Some((*a, *b))
    })
}
