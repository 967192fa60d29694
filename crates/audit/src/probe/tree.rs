//! A package's files, wherever they lie: in a wheel, or in `site-packages`. What is read from both is read by the same code.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::source::{FileSource, Reader, Source};
use super::zip::{self, Member};
use crate::error::{ProbeError, Result};
use crate::facts::Library;
use crate::limits::Budget;

/// Files by their names, with slashes.
pub(crate) trait Tree {
    /// The names, sorted.
    fn names(&self) -> Vec<&str>;

    /// Opens a file.
    fn open<'s>(&'s mut self, name: &str, budget: &'s Budget) -> Result<Box<dyn Source + 's>>;

    /// A library that was read already, as those of an archive that only runs forward are.
    fn library(&mut self, _name: &str) -> Option<Result<Library>> {
        None
    }
}

/// All of a text file of at most `max` bytes.
pub(crate) fn text(tree: &mut dyn Tree, name: &str, max: u64, budget: &Budget) -> Result<String> {
    let mut source = tree.open(name, budget)?;
    let size = source.len();
    if size > max {
        return Err(ProbeError::TooMuch { what: "bytes in a text", max });
    }
    let bytes = Reader::new(&mut *source, budget).take("a text", 0, size as usize)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The members of a wheel.
pub(crate) struct Wheel<S> {
    source: S,
    members: BTreeMap<String, Member>,
}

impl<S: Source> Wheel<S> {
    pub(crate) fn new(mut source: S, budget: &Budget) -> Result<Wheel<S>> {
        let members = zip::members(&mut source, budget)?;
        let members = members.into_iter().filter(|member| !member.name.ends_with('/'));
        let members = members.map(|member| (installed_name(&member.name), member)).collect();
        Ok(Wheel { source, members })
    }
}

/// `NAME.data/purelib/` and `platlib/` are unpacked beside the rest: PEP 427.
fn installed_name(name: &str) -> String {
    let data = name.split_once(".data/").filter(|(before, _)| !before.contains('/'));
    let part = data.and_then(|(_, rest)| {
        rest.strip_prefix("purelib/").or_else(|| rest.strip_prefix("platlib/"))
    });
    part.unwrap_or(name).to_owned()
}

impl<S: Source> Tree for Wheel<S> {
    fn names(&self) -> Vec<&str> {
        self.members.keys().map(String::as_str).collect()
    }

    fn open<'s>(&'s mut self, name: &str, budget: &'s Budget) -> Result<Box<dyn Source + 's>> {
        let member = self.members.get(name).ok_or_else(|| missing(name))?;
        zip::open(&mut self.source, member, budget)
    }
}

fn missing(name: &str) -> ProbeError {
    ProbeError::damaged(format!("{name} is not there"))
}

/// The files of one distribution in `site-packages`, or any folder.
pub(crate) struct Folder {
    /// Without links, to see what leads out.
    real: PathBuf,
    names: Vec<String>,
}

impl Folder {
    /// Files below `root` with these names; those that lead out of it, or are not there, are left out.
    pub(crate) fn new(root: &Path, names: impl Iterator<Item = String>) -> Result<Folder> {
        let mut names: Vec<String> = names.filter(|name| is_inside(name)).collect();
        names.sort_unstable();
        names.dedup();
        Ok(Folder { real: root.canonicalize()?, names })
    }
}

/// Whether a name stays below where it starts.
pub(crate) fn is_inside(name: &str) -> bool {
    let plain = |part: Component| matches!(part, Component::Normal(_));
    !name.is_empty() && Path::new(name).components().all(plain)
}

impl Tree for Folder {
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn open<'s>(&'s mut self, name: &str, _: &'s Budget) -> Result<Box<dyn Source + 's>> {
        if !is_inside(name) {
            return Err(missing(name));
        }
        let path = self.real.join(name).canonicalize()?;
        if !path.starts_with(&self.real) {
            return Err(ProbeError::Unsupported("is a link that leads out of its folder".into()));
        }
        Ok(Box::new(FileSource::open(&path)?))
    }
}
