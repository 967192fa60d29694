//! Unified diffs of files in which single requirements change.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::Texts;
use crate::facts::Evidence;
use crate::probe::requirements::requirement;

/// A requirement to replace.
pub(super) struct Edit {
    /// The line where its statement begins.
    pub(super) at: Evidence,
    /// The package.
    pub(super) name: String,
    /// The requirement that replaces it.
    pub(super) to: String,
}

const CONTEXT: usize = 3;
/// Lines that a statement may go on for.
const STATEMENT_MAX: usize = 200;

/// One diff of all files.
pub(super) fn unified(texts: &Texts, edits: &[Edit]) -> String {
    let mut files: BTreeMap<&str, Vec<&Edit>> = BTreeMap::new();
    for edit in edits {
        files.entry(&edit.at.file).or_default().push(edit);
    }
    let mut out = String::new();
    for (file, edits) in files {
        let Some(text) = texts.get(Path::new(file)) else { continue };
        let lines: Vec<&str> = text.lines().collect();
        let mut new: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        for edit in edits {
            let first = edit.at.line.unwrap_or(1).saturating_sub(1);
            let statement = first..(first + STATEMENT_MAX).min(new.len());
            let changed = statement.into_iter().find_map(|at| Some((at, replace(&new[at], edit)?)));
            if let Some((at, line)) = changed {
                new[at] = line;
            }
        }
        write_hunks(&mut out, file, &lines, &new);
    }
    out
}

/// The line with the requirement replaced, if it has it. A marker behind it stays.
fn replace(line: &str, edit: &Edit) -> Option<String> {
    let lower = line.to_lowercase();
    let is_name = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let spelled = [edit.name.clone(), edit.name.replace('-', "_")];
    for spelling in &spelled {
        for (at, _) in lower.match_indices(spelling.as_str()) {
            if line.get(..at)?.chars().next_back().is_some_and(|c| is_name(c) || "/@[".contains(c))
            {
                continue;
            }
            let rest = line.get(at..)?;
            let end = rest.find([';', '"', '\'', '#', '\\', '&']).unwrap_or(rest.len());
            // Without quotes a space ends a word of the shell, and may stand within a line of pip's.
            let whole = rest[..end].trim_end();
            let word = whole.split(' ').next().unwrap_or(whole);
            let fits = |text: &&str| requirement(text).is_ok_and(|(name, ..)| name == edit.name);
            let Some(old) = [whole, word].into_iter().find(fits) else { continue };
            return Some(format!("{}{}{}", &line[..at], edit.to, &rest[old.len()..]));
        }
    }
    None
}

fn write_hunks(out: &mut String, file: &str, old: &[&str], new: &[String]) {
    let changed: Vec<usize> = (0..old.len()).filter(|at| old[*at] != new[*at]).collect();
    if changed.is_empty() {
        return;
    }
    // Writing to a string cannot fail.
    let _ = writeln!(out, "--- {file}\n+++ {file}");
    let mut at = 0;
    while at < changed.len() {
        let mut last = at;
        while last + 1 < changed.len() && changed[last + 1] - changed[last] <= 2 * CONTEXT {
            last += 1;
        }
        let start = changed[at].saturating_sub(CONTEXT);
        let end = (changed[last] + CONTEXT + 1).min(old.len());
        let count = end - start;
        let _ = writeln!(out, "@@ -{},{count} +{},{count} @@", start + 1, start + 1);
        for line in start..end {
            let _ = match old[line] == new[line] {
                true => writeln!(out, " {}", old[line]),
                false => writeln!(out, "-{}\n+{}", old[line], new[line]),
            };
        }
        at = last + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<&str>) {
        let edit = Edit {
            at: Evidence::line("f", 1, ""),
            name: "torch".into(),
            to: "torch==2.7.1".into(),
        };
        assert_eq!(replace(line, &edit).as_deref(), expected);
    }

    #[test]
    fn only_the_requirement_changes() {
        check("torch==2.3.1", Some("torch==2.7.1"));
        check(
            "torch >= 2.3, <3 ; python_version > '3.8'  # why",
            Some("torch==2.7.1 ; python_version > '3.8'  # why"),
        );
        check(
            "RUN pip install 'torch==2.3.1' torchvision \\",
            Some("RUN pip install 'torch==2.7.1' torchvision \\"),
        );
        check(
            "RUN pip install torchvision torch==2.3.1 x && y",
            Some("RUN pip install torchvision torch==2.7.1 x && y"),
        );
        check("torchvision==0.1", None);
        check("pytorch", None);
    }

    #[test]
    fn a_diff_has_context() {
        let texts = Texts::from([("r.txt".into(), "a\nb\nc\nd\ntorch==2.3.1\ne\n".to_owned())]);
        let at = Evidence::line("r.txt", 5, "torch==2.3.1");
        let edits = [Edit { at, name: "torch".into(), to: "torch==2.7.1".into() }];
        expect_test::expect![[r#"
            --- r.txt
            +++ r.txt
            @@ -2,5 +2,5 @@
             b
             c
             d
            -torch==2.3.1
            +torch==2.7.1
             e
        "#]]
        .assert_eq(&unified(&texts, &edits));
    }
}
