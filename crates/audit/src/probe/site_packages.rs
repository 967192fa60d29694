//! Installed distributions: every `NAME.dist-info` of a folder, with the files that its RECORD lists.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::package;
use super::tree::{self, Folder, Tree, is_inside};
use crate::error::{AuditError, ProbeError, Result};
use crate::facts::Package;
use crate::limits::Budget;

const RECORD_MAX: u64 = 64 << 20;

/// Where `lib/python3.*` stands, in a virtual environment or a root file system.
const PREFIXES: [&str; 7] = ["", "usr", "usr/local", "opt/conda", "opt/venv", "venv", ".venv"];
const FOLDERS: [&str; 2] = ["site-packages", "dist-packages"];

/// The folder with packages that a path of a root file system lies in, as its length, if it is one that [`find`] looks at.
pub(crate) fn folder_of(path: &str) -> Option<usize> {
    let ends = FOLDERS
        .iter()
        .filter_map(|folder| Some(path.find(&format!("/{folder}/"))? + 1 + folder.len()));
    let end = ends.min()?;
    let (before, _) = path[..end].rsplit_once('/')?;
    let (lib, python) = before.rsplit_once('/')?;
    let prefix = if lib == "lib" { "" } else { lib.strip_suffix("/lib")? };
    (python.starts_with("python3") && PREFIXES.contains(&prefix)).then_some(end)
}

/// The folders with packages at or below `root`: itself, a virtual environment's, or those of a root file system.
pub(crate) fn find(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // A link of a root file system to an absolute path would lead into this machine's own.
    let Ok(real) = root.canonicalize() else { return found };
    let inside = |folder: &PathBuf| folder.canonicalize().is_ok_and(|path| path.starts_with(&real));
    if has_distributions(root) {
        found.push(root.to_owned());
    }
    for prefix in PREFIXES {
        let lib = root.join(prefix).join("lib");
        let Ok(entries) = fs::read_dir(&lib) else { continue };
        let python = |name: &str| name.starts_with("python3");
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| python(name)).collect();
        names.sort();
        for name in names {
            let folders = FOLDERS.map(|f| lib.join(&name).join(f));
            found.extend(folders.into_iter().filter(|f| inside(f) && has_distributions(f)));
        }
    }
    found
}

fn has_distributions(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".dist-info"))
}

/// The Python version of a folder such as `lib/python3.11/site-packages`.
pub(crate) fn python_version(folder: &Path) -> Option<String> {
    let name = folder.parent()?.file_name()?.to_str()?;
    let version = name.strip_prefix("python")?;
    version.starts_with("3.").then(|| version.to_owned())
}

/// All distributions of a folder, sorted by name; and those that cannot be read.
///
/// # Errors
///
/// When the folder cannot be listed, or a bound is reached.
pub(crate) fn read(
    folder: &Path,
    budget: &Budget,
) -> Result<(Vec<Package>, Vec<AuditError>), AuditError> {
    let at = |error: std::io::Error| ProbeError::from(error).at(folder);
    let mut infos = Vec::new();
    for (count, entry) in fs::read_dir(folder).map_err(at)?.enumerate() {
        let max = budget.limits.entries_max;
        if count >= max {
            return Err(ProbeError::TooMuch { what: "files", max: max as u64 }.at(folder));
        }
        let name = entry.map_err(at)?.file_name();
        infos.extend(name.to_str().filter(|n| n.ends_with(".dist-info")).map(str::to_owned));
    }
    infos.sort();
    let results: Vec<(String, Result<Package>)> = infos
        .into_par_iter()
        .map(|info| {
            let package = distribution(folder, &info, budget);
            (info, package)
        })
        .collect();
    let (mut packages, mut damaged) = (Vec::new(), Vec::new());
    for (info, result) in results {
        match result {
            Ok(package) => packages.push(package),
            Err(error @ ProbeError::TooMuch { .. }) => return Err(error.at(folder.join(info))),
            Err(error) => damaged.push(error.at(folder.join(info))),
        }
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((packages, damaged))
}

fn distribution(folder: &Path, info: &str, budget: &Budget) -> Result<Package> {
    let own = ["METADATA", "WHEEL", "RECORD"].map(|name| format!("{info}/{name}"));
    let mut tree = Folder::new(folder, own.into_iter())?;
    let names = names(&mut tree, info, budget)?;
    let mut tree = Folder::new(folder, names.into_iter())?;
    package::read(&mut tree, info, &folder.display().to_string(), budget)
}

/// The files of a distribution: those that its RECORD lists, and its metadata.
pub(crate) fn names(tree: &mut dyn Tree, info: &str, budget: &Budget) -> Result<Vec<String>> {
    // Some installers leave no RECORD: then the metadata is all that is known.
    let record =
        tree::text(tree, &format!("{info}/RECORD"), RECORD_MAX, budget).unwrap_or_default();
    let mut names: Vec<String> = record.lines().filter_map(recorded_name).collect();
    if names.len() > budget.limits.entries_max {
        let max = budget.limits.entries_max as u64;
        return Err(ProbeError::TooMuch { what: "files of a package", max });
    }
    names.extend(["METADATA", "WHEEL"].map(|name| format!("{info}/{name}")));
    Ok(names)
}

/// The first field of a line of RECORD, which is CSV.
fn recorded_name(line: &str) -> Option<String> {
    let name = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once("\",").map(|(name, _)| name.replace("\"\"", "\"")),
        None => line.split(',').next().map(str::to_owned),
    }?;
    is_inside(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::folder_of;

    #[test]
    fn folders_in_a_root_file_system() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(folder_of(path).map(|end| &path[..end]), expected, "{path}");
        };
        let folder = "usr/local/lib/python3.11/site-packages";
        check("usr/local/lib/python3.11/site-packages/torch/version.py", Some(folder));
        check(
            "lib/python3.12/site-packages/x/dist-packages/y",
            Some("lib/python3.12/site-packages"),
        );
        check("usr/lib/python3/dist-packages/a", Some("usr/lib/python3/dist-packages"));
        check("opt/conda/pkgs/x/lib/python3.11/site-packages/a", None);
        check("usr/local/lib/python2.7/site-packages/a", None);
        check("usr/local/lib/python3.11/site-packages", None);
    }
}
