//! Facts about released wheels, measured by [`crate::learn`] and kept as data.

use std::str::FromStr;
use std::sync::LazyLock;

use pep440_rs::Version;

use crate::facts::Package;

/// A package a line, as `halfbyte audit --learn` prints them.
const DATA: &str = include_str!("../data/releases.jsonl");

static RELEASES: LazyLock<Vec<(Version, Package)>> = LazyLock::new(|| {
    let parsed = DATA.lines().filter_map(|line| {
        let package: Package = serde_json::from_str(line).ok()?;
        Some((Version::from_str(&package.version).ok()?, package))
    });
    let mut releases: Vec<(Version, Package)> = parsed.collect();
    releases.sort_by(|a, b| (&a.1.name, &a.0).cmp(&(&b.1.name, &b.0)));
    releases
});

/// The facts of a release. A version without a local part (`+cu121`) is PyPI's, whatever local part its wheel has.
pub(crate) fn find(name: &str, version: &str) -> Option<&'static Package> {
    let wanted = Version::from_str(version).ok()?;
    let same = |known: &Version| {
        *known == wanted || wanted.local().is_empty() && known.clone().without_local() == wanted
    };
    RELEASES.iter().find(|(known, p)| p.name == name && same(known)).map(|(_, package)| package)
}

/// All releases of a package whose facts are known, in ascending order.
pub(crate) fn versions(name: &str) -> Vec<(&'static Version, &'static Package)> {
    RELEASES.iter().filter(|(_, p)| p.name == name).map(|(version, p)| (version, p)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_and_measured() {
        assert_eq!(RELEASES.len(), DATA.lines().count());
        for (_, package) in RELEASES.iter() {
            let at = format!("{} {}", package.name, package.version);
            assert_eq!(package.sha256.as_ref().map(String::len), Some(64), "{at}");
            assert!(package.origin.ends_with(".whl") && !package.origin.contains('/'), "{at}");
            assert_eq!(package.name == "torch", package.torch_cuda.is_some(), "{at}");
            assert_eq!(package.name == "bitsandbytes", package.library_choice.is_some(), "{at}");
        }
    }
}
