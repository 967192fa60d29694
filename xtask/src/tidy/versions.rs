//! `Cargo.lock`: where dependencies come from, and that there is one version of each.

use std::collections::{BTreeMap, BTreeSet};

use super::repository::Repository;

/// Crates that stand in two versions because those that use them have not moved together. Small ones only: two versions of
/// a large one are two incompatible sets of types and twice the build.
const TWICE: [(&str, &str); 21] = [
    (
        "base64",
        "0.13: tokenizers; 0.21: standardwebhooks, in tests; 0.22: metrics-exporter-prometheus and tokio-postgres; 0.23: reqwest",
    ),
    ("const-oid", "0.9: x509-cert of tokio-postgres-rustls; 0.10: digest"),
    ("fallible-iterator", "0.2: tokio-postgres; 0.3: rusqlite"),
    ("fearless_simd", "0.7: vello_common of hayro; 1.2: hayro itself"),
    ("getrandom", "0.2: ring; 0.3: ahash and rand 0.9 of tokenizers; 0.4: tempfile, rand 0.10"),
    ("hashbrown", "0.16: safetensors; 0.17: indexmap"),
    ("itertools", "0.13: pep508_rs; 0.14: tokenizers"),
    ("miniz_oxide", "0.8: png of image; 0.9: ours"),
    ("rand", "0.9: tokenizers; 0.10: proptest"),
    ("rand_core", "follows rand"),
    ("r-efi", "follows getrandom, on UEFI alone"),
    ("phf", "0.13: hayro-font; 0.14: web_atoms of html5ever"),
    ("phf_generator", "follows phf"),
    ("phf_shared", "follows phf"),
    ("read-fonts", "follows skrifa"),
    ("skrifa", "0.44: glifo of vello_cpu; 0.49: hayro-font"),
    ("syn", "2: derives of tokenizers and nvml-wrapper; 3: serde and thiserror"),
    ("thiserror", "1: pep508_rs and nvml-wrapper; 2: all others"),
    ("thiserror-impl", "follows thiserror"),
    ("wasi", "0.11: mio; 0.14: getrandom 0.3, wherever that is not Linux"),
    ("windows-sys", "0.52: ring; 0.61: all others, on Windows alone"),
];

const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn check(repository: &Repository) -> Vec<String> {
    let Some(lock) = repository.text("Cargo.lock") else {
        return vec!["Cargo.lock: is not committed".into()];
    };
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut found = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line =
                package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
            line.and_then(|value| value.strip_suffix('"'))
        };
        let (name, version) = (field("name").unwrap_or("?"), field("version").unwrap_or("?"));
        versions.entry(name).or_default().insert(version);
        if let Some(source) = field("source").filter(|source| *source != SOURCE) {
            found.push(format!("Cargo.lock: {name} comes from {source}, not from crates.io"));
        }
    }
    versions.retain(|_, versions| versions.len() > 1);
    let allowed = |name: &str| TWICE.iter().any(|(twice, _)| *twice == name);
    found.extend(versions.iter().filter(|(name, _)| !allowed(name)).map(|(name, versions)| {
        let versions: Vec<&str> = versions.iter().copied().collect();
        format!(
            "Cargo.lock: {name} stands in versions {}; `cargo tree -i {name}` says why",
            versions.join(" and ")
        )
    }));
    found.extend(TWICE.iter().filter(|(name, _)| !versions.contains_key(name)).map(|(name, _)| {
        format!("xtask/src/tidy/versions.rs: {name} stands in one version; take it off the list")
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_version_and_a_strange_source_are_named() {
        let package = |name: &str, version: &str, source: &str| {
            format!(
                "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"{source}\"\n\n"
            )
        };
        let twice =
            TWICE.iter().flat_map(|(name, _)| ["1.0.0", "2.0.0"].map(|v| package(name, v, SOURCE)));
        let lock = twice.collect::<String>()
            + &package("tokenizers", "0.21.4", SOURCE)
            + &package("tokenizers", "0.23.2", "git+https://example.com/tokenizers");
        let found = check(&Repository::of(&[("Cargo.lock", &lock)]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("tokenizers comes from git+https"));
        assert!(found[1].contains("tokenizers stands in versions 0.21.4 and 0.23.2"));
    }
}
