//! What a job is, and what is asked of a store.

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It waits.
    Queued,
    /// Somebody answers it, and holds a lease on it.
    Running,
    /// Its answer is written. Final.
    Succeeded,
    /// Why it has no answer is written. Final.
    Failed,
    /// Somebody did not want it any more. Final.
    Cancelled,
}

impl State {
    /// All of them.
    pub const ALL: [State; 5] =
        [State::Queued, State::Running, State::Succeeded, State::Failed, State::Cancelled];

    /// Its name, in the store as in the API.
    pub fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing changes any more.
    pub fn is_final(self) -> bool {
        !matches!(self, State::Queued | State::Running)
    }
}

/// Where a callback is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallbackState {
    /// It is to be told, or told again.
    Pending,
    /// It was taken.
    Delivered,
    /// It was told as often as it may be, and nobody took it.
    Dead,
}

impl CallbackState {
    /// All of them.
    pub const ALL: [CallbackState; 3] =
        [CallbackState::Pending, CallbackState::Delivered, CallbackState::Dead];

    /// Its name, in the store as in the API.
    pub fn name(self) -> &'static str {
        match self {
            CallbackState::Pending => "pending",
            CallbackState::Delivered => "delivered",
            CallbackState::Dead => "dead",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// A name for a job: names of later milliseconds come later in order. `random` makes it one of its kind.
pub fn new_id(now_ms: i64, random: [u64; 2]) -> String {
    format!(
        "job_{now_ms:012x}{:010x}{:010x}",
        random[0] & 0xff_ffff_ffff,
        random[1] & 0xff_ffff_ffff
    )
}

/// A job to be taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Its name, of [`new_id`].
    pub id: String,
    /// What answers it.
    pub endpoint: String,
    /// What is asked, JSON.
    pub body: String,
    /// The caller's name for it.
    pub idempotency_key: Option<String>,
    /// A hash of all that was asked: whether another request with this key is the same.
    pub request_hash: String,
    /// Who is told of its end.
    pub callback_url: Option<String>,
}

/// What became of a [`NewJob`].
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// It is on disk.
    New(Job),
    /// It was there already, by its key.
    Same(Job),
    /// The key names another.
    Conflict,
}

/// A job. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its name.
    pub id: String,
    /// Where it is in its life.
    pub state: State,
    /// The model that answers it.
    pub model: String,
    /// What answers it.
    pub endpoint: String,
    /// The caller's name for it.
    pub idempotency_key: Option<String>,
    /// How often it was begun, as far as that counts.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: i64,
    /// When it was begun last.
    pub started_at: Option<i64>,
    /// When it ended.
    pub finished_at: Option<i64>,
    /// Status of the answer, as HTTP has it.
    pub status: Option<u16>,
    /// Why it is where it is, where that is not plain.
    pub reason: Option<String>,
    /// The answer, or what went wrong, JSON; only where it was asked for.
    pub result: Option<String>,
    /// Who is told of its end.
    pub callback_url: Option<String>,
    /// How that goes, from its end on.
    pub callback: Option<Callback>,
}

/// How the telling of a job's end goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// Where it is in its life.
    pub state: CallbackState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next.
    pub next_at: i64,
    /// Why the last time failed.
    pub reason: Option<String>,
}

/// Which jobs are listed, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those whose callback is in this state.
    pub callback: Option<CallbackState>,
    /// Only those that are older than this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// What a cancellation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// There is no such job.
    Unknown,
    /// It had ended before.
    Final(State),
    /// It is cancelled.
    Done,
}

/// What a deletion came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// There is no such job.
    Unknown,
    /// It has not ended.
    NotFinal(State),
    /// It is gone, with its result and what was left to tell.
    Done,
}

/// A job that is to be answered now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its name.
    pub id: String,
    /// Number of this taking.
    pub fence: i64,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// What answers it.
    pub endpoint: String,
    /// What is asked, JSON.
    pub body: String,
}

/// The end of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// A final state.
    pub state: State,
    /// Status of the answer, as HTTP has it.
    pub status: Option<u16>,
    /// The answer, or what went wrong, JSON.
    pub result: String,
    /// Why, in short, where it failed.
    pub reason: Option<String>,
}

