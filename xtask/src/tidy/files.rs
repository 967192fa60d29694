//! What is committed is small, and can be made again.

use std::collections::BTreeSet;

use super::repository::Repository;

/// Bytes of a file.
const FILE_MAX: u64 = 1 << 20;

/// Folders whose files may be larger, or must be small taken together: the limit of all their bytes, and why.
const FOLDERS: [(&str, u64, &str); 3] = [
    ("demo/model/", 16_000_000, "the demo model, which the binary embeds"),
    ("fixtures/", 10_000_000, "every clone carries them"),
    ("fuzz/corpus/", 1_000_000, "every clone carries them"),
];

/// Folders whose larger files are meant.
const LARGE: &str = "demo/model/";

pub(super) fn check(repository: &Repository) -> Vec<String> {
    let too_large =
        repository.sizes().filter(|(path, bytes)| *bytes > FILE_MAX && !path.starts_with(LARGE));
    let mut found: Vec<String> =
        too_large.map(|(path, bytes)| format!("{path}: {bytes} bytes, over {FILE_MAX}")).collect();
    for (folder, limit, why) in FOLDERS {
        let sizes = repository.sizes().filter(|(path, _)| path.starts_with(folder));
        let bytes: u64 = sizes.map(|(_, bytes)| bytes).sum();
        if bytes > limit {
            found.push(format!("{folder}: {bytes} bytes, over {limit} ({why})"));
        }
    }
    found.extend(fixtures(repository).into_iter().filter_map(|folder| {
        let script = format!("fixtures/{folder}/make.py");
        (!repository.contains(&script))
            .then(|| format!("{script}: missing, so the fixtures beside it cannot be made again"))
    }));
    found
}

/// Folders of `fixtures/`.
fn fixtures(repository: &Repository) -> BTreeSet<&str> {
    // Of what was made; `schemas` were written by hand.
    let folder =
        |path| -> Option<&str> { Some(str::strip_prefix(path, "fixtures/")?.split_once('/')?.0) };
    repository.paths().filter_map(folder).filter(|&folder| folder != "schemas").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_named_unless_it_is_the_model() {
        let large = "x".repeat(FILE_MAX as usize + 1);
        let found = check(&Repository::of(&[("a.bin", &large), ("demo/model/b.bin", &large)]));
        assert_eq!(found, ["a.bin: 1048577 bytes, over 1048576"]);
    }

    #[test]
    fn fixtures_have_a_script() {
        let made = Repository::of(&[
            ("fixtures/a/make.py", ""),
            ("fixtures/a/x", ""),
            ("fixtures/README.md", ""),
        ]);
        assert!(check(&made).is_empty());
        let found = check(&Repository::of(&[("fixtures/b/x", "")]));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("fixtures/b/make.py: missing"));
    }
}
