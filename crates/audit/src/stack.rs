//! What runs together: for each name one version, out of what is installed, what is pinned, and what pinned packages pin.

use std::collections::BTreeMap;
use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::{MarkerEnvironment, MarkerEnvironmentBuilder, VersionOrUrl};
use serde::Serialize;

use crate::facts::{Evidence, Package, Requirement};
use crate::probe::requirements::parse_pep508;
use crate::releases;

/// How a version came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It is installed, or its wheel was given.
    Found,
    /// A requirement names exactly this version.
    Pinned,
    /// A package that is used pins it.
    PinnedBy,
    /// Several fit; this is the newest whose facts are known.
    Newest,
}

/// A package of the stack.
#[derive(Debug, Clone, Serialize)]
pub struct Chosen {
    /// The version.
    pub version: String,
    /// How it is known.
    pub origin: Origin,
    /// Where.
    pub evidence: Evidence,
    /// Its `Requires-Dist` lines, where they are known.
    pub requires: Vec<String>,
    /// Facts, where there are any.
    #[serde(skip)]
    pub package: Option<Package>,
}

impl Chosen {
    fn new(version: &str, origin: Origin, evidence: Evidence, package: Option<&Package>) -> Chosen {
        let requires = package.map(|package| package.requires_dist.clone()).unwrap_or_default();
        Chosen {
            version: version.to_owned(),
            origin,
            evidence,
            requires,
            package: package.cloned(),
        }
    }
}

/// The packages by their names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stack {
    pub(crate) chosen: BTreeMap<String, Chosen>,
    /// Requirements of the user's files, where their markers hold.
    pub(crate) asked: Vec<Requirement>,
    /// Requirements that no known version meets.
    pub(crate) unmet: Vec<Requirement>,
}

/// The Python that markers are about when nothing says another.
pub(crate) const PYTHON_DEFAULT: &str = "3.11";

/// Markers are decided for Linux on x86-64.
pub(crate) fn marker_environment(python: &str) -> Option<MarkerEnvironment> {
    let full =
        if python.matches('.').count() > 1 { python.to_owned() } else { format!("{python}.0") };
    let short: Vec<&str> = python.split('.').take(2).collect();
    let short = short.join(".");
    MarkerEnvironment::try_from(MarkerEnvironmentBuilder {
        implementation_name: "cpython",
        implementation_version: &full,
        os_name: "posix",
        platform_machine: "x86_64",
        platform_python_implementation: "CPython",
        platform_release: "",
        platform_system: "Linux",
        platform_version: "",
        python_full_version: &full,
        python_version: &short,
        sys_platform: "linux",
    })
    .ok()
}

impl Stack {
    /// Puts together what was found and what is asked for.
    pub(crate) fn new(
        found: &[Package],
        asked: &[Requirement],
        markers: &MarkerEnvironment,
    ) -> Stack {
        let mut stack = Stack::default();
        for package in found {
            let value = format!("{} {}", package.name, package.version);
            let evidence = Evidence::file(&package.origin, value);
            let chosen = Chosen::new(&package.version, Origin::Found, evidence, Some(package));
            stack.chosen.insert(package.name.clone(), chosen);
        }
        let holds = |requirement: &&Requirement| {
            let line = match &requirement.marker {
                Some(marker) => format!("{} ; {marker}", requirement.name),
                None => requirement.name.clone(),
            };
            parse_pep508(&line).is_ok_and(|parsed| parsed.evaluate_markers(markers, &[]))
        };
        stack.asked = asked.iter().filter(holds).cloned().collect();
        stack.choose_asked();
        stack.choose_pinned_by("torch", markers);
        stack
    }

    /// All specifiers that the user's files give for a name.
    pub(crate) fn asked_for<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Requirement> {
        self.asked.iter().filter(move |requirement| requirement.name == name)
    }

    fn choose_asked(&mut self) {
        let mut names: Vec<String> = self.asked.iter().map(|r| r.name.clone()).collect();
        names.sort();
        names.dedup();
        for name in names {
            if self.chosen.contains_key(&name) {
                continue;
            }
            let asked: Vec<Requirement> = self.asked_for(&name).cloned().collect();
            // A later line does not undo an earlier one: pip refuses both together.
            match choose(&name, &asked) {
                Choice::Chosen(chosen) => {
                    self.chosen.insert(name, *chosen);
                }
                Choice::Unknown => {}
                Choice::Unmet => self.unmet.extend(asked),
            }
        }
    }

