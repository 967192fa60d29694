//! Many parts of many files at once.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use crate::active::{Active, Opened};
use crate::lock::Lock;
use crate::part::PART_MIN;
use crate::patience::Turns;
use crate::place::{Home, Unit};
use crate::wire::Wire;
use crate::{Access, HubError, Repository};

/// How often a file may come with another digest.
const DISCARDS_MAX: u32 = 3;
/// Between two looks at what may be written down.
const KEEPER_TIME: Duration = Duration::from_millis(200);
/// How often it is said that another process is waited for.
const WAIT_SAID: Duration = Duration::from_secs(30);

/// What happens on the way, for people.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// Another process has the lock.
    Waiting {
        /// What is locked.
        what: String,
    },
    /// The volume has no locks of the system's; a file takes their place.
    NoFlock {
        /// What the system says.
        reason: String,
    },
    /// A file is read, for nothing says that it was verified.
    Checking {
        /// Which.
        file: String,
        /// How long it is.
        bytes: u64,
    },
    /// Bytes of an earlier run are taken.
    Resumed {
        /// Of which file.
        file: String,
        /// How many.
        bytes: u64,
        /// Whether the official tool had begun it.
        is_adopted: bool,
    },
    /// The server sends whole files only.
    NoRanges {
        /// Which file.
        file: String,
    },
    /// A request failed, and comes again.
    Retrying {
        /// Of which file.
        file: String,
        /// Why.
        reason: String,
        /// After this time.
        wait: Duration,
    },
    /// A file came with another digest, and comes again.
    Discarded {
        /// Which.
        file: String,
        /// Its digest.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A file is here, verified.
    Done {
        /// Which.
        file: String,
        /// How long it is.
        bytes: u64,
    },
}

/// How far it is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that are here.
    pub done: AtomicU64,
    /// Bytes that came in this run.
    pub fetched: AtomicU64,
}

/// A run.
pub(crate) struct Download<'a> {
    pub(crate) access: &'a Access,
    pub(crate) repository: &'a Repository,
    pub(crate) commit: &'a str,
    pub(crate) turns: Turns,
    pub(crate) progress: &'a Progress,
    /// Bytes of the next parts.
    pub(crate) part_len: AtomicU64,
    patience: crate::Patience,
    home: &'a Home,
    jobs: usize,
    /// Held for the whole repository.
    lock: &'a Lock,
    events: &'a (dyn Fn(Event) + Sync),
    stop: AtomicBool,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// What is to be done, in order.
struct Queue {
    gaps: VecDeque<(Arc<Active>, Range<u64>)>,
    /// Not begun, or to be begun again after so many wrong digests.
    units: VecDeque<(Unit, u32)>,
    active: Vec<Arc<Active>>,
    opening: usize,
    workers: usize,
    error: Option<HubError>,
}

enum Task {
    Open(Unit, u32),
    Part(Arc<Active>, Range<u64>),
}

/// What a run needs.
pub(crate) struct Setting<'a> {
    pub(crate) access: &'a Access,
    pub(crate) repository: &'a Repository,
    pub(crate) commit: &'a str,
    pub(crate) home: &'a Home,
    pub(crate) lock: &'a Lock,
    pub(crate) jobs: usize,
    pub(crate) patience: crate::Patience,
    pub(crate) progress: &'a Progress,
    pub(crate) events: &'a (dyn Fn(Event) + Sync),
}

impl<'a> Download<'a> {
    pub(crate) fn new(setting: Setting<'a>, units: Vec<Unit>) -> Self {
        let Setting { access, repository, commit, home, lock, jobs, patience, progress, events } =
            setting;
        let queue = Queue {
            gaps: VecDeque::new(),
            units: units.into_iter().map(|unit| (unit, 0)).collect(),
            active: Vec::new(),
            opening: 0,
            workers: jobs,
            error: None,
        };
        Download {
            access,
            repository,
            commit,
            turns: Turns::new(patience),
            progress,
            part_len: AtomicU64::new(PART_MIN),
            patience,
            home,
            jobs,
            lock,
            events,
            stop: AtomicBool::new(false),
            queue: Mutex::new(queue),
            changed: Condvar::new(),
        }
    }

    /// Fetches all of it.
    pub(crate) fn run(&self) -> Result<(), HubError> {
        thread::scope(|scope| {
            scope.spawn(|| self.keep());
            for _ in 0..self.jobs {
                scope.spawn(move || self.work(scope));
            }
        });
        let mut queue = self.queue();
        let Some(error) = queue.error.take() else { return Ok(()) };
        for active in &queue.active {
            // The first error is the one to tell; what cannot be kept now comes again.
            let _ = active.checkpoint(true);
        }
        Err(error)
    }

