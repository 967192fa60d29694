//! Where files lie: the cache as Hugging Face's tools have it, or plain files in a directory.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::digest::Hasher;
use crate::listing::{Digest, Entry};
use crate::{HubError, Repository, files};

/// Holds what is under way in a directory of plain files.
const WORK: &str = ".halfbyte-pull";
/// Largest list of what lies in a directory.
const MANIFEST_BYTES_MAX: u64 = 32 << 20;

/// Where a repository's files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The Hugging Face cache: `models--ORG--NAME/{blobs,refs,snapshots}`.
    Cache(PathBuf),
    /// A directory of models: plain files in `ORG/NAME`.
    Plain(PathBuf),
}

/// A content, and the names it has.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) paths: Vec<String>,
}

impl Unit {
    /// A unit for each content; small ones first, for they say what the others are.
    pub(crate) fn of(entries: &[Entry]) -> Vec<Unit> {
        let mut units: Vec<Unit> = Vec::new();
        let mut places: HashMap<(&str, u64), usize> = HashMap::new();
        for entry in entries {
            let at = *places.entry((entry.digest.id(), entry.size)).or_insert(units.len());
            match units.get_mut(at) {
                Some(unit) => unit.paths.push(entry.path.clone()),
                None => units.push(Unit {
                    digest: entry.digest.clone(),
                    size: entry.size,
                    paths: vec![entry.path.clone()],
                }),
            }
        }
        units.sort_by_key(|unit| unit.size > 1 << 20);
        units
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> &str {
        self.paths.first().map_or("", String::as_str)
    }
}

/// A repository's place at a commit.
#[derive(Debug)]
pub(crate) struct Home {
    is_cache: bool,
    /// `models--ORG--NAME`, or `ORG/NAME`.
    folder: PathBuf,
    locks: PathBuf,
    commit: String,
    revision: String,
}

impl Home {
    pub(crate) fn new(place: &Place, repository: &Repository, commit: &str) -> Self {
        let (org, name) = repository.org_and_name();
        let (commit, revision) = (commit.to_owned(), repository.revision().to_owned());
        match place {
            Place::Cache(root) => {
                let folder = format!("models--{org}--{name}");
                let locks = root.join(".locks").join(&folder);
                Home { is_cache: true, folder: root.join(folder), locks, commit, revision }
            }
            Place::Plain(root) => {
                let folder = root.join(org).join(name);
                Home { is_cache: false, locks: folder.join(WORK), folder, commit, revision }
            }
        }
    }

    /// What a command is given to find the files.
    pub(crate) fn result(&self) -> PathBuf {
        match self.is_cache {
            true => self.folder.join("snapshots").join(&self.commit),
            false => self.folder.clone(),
        }
    }

    /// The nearest directory that exists: where there has to be room.
    pub(crate) fn existing(&self) -> &Path {
        let mut existing = self.folder.ancestors().filter(|path| path.is_dir());
        existing.next().unwrap_or(Path::new("."))
    }

    fn work(&self) -> PathBuf {
        self.folder.join(if self.is_cache { "blobs" } else { WORK })
    }

    pub(crate) fn create(&self) -> Result<(), HubError> {
        files::create_dirs(&self.work())
    }

    /// Held by the one process that fetches this repository.
    pub(crate) fn lock(&self) -> PathBuf {
        self.locks.join("halfbyte-pull.lock")
    }

    /// Held by whatever tool writes this blob: the official one's lock.
    pub(crate) fn lock_of(&self, unit: &Unit) -> Option<PathBuf> {
        self.is_cache.then(|| self.locks.join(format!("{}.lock", unit.digest.id())))
    }

    /// Where a file lies while it is under way. No other tool takes it for its own.
    pub(crate) fn incomplete(&self, unit: &Unit) -> PathBuf {
        self.work().join(format!("{}.halfbyte.incomplete", unit.digest.id()))
    }

