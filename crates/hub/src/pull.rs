//! From a name to files on disk.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::choice::{Choice, LeftOut};
use crate::download::{Download, Event, Progress, Setting};
use crate::listing::{Entry, Listing};
use crate::lock::Lock;
use crate::place::{Home, Place, Unit};
use crate::{Access, HubError, Patience, Repository, files};

/// How it is fetched.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections.
    pub jobs: usize,
    /// What is put up with.
    pub patience: Patience,
}

/// Which files are fetched.
#[derive(Debug, Clone)]
pub struct Plan {
    repository: Repository,
    /// The commit that the revision is.
    pub commit: String,
    /// What is fetched.
    pub entries: Vec<Entry>,
    /// What is not.
    pub left_out: Vec<LeftOut>,
}

/// What of a plan is here.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// Whether each of the plan's entries is here, verified.
    pub is_here: Vec<bool>,
    /// Bytes of all entries.
    pub bytes: u64,
    /// Bytes of a content that is not here yet, each once.
    pub missing_bytes: u64,
    /// Bytes that the volume has to have free.
    pub needed_bytes: u64,
    /// Bytes that it has.
    pub free_bytes: u64,
    /// Where the files go.
    pub path: PathBuf,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Report {
    /// The directory to give to other commands.
    pub path: PathBuf,
    /// Files of the plan that came in this run, or were continued.
    pub fetched_files: usize,
    /// Bytes that came in this run.
    pub fetched_bytes: u64,
}

impl Plan {
    /// Asks the hub what the repository holds, and chooses.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn new(
        access: &Access,
        repository: &Repository,
        choice: &Choice,
        patience: &Patience,
    ) -> Result<Self, HubError> {
        let Listing { commit, entries } = Listing::fetch(access, repository, patience)?;
        let (entries, left_out) = choice.of(repository, entries)?;
        Ok(Plan { repository: repository.clone(), commit, entries, left_out })
    }

    /// What is here, and what is not.
    ///
    /// # Errors
    /// If files cannot be read.
    pub fn inventory(&self, place: &Place, events: &dyn Fn(Event)) -> Result<Inventory, HubError> {
        let home = self.home(place);
        let (here, missing) = self.split(&home, events)?;
        let mut is_here = vec![false; self.entries.len()];
        for path in here.iter().flat_map(|unit| &unit.paths) {
            if let Some(at) = self.entries.iter().position(|entry| entry.path == *path) {
                is_here[at] = true;
            }
        }
        Ok(Inventory {
            is_here,
            bytes: self.entries.iter().map(|entry| entry.size).sum(),
            missing_bytes: missing.iter().map(|unit| unit.size).sum(),
            needed_bytes: needed(&home, &missing),
            free_bytes: files::free_bytes(home.existing())?,
            path: home.result(),
        })
    }

    /// Fetches what is missing, one process at a time.
    ///
    /// # Errors
    /// See [`HubError`]. What came is kept, but for files with a wrong digest.
    pub fn pull(
        &self,
        access: &Access,
        place: &Place,
        options: &Options,
        progress: &Progress,
        events: &(dyn Fn(Event) + Sync),
    ) -> Result<Report, HubError> {
        let home = self.home(place);
        home.create()?;
        let lock = self.lock(&home, events)?;
        // Another process may have fetched all of it while this one waited.
        let (here, missing) = self.split(&home, events)?;
        let (need, free) = (needed(&home, &missing), files::free_bytes(home.existing())?);
        if need > free {
            return Err(HubError::Space {
                need: gb(need),
                free: gb(free),
                more: gb(need - free),
                place: home.existing().display().to_string(),
            });
        }
        progress.done.store(here.iter().map(|unit| unit.size).sum(), Ordering::Relaxed);
        let fetched_files = missing.iter().map(|unit| unit.paths.len()).sum();
        if !missing.is_empty() {
            let setting = Setting {
                access,
                repository: &self.repository,
                commit: &self.commit,
                home: &home,
                lock: &lock,
                jobs: options.jobs.max(1),
                patience: options.patience,
                progress,
                events,
            };
            Download::new(setting, missing).run()?;
        }
        home.publish(&Unit::of(&self.entries), home.manifest())?;
        let fetched_bytes = progress.fetched.load(Ordering::Relaxed);
        Ok(Report { path: home.result(), fetched_files, fetched_bytes })
    }

    fn home(&self, place: &Place) -> Home {
        Home::new(place, &self.repository, &self.commit)
    }

    /// What is here, and what is missing.
    fn split(
        &self,
        home: &Home,
        events: &dyn Fn(Event),
    ) -> Result<(Vec<Unit>, Vec<Unit>), HubError> {
        let manifest = home.manifest();
        let checking = |file: &str, bytes| events(Event::Checking { file: file.to_owned(), bytes });
        let (mut here, mut missing) = (Vec::new(), Vec::new());
        for unit in Unit::of(&self.entries) {
            let is_here = home.has(&unit, &manifest, &checking)?;
            if is_here { here.push(unit) } else { missing.push(unit) }
        }
        Ok((here, missing))
    }

    fn lock(&self, home: &Home, events: &(dyn Fn(Event) + Sync)) -> Result<Lock, HubError> {
        let mut said: Option<Instant> = None;
        let mut waiting = || {
            if said.is_none_or(|time| time.elapsed().as_secs() >= 30) {
                said = Some(Instant::now());
                events(Event::Waiting { what: self.repository.name() });
            }
            Ok(())
        };
        let unsupported =
            |error: &std::io::Error| events(Event::NoFlock { reason: error.to_string() });
        Lock::take(&home.lock(), &mut waiting, &unsupported)
    }
}

/// Bytes that the volume has to have for what is missing, less what it has set aside already.
fn needed(home: &Home, missing: &[Unit]) -> u64 {
    let needed = |unit: &Unit| {
        let begun = home.abandoned(unit).map_or(0, |(path, _)| files::allocated_bytes(&path));
        unit.size.saturating_sub(files::allocated_bytes(&home.incomplete(unit)).max(begun))
    };
    missing.iter().map(needed).sum()
}

fn gb(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