    /// A thread that fetches parts.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let result = Wire::new(self.access, &self.patience).and_then(|wire| {
            while let Some(task) = self.next() {
                match task {
                    Task::Part(active, range) => self.fetch(&wire, &active, range)?,
                    Task::Open(unit, discarded) => self.open(scope, &unit, discarded)?,
                }
            }
            Ok(())
        });
        if let Err(error) = result {
            self.fail(error);
        }
        self.queue().workers -= 1;
        self.changed.notify_all();
    }

    /// What to do next; `None` when all is done, or in vain. A thread that has nothing to do waits, for a file may have to come
    /// again.
    fn next(&self) -> Option<Task> {
        let mut queue = self.queue();
        loop {
            if self.is_stopped() {
                return None;
            }
            if let Some((active, gap)) = queue.gaps.pop_front() {
                let len = self.part_len.load(Ordering::Relaxed);
                let end =
                    if gap.end - gap.start > len + len / 2 { gap.start + len } else { gap.end };
                if end < gap.end {
                    queue.gaps.push_front((Arc::clone(&active), end..gap.end));
                }
                return Some(Task::Part(active, gap.start..end));
            }
            let under_way = queue.active.len() + queue.opening;
            // Files whose last bytes are hashed count, too: descriptors and threads are bounded.
            if under_way < 2 * self.jobs
                && let Some((unit, discarded)) = queue.units.pop_front()
            {
                queue.opening += 1;
                return Some(Task::Open(unit, discarded));
            }
            if under_way == 0 && queue.units.is_empty() {
                self.changed.notify_all();
                return None;
            }
            let waited = self.changed.wait_timeout(queue, Duration::from_secs(1));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Begins a file, or finds that another tool has fetched it.
    fn open<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        unit: &Unit,
        discarded: u32,
    ) -> Result<(), HubError> {
        let lock = match self.home.lock_of(unit).filter(|_| matches!(self.lock, Lock::Flock { .. }))
        {
            Some(path) => {
                let mut waiting = self.waiting(unit.name());
                Some(Lock::take(&path, &mut waiting, &|_| ())?)
            }
            None => None,
        };
        if self.home.has(unit, &self.home.manifest(), &|_, _| ())? {
            self.progress.done.fetch_add(unit.size, Ordering::Relaxed);
            self.queue().opening -= 1;
            self.changed.notify_all();
            return Ok(());
        }
        let Opened { active, resumed, is_adopted } =
            Active::open(self.home, unit, discarded, lock)?;
        if resumed > 0 {
            self.progress.done.fetch_add(resumed, Ordering::Relaxed);
            let file = unit.name().to_owned();
            self.tell(Event::Resumed { file, bytes: resumed, is_adopted });
        }
        let active = Arc::new(active);
        let mut queue = self.queue();
        queue.gaps.extend(active.gaps().into_iter().map(|gap| (Arc::clone(&active), gap)));
        queue.active.push(Arc::clone(&active));
        queue.opening -= 1;
        drop(queue);
        self.changed.notify_all();
        let attend = move || {
            if let Err(error) = self.attend(&active) {
                self.fail(error);
            }
        };
        let thread = thread::Builder::new().name("digest".to_owned()).spawn_scoped(scope, attend);
        thread
            .map(|_| ())
            .map_err(|error| HubError::System(format!("cannot start a thread: {error}")))
    }

    /// Hashes a file while it comes; in the end it gets its name, or is thrown away.
    fn attend(&self, active: &Arc<Active>) -> Result<(), HubError> {
        let Some(found) = active.follow(&|| self.is_stopped())? else { return Ok(()) };
        let unit = &active.unit;
        let (file, expected) = (unit.name().to_owned(), unit.digest.id().to_owned());
        let is_right = found == expected;
        if is_right {
            self.lock.check()?;
            active.deliver(self.home)?;
            self.tell(Event::Done { file, bytes: unit.size });
        } else {
            active.discard()?;
            self.progress.done.fetch_sub(unit.size, Ordering::Relaxed);
            let times = active.discarded + 1;
            if times >= DISCARDS_MAX {
                let kind = unit.digest.kind();
                return Err(HubError::Digest { file, kind, expected, found, times });
            }
            self.tell(Event::Discarded { file, found, expected });
        }
        let mut queue = self.queue();
        queue.active.retain(|other| !Arc::ptr_eq(other, active));
        // Gaps of it that somebody else has filled are none any more.
        queue.gaps.retain(|(other, _)| !Arc::ptr_eq(other, active));
        if !is_right {
            queue.units.push_back((unit.clone(), active.discarded + 1));
        }
        drop(queue);
        self.changed.notify_all();
        Ok(())
    }

    /// Writes down what came, every now and then.
    fn keep(&self) {
        loop {
            let queue = self.queue();
            if queue.workers == 0 && (queue.error.is_some() || queue.active.is_empty()) {
                return;
            }
            let active = queue.active.clone();
            drop(queue);
            let result = active.iter().try_for_each(|active| active.checkpoint(false));
            if let Err(error) = result.and_then(|()| self.lock.check()) {
                self.fail(error);
            }
            drop(active);
            let waited = self.changed.wait_timeout(self.queue(), KEEPER_TIME);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// What is said, and asked, while another process has a lock.
    fn waiting(&self, what: &str) -> impl FnMut() -> Result<(), HubError> {
        let mut said: Option<Instant> = None;
        move || {
            if said.is_none_or(|time| time.elapsed() >= WAIT_SAID) {
                said = Some(Instant::now());
                self.tell(Event::Waiting { what: what.to_owned() });
            }
            match self.is_stopped() {
                true => Err(HubError::System("stopped".to_owned())),
                false => Ok(()),
            }
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        (self.events)(event);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends the run; the first error is kept.
    fn fail(&self, error: HubError) {
        self.queue().error.get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
