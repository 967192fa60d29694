//! What holds jobs, whichever it is.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use crate::job::{
    Accepted, CallbackTask, Cancelled, Change, Counts, Deleted, End, Event, Expired, Filter, Job,
    NewJob, Settle, State, Taken,
};
use crate::postgres::Postgres;
use crate::sqlite::Sqlite;
use crate::{Place, StoreError};

/// Milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Changes that a slow listener may have before it; then it is told that it missed some.
const CHANGES: usize = 1024;

/// A store of jobs. Whatever it says was done is on disk.
#[derive(Debug)]
pub struct Store {
    kind: Kind,
    changes: broadcast::Sender<Change>,
}

#[derive(Debug)]
enum Kind {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// Calls the same function of whichever it is.
macro_rules! each {
    ($self:ident.$name:ident($($argument:expr),*)) => {
        match &$self.kind {
            Kind::Sqlite(store) => store.$name($($argument),*).await,
            Kind::Postgres(store) => store.$name($($argument),*).await,
        }
    };
}

impl Store {
    /// Opens the store of a model's jobs, and makes it if there is none; those of other models are left to their servers. `None` for [`Place::Off`]. What a process left that has died is taken
    /// back at once from a file, and when its lease runs out from a PostgreSQL.
    ///
    /// # Errors
    /// [`StoreError`], if it cannot be used.
    pub async fn open(place: &Place, model: &str) -> Result<Option<Self>, StoreError> {
        Self::open_with(place, model, None).await
    }

    /// The same by another clock than this machine's, or the database's.
    ///
    /// # Errors
    /// [`StoreError`], if it cannot be used.
    pub async fn open_with(
        place: &Place,
        model: &str,
        clock: Option<Clock>,
    ) -> Result<Option<Self>, StoreError> {
        let changes = broadcast::Sender::new(CHANGES);
        let kind = match place {
            Place::Off => return Ok(None),
            Place::File(path) => {
                Kind::Sqlite(Sqlite::open(path, model, clock.unwrap_or_else(here)).await?)
            }
            Place::Postgres(url) => {
                Kind::Postgres(Postgres::open(place, url, model, clock, changes.clone()).await?)
            }
        };
        Ok(Some(Store { kind, changes }))
    }

    /// Tells of changes from here on: all of this process's, and those of others where they can be heard.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn changed(&self, id: &str, state: State) {
        // Nobody need listen.
        let _ = self.changes.send(Change { id: id.to_owned(), state });
    }

    /// Takes a job in, unless its key is known.
    ///
    /// # Errors
    /// [`StoreError`]. Then it may be in or not; asking again with the same key tells.
    pub async fn accept(&self, job: NewJob) -> Result<Accepted, StoreError> {
        let accepted = each!(self.accept(job))?;
        if let Accepted::New(job) = &accepted {
            self.changed(&job.id, job.state);
        }
        Ok(accepted)
    }

    /// Whether a job of this key is known.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_key(&self, key: &str) -> Result<bool, StoreError> {
        each!(self.has_key(key))
    }

    /// A job, with its result.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get(&self, id: &str) -> Result<Option<Job>, StoreError> {
        each!(self.get(id))
    }

    /// Jobs, without their results.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self, filter: Filter) -> Result<Vec<Job>, StoreError> {
        each!(self.list(filter))
    }

    /// What happened to a job after the event of this number; `None` if there is no such job.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events(&self, id: &str, after: u32) -> Result<Option<Vec<Event>>, StoreError> {
        let lines = each!(self.history(id))?;
        Ok(lines.map(|lines| crate::job::history(&lines, after)))
    }

    /// Ends a job that has not ended. `end` is written as its result.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn cancel(&self, id: &str, end: End) -> Result<Cancelled, StoreError> {
        let cancelled = each!(self.cancel(id, end))?;
        if cancelled == Cancelled::Done {
            self.changed(id, State::Cancelled);
        }
        Ok(cancelled)
    }

    /// Forgets a job that has ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete(&self, id: &str) -> Result<Deleted, StoreError> {
        each!(self.delete(id))
    }

    /// Begins up to `most` jobs, the oldest first, for so many milliseconds each.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take(
        &self,
        owner: &str,
        most: u32,
        lease_ms: i64,
    ) -> Result<Vec<Taken>, StoreError> {
        let taken = each!(self.take(owner, most, lease_ms))?;
        for job in &taken {
            self.changed(&job.id, State::Running);
        }
        Ok(taken)
    }

    /// Extends the leases of all that `owner` runs: names and fences of those, which are all that it still has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn extend(
        &self,
        owner: &str,
        lease_ms: i64,
    ) -> Result<Vec<(String, i64)>, StoreError> {
        each!(self.extend(owner, lease_ms))
    }

    /// Writes the end of a job, and what is owed to its callback, unless somebody else has it by now: then `false`.
    ///
    /// # Errors
    /// [`StoreError`]. Asking again is safe.
    pub async fn finish(&self, id: &str, fence: i64, end: End) -> Result<bool, StoreError> {
        let state = end.state;
        let finished = each!(self.finish(id, fence, end))?;
        if finished {
            self.changed(id, state);
        }
        Ok(finished)
    }

    /// Puts a job back that could not be answered, to be begun in `delay_ms` at the earliest. `counts`: whether the attempt
    /// was one.
    ///
    /// # Errors
    /// [`StoreError`]. Asking again is safe.
    pub async fn release(
        &self,
        id: &str,
        fence: i64,
        delay_ms: i64,
        counts: bool,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let released = each!(self.release(id, fence, delay_ms, counts, reason))?;
        if released {
            self.changed(id, State::Queued);
        }
        Ok(released)
    }

    /// Puts jobs back whose lease has run out; those that were begun `attempts_max` times end as `end` says.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn expire(&self, attempts_max: u32, end: End) -> Result<Expired, StoreError> {
        let expired = each!(self.expire(attempts_max, end))?;
        for id in &expired.queued {
            self.changed(id, State::Queued);
        }
        for id in &expired.failed {
            self.changed(id, State::Failed);
        }
        Ok(expired)
    }

    /// Forgets up to `most` jobs that ended so many milliseconds ago, and have nobody left to tell; how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purge(&self, older_than_ms: i64, most: u32) -> Result<u64, StoreError> {
        each!(self.purge(older_than_ms, most))
    }

    /// What it holds of this model's jobs, and of all callbacks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        each!(self.counts())
    }

    /// Begins up to `most` callbacks that are due, for so many milliseconds each.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_callbacks(
        &self,
        most: u32,
        lease_ms: i64,
    ) -> Result<Vec<CallbackTask>, StoreError> {
        each!(self.take_callbacks(most, lease_ms))
    }

    /// Writes how an attempt ended, unless somebody else has the callback by now: then `false`.
    ///
    /// # Errors
    /// [`StoreError`]. Asking again is safe.
    pub async fn settle_callback(
        &self,
        id: &str,
        fence: i64,
        settle: Settle,
    ) -> Result<bool, StoreError> {
        each!(self.settle_callback(id, fence, settle))
    }

    /// Has a callback told anew, from the first attempt; `false` if the job has none, or has not ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn redeliver(&self, id: &str) -> Result<bool, StoreError> {
        each!(self.redeliver(id))
    }
}

/// This machine's clock.
fn here() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