    /// Where it is said which ranges of it are on disk.
    pub(crate) fn record(&self, unit: &Unit) -> PathBuf {
        self.work().join(format!("{}.halfbyte.ranges", unit.digest.id()))
    }

    fn blob(&self, unit: &Unit) -> PathBuf {
        self.folder.join("blobs").join(unit.digest.id())
    }

    /// Whether the content is here. A blob of the cache is known by its name and length, as the official tool has it; a plain file
    /// by the list of what was verified, else by its digest.
    pub(crate) fn has(
        &self,
        unit: &Unit,
        manifest: &Manifest,
        checking: &dyn Fn(&str, u64),
    ) -> Result<bool, HubError> {
        if self.is_cache {
            return Ok(files::file_len(&self.blob(unit)) == Some(unit.size));
        }
        for name in &unit.paths {
            let path = self.folder.join(name);
            if files::file_len(&path) != Some(unit.size) {
                return Ok(false);
            }
            if !manifest.vouches(&path, name, unit) {
                checking(name, unit.size);
                if digest_of(&path, unit)? != unit.digest.id() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What the official tool had when it was ended, if anything: the beginning of the file.
    pub(crate) fn abandoned(&self, unit: &Unit) -> Option<(PathBuf, u64)> {
        let id = unit.digest.id();
        if !self.is_cache {
            return None;
        }
        let is_its = |name: &str| {
            let middle = name.strip_prefix(id).and_then(|rest| rest.strip_suffix(".incomplete"));
            // `ID.incomplete`, or `ID.0123abcd.incomplete`.
            middle.is_some_and(|middle| {
                middle.is_empty()
                    || middle.strip_prefix('.').is_some_and(|hex| {
                        hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit())
                    })
            })
        };
        let entries = fs::read_dir(self.work()).ok()?.filter_map(Result::ok);
        let names = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_its));
        let found = names.filter_map(|entry| {
            let len = files::file_len(&entry.path()).filter(|len| (1..=unit.size).contains(len))?;
            Some((entry.path(), len))
        });
        found.max_by_key(|(_, len)| *len)
    }

    /// Gives a verified file its name.
    pub(crate) fn deliver(&self, unit: &Unit, incomplete: &Path) -> Result<(), HubError> {
        if self.is_cache {
            return rename(incomplete, &self.blob(unit));
        }
        let Some((last, others)) = unit.paths.split_last() else { return Ok(()) };
        for name in others {
            copy(incomplete, &self.folder.join(name))?;
        }
        let last = self.folder.join(last);
        create_parent(&last)?;
        rename(incomplete, &last)
    }

    /// When all are here: the names in the snapshot, and what the revision stands for; or the list of what was verified.
    pub(crate) fn publish(&self, units: &[Unit], manifest: Manifest) -> Result<(), HubError> {
        if !self.is_cache {
            return manifest.with(&self.folder, units).write(&self.folder);
        }
        for unit in units {
            for path in &unit.paths {
                self.link(unit, path)?;
            }
        }
        files::sync_directory(&self.result());
        if self.revision != self.commit {
            let reference = self.folder.join("refs").join(&self.revision);
            if fs::read_to_string(&reference).ok().as_deref() != Some(self.commit.as_str()) {
                create_parent(&reference)?;
                files::write_atomic(&reference, self.commit.as_bytes())?;
            }
        }
        Ok(())
    }

