//! Images of containers, and archives of root file systems: which file each path has after all layers, and the packages among them.
//!
//! Taken are `docker save` (of all ages), the OCI layout as a folder or an archive, and an archive of a root file system (`docker
//! export`); each layer, and the archive around them, may be packed by gzip or zstd. Nothing is unpacked to disk. Of a layer that is not
//! packed, files are read where they lie. A packed one runs forward: small files are kept as they pass, large libraries are read as they
//! pass, on as many passes as they ask for bytes that lie behind.

mod layers;
mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::library;
use super::package::{self, PRIVATE_KERNELS, is_library};
use super::site_packages;
use super::source::{FileSource, Part, Source};
use super::stream::{Memory, Packing, Passing, Stream};
use super::tar::{Archive, Member};
use super::tree::Tree;
use crate::error::{ProbeError, Result};
use crate::facts::{Evidence, Library, Package};
use crate::limits::Budget;
use layers::{Entry, Layer};

/// Files of up to this many bytes are kept while they are looked at, all together at most the second.
const SMALL_MAX: u64 = 8 << 20;
const KEPT_MAX: u64 = 512 << 20;
/// A library reads backwards two or three times: its outline stands at its end.
const PASSES_MAX: usize = 8;

/// What was read of an image.
#[derive(Debug, Default)]
pub(crate) struct ImageFacts {
    /// Packages, and the version of Python that the folder they lie in is for.
    pub(crate) packages: Vec<Package>,
    pub(crate) python: Option<String>,
    /// The image's variables, as `NAME=VALUE`.
    pub(crate) environment: Vec<Evidence>,
    pub(crate) not_known: Vec<Evidence>,
}

/// Whether a folder is an image in the OCI layout.
pub(crate) fn is_oci_folder(folder: &Path) -> bool {
    folder.join("oci-layout").is_file() && folder.join("index.json").is_file()
}

/// Reads an image or a root file system.
///
/// # Errors
///
/// When it is none, is damaged, or a bound is reached.
pub(crate) fn read(path: &Path, budget: &Budget) -> Result<ImageFacts> {
    let shown = path.display().to_string();
    let image = manifest::open(path, budget)?;
    let variable =
        |value: &String| Evidence::file(format!("{shown}!{}", image.config), value.as_str());
    let mut facts = ImageFacts {
        environment: image.environment.iter().map(variable).collect(),
        ..ImageFacts::default()
    };
    let mut files = layers::merge(&image.layers, budget)?;
    for path in std::mem::take(&mut files.unresolved) {
        let what = "is a hard link to a file outside of the folders with packages";
        facts.not_known.push(Evidence::file(format!("{shown}!{path}"), what));
    }
    let kept = read_packed(&image.layers, &files.entries, budget)?;
    let mut folders: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for path in files.entries.keys() {
        if let Some(end) = site_packages::folder_of(path) {
            folders.entry(path[..end].to_owned()).or_default().push(&path[end + 1..]);
        }
    }
    for (folder, names) in folders {
        let infos = names.iter().filter_map(|name| name.strip_suffix(".dist-info/METADATA"));
        let infos: Vec<String> = infos
            .filter(|name| !name.contains('/'))
            .map(|name| format!("{name}.dist-info"))
            .collect();
        if infos.is_empty() {
            continue;
        }
        let origin = format!("{shown}!{folder}");
        let present: BTreeSet<&str> = names.into_iter().collect();
        for info in infos {
            let view =
                View { layers: &image.layers, files: &files.entries, kept: &kept, folder: &folder };
            match distribution(view, &present, &info, &origin, budget) {
                Ok(package) => facts.packages.push(package),
                Err(error @ ProbeError::TooMuch { .. }) => return Err(error),
                Err(error) => {
                    facts
                        .not_known
                        .push(Evidence::file(format!("{origin}/{info}"), error.to_string()));
                }
            }
        }
        let python = site_packages::python_version(Path::new(&folder));
        facts.python = facts.python.take().or(python);
    }
    if facts.packages.is_empty() {
        let what = "has no installed Python packages: no *.dist-info in lib/python3.*/site-packages of any layer";
        return Err(ProbeError::Unsupported(what.to_owned()));
    }
    facts.packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(facts)
}

fn distribution(
    view: View,
    present: &BTreeSet<&str>,
    info: &str,
    origin: &str,
    budget: &Budget,
) -> Result<Package> {
    let mut tree = ImageTree { view, names: Vec::new() };
    let names = site_packages::names(&mut tree, info, budget)?;
    tree.names = names.into_iter().filter(|name| present.contains(name.as_str())).collect();
    tree.names.sort_unstable();
    tree.names.dedup();
    package::read(&mut tree, info, origin, budget)
}

/// What was read of packed layers while they passed, by the path of the file.
#[derive(Default)]
struct Kept {
    texts: BTreeMap<String, Vec<u8>>,
    libraries: BTreeMap<String, Result<Library, String>>,
}

/// Whether the text of a file may be asked for.
fn is_wanted_text(name: &str) -> bool {
    let metadata = [".dist-info/METADATA", ".dist-info/WHEEL", ".dist-info/RECORD"];
    let python = ["bitsandbytes/", PRIVATE_KERNELS];
    metadata.iter().any(|end| name.ends_with(end))
        || name == "torch/version.py"
        || name.ends_with(".py") && python.iter().any(|start| name.starts_with(start))
}

/// A library that is not read to its end yet.
#[derive(Default)]
struct Unread {
    memory: Memory,
    passes: usize,
}

