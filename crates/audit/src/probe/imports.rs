//! What `import PACKAGE` reaches: the package's own files one after the other, and the modules of others that they ask for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::package::PYTHON_MAX;
use super::python::{self, ImportStatement, When};
use super::tree::{self, Tree};
use crate::error::{ProbeError, Result};
use crate::facts::{Evidence, Import};
use crate::limits::Budget;

/// Packages whose modules come and go between releases; what is imported of them is checked against what is there.
const WATCHED: [&str; 2] = ["torch", "triton"];
/// Files of one package that are followed.
const FILES_MAX: usize = 5_000;

/// The modules of watched packages that may vanish: those below a package's package, and not the thousands of files of torch.
pub(crate) fn watched_modules(names: &[&str]) -> Vec<String> {
    let module = |name: &&str| {
        let path = name.strip_suffix(".py")?;
        let path = path.strip_suffix("/__init__").unwrap_or(path);
        let deep = path.matches('/').count();
        let watched = path.starts_with("triton/ops") || deep <= 1 && path != "torch";
        (watched && WATCHED.iter().any(|p| path.split('/').next() == Some(p)))
            .then(|| path.replace('/', "."))
    };
    let modules: BTreeSet<String> = names.iter().filter_map(module).collect();
    modules.into_iter().collect()
}

/// Follows `import PACKAGE`, and lists what it asks of [`WATCHED`] packages. What only runs when a function is called is left out.
pub(crate) fn follow(tree: &mut dyn Tree, package: &str, budget: &Budget) -> Result<Vec<Import>> {
    let files: BTreeMap<String, String> = modules(&tree.names(), package);
    let mut queue =
        VecDeque::from([(package.to_owned(), Vec::<String>::new(), Reached::default())]);
    // How certain it is that a module is imported: one that was reached on a condition may be reached without.
    let mut seen: BTreeMap<String, u8> = BTreeMap::from([(package.to_owned(), 0)]);
    let mut found: BTreeMap<String, (u8, Import)> = BTreeMap::new();
    while let Some((module, chain, reached)) = queue.pop_front() {
        if seen.len() > FILES_MAX {
            return Err(ProbeError::TooMuch { what: "files to import", max: FILES_MAX as u64 });
        }
        let Some(file) = files.get(&module) else { continue };
        let source = tree::text(tree, file, PYTHON_MAX, budget)?;
        let lines: Vec<&str> = source.lines().collect();
        let is_package = file.ends_with("/__init__.py");
        let chain: Vec<String> = chain.iter().cloned().chain([file.clone()]).collect();
        for statement in python::read(&source).imports {
            if statement.when == When::Lazy {
                continue;
            }
            let reached = reached.and(&statement.when);
            let rank = reached.rank();
            for (target, names) in targets(&statement, &module, is_package, &files) {
                if target == package || target.starts_with(&format!("{package}.")) {
                    // A package's `__init__` runs before its modules do.
                    for module in with_parents(&target) {
                        if seen.get(&module).is_none_or(|known| rank < *known) {
                            seen.insert(module.clone(), rank);
                            queue.push_back((module, chain.clone(), reached.clone()));
                        }
                    }
                } else if may_vanish(&target)
                    && found.get(&target).is_none_or(|(known, _)| rank < *known)
                {
                    let text = lines.get(statement.line - 1).map_or("", |line| line.trim());
                    let import = Import {
                        module: target.clone(),
                        names,
                        guarded: reached.guarded,
                        condition: reached.condition.clone(),
                        evidence: Evidence::line(file.clone(), statement.line, text),
                        chain: chain.clone(),
                    };
                    found.insert(target, (rank, import));
                }
            }
        }
    }
    Ok(found.into_values().map(|(_, import)| import).collect())
}

/// Whether a module may be missing from some release of a watched package: torch itself and its public modules never are.
fn may_vanish(module: &str) -> bool {
    let mut parts = module.split('.');
    match parts.next() {
        Some("torch") => parts.any(|part| part.starts_with('_')),
        Some(first) => WATCHED.contains(&first) && parts.next().is_some(),
        None => false,
    }
}

