//! Layers, and which files are left after all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::super::site_packages;
use super::super::source::{FileSource, Part};
use super::super::stream::{Packing, Plain, Stream, Unpacked};
use super::super::tar::{Archive, Kind};
use crate::error::{ProbeError, Result};
use crate::limits::Budget;

/// A layer: an archive that lies somewhere in a file.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) file: PathBuf,
    /// How the file is packed; then `start` and `len` count bytes of what is in it.
    pub(super) around: Packing,
    pub(super) start: u64,
    pub(super) len: u64,
    /// How the layer itself is packed.
    pub(super) packing: Packing,
}

impl Layer {
    /// Whether it can only be read forward.
    pub(super) fn is_packed(&self) -> bool {
        self.around != Packing::None || self.packing != Packing::None
    }

    /// The layer from its beginning, unpacked.
    pub(super) fn stream<'b>(&self, budget: &'b Budget) -> Result<Box<dyn Stream + 'b>> {
        let outer = self.outer(budget)?;
        Ok(match self.packing {
            Packing::None => outer,
            packing => Box::new(Unpacked::new(outer, packing, budget)),
        })
    }

    /// The layer from its beginning, as it lies in the archive.
    pub(super) fn outer<'b>(&self, budget: &'b Budget) -> Result<Box<dyn Stream + 'b>> {
        let file = FileSource::open(&self.file)?;
        if self.around == Packing::None {
            return Ok(Box::new(Plain::new(Part::new(file, self.start, self.len)?, budget)));
        }
        let mut stream = Unpacked::new(Plain::new(file, budget), self.around, budget);
        stream.skip(self.start)?;
        Ok(Box::new(Ended { stream, left: self.len }))
    }
}

/// The beginning of a stream.
struct Ended<S> {
    stream: S,
    left: u64,
}

impl<S: Stream> Stream for Ended<S> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let size = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.stream.read(&mut buffer[..size])?;
        self.left -= read as u64;
        Ok(read)
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| ProbeError::damaged("a layer is cut off"))?;
        self.stream.skip(bytes)
    }
}

/// A file that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) layer: usize,
    /// Of its contents, in the layer.
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// What is left in folders with packages.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Hard links to what was not looked at.
    pub(super) unresolved: BTreeSet<String>,
}

/// Lays the layers over each other. A `.wh.NAME` removes NAME of the layers below, `.wh..wh..opq` all that its folder has there.
pub(super) fn merge(layers: &[Layer], budget: &Budget) -> Result<Files> {
    let mut files = Files::default();
    for (at, layer) in layers.iter().enumerate() {
        let mut archive = Archive::new(layer.stream(budget)?, budget.limits.entries_max);
        let mut own = BTreeMap::new();
        while let Some(member) = archive.next()? {
            let (folder, name) = member.name.rsplit_once('/').unwrap_or(("", &member.name));
            if name == ".wh..wh..opq" {
                files.remove_below(folder);
            } else if let Some(name) = name.strip_prefix(".wh.") {
                let path =
                    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                files.remove(&path);
            } else if member.kind == Kind::Folder {
                // A folder hides a file of its name, and lets through what a folder below has.
                files.entries.remove(&member.name);
            } else {
                files.remove(&member.name);
                if site_packages::folder_of(&member.name).is_some() {
                    own.extend(
                        entry(at, &member, &own, &mut files.unresolved)
                            .map(|entry| (member.name, entry)),
                    );
                }
            }
        }
        files.entries.append(&mut own);
        if files.entries.len() > budget.limits.entries_max {
            let max = budget.limits.entries_max as u64;
            return Err(ProbeError::TooMuch { what: "files of an image", max });
        }
    }
    Ok(files)
}

fn entry(
    layer: usize,
    member: &super::Member,
    own: &BTreeMap<String, Entry>,
    unresolved: &mut BTreeSet<String>,
) -> Option<Entry> {
    match member.kind {
        Kind::File => Some(Entry { layer, offset: member.offset, size: member.size }),
        // It stands behind what it leads to, in the same layer.
        Kind::HardLink => {
            let target =
                super::super::tar::plain(&member.link).and_then(|target| own.get(&target).cloned());
            if target.is_none() {
                unresolved.insert(member.name.clone());
            }
            target
        }
        _ => None,
    }
}

impl Files {
    fn remove(&mut self, path: &str) {
        self.entries.remove(path);
        self.remove_below(path);
    }

    fn remove_below(&mut self, folder: &str) {
        if folder.is_empty() {
            self.entries.clear();
            return;
        }
        let start = format!("{folder}/");
        let below = self.entries.range(start.clone()..).map(|(path, _)| path);
        let below: Vec<String> =
            below.take_while(|path| path.starts_with(&start)).cloned().collect();
        for path in below {
            self.entries.remove(&path);
        }
    }
}
