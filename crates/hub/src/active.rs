//! A file on its way: what came, what of it is on disk, and its digest.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::coverage::Coverage;
use crate::digest::Hasher;
use crate::lock::Lock;
use crate::place::{Home, Unit};
use crate::{HubError, files};

/// What is read at a time to be hashed.
const PIECE: usize = 1 << 20;
/// When new bytes are written down as there: after so many, or so long.
const CHECKPOINT_BYTES: u64 = 256 << 20;
const CHECKPOINT_TIME: Duration = Duration::from_secs(2);
/// Longest record that is read.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// A file that is written at offsets while its beginning is hashed.
pub(crate) struct Active {
    pub(crate) unit: Unit,
    /// How often it came with another digest.
    pub(crate) discarded: u32,
    file: File,
    incomplete: PathBuf,
    record: PathBuf,
    state: Mutex<State>,
    advanced: Condvar,
    saved: Mutex<Saved>,
    /// Where redirects led; may be signed, and so expire.
    direct: Mutex<Option<String>>,
    _lock: Option<Lock>,
}

struct State {
    coverage: Coverage,
    /// The server ignores ranges, and one thread reads all of it.
    is_claimed: bool,
}

/// What the record says, and since when.
struct Saved {
    bytes: u64,
    time: Instant,
    /// The file has its name, or is thrown away: a record now would be read as that of the next attempt.
    is_closed: bool,
}

/// What was there when a file was opened.
pub(crate) struct Opened {
    pub(crate) active: Active,
    /// Bytes of an earlier run.
    pub(crate) resumed: u64,
    /// Whether another tool had begun it.
    pub(crate) is_adopted: bool,
}

impl Active {
    /// Opens what an earlier run has left, or begins anew.
    pub(crate) fn open(
        home: &Home,
        unit: &Unit,
        discarded: u32,
        lock: Option<Lock>,
    ) -> Result<Opened, HubError> {
        let (incomplete, record) = (home.incomplete(unit), home.record(unit));
        let (id, size) = (unit.digest.id(), unit.size);
        let mut coverage = Coverage::default();
        let mut is_adopted = false;
        if files::file_len(&incomplete) == Some(size) {
            let text = files::file_len(&record)
                .filter(|len| *len <= RECORD_BYTES_MAX)
                .and_then(|_| fs::read_to_string(&record).ok());
            coverage = text.and_then(|text| Coverage::parse(&text, id, size)).unwrap_or_default();
        } else {
            // A record without its file would speak of bytes that are not there.
            files::remove(&record)?;
            files::remove(&incomplete)?;
            if let Some((path, len)) = home.abandoned(unit).filter(|_| discarded == 0) {
                fs::rename(&path, &incomplete).map_err(HubError::file("rename", &path))?;
                coverage.add(0..len);
                is_adopted = true;
            }
        }
        let file = files::open_with_room(&incomplete, size)?;
        let resumed = coverage.len();
        let active = Active {
            unit: unit.clone(),
            discarded,
            file,
            incomplete,
            record,
            state: Mutex::new(State { coverage, is_claimed: false }),
            advanced: Condvar::new(),
            saved: Mutex::new(Saved {
                bytes: if is_adopted { 0 } else { resumed },
                time: Instant::now(),
                is_closed: false,
            }),
            direct: Mutex::new(None),
            _lock: lock,
        };
        Ok(Opened { active, resumed, is_adopted })
    }

    /// What is still to come.
    pub(crate) fn gaps(&self) -> Vec<Range<u64>> {
        self.state().coverage.missing(0..self.unit.size)
    }

    /// The first of it within `range`.
    pub(crate) fn gap(&self, range: &Range<u64>) -> Option<Range<u64>> {
        self.state().coverage.missing(range.clone()).into_iter().next()
    }