/// Reads what will be asked for out of packed layers.
fn read_packed(layers: &[Layer], files: &BTreeMap<String, Entry>, budget: &Budget) -> Result<Kept> {
    let mut kept = Kept::default();
    let mut room = KEPT_MAX;
    for (at, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.is_packed()) {
        // A path of the layer's own counts if it is the one that is left after all layers.
        let wanted = files.iter().filter(|(path, entry)| {
            let name = site_packages::folder_of(path).map_or("", |end| &path[end + 1..]);
            entry.layer == at && (is_library(name) || is_wanted_text(name))
        });
        let mut unread: BTreeMap<u64, (&String, Unread)> =
            wanted.map(|(path, entry)| (entry.offset, (path, Unread::default()))).collect();
        while !unread.is_empty() {
            pass(layer, &mut unread, &mut kept, &mut room, budget)?;
        }
    }
    Ok(kept)
}

/// Runs through a layer once.
fn pass(
    layer: &Layer,
    unread: &mut BTreeMap<u64, (&String, Unread)>,
    kept: &mut Kept,
    room: &mut u64,
    budget: &Budget,
) -> Result<()> {
    let mut archive = Archive::new(layer.stream(budget)?, budget.limits.entries_max);
    let last = unread.keys().next_back().copied().unwrap_or_default();
    while let Some(member) = archive.next()? {
        let Some((path, state)) = unread.get_mut(&member.offset) else { continue };
        let path = path.as_str();
        let done = if member.size <= SMALL_MAX {
            keep_small(&mut archive, &member, path, kept, room, budget)?;
            true
        } else if is_library(path) {
            match read_passing(&mut archive, &member, path, state, budget)? {
                Some(result) => {
                    kept.libraries.insert(path.to_owned(), result);
                    true
                }
                None => false,
            }
        } else {
            // Longer than any text that is read.
            true
        };
        if done {
            unread.remove(&member.offset);
        }
        if member.offset >= last {
            return Ok(());
        }
    }
    // What did not pass is not there: a layer that changed meanwhile.
    unread.clear();
    Ok(())
}

fn keep_small(
    archive: &mut Archive<Box<dyn Stream + '_>>,
    member: &Member,
    path: &str,
    kept: &mut Kept,
    room: &mut u64,
    budget: &Budget,
) -> Result<()> {
    let mut bytes = vec![0; member.size as usize];
    archive.fill_from(member, &mut bytes)?;
    if is_library(path) {
        let read = library::read(short(path), &mut &bytes[..], budget);
        kept.libraries.insert(path.to_owned(), settled(read)?);
        return Ok(());
    }
    *room = room
        .checked_sub(member.size)
        .ok_or(ProbeError::TooMuch { what: "bytes in texts of packages", max: KEPT_MAX })?;
    kept.texts.insert(path.to_owned(), bytes);
    Ok(())
}

/// Reads a large library; `None` if it takes another pass.
fn read_passing(
    archive: &mut Archive<Box<dyn Stream + '_>>,
    member: &Member,
    path: &str,
    state: &mut Unread,
    budget: &Budget,
) -> Result<Option<Result<Library, String>>> {
    state.passes += 1;
    let mut source = Passing::new(archive, member, &mut state.memory);
    let read = library::read(short(path), &mut source, budget);
    if !source.is_behind {
        return settled(read).map(Some);
    }
    if state.passes < PASSES_MAX {
        return Ok(None);
    }
    Ok(Some(Err("damaged: it is not laid out as libraries are".to_owned())))
}

/// The path within its folder of packages.
fn short(path: &str) -> &str {
    site_packages::folder_of(path).map_or(path, |end| &path[end + 1..])
}

/// Errors of one library are facts about it, but for those that end everything. Those that are none of ours are left out by name.
fn settled(read: Result<Library>) -> Result<Result<Library, String>> {
    match read {
        Ok(library) => Ok(Ok(library)),
        Err(error @ ProbeError::TooMuch { .. }) => Err(error),
        Err(ProbeError::Unsupported(_)) => Ok(Err(String::new())),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// One folder with packages, after all layers.
struct View<'i> {
    layers: &'i [Layer],
    files: &'i BTreeMap<String, Entry>,
    kept: &'i Kept,
    folder: &'i str,
}

/// The files of one distribution.
struct ImageTree<'i> {
    view: View<'i>,
    names: Vec<String>,
}

impl ImageTree<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.view.folder)
    }
}

impl Tree for ImageTree<'_> {
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn open<'s>(&'s mut self, name: &str, _: &'s Budget) -> Result<Box<dyn Source + 's>> {
        let path = self.path(name);
        let missing = || ProbeError::damaged(format!("{name} is not there"));
        let entry = self.view.files.get(&path).ok_or_else(missing)?;
        let layer = &self.view.layers[entry.layer];
        if layer.is_packed() {
            let text = self.view.kept.texts.get(&path).ok_or_else(missing)?;
            return Ok(Box::new(text.as_slice()));
        }
        let file = FileSource::open(&layer.file)?;
        Ok(Box::new(Part::new(file, layer.start + entry.offset, entry.size)?))
    }

    fn library(&mut self, name: &str) -> Option<Result<Library>> {
        let read = self.view.kept.libraries.get(&self.path(name))?;
        Some(match read {
            Ok(library) => Ok(library.clone()),
            Err(why) if why.is_empty() => Err(ProbeError::Unsupported("is no library".to_owned())),
            Err(why) => Err(ProbeError::damaged(why.trim_start_matches("damaged: "))),
        })
    }
}

/// The packing of a file's bytes from an offset on.
fn packing_at(source: &mut dyn Source, start: u64) -> Result<Packing> {
    let mut head = [0; 4];
    let size = source.len().saturating_sub(start).min(4) as usize;
    source.read_exact_at(start, &mut head[..size])?;
    Ok(Packing::of(&head[..size]))
}
