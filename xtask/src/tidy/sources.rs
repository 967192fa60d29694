//! What no source file holds.

use super::repository::{Repository, code, lines};

/// A file over this is a room that may hold two.
const LINES_MAX: usize = 700;

const CODE: [&str; 4] = [".rs", ".cu", ".cuh", ".py"];

/// The files that may hold `unsafe`, which the workspace's lints deny elsewhere: each opens with `allow(unsafe_code)`.
const UNSAFE: [&str; 13] = [
    "crates/quant/src/simd/",
    "crates/backend/src/cpu/kernels/",
    "crates/backend/src/cpu/attention.rs",
    "crates/backend/src/cpu/disjoint.rs",
    "crates/backend/src/cpu/gemm.rs",
    "crates/backend/src/cpu/math.rs",
    "crates/cuda/src/backend.rs",
    "crates/cuda/src/driver/",
    "crates/cuda/src/loader.rs",
    "crates/cuda/src/measure.rs",
    "crates/cuda/src/ops/",
    "crates/cuda/tests/driver.rs",
    "crates/model/src/files.rs",
];

/// Marks of unfinished work, in two halves so that this file may hold them.
const UNFINISHED: [(&str, &str); 5] =
    [("todo", "!("), ("unimplemented", "!("), ("dbg", "!("), ("TO", "DO"), ("FIX", "ME")];

/// First folders of absolute paths, which mean something on one machine only.
const MACHINE: [&str; 4] = ["work", "root", "home", "tmp"];

/// Parts of the addresses of package registries: which one is used is for the machine to say, not for us.
const REGISTRY: [&str; 4] = ["registry", "/simple/", "/api/v1/crates", "/debian"];

pub(super) fn check(repository: &Repository) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in repository.texts().filter(|(path, _)| *path != "Cargo.lock") {
        let is_code = CODE.iter().any(|ending| path.ends_with(ending));
        let count = text.lines().count();
        if is_code && count > LINES_MAX {
            found.push(format!("{path}: {count} lines, over {LINES_MAX}"));
        }
        for (place, line) in lines(path, text) {
            found.extend(
                machine_path(line).map(|p| format!("{place}: `{p}` is a path of one machine")),
            );
            found.extend(
                registry(line).map(|url| format!("{place}: {url} is a registry's address")),
            );
            if is_code {
                found.extend(unfinished(line).map(|mark| format!("{place}: `{mark}`")));
            }
            if path.ends_with(".rs")
                && allows_unsafe(line)
                && !UNSAFE.iter().any(|at| path.starts_with(at))
            {
                found.push(format!(
                    "{place}: unsafe code is allowed in the files of xtask/src/tidy/sources.rs"
                ));
            }
        }
    }
    found.extend(stale(repository));
    found
}

fn unfinished(line: &str) -> Option<String> {
    let marks = UNFINISHED.iter().map(|(a, b)| format!("{a}{b}"));
    marks.into_iter().find(|mark| line.contains(mark.as_str()))
}

fn allows_unsafe(line: &str) -> bool {
    code(line).contains(concat!("(unsafe", "_code"))
}

/// Entries of [`UNSAFE`] that need no exception any more.
fn stale(repository: &Repository) -> impl Iterator<Item = String> {
    UNSAFE
        .iter()
        .filter(|at| {
            let mut texts = repository.texts().filter(|(path, _)| path.starts_with(**at));
            repository.contains("xtask") && !texts.any(|(_, text)| text.lines().any(allows_unsafe))
        })
        .map(|at| {
            format!("xtask/src/tidy/sources.rs: {at} holds no unsafe code; take it off the list")
        })
}

/// An absolute path, where it is not the middle of a longer one.
fn machine_path(line: &str) -> Option<String> {
    let paths = MACHINE.iter().map(|folder| format!("/{folder}/"));
    paths.into_iter().find(|path| {
        line.match_indices(path.as_str()).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || "./-_}*".contains(c))
        })
    })
}

fn registry(line: &str) -> Option<&str> {
    line.match_indices("://").find_map(|(at, _)| {
        let rest = &line[at + 3..];
        let url = rest.split([' ', '"', '\'', ')', '>', '`']).next()?;
        REGISTRY.iter().any(|part| url.contains(part)).then_some(url)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_named() {
        let long = "\n".repeat(LINES_MAX + 1);
        let found =
            check(&Repository::of(&[("a.rs", &long), ("b.md", &long), ("c.py", &long[1..])]));
        assert_eq!(found, ["a.rs: 701 lines, over 700"]);
    }

    #[test]
    fn unsafe_code_has_its_places() {
        let allow = format!("#![allow({}_code)]", "unsafe");
        let found = check(&Repository::of(&[
            ("crates/quant/src/simd/avx2.rs", &allow),
            ("crates/quant/src/code.rs", &allow),
        ]));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/quant/src/code.rs:1: unsafe"), "{found:?}");
    }

    #[test]
    fn paths_and_hosts_of_one_machine_are_found() {
        let check = |line: &str| (machine_path(line), registry(line).map(String::from));
        let tmp = format!("/{}/", "tmp");
        assert_eq!(check(&format!("cd {tmp}x")).0, Some(tmp.clone()));
        assert_eq!(check(&format!("target{tmp}x")).0, None);
        let url = format!("example.com/{}/x", "simple");
        assert_eq!(check(&format!("from https://{url} on")).1, Some(url));
        assert_eq!(check("https://example.com/simpler").1, None);
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(unfinished(&format!("    {}!()", "todo")), Some(format!("{}!(", "todo")));
        assert_eq!(unfinished("let to_do = 1;"), None);
    }
}