    /// Writes those of the bytes at `at` that were missing; how many. What is there stays as it is, for it may be hashed already: so
    /// the lock is held while it is written, which costs little, since file systems let one writer at a file at a time.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<u64, HubError> {
        let mut state = self.state();
        let mut written = 0;
        for gap in state.coverage.missing(at..at + bytes.len() as u64) {
            let piece = &bytes[(gap.start - at) as usize..(gap.end - at) as usize];
            self.file
                .write_all_at(piece, gap.start)
                .map_err(HubError::file("write", &self.incomplete))?;
            written += piece.len() as u64;
            state.coverage.add(gap);
        }
        drop(state);
        self.advanced.notify_one();
        Ok(written)
    }

    /// Whether the caller is to read the whole file, since the server has no parts of it.
    pub(crate) fn claim(&self) -> bool {
        !std::mem::replace(&mut self.state().is_claimed, true)
    }

    /// Whether somebody reads the whole file.
    pub(crate) fn is_claimed(&self) -> bool {
        self.state().is_claimed
    }

    /// Hashes the file from its beginning, as it comes; `None` if it was stopped.
    pub(crate) fn follow(&self, is_stopped: &dyn Fn() -> bool) -> Result<Option<String>, HubError> {
        let size = self.unit.size;
        let mut hasher = Hasher::new(&self.unit.digest, size);
        let mut buffer = vec![0; PIECE.min(size as usize)];
        let mut at = 0;
        while at < size {
            let end = match self.reach(at) {
                _ if is_stopped() => return Ok(None),
                end if end > at => end,
                _ => continue,
            };
            while at < end {
                let len = (end - at).min(PIECE as u64) as usize;
                let piece = &mut buffer[..len];
                self.file
                    .read_exact_at(piece, at)
                    .map_err(HubError::file("read", &self.incomplete))?;
                hasher.update(piece);
                at += len as u64;
                if is_stopped() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(hasher.finish()))
    }

    /// How far all is there from `at` on; waits a little if that is nowhere.
    fn reach(&self, at: u64) -> u64 {
        let state = self.state();
        // Small steps would cost a switch of threads each.
        let wanted = (at + PIECE as u64).min(self.unit.size);
        let is_short = |state: &mut State| state.coverage.reach(at) < wanted;
        let wait = Duration::from_millis(100);
        let waited = self.advanced.wait_timeout_while(state, wait, is_short);
        waited.unwrap_or_else(PoisonError::into_inner).0.coverage.reach(at)
    }

    /// Puts what came on disk and writes down that it is there, if there is enough of it.
    pub(crate) fn checkpoint(&self, even_little: bool) -> Result<(), HubError> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if saved.is_closed {
            return Ok(());
        }
        let coverage = self.state().coverage.clone();
        let new = coverage.len().saturating_sub(saved.bytes);
        if new == 0
            || !even_little && new < CHECKPOINT_BYTES && saved.time.elapsed() < CHECKPOINT_TIME
        {
            return Ok(());
        }
        self.file.sync_data().map_err(HubError::file("write", &self.incomplete))?;
        let record = coverage.record(self.unit.digest.id(), self.unit.size);
        files::write_atomic(&self.record, record.as_bytes())?;
        (saved.bytes, saved.time) = (coverage.len(), Instant::now());
        Ok(())
    }

    /// Gives the verified file its name.
    pub(crate) fn deliver(&self, home: &Home) -> Result<(), HubError> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.file.sync_all().map_err(HubError::file("write", &self.incomplete))?;
        home.deliver(&self.unit, &self.incomplete)?;
        files::remove(&self.record)
    }

    /// Throws the file away. The record goes first: it may not outlive what it speaks of.
    pub(crate) fn discard(&self) -> Result<(), HubError> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        files::remove(&self.record)?;
        files::remove(&self.incomplete)
    }

    pub(crate) fn direct(&self) -> Option<String> {
        self.direct.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn remember(&self, url: Option<String>) {
        *self.direct.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