    /// What a package pins exactly, as torch does triton.
    fn choose_pinned_by(&mut self, name: &str, markers: &MarkerEnvironment) {
        let Some(package) = self.package(name).cloned() else { return };
        for line in &package.requires_dist {
            let Ok(parsed) = parse_pep508(line) else { continue };
            let dependency = crate::probe::package::normalize(parsed.name.as_ref());
            if !parsed.evaluate_markers(markers, &[]) || self.chosen.contains_key(&dependency) {
                continue;
            }
            let Some(VersionOrUrl::VersionSpecifier(specifiers)) = &parsed.version_or_url else {
                continue;
            };
            let Some(version) = exact(&specifiers.to_string()) else { continue };
            let evidence =
                Evidence::file(metadata_file(&package), format!("Requires-Dist: {line}"));
            let known = releases::find(&dependency, &version);
            let chosen = Chosen::new(&version, Origin::PinnedBy, evidence, known);
            self.chosen.insert(dependency, chosen);
        }
    }

    /// The facts of a package.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.chosen.get(name)?.package.as_ref()
    }

    pub(crate) fn version(&self, name: &str) -> Option<&str> {
        Some(self.chosen.get(name)?.version.as_str())
    }
}

/// Where a package's metadata stands.
pub(crate) fn metadata_file(package: &Package) -> String {
    let distribution = package.name.replace('-', "_");
    format!("{}!{distribution}-{}.dist-info/METADATA", package.origin, package.version)
}

enum Choice {
    Chosen(Box<Chosen>),
    Unknown,
    Unmet,
}

fn choose(name: &str, asked: &[Requirement]) -> Choice {
    let fits = |version: &Version| {
        asked.iter().all(|r| specifiers(&r.specifier).is_some_and(|s| s.contains(version)))
    };
    if let Some((requirement, version)) =
        asked.iter().find_map(|requirement| Some((requirement, exact(&requirement.specifier)?)))
    {
        let package = releases::find(name, &version);
        let package = package.filter(|package| comes_from(package, requirement));
        let chosen = Chosen::new(&version, Origin::Pinned, requirement.evidence.clone(), package);
        let parsed = Version::from_str(&version);
        return match parsed.is_ok_and(|version| fits(&version)) {
            true => Choice::Chosen(Box::new(chosen)),
            false => Choice::Unmet,
        };
    }
    let known = releases::versions(name);
    if known.is_empty() {
        return Choice::Unknown;
    }
    let Some((_, package)) = known.into_iter().rev().find(|(version, _)| fits(version)) else {
        return Choice::Unmet;
    };
    let Some(first) = asked.first() else { return Choice::Unknown };
    let package = Some(package).filter(|package| comes_from(package, first));
    let Some(package) = package else { return Choice::Unknown };
    let evidence = first.evidence.clone();
    Choice::Chosen(Box::new(Chosen::new(&package.version, Origin::Newest, evidence, Some(package))))
}

/// Whether a release, as it was measured, is what a requirement gets: PyPI's 2.3.1 is built with another CUDA than
/// `==2.3.1+cu118`, and than that of an index that ends in `/whl/cu118`.
fn comes_from(package: &Package, requirement: &Requirement) -> bool {
    let Some(cuda) = package.torch_cuda.as_ref().and_then(|cuda| cuda.version.as_ref()) else {
        return true;
    };
    let own = format!("cu{}", cuda.replace('.', ""));
    let local = exact(&requirement.specifier).and_then(|v| Some(v.split_once('+')?.1.to_owned()));
    let index = requirement.index.as_ref().and_then(|index| {
        let last = index.value.trim_end_matches('/').rsplit('/').next()?;
        (last.starts_with("cu") || last == "cpu").then(|| last.to_owned())
    });
    local.or(index).is_none_or(|asked| asked == own)
}

/// The version of `==X`, without a star.
pub(crate) fn exact(specifier: &str) -> Option<String> {
    let version = specifier.split(',').find_map(|s| s.trim().strip_prefix("=="))?.trim();
    let version = version.strip_prefix('=').unwrap_or(version);
    (!version.ends_with('*')).then(|| version.to_owned())
}

/// Parses `>=1,<2`; empty is any.
pub(crate) fn specifiers(text: &str) -> Option<VersionSpecifiers> {
    VersionSpecifiers::from_str(text).ok()
}