/// Imports of names that their module does not have, among the files of one folder: files of two releases are mixed there.
pub(crate) fn broken(tree: &mut dyn Tree, folder: &str, budget: &Budget) -> Result<Vec<Import>> {
    let within = |name: &&str| name.starts_with(folder) && name.ends_with(".py");
    let files: Vec<String> =
        tree.names().into_iter().filter(within).take(FILES_MAX).map(str::to_owned).collect();
    let package = folder.split('/').next().unwrap_or(folder);
    let all = modules(&tree.names(), package);
    let mut read: BTreeMap<String, (String, python::Module)> = BTreeMap::new();
    for file in &files {
        let source = tree::text(tree, file, PYTHON_MAX, budget)?;
        let module = python::read(&source);
        read.insert(file.clone(), (source, module));
    }
    let mut broken = Vec::new();
    for (module, file) in all.iter().filter(|(_, file)| read.contains_key(*file)) {
        let (source, content) = &read[file];
        let is_package = file.ends_with("/__init__.py");
        let always = content.imports.iter().filter(|import| import.when == When::Always);
        for statement in always.filter(|import| import.level > 0) {
            let base = targets(statement, module, is_package, &all).into_iter().next();
            let Some((target, names)) = base else { continue };
            let Some((_, provider)) = all.get(&target).and_then(|file| read.get(file)) else {
                continue;
            };
            let has = |name: &String| {
                provider.names.contains(name) || all.contains_key(&format!("{target}.{name}"))
            };
            // A star, or a function that makes names, may have any.
            let any = ["*", "__getattr__"].iter().any(|name| has(&(*name).to_owned()));
            let missing: Vec<String> =
                names.into_iter().filter(|name| name != "*" && !has(name)).collect();
            if any || missing.is_empty() {
                continue;
            }
            let line = source.lines().nth(statement.line - 1).unwrap_or_default();
            broken.push(Import {
                module: target,
                names: missing,
                guarded: false,
                condition: None,
                evidence: Evidence::line(file.clone(), statement.line, line.trim()),
                chain: Vec::new(),
            });
        }
    }
    Ok(broken)
}

/// How the chain came to a file.
#[derive(Debug, Clone, Default)]
struct Reached {
    guarded: bool,
    condition: Option<String>,
}

impl Reached {
    /// 0 is certain.
    fn rank(&self) -> u8 {
        u8::from(self.condition.is_some()) + 2 * u8::from(self.guarded)
    }

    fn and(&self, when: &When) -> Reached {
        match when {
            When::Guarded => Reached { guarded: true, ..self.clone() },
            When::If(condition) if self.condition.is_none() => {
                Reached { condition: Some(condition.clone()), ..self.clone() }
            }
            _ => self.clone(),
        }
    }
}

/// The files of a package by their modules' names.
fn modules(names: &[&str], package: &str) -> BTreeMap<String, String> {
    let module = |name: &&str| {
        let path = name.strip_suffix(".py")?;
        let path = path.strip_suffix("/__init__").unwrap_or(path);
        (path.split('/').next() == Some(package))
            .then(|| (path.replace('/', "."), (*name).to_owned()))
    };
    names.iter().filter_map(module).collect()
}

/// The modules that a statement imports, and the names it takes of each.
fn targets(
    statement: &ImportStatement,
    module: &str,
    is_package: bool,
    files: &BTreeMap<String, String>,
) -> Vec<(String, Vec<String>)> {
    let base = if statement.level == 0 {
        statement.module.clone()
    } else {
        let up = statement.level - usize::from(is_package);
        let mut parts: Vec<&str> = module.split('.').collect();
        parts.truncate(parts.len().saturating_sub(up));
        parts.extend(Some(statement.module.as_str()).filter(|module| !module.is_empty()));
        parts.join(".")
    };
    if base.is_empty() {
        return Vec::new();
    }
    // `from . import x` may mean the file x.py.
    let submodules: Vec<(String, Vec<String>)> = statement
        .names
        .iter()
        .map(|name| format!("{base}.{name}"))
        .filter(|name| files.contains_key(name))
        .map(|name| (name, Vec::new()))
        .collect();
    let mut all = vec![(base, statement.names.clone())];
    all.extend(submodules);
    all
}

/// `a.b.c` as `a`, `a.b`, `a.b.c`.
fn with_parents(module: &str) -> Vec<String> {
    let ends = module.match_indices('.').map(|(at, _)| at).chain([module.len()]);
    ends.map(|end| module[..end].to_owned()).collect()
}