    /// `snapshots/COMMIT/PATH` -> `blobs/ID`: a symbolic link, or where the volume has none a hard one, or a copy.
    fn link(&self, unit: &Unit, path: &str) -> Result<(), HubError> {
        let name = self.result().join(path);
        let blob = self.blob(unit);
        let is_there = fs::canonicalize(&name)
            .is_ok_and(|found| fs::canonicalize(&blob).is_ok_and(|blob| found == blob));
        let is_plain =
            fs::symlink_metadata(&name).is_ok_and(|m| m.is_file() && m.len() == unit.size);
        if is_there || is_plain {
            return Ok(());
        }
        create_parent(&name)?;
        // Out of the folders of the path, out of the commit's, out of `snapshots`.
        let up = "../".repeat(path.matches('/').count() + 2);
        let target = format!("{up}blobs/{}", unit.digest.id());
        let temporary = files::with(&name, &format!(".{}.tmp", files::unique()));
        if symlink(target, &temporary).or_else(|_| fs::hard_link(&blob, &temporary)).is_err() {
            return copy(&blob, &name);
        }
        fs::rename(&temporary, &name).map_err(|error| {
            let _ = fs::remove_file(&temporary);
            HubError::file("link", &name)(error)
        })
    }

    /// The list of what was verified, as it is.
    pub(crate) fn manifest(&self) -> Manifest {
        match self.is_cache {
            true => Manifest::default(),
            false => Manifest::read(&self.folder),
        }
    }
}

fn create_parent(path: &Path) -> Result<(), HubError> {
    path.parent().map_or(Ok(()), files::create_dirs)
}

fn rename(from: &Path, to: &Path) -> Result<(), HubError> {
    fs::rename(from, to).map_err(HubError::file("write", to))?;
    if let Some(parent) = to.parent() {
        files::sync_directory(parent);
    }
    Ok(())
}

/// A copy that is there as a whole or not at all.
fn copy(from: &Path, to: &Path) -> Result<(), HubError> {
    create_parent(to)?;
    let temporary = files::with(to, &format!(".{}.tmp", files::unique()));
    let copied = fs::copy(from, &temporary)
        .and_then(|_| File::open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, to));
    copied.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        HubError::file("write", to)(error)
    })
}

fn digest_of(path: &Path, unit: &Unit) -> Result<String, HubError> {
    let mut hasher = Hasher::new(&unit.digest, unit.size);
    let mut read = || {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                len => hasher.update(&buffer[..len]),
            }
        }
    };
    read().map_err(HubError::file("read", path))?;
    Ok(hasher.finish())
}

/// What was verified in a directory of plain files: digest, length and time of change of each.
#[derive(Debug, Default)]
pub(crate) struct Manifest(HashMap<String, String>);

impl Manifest {
    fn path(folder: &Path) -> PathBuf {
        folder.join(WORK).join("verified")
    }

    /// A list that cannot be read vouches for nothing.
    fn read(folder: &Path) -> Self {
        let mut text = String::new();
        let read = File::open(Self::path(folder))
            .and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text));
        if read.is_err() {
            return Manifest::default();
        }
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        Manifest(lines.map(|(fact, path)| (path.to_owned(), fact.to_owned())).collect())
    }

    fn fact(path: &Path, unit: &Unit) -> Option<String> {
        let metadata = fs::metadata(path).ok()?;
        let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
        Some(format!("{} {} {seconds}.{nanoseconds:09}", unit.digest.id(), metadata.len()))
    }

    fn vouches(&self, path: &Path, name: &str, unit: &Unit) -> bool {
        let fact = Self::fact(path, unit);
        fact.is_some() && self.0.get(name) == fact.as_ref()
    }

    fn with(mut self, folder: &Path, units: &[Unit]) -> Self {
        for (unit, name) in
            units.iter().flat_map(|unit| unit.paths.iter().map(move |name| (unit, name)))
        {
            if let Some(fact) = Self::fact(&folder.join(name), unit) {
                self.0.insert(name.clone(), fact);
            }
        }
        self
    }

    fn write(&self, folder: &Path) -> Result<(), HubError> {
        let mut lines: Vec<String> =
            self.0.iter().map(|(path, fact)| format!("{fact}\t{path}\n")).collect();
        lines.sort();
        let path = Self::path(folder);
        match fs::read_to_string(&path) {
            Ok(text) if text == lines.concat() => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(HubError::file("read", &path)(error))
            }
            _ => files::write_atomic(&path, lines.concat().as_bytes()),
        }
    }
}
