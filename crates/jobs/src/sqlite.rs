//! Jobs in a file: one thread has it, and everything that waits is done in one transaction, so that many share an fsync.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::{mpsc, oneshot};

use crate::StoreError;
use crate::job::{
    Accepted, COLUMNS, Callback, CallbackState, CallbackTask, Cancelled, Counts, Deleted,
    EVENTS_MAX, End, Expired, Filter, Job, NewJob, Settle, State, Taken, job_of, one_line,
};
use crate::store::Clock;

/// The form of the tables; `PRAGMA user_version`.
const VERSION: i64 = 1;

/// Calls that may wait for the thread.
const WAITING: usize = 1024;

/// Calls that share a transaction.
const TOGETHER: usize = 128;

const SCHEMA: &str = "
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    model TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    idempotency_key TEXT UNIQUE,
    request_hash TEXT NOT NULL,
    callback_url TEXT,
    body_bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    lease_until INTEGER,
    not_before INTEGER NOT NULL,
    status INTEGER,
    reason TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    events INTEGER NOT NULL DEFAULT 1,
    history TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX jobs_open ON jobs (state, model, id, body_bytes, created_at) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE bodies (id TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, body TEXT NOT NULL);
CREATE TABLE results (id TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, result TEXT NOT NULL);
CREATE TABLE callbacks (
    id TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    url TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL,
    is_taken INTEGER NOT NULL DEFAULT 0,
    reason TEXT
);
CREATE INDEX callbacks_open ON callbacks (state, next_at) WHERE state <> 'delivered';
";

/// What a call does, and what tells the caller once that is on disk, or is not.
type Work = Box<dyn FnOnce(&Connection) -> Tell + Send>;
type Tell = Box<dyn FnOnce(Result<(), StoreError>)>;

/// A file of jobs, and the thread that has it.
#[derive(Debug)]
pub(crate) struct Sqlite {
    sender: mpsc::Sender<Work>,
    model: String,
    clock: Shown,
}

/// A clock that can be left out of what is shown.
struct Shown(Clock);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Sqlite {
    /// Opens or makes a file. What ran when its last process ended waits again.
    pub(crate) async fn open(path: &Path, model: &str, clock: Clock) -> Result<Self, StoreError> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (opened, is_open) = oneshot::channel();
        let (path, now) = (path.to_owned(), clock());
        let run = move || match open(&path, now) {
            Ok((connection, lock)) => {
                // Whoever asked may be gone; then so is the sender.
                let _ = opened.send(Ok(()));
                serve(&connection, receiver);
                drop((connection, lock));
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        };
        let thread = thread::Builder::new().name("jobs".to_owned()).spawn(run);
        thread.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        is_open.await.unwrap_or_else(|_| Err(stopped()))?;
        Ok(Sqlite { sender, model: model.to_owned(), clock: Shown(clock) })
    }

    /// Has the thread do this, in a transaction that is undone if it fails.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, i64) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let now = (self.clock.0)();
        let work: Work = Box::new(move |connection| {
            let result = in_savepoint(connection, |connection| work(connection, now));
            Box::new(move |committed| {
                let result = result.map_err(|error| unavailable(&error));
                // Whoever waited may have left.
                let _ = sender.send(committed.and(result));
            })
        });
        self.sender.send(work).await.map_err(|_| stopped())?;
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the thread that has its file has ended; the log says why".to_owned())
}

fn unavailable(error: &rusqlite::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// The file, opened, and what keeps other processes from it.
fn open(path: &Path, now: i64) -> Result<(Connection, File), StoreError> {
    let failed = |why: String| StoreError::Open { place: path.display().to_string(), why };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| failed(error.to_string()))?;
    }
    let lock = lock(path)?;
    // What jobs ask for is nobody else's; SQLite's other files take over the mode of this one.
    private(path).map_err(|error| failed(error.to_string()))?;
    let opened = Connection::open(path).and_then(|connection| {
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;",
        )?;
        let form = connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))?;
        Ok((connection, form))
    });
    let (connection, found) = opened.map_err(|error| failed(error.to_string()))?;
    if found > VERSION {
        let place = path.display().to_string();
        return Err(StoreError::Newer { place, found, known: VERSION });
    }
    let made = (|| {
        if found == 0 {
            let schema = format!("BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;");
            connection.execute_batch(&schema)?;
        }
        // Whoever had these is dead: the lock was free.
        let open = "UPDATE jobs SET lease_until = ?1 WHERE state = 'running'";
        connection.execute(open, [now - 1])?;
        connection.execute("UPDATE callbacks SET next_at = ?1, is_taken = 0 WHERE is_taken", [now])
    })();
    made.map_err(|error| failed(error.to_string()))?;
    Ok((connection, lock))
}

