//! What documents name exists: paths, links, commands of xtask.

use std::collections::BTreeSet;

use super::repository::{Repository, lines};

/// A bare name with one of these endings is a file of ours; other endings may belong to a user's model.
const OURS: [&str; 5] = [".md", ".rs", ".py", ".cu", ".cuh"];

pub(super) fn check(repository: &Repository) -> Vec<String> {
    let documents = repository.texts().filter(|(path, _)| path.ends_with(".md"));
    let mut found = Vec::new();
    for (path, text) in documents {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let document = Document { repository, folder, folders: folders(repository, folder) };
        for (place, line) in lines(path, text) {
            let missing = document.missing_paths(line).chain(document.missing_links(line));
            found.extend(missing.map(|name| format!("{place}: `{name}` does not exist")));
            found.extend(
                unknown_commands(line)
                    .map(|name| format!("{place}: `cargo xtask {name}` is no command")),
            );
        }
    }
    found
}

struct Document<'a> {
    repository: &'a Repository,
    folder: &'a str,
    /// A path begins with one of these: the folders of the root, and those beside the document.
    folders: BTreeSet<&'a str>,
}

fn folders<'a>(repository: &'a Repository, folder: &str) -> BTreeSet<&'a str> {
    let beside = format!("{folder}/");
    let first = |path: &'a str| path.split_once('/').map(|(first, _)| first);
    let of_root = repository.paths().filter_map(first);
    let inside = repository.paths().filter_map(|path| path.strip_prefix(&beside).and_then(first));
    of_root.chain(inside).collect()
}

impl<'a> Document<'a> {
    /// Words that begin as a path of the repository does, up to a part that stands for something (`NAME`, `*`).
    fn missing_paths(&self, line: &'a str) -> impl Iterator<Item = &'a str> {
        let of_path = |c: char| c.is_ascii_alphanumeric() || "_./-*".contains(c);
        line.split(move |c| !of_path(c)).filter_map(|word| {
            let word = word.trim_end_matches(['.', '/']);
            match word.split_once('/') {
                Some((first, _)) if self.folders.contains(first) => {
                    let known = up_to_placeholder(word);
                    (!self.exists(known)).then_some(known)
                }
                None if OURS
                    .iter()
                    .any(|ending| word.len() > ending.len() && word.ends_with(ending)) =>
                {
                    let named = |path: &str| path.rsplit('/').next() == Some(word);
                    (!word.contains('*') && !self.repository.paths().any(named)).then_some(word)
                }
                _ => None,
            }
        })
    }

    /// Targets of `[text](target)` that lie in the repository.
    fn missing_links(&self, line: &'a str) -> impl Iterator<Item = &'a str> {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        targets.filter(|target| {
            !target.is_empty()
                && !target.contains("://")
                && !self.exists(target.trim_end_matches('/'))
        })
    }

    fn exists(&self, path: &str) -> bool {
        let beside = format!("{}/{path}", self.folder);
        self.repository.contains(path) || self.repository.contains(beside.trim_start_matches('/'))
    }
}

fn up_to_placeholder(path: &str) -> &str {
    let stands_for = |part: &str| {
        part.contains('*')
            || part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    };
    let mut end = 0;
    for part in path.split_inclusive('/') {
        if stands_for(part.trim_end_matches('/')) {
            return path[..end].trim_end_matches('/');
        }
        end += part.len();
    }
    path
}

fn unknown_commands(line: &str) -> impl Iterator<Item = &str> {
    line.split("cargo xtask ").skip(1).filter_map(|rest| {
        let name = rest.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        let listed = format!("\n  {name} ");
        // Upper case stands for any command.
        let literal = name.chars().all(|c| c.is_ascii_lowercase());
        (!name.is_empty() && literal && !crate::HELP.contains(&listed)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_line(line: &str, expected: &[&str]) {
        let repository = Repository::of(&[
            ("docs/map.md", line),
            ("docs/pictures/a.svg", ""),
            ("crates/quant/src/lib.rs", ""),
        ]);
        let found: Vec<String> =
            check(&repository).into_iter().map(|s| s.replace("docs/map.md:1: ", "")).collect();
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn paths_that_exist_pass() {
        for line in [
            "the crate `crates/quant`, crates/quant/src/lib.rs.",
            "`crates/quant/src/*.rs`, crates/NAME/src, and pictures/a.svg; lib.rs",
            "[map](map.md#top) [picture](pictures/a.svg) [site](https://example.com/crates/none)",
            "`config.json`, `target/release/halfbyte`, and/or, cargo xtask tidy, cargo xtask COMMAND",
        ] {
            check_line(line, &[]);
        }
    }

    #[test]
    fn paths_that_do_not_exist_are_named() {
        check_line("see crates/quant/src/none.rs.", &["`crates/quant/src/none.rs` does not exist"]);
        check_line("`crates/none/SHAPE`", &["`crates/none` does not exist"]);
        check_line("see `none.md`", &["`none.md` does not exist"]);
        check_line("[a](gone.svg)", &["`gone.svg` does not exist"]);
        check_line("`cargo xtask fly`", &["`cargo xtask fly` is no command"]);
    }
}