/// Jobs whose lease had run out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    /// These wait again.
    pub queued: Vec<String>,
    /// These were begun as often as they may be.
    pub failed: Vec<String>,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number in the life of the job, from 1.
    pub number: u32,
    /// When.
    pub at: i64,
    /// The state since then.
    pub state: State,
    /// Attempts by then.
    pub attempts: u32,
    /// Why, where that is not plain.
    pub reason: Option<String>,
}

/// Somebody to be told of a job's end.
#[derive(Debug, Clone, PartialEq)]
pub struct CallbackTask {
    /// The job, with its result.
    pub job: Job,
    /// Who is told.
    pub url: String,
    /// Number of this taking.
    pub fence: i64,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// How an attempt to tell somebody ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settle {
    /// It was taken.
    Delivered,
    /// To be tried again in so many milliseconds, and why.
    Retry(i64, String),
    /// Never to be tried again unless somebody says so, and why.
    Dead(String),
}

/// A job has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub id: String,
    /// Its state since then.
    pub state: State,
}

/// What a store holds at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that wait.
    pub queued: u64,
    /// Bytes of what they ask.
    pub queued_bytes: u64,
    /// Jobs that run.
    pub running: u64,
    /// How long the oldest job has waited, in milliseconds.
    pub oldest_ms: u64,
    /// Callbacks that are to be told.
    pub callbacks_pending: u64,
    /// Callbacks that nobody took.
    pub callbacks_dead: u64,
}

/// Most events of a job before its end; what happens between more is not written down, its end is.
pub(crate) const EVENTS_MAX: u32 = 64;

/// Longest reason that is kept, in bytes.
const REASON_MAX: usize = 1000;

/// The events after the one of this number. A line is its time, state, attempts, and reason, divided by spaces.
pub(crate) fn history(lines: &str, after: u32) -> Vec<Event> {
    let event = |(number, line): (u32, &str)| {
        let mut parts = line.splitn(4, ' ');
        let at = parts.next()?.parse().ok()?;
        let state = State::parse(parts.next()?)?;
        let attempts = parts.next()?.parse().ok()?;
        let reason = parts.next().filter(|reason| !reason.is_empty()).map(str::to_owned);
        Some(Event { number, at, state, attempts, reason })
    };
    (1..).zip(lines.lines()).filter(|(number, _)| *number > after).filter_map(event).collect()
}

/// A reason on one line, and of bounded length.
pub(crate) fn one_line(reason: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = reason.chars().map(clean).collect();
    if line.len() > REASON_MAX {
        let end = (0..=REASON_MAX).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// What a row of the jobs' table holds, in the order in which both stores ask for it.
pub(crate) const COLUMNS: &str = "j.id, j.state, j.endpoint, j.idempotency_key, j.attempts, j.created_at, j.started_at, \
    j.finished_at, j.status, j.reason, j.callback_url, c.state, c.attempts, c.next_at, c.reason, j.model";

/// Turns a row of [`COLUMNS`] into a job without its result; `get!(INDEX)` reads a column.
macro_rules! job_of {
    ($get:ident) => {{
        let state: String = $get!(1);
        let callback: Option<String> = $get!(11);
        let callback = match callback.as_deref().and_then(CallbackState::parse) {
            Some(state) => Some(Callback {
                state,
                attempts: u32::try_from({
                    let n: i64 = $get!(12);
                    n
                })
                .unwrap_or(0),
                next_at: $get!(13),
                reason: $get!(14),
            }),
            None => None,
        };
        Job {
            id: $get!(0),
            // What wrote the row knew the same states.
            state: State::parse(&state).unwrap_or(State::Failed),
            model: $get!(15),
            endpoint: $get!(2),
            idempotency_key: $get!(3),
            attempts: u32::try_from({
                let n: i64 = $get!(4);
                n
            })
            .unwrap_or(0),
            created_at: $get!(5),
            started_at: $get!(6),
            finished_at: $get!(7),
            status: {
                let n: Option<i64> = $get!(8);
                n
            }
            .and_then(|n| u16::try_from(n).ok()),
            reason: $get!(9),
            result: None,
            callback_url: $get!(10),
            callback,
        }
    }};
}
pub(crate) use job_of;