/// A file that its owner alone reads, made if there is none.
fn private(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Keeps other processes from a file, as long as what this gives lives.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let failed = |why: String| StoreError::Open { place: path.display().to_string(), why };
    let file = private(&name).map_err(|error| failed(format!("{}: {error}", name.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
        Err(fs::TryLockError::Error(error)) => Err(failed(error.to_string())),
    }
}

/// Does what is asked until nobody can ask any more.
fn serve(connection: &Connection, mut receiver: mpsc::Receiver<Work>) {
    while let Some(first) = receiver.blocking_recv() {
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        let mut tells = vec![first(connection)];
        while tells.len() < TOGETHER
            && let Ok(next) = receiver.try_recv()
        {
            tells.push(next(connection));
        }
        let committed = begun.and_then(|()| connection.execute_batch("COMMIT"));
        if let Err(error) = &committed {
            tracing::error!(error = %error, "jobs could not be written");
            // There may be no transaction left to be undone.
            let _ = connection.execute_batch("ROLLBACK");
        }
        for tell in tells {
            tell(committed.as_ref().copied().map_err(unavailable));
        }
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("SAVEPOINT one")?;
    let result = work(connection);
    let end = if result.is_ok() { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" };
    connection.execute_batch(end)?;
    result
}

fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    macro_rules! get {
        ($index:literal) => {
            row.get($index)?
        };
    }
    Ok(job_of!(get))
}

fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<Job>> {
    let sql =
        format!("SELECT {COLUMNS} FROM jobs j LEFT JOIN callbacks c USING (id) WHERE id = ?1");
    connection.prepare_cached(&sql)?.query_row([id], job).optional()
}

fn state_of(connection: &Connection, id: &str) -> rusqlite::Result<Option<State>> {
    let mut statement = connection.prepare_cached("SELECT state FROM jobs WHERE id = ?1")?;
    let state = statement.query_row([id], |row| row.get::<_, String>(0)).optional()?;
    Ok(state.map(|state| State::parse(&state).unwrap_or(State::Failed)))
}

/// Adds to a job's history: `attempts` is its expression for them.
fn told(state: &str, attempts: &str, reason: &str) -> String {
    format!(
        "events = events + 1, history = CASE WHEN events < {EVENTS_MAX} OR {state} NOT IN ('queued', 'running') \
         THEN history || :now || ' ' || {state} || ' ' || ({attempts}) || ' ' || ifnull({reason}, '') || char(10) \
         ELSE history END"
    )
}

/// Ends a job under a condition, and writes what goes with that; whether there was one.
fn end(
    connection: &Connection,
    now: i64,
    id: &str,
    fence: Option<i64>,
    end: &End,
) -> rusqlite::Result<bool> {
    let history = told(":state", "attempts", ":reason");
    let sql = format!(
        "UPDATE jobs SET state = :state, status = :status, reason = :reason, finished_at = :now, owner = NULL, \
         lease_until = NULL, {history} WHERE id = :id AND CASE WHEN :fence IS NULL THEN state IN ('queued', 'running') \
         ELSE state = 'running' AND fence = :fence END RETURNING callback_url"
    );
    let (state, reason) = (end.state.name(), end.reason.as_deref().map(one_line));
    let values = rusqlite::named_params! {
        ":state": state, ":status": end.status, ":reason": reason, ":now": now, ":id": id, ":fence": fence,
    };
    let url = connection
        .prepare_cached(&sql)?
        .query_row(values, |row| row.get::<_, Option<String>>(0))
        .optional()?;
    let Some(url) = url else { return Ok(false) };
    let result = "INSERT INTO results (id, result) VALUES (?1, ?2)";
    connection.prepare_cached(result)?.execute(params![id, end.result])?;
    connection.prepare_cached("DELETE FROM bodies WHERE id = ?1")?.execute([id])?;
    if let Some(url) = url {
        let owed = "INSERT INTO callbacks (id, url, state, next_at) VALUES (?1, ?2, 'pending', ?3)";
        connection.prepare_cached(owed)?.execute(params![id, url, now])?;
    }
    Ok(true)
}

impl Sqlite {
    pub(crate) async fn accept(&self, new: NewJob) -> Result<Accepted, StoreError> {
        let model = self.model.clone();
        self.call(move |connection, now| {
            if let Some(key) = &new.idempotency_key {
                let known = "SELECT id, request_hash FROM jobs WHERE idempotency_key = ?1";
                let known = connection
                    .prepare_cached(known)?
                    .query_row([key], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
                    .optional()?;
                match known {
                    Some((_, hash)) if hash != new.request_hash => return Ok(Accepted::Conflict),
                    Some((id, _)) => {
                        let job = find(connection, &id)?;
                        return Ok(job.map_or(Accepted::Conflict, Accepted::Same));
                    }
                    None => {}
                }
            }
            connection
                .prepare_cached(
                    "INSERT INTO jobs (id, state, endpoint, idempotency_key, request_hash, callback_url, body_bytes, \
                     not_before, created_at, history, model) VALUES (?1, 'queued', ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9)",
                )?
                .execute(params![
                    new.id,
                    new.endpoint,
                    new.idempotency_key,
                    new.request_hash,
                    new.callback_url,
                    i64::try_from(new.body.len()).unwrap_or(i64::MAX),
                    now,
                    format!("{now} queued 0 \n"),
                    model,
                ])?;
            let body = "INSERT INTO bodies (id, body) VALUES (?1, ?2)";
            connection.prepare_cached(body)?.execute([&new.id, &new.body])?;
            let job = find(connection, &new.id)?;
            Ok(job.map_or(Accepted::Conflict, Accepted::New))
        })
        .await
    }

    pub(crate) async fn has_key(&self, key: &str) -> Result<bool, StoreError> {
        let key = key.to_owned();
        self.call(move |connection, _| {
            let sql = "SELECT EXISTS (SELECT 1 FROM jobs WHERE idempotency_key = ?1)";
            connection.prepare_cached(sql)?.query_row([key], |row| row.get(0))
        })
        .await
    }

    pub(crate) async fn get(&self, id: &str) -> Result<Option<Job>, StoreError> {
        let id = id.to_owned();
        self.call(move |connection, _| with_result(connection, &id)).await
    }

    pub(crate) async fn list(&self, filter: Filter) -> Result<Vec<Job>, StoreError> {
        self.call(move |connection, _| {
            let sql = format!(
                "SELECT {COLUMNS} FROM jobs j LEFT JOIN callbacks c USING (id) WHERE (?1 IS NULL OR j.state = ?1) \
                 AND (?2 IS NULL OR c.state = ?2) AND (?3 IS NULL OR j.id < ?3) ORDER BY j.id DESC LIMIT ?4"
            );
            let state = filter.state.map(State::name);
            let callback = filter.callback.map(CallbackState::name);
            let values = params![state, callback, filter.after, filter.limit];
            connection.prepare_cached(&sql)?.query_map(values, job)?.collect()
        })
        .await
    }

    pub(crate) async fn history(&self, id: &str) -> Result<Option<String>, StoreError> {
        let id = id.to_owned();
        self.call(move |connection, _| {
            let sql = "SELECT history FROM jobs WHERE id = ?1";
            connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()
        })
        .await
    }

    pub(crate) async fn cancel(&self, id: &str, how: End) -> Result<Cancelled, StoreError> {
        let id = id.to_owned();
        self.call(move |connection, now| {
            if end(connection, now, &id, None, &how)? {
                return Ok(Cancelled::Done);
            }
            Ok(state_of(connection, &id)?.map_or(Cancelled::Unknown, Cancelled::Final))
        })
        .await
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<Deleted, StoreError> {
        let id = id.to_owned();
        self.call(move |connection, _| {
            let sql = "DELETE FROM jobs WHERE id = ?1 AND finished_at IS NOT NULL";
            if connection.prepare_cached(sql)?.execute([&id])? > 0 {
                return Ok(Deleted::Done);
            }
            Ok(state_of(connection, &id)?.map_or(Deleted::Unknown, Deleted::NotFinal))
        })
        .await
    }

    pub(crate) async fn take(
        &self,
        owner: &str,
        most: u32,
        lease_ms: i64,
    ) -> Result<Vec<Taken>, StoreError> {
        let (owner, model) = (owner.to_owned(), self.model.clone());
        self.call(move |connection, now| {
            let history = told("'running'", "attempts + 1", "NULL");
            let sql = format!(
                "UPDATE jobs SET state = 'running', owner = :owner, lease_until = :now + :lease, fence = fence + 1, \
                 attempts = attempts + 1, started_at = :now, reason = NULL, {history} WHERE id IN (SELECT id FROM jobs \
                 WHERE state = 'queued' AND model = :model AND not_before <= :now ORDER BY id LIMIT :most) \
                 RETURNING id, fence, attempts, endpoint, (SELECT body FROM bodies b WHERE b.id = jobs.id)"
            );
            let values = rusqlite::named_params! {
                ":owner": owner, ":now": now, ":lease": lease_ms, ":most": most, ":model": model,
            };
            let taken = |row: &Row<'_>| {
                Ok(Taken {
                    id: row.get(0)?,
                    fence: row.get(1)?,
                    attempt: row.get(2)?,
                    endpoint: row.get(3)?,
                    body: row.get(4)?,
                })
            };
            let mut jobs: Vec<Taken> = connection
                .prepare_cached(&sql)?
                .query_map(values, taken)?
                .collect::<rusqlite::Result<_>>()?;
            jobs.sort_by(|a, b| a.id.cmp(&b.id));
            Ok(jobs)
        })
        .await
    }

    pub(crate) async fn extend(
        &self,
        owner: &str,
        lease_ms: i64,
    ) -> Result<Vec<(String, i64)>, StoreError> {
        let owner = owner.to_owned();
        self.call(move |connection, now| {
            let sql = "UPDATE jobs SET lease_until = ?1 WHERE state = 'running' AND owner = ?2 RETURNING id, fence";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement
                .query_map(params![now + lease_ms, owner], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
        .await
    }

    pub(crate) async fn finish(&self, id: &str, fence: i64, how: End) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.call(move |connection, now| end(connection, now, &id, Some(fence), &how)).await
    }

    pub(crate) async fn release(
        &self,
        id: &str,
        fence: i64,
        delay_ms: i64,
        counts: bool,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let (id, reason) = (id.to_owned(), one_line(reason));
        self.call(move |connection, now| {
            let history = told("'queued'", "attempts - :back", ":reason");
            let sql = format!(
                "UPDATE jobs SET state = 'queued', owner = NULL, lease_until = NULL, not_before = :now + :delay, \
                 reason = :reason, {history}, attempts = attempts - :back WHERE id = :id AND state = 'running' AND \
                 fence = :fence"
            );
            let back = i64::from(!counts);
            let values = rusqlite::named_params! {
                ":now": now, ":delay": delay_ms, ":reason": reason, ":back": back, ":id": id, ":fence": fence,
            };
            Ok(connection.prepare_cached(&sql)?.execute(values)? > 0)
        })
        .await
    }

    pub(crate) async fn expire(&self, attempts_max: u32, how: End) -> Result<Expired, StoreError> {
        self.call(move |connection, now| {
            let late = "SELECT id, fence, attempts FROM jobs WHERE state = 'running' AND lease_until < ?1";
            let late: Vec<(String, i64, u32)> = connection
                .prepare_cached(late)?
                .query_map([now], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let mut expired = Expired::default();
            for (id, fence, attempts) in late {
                if attempts >= attempts_max {
                    end(connection, now, &id, Some(fence), &how)?;
                    expired.failed.push(id);
                    continue;
                }
                let history = told("'queued'", "attempts", ":reason");
                let sql = format!(
                    "UPDATE jobs SET state = 'queued', owner = NULL, lease_until = NULL, not_before = :now, \
                     reason = :reason, {history} WHERE id = :id"
                );
                let reason = "the process that ran it has ended, or does not answer";
                let values = rusqlite::named_params! { ":now": now, ":reason": reason, ":id": id };
                connection.prepare_cached(&sql)?.execute(values)?;
                expired.queued.push(id);
            }
            Ok(expired)
        })
        .await
    }

    pub(crate) async fn purge(&self, older_than_ms: i64, most: u32) -> Result<u64, StoreError> {
        self.call(move |connection, now| {
            let sql = "DELETE FROM jobs WHERE id IN (SELECT j.id FROM jobs j LEFT JOIN callbacks c USING (id) WHERE \
                       j.finished_at < ?1 AND ifnull(c.state, '') <> 'pending' LIMIT ?2)";
            let deleted =
                connection.prepare_cached(sql)?.execute(params![now - older_than_ms, most])?;
            Ok(deleted as u64)
        })
        .await
    }

    pub(crate) async fn counts(&self) -> Result<Counts, StoreError> {
        let model = self.model.clone();
        self.call(move |connection, now| {
            let number = |row: &Row<'_>, at| -> rusqlite::Result<u64> {
                Ok(u64::try_from(row.get::<_, i64>(at)?).unwrap_or(0))
            };
            let queued = "SELECT count(*), ifnull(sum(body_bytes), 0), ?1 - ifnull(min(created_at), ?1) FROM jobs \
                          WHERE state = 'queued' AND model = ?2";
            let mut counts = connection.prepare_cached(queued)?.query_row(params![now, model], |row| {
                Ok(Counts {
                    queued: number(row, 0)?,
                    queued_bytes: number(row, 1)?,
                    oldest_ms: number(row, 2)?,
                    ..Counts::default()
                })
            })?;
            let count = |sql: &str| -> rusqlite::Result<u64> {
                connection.prepare_cached(sql)?.query_row([], |row| number(row, 0))
            };
            let running = "SELECT count(*) FROM jobs WHERE state = 'running' AND model = ?1";
            counts.running =
                connection.prepare_cached(running)?.query_row([&model], |row| number(row, 0))?;
            counts.callbacks_pending =
                count("SELECT count(*) FROM callbacks WHERE state = 'pending'")?;
            counts.callbacks_dead = count("SELECT count(*) FROM callbacks WHERE state = 'dead'")?;
            Ok(counts)
        })
        .await
    }

    pub(crate) async fn take_callbacks(
        &self,
        most: u32,
        lease_ms: i64,
    ) -> Result<Vec<CallbackTask>, StoreError> {
        self.call(move |connection, now| {
            let sql = "UPDATE callbacks SET fence = fence + 1, attempts = attempts + 1, next_at = ?1, is_taken = 1 WHERE id IN (SELECT id \
                       FROM callbacks WHERE state = 'pending' AND next_at <= ?2 ORDER BY next_at LIMIT ?3) \
                       RETURNING id, url, fence, attempts";
            let taken: Vec<(String, String, i64, u32)> = connection
                .prepare_cached(sql)?
                .query_map(params![now + lease_ms, now, most], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })?
                .collect::<rusqlite::Result<_>>()?;
            let mut tasks = Vec::new();
            for (id, url, fence, attempt) in taken {
                if let Some(job) = with_result(connection, &id)? {
                    tasks.push(CallbackTask { job, url, fence, attempt });
                }
            }
            Ok(tasks)
        })
        .await
    }

    pub(crate) async fn settle_callback(
        &self,
        id: &str,
        fence: i64,
        settle: Settle,
    ) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.call(move |connection, now| {
            let (state, next_at, reason) = match settle {
                Settle::Delivered => (CallbackState::Delivered, now, None),
                Settle::Retry(delay, why) => (CallbackState::Pending, now + delay, Some(why)),
                Settle::Dead(why) => (CallbackState::Dead, now, Some(why)),
            };
            let sql = "UPDATE callbacks SET state = ?1, next_at = ?2, reason = ?3, is_taken = 0 WHERE id = ?4 AND fence = ?5 AND \
                       state = 'pending'";
            let reason = reason.as_deref().map(one_line);
            let values = params![state.name(), next_at, reason, id, fence];
            Ok(connection.prepare_cached(sql)?.execute(values)? > 0)
        })
        .await
    }

    pub(crate) async fn redeliver(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.call(move |connection, now| {
            let sql = "UPDATE callbacks SET state = 'pending', attempts = 0, next_at = ?1, fence = fence + 1, is_taken = 0 WHERE id = ?2";
            Ok(connection.prepare_cached(sql)?.execute(params![now, id])? > 0)
        })
        .await
    }
}

fn with_result(connection: &Connection, id: &str) -> rusqlite::Result<Option<Job>> {
    let Some(mut job) = find(connection, id)? else { return Ok(None) };
    let sql = "SELECT result FROM results WHERE id = ?1";
    job.result = connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
    Ok(Some(job))
}
