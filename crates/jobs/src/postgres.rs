//! Jobs in a PostgreSQL, for many servers.
//!
//! Each function is one statement, so each is a transaction by itself. Times are the database's, so that machines need not agree.

mod lanes;

use tokio::sync::broadcast;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::job::{
    Accepted, COLUMNS, Callback, CallbackState, CallbackTask, Cancelled, Change, Counts, Deleted,
    EVENTS_MAX, End, Expired, Filter, Job, NewJob, Settle, State, Taken, job_of, one_line,
};
use crate::store::Clock;
use crate::{Place, StoreError};
use lanes::{Lanes, unavailable};

/// The form of the tables.
const VERSION: i64 = 1;

/// Where all listen; a message is a job's name and its state.
const CHANNEL: &str = "halfbyte_jobs";

/// Makes the tables, one server at a time.
const SCHEMA: &str = "
BEGIN;
SELECT pg_advisory_xact_lock(7236832154);
CREATE TABLE IF NOT EXISTS halfbyte_jobs_version (version bigint NOT NULL);
INSERT INTO halfbyte_jobs_version SELECT 1 WHERE NOT EXISTS (SELECT FROM halfbyte_jobs_version);
CREATE TABLE IF NOT EXISTS halfbyte_jobs (
    id text COLLATE \"C\" PRIMARY KEY,
    state text NOT NULL,
    model text NOT NULL,
    endpoint text NOT NULL,
    idempotency_key text UNIQUE,
    request_hash text NOT NULL,
    callback_url text,
    body_bytes bigint NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    fence bigint NOT NULL DEFAULT 0,
    owner text,
    lease_until bigint,
    not_before bigint NOT NULL,
    status bigint,
    reason text,
    created_at bigint NOT NULL,
    started_at bigint,
    finished_at bigint,
    events bigint NOT NULL DEFAULT 1,
    history text NOT NULL
);
CREATE INDEX IF NOT EXISTS halfbyte_jobs_queued ON halfbyte_jobs (model, id) WHERE state = 'queued';
CREATE INDEX IF NOT EXISTS halfbyte_jobs_running ON halfbyte_jobs (lease_until) WHERE state = 'running';
CREATE INDEX IF NOT EXISTS halfbyte_jobs_finished ON halfbyte_jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS halfbyte_job_bodies (
    id text COLLATE \"C\" PRIMARY KEY REFERENCES halfbyte_jobs ON DELETE CASCADE, body text NOT NULL
);
CREATE TABLE IF NOT EXISTS halfbyte_job_results (
    id text COLLATE \"C\" PRIMARY KEY REFERENCES halfbyte_jobs ON DELETE CASCADE, result text NOT NULL
);
CREATE TABLE IF NOT EXISTS halfbyte_job_callbacks (
    id text COLLATE \"C\" PRIMARY KEY REFERENCES halfbyte_jobs ON DELETE CASCADE,
    url text NOT NULL,
    state text NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    fence bigint NOT NULL DEFAULT 0,
    next_at bigint NOT NULL,
    reason text
);
CREATE INDEX IF NOT EXISTS halfbyte_job_callbacks_open ON halfbyte_job_callbacks (state, next_at)
    WHERE state <> 'delivered';
COMMIT;
";

/// A database, by several connections.
#[derive(Debug)]
pub(crate) struct Postgres {
    lanes: Lanes,
    model: String,
    clock: Option<Shown>,
}

/// A clock that can be left out of what is shown.
struct Shown(Clock);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// The time of a statement: the first parameter if there is one, as tests have it, else the database's.
const NOW: &str =
    "n AS (SELECT coalesce($1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) AS now)";

/// Adds to a job's history; `attempts` and `reason` are expressions.
fn told(state: &str, attempts: &str, reason: &str) -> String {
    format!(
        "events = events + 1, history = CASE WHEN events < {EVENTS_MAX} OR {state} NOT IN ('queued', 'running') \
         THEN history || now || ' ' || {state} || ' ' || ({attempts}) || ' ' || coalesce({reason}, '') || chr(10) \
         ELSE history END"
    )
}

/// The statement that ends the jobs that `which` (a table of `id`s) names: `$2` state, `$3` status, `$4` reason, `$5`
/// result; from `$6` on they are `which`'s own.
fn end_sql(which: &str) -> String {
    let history = told("$2", "attempts", "$4");
    format!(
        "WITH {NOW}, which AS ({which}), done AS (UPDATE halfbyte_jobs j SET state = $2, status = $3, reason = $4, \
         finished_at = now, owner = NULL, lease_until = NULL, {history} FROM n, which WHERE j.id = which.id \
         RETURNING j.id, j.callback_url), \
         r AS (INSERT INTO halfbyte_job_results SELECT id, $5 FROM done), \
         b AS (DELETE FROM halfbyte_job_bodies b USING done WHERE b.id = done.id), \
         c AS (INSERT INTO halfbyte_job_callbacks (id, url, state, next_at) SELECT id, callback_url, 'pending', now \
         FROM done, n WHERE callback_url IS NOT NULL) \
         SELECT id, pg_notify('{CHANNEL}', id || ' ' || $2)::text FROM done"
    )
}

type Value<'a> = (&'a (dyn ToSql + Sync), Type);

fn text<'a>(value: &'a (dyn ToSql + Sync)) -> Value<'a> {
    (value, Type::TEXT)
}

fn number<'a>(value: &'a (dyn ToSql + Sync)) -> Value<'a> {
    (value, Type::INT8)
}

/// Reads a column; what the statement gives is what is read.
fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    at: usize,
) -> Result<T, StoreError> {
    row.try_get(at).map_err(|error| unavailable(&error))
}

fn job(row: &Row) -> Result<Job, StoreError> {
    macro_rules! get {
        ($index:literal) => {
            column(row, $index)?
        };
    }
    Ok(job_of!(get))
}

fn small(row: &Row, at: usize) -> Result<u32, StoreError> {
    Ok(u32::try_from(column::<i64>(row, at)?).unwrap_or(0))
}

const JOIN: &str = "FROM halfbyte_jobs j LEFT JOIN halfbyte_job_callbacks c USING (id)";

impl Postgres {
    /// Connects, and makes the tables where there are none.
    pub(crate) async fn open(
        place: &Place,
        url: &str,
        model: &str,
        clock: Option<Clock>,
        changes: broadcast::Sender<Change>,
    ) -> Result<Self, StoreError> {
        let failed = |why: String| StoreError::Open { place: place.to_string(), why };
        let lanes = Lanes::new(url).map_err(&failed)?;
        let of_error = |error: StoreError| match error {
            StoreError::Unavailable(why) => failed(why),
            other => other,
        };
        lanes.batch(SCHEMA).await.map_err(of_error)?;
        let rows = lanes.query("SELECT max(version) FROM halfbyte_jobs_version", &[]).await;
        let rows = rows.map_err(of_error)?;
        let found: i64 = rows.first().map_or(Ok(VERSION), |row| column(row, 0))?;
        if found > VERSION {
            return Err(StoreError::Newer { place: place.to_string(), found, known: VERSION });
        }
        lanes.listen(CHANNEL, move |message| {
            let Some((id, state)) = message.split_once(' ') else { return };
            if let Some(state) = State::parse(state) {
                // Nobody need listen.
                let _ = changes.send(Change { id: id.to_owned(), state });
            }
        });
        Ok(Postgres { lanes, model: model.to_owned(), clock: clock.map(Shown) })
    }

    fn now(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| (clock.0)())
    }

    /// Ends the one job that `which` finds; the parameters from `$6` on are its own.
    async fn end(&self, which: &str, how: &End, more: &[Value<'_>]) -> Result<bool, StoreError> {
        Ok(!self.end_all(which, how, more).await?.is_empty())
    }

    async fn end_all(
        &self,
        which: &str,
        how: &End,
        more: &[Value<'_>],
    ) -> Result<Vec<String>, StoreError> {
        let (now, state) = (self.now(), how.state.name());
        let status = how.status.map(i64::from);
        let reason = how.reason.as_deref().map(one_line);
        let mut values =
            vec![number(&now), text(&state), number(&status), text(&reason), text(&how.result)];
        values.extend(more.iter().map(|(value, kind)| (*value, kind.clone())));
        let rows = self.lanes.query(&end_sql(which), &values).await?;
        rows.iter().map(|row| column(row, 0)).collect()
    }

    pub(crate) async fn accept(&self, new: NewJob) -> Result<Accepted, StoreError> {
        let (now, bytes) = (self.now(), i64::try_from(new.body.len()).unwrap_or(i64::MAX));
        let sql = format!(
            "WITH {NOW}, new AS (INSERT INTO halfbyte_jobs (id, state, endpoint, idempotency_key, request_hash, \
             callback_url, body_bytes, not_before, created_at, history, model) SELECT $2, 'queued', $3, $4, $5, $6, $7, now, now, \
             now || ' queued 0 ' || chr(10), $9 FROM n ON CONFLICT (idempotency_key) DO NOTHING RETURNING id), \
             body AS (INSERT INTO halfbyte_job_bodies SELECT id, $8 FROM new) \
             SELECT id, pg_notify('{CHANNEL}', id || ' queued')::text FROM new"
        );
        let values = [
            number(&now),
            text(&new.id),
            text(&new.endpoint),
            text(&new.idempotency_key),
            text(&new.request_hash),
            text(&new.callback_url),
            number(&bytes),
            text(&new.body),
            text(&self.model),
        ];
        // One with the same key may be deleted between the two statements, once.
        for _ in 0..3 {
            if !self.lanes.query(&sql, &values).await?.is_empty() {
                let job = self.find(&new.id).await?;
                return Ok(job.map_or(Accepted::Conflict, Accepted::New));
            }
            let known = "SELECT id, request_hash FROM halfbyte_jobs WHERE idempotency_key = $1";
            let known = self.lanes.query(known, &[text(&new.idempotency_key)]).await?;
            let Some(row) = known.first() else { continue };
            if column::<String>(row, 1)? != new.request_hash {
                return Ok(Accepted::Conflict);
            }
            if let Some(job) = self.find(&column::<String>(row, 0)?).await? {
                return Ok(Accepted::Same(job));
            }
        }
        Err(StoreError::Unavailable("jobs with this key come and go".to_owned()))
    }

    pub(crate) async fn has_key(&self, key: &str) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM halfbyte_jobs WHERE idempotency_key = $1";
        Ok(!self.lanes.query(sql, &[text(&key)]).await?.is_empty())
    }

    async fn find(&self, id: &str) -> Result<Option<Job>, StoreError> {
        let sql = format!("SELECT {COLUMNS} {JOIN} WHERE id = $1");
        self.lanes.query(&sql, &[text(&id)]).await?.first().map(job).transpose()
    }

    pub(crate) async fn get(&self, id: &str) -> Result<Option<Job>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS}, r.result {JOIN} LEFT JOIN halfbyte_job_results r USING (id) WHERE id = $1"
        );
        let rows = self.lanes.query(&sql, &[text(&id)]).await?;
        let with_result = |row: &Row| -> Result<Job, StoreError> {
            Ok(Job { result: column(row, 16)?, ..job(row)? })
        };
        rows.first().map(with_result).transpose()
    }

    pub(crate) async fn list(&self, filter: Filter) -> Result<Vec<Job>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} {JOIN} WHERE ($1::text IS NULL OR j.state = $1) AND ($2::text IS NULL OR c.state = $2) AND \
             ($3::text IS NULL OR j.id < $3) ORDER BY j.id DESC LIMIT $4"
        );
        let state = filter.state.map(State::name);
        let callback = filter.callback.map(CallbackState::name);
        let limit = i64::from(filter.limit);
        let values = [text(&state), text(&callback), text(&filter.after), number(&limit)];
        self.lanes.query(&sql, &values).await?.iter().map(job).collect()
    }

    pub(crate) async fn history(&self, id: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT history FROM halfbyte_jobs WHERE id = $1";
        let rows = self.lanes.query(sql, &[text(&id)]).await?;
        rows.first().map(|row| column(row, 0)).transpose()
    }

    async fn state_of(&self, id: &str) -> Result<Option<State>, StoreError> {
        let sql = "SELECT state FROM halfbyte_jobs WHERE id = $1";
        let rows = self.lanes.query(sql, &[text(&id)]).await?;
        let state = rows.first().map(|row| column::<String>(row, 0)).transpose()?;
        Ok(state.map(|state| State::parse(&state).unwrap_or(State::Failed)))
    }

    pub(crate) async fn cancel(&self, id: &str, how: End) -> Result<Cancelled, StoreError> {
        let open = "SELECT id FROM halfbyte_jobs WHERE id = $6 AND state IN ('queued', 'running') FOR UPDATE";
        if self.end(open, &how, &[text(&id)]).await? {
            return Ok(Cancelled::Done);
        }
        Ok(self.state_of(id).await?.map_or(Cancelled::Unknown, Cancelled::Final))
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<Deleted, StoreError> {
        let sql =
            "DELETE FROM halfbyte_jobs WHERE id = $1 AND finished_at IS NOT NULL RETURNING id";
        if !self.lanes.query(sql, &[text(&id)]).await?.is_empty() {
            return Ok(Deleted::Done);
        }
        Ok(self.state_of(id).await?.map_or(Deleted::Unknown, Deleted::NotFinal))
    }

    pub(crate) async fn take(
        &self,
        owner: &str,
        most: u32,
        lease_ms: i64,
    ) -> Result<Vec<Taken>, StoreError> {
        let history = told("'running'", "attempts + 1", "NULL");
        let sql = format!(
            "WITH {NOW}, picked AS (SELECT id FROM halfbyte_jobs, n WHERE state = 'queued' AND model = $5 AND not_before <= now \
             ORDER BY id LIMIT $2 FOR UPDATE OF halfbyte_jobs SKIP LOCKED), \
             taken AS (UPDATE halfbyte_jobs j SET state = 'running', owner = $3, lease_until = now + $4, \
             fence = fence + 1, attempts = attempts + 1, started_at = now, reason = NULL, {history} FROM n, picked \
             WHERE j.id = picked.id RETURNING j.id, j.fence, j.attempts, j.endpoint) \
             SELECT t.*, b.body, pg_notify('{CHANNEL}', t.id || ' running')::text FROM taken t \
             JOIN halfbyte_job_bodies b USING (id) ORDER BY t.id"
        );
        let (now, most) = (self.now(), i64::from(most));
        let values =
            [number(&now), number(&most), text(&owner), number(&lease_ms), text(&self.model)];
        let taken = |row: &Row| {
            Ok(Taken {
                id: column(row, 0)?,
                fence: column(row, 1)?,
                attempt: small(row, 2)?,
                endpoint: column(row, 3)?,
                body: column(row, 4)?,
            })
        };
        self.lanes.query(&sql, &values).await?.iter().map(taken).collect()
    }

    pub(crate) async fn extend(
        &self,
        owner: &str,
        lease_ms: i64,
    ) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = format!(
            "WITH {NOW} UPDATE halfbyte_jobs SET lease_until = now + $2 FROM n WHERE state = 'running' AND owner = $3 \
             RETURNING id, fence"
        );
        let now = self.now();
        let values = [number(&now), number(&lease_ms), text(&owner)];
        let rows = self.lanes.query(&sql, &values).await?;
        rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?))).collect()
    }

    pub(crate) async fn finish(&self, id: &str, fence: i64, how: End) -> Result<bool, StoreError> {
        let held = "SELECT id FROM halfbyte_jobs WHERE id = $6 AND state = 'running' AND fence = $7 FOR UPDATE";
        self.end(held, &how, &[text(&id), number(&fence)]).await
    }

    pub(crate) async fn release(
        &self,
        id: &str,
        fence: i64,
        delay_ms: i64,
        counts: bool,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let history = told("'queued'", "attempts - $3", "$4");
        let sql = format!(
            "WITH {NOW}, freed AS (UPDATE halfbyte_jobs SET state = 'queued', owner = NULL, lease_until = NULL, \
             not_before = now + $2, reason = $4, {history}, attempts = attempts - $3 FROM n WHERE id = $5 AND \
             state = 'running' AND fence = $6 RETURNING id) \
             SELECT id, pg_notify('{CHANNEL}', id || ' queued')::text FROM freed"
        );
        let (now, back, reason) = (self.now(), i64::from(!counts), one_line(reason));
        let values = [
            number(&now),
            number(&delay_ms),
            number(&back),
            text(&reason),
            text(&id),
            number(&fence),
        ];
        Ok(!self.lanes.query(&sql, &values).await?.is_empty())
    }

    pub(crate) async fn expire(&self, attempts_max: u32, how: End) -> Result<Expired, StoreError> {
        let late =
            "SELECT id FROM halfbyte_jobs, n WHERE state = 'running' AND lease_until < now AND";
        let lock = "FOR UPDATE OF halfbyte_jobs SKIP LOCKED";
        let most = i64::from(attempts_max);
        let spent = format!("{late} attempts >= $6 {lock}");
        let failed = self.end_all(&spent, &how, &[number(&most)]).await?;
        let history = told("'queued'", "attempts", "$3");
        let sql = format!(
            "WITH {NOW}, late AS ({late} attempts < $2 {lock}), \
             freed AS (UPDATE halfbyte_jobs j SET state = 'queued', owner = NULL, lease_until = NULL, not_before = now, \
             reason = $3, {history} FROM n, late WHERE j.id = late.id RETURNING j.id) \
             SELECT id, pg_notify('{CHANNEL}', id || ' queued')::text FROM freed"
        );
        let (now, reason) = (self.now(), "the process that ran it has ended, or does not answer");
        let values = [number(&now), number(&most), text(&reason)];
        let rows = self.lanes.query(&sql, &values).await?;
        let queued = rows.iter().map(|row| column(row, 0)).collect::<Result<_, _>>()?;
        Ok(Expired { queued, failed })
    }

    pub(crate) async fn purge(&self, older_than_ms: i64, most: u32) -> Result<u64, StoreError> {
        let sql = format!(
            "WITH {NOW}, old AS (SELECT j.id {JOIN}, n WHERE j.finished_at < now - $2 AND \
             coalesce(c.state, '') <> 'pending' LIMIT $3) \
             DELETE FROM halfbyte_jobs j USING old WHERE j.id = old.id RETURNING j.id"
        );
        let (now, most) = (self.now(), i64::from(most));
        let values = [number(&now), number(&older_than_ms), number(&most)];
        Ok(self.lanes.query(&sql, &values).await?.len() as u64)
    }

    pub(crate) async fn counts(&self) -> Result<Counts, StoreError> {
        let sql = format!(
            "WITH {NOW} SELECT count(*), coalesce(sum(body_bytes), 0)::bigint, \
             coalesce(max(now) - min(created_at), 0), \
             (SELECT count(*) FROM halfbyte_jobs WHERE state = 'running' AND model = $2), \
             (SELECT count(*) FROM halfbyte_job_callbacks WHERE state = 'pending'), \
             (SELECT count(*) FROM halfbyte_job_callbacks WHERE state = 'dead') \
             FROM halfbyte_jobs, n WHERE state = 'queued' AND model = $2"
        );
        let rows = self.lanes.query(&sql, &[number(&self.now()), text(&self.model)]).await?;
        let Some(row) = rows.first() else { return Ok(Counts::default()) };
        let count = |at| -> Result<u64, StoreError> {
            Ok(u64::try_from(column::<i64>(row, at)?).unwrap_or(0))
        };
        Ok(Counts {
            queued: count(0)?,
            queued_bytes: count(1)?,
            oldest_ms: count(2)?,
            running: count(3)?,
            callbacks_pending: count(4)?,
            callbacks_dead: count(5)?,
        })
    }

    pub(crate) async fn take_callbacks(
        &self,
        most: u32,
        lease_ms: i64,
    ) -> Result<Vec<CallbackTask>, StoreError> {
        let sql = format!(
            "WITH {NOW}, picked AS (SELECT id FROM halfbyte_job_callbacks, n WHERE state = 'pending' AND next_at <= now \
             ORDER BY next_at LIMIT $2 FOR UPDATE OF halfbyte_job_callbacks SKIP LOCKED) \
             UPDATE halfbyte_job_callbacks c SET fence = fence + 1, attempts = attempts + 1, next_at = now + $3 \
             FROM n, picked WHERE c.id = picked.id RETURNING c.id, c.url, c.fence, c.attempts"
        );
        let (now, most) = (self.now(), i64::from(most));
        let rows =
            self.lanes.query(&sql, &[number(&now), number(&most), number(&lease_ms)]).await?;
        let mut tasks = Vec::new();
        for row in &rows {
            if let Some(job) = self.get(&column::<String>(row, 0)?).await? {
                let (url, fence) = (column(row, 1)?, column(row, 2)?);
                tasks.push(CallbackTask { job, url, fence, attempt: small(row, 3)? });
            }
        }
        Ok(tasks)
    }

    pub(crate) async fn settle_callback(
        &self,
        id: &str,
        fence: i64,
        settle: Settle,
    ) -> Result<bool, StoreError> {
        let (state, delay, reason) = match settle {
            Settle::Delivered => (CallbackState::Delivered, 0, None),
            Settle::Retry(delay, why) => (CallbackState::Pending, delay, Some(why)),
            Settle::Dead(why) => (CallbackState::Dead, 0, Some(why)),
        };
        let sql = format!(
            "WITH {NOW} UPDATE halfbyte_job_callbacks SET state = $2, next_at = now + $3, reason = $4 FROM n \
             WHERE id = $5 AND fence = $6 AND state = 'pending' RETURNING id"
        );
        let (now, state, reason) = (self.now(), state.name(), reason.as_deref().map(one_line));
        let values =
            [number(&now), text(&state), number(&delay), text(&reason), text(&id), number(&fence)];
        Ok(!self.lanes.query(&sql, &values).await?.is_empty())
    }

    pub(crate) async fn redeliver(&self, id: &str) -> Result<bool, StoreError> {
        let sql = format!(
            "WITH {NOW} UPDATE halfbyte_job_callbacks SET state = 'pending', attempts = 0, next_at = now, \
             fence = fence + 1 FROM n WHERE id = $2 RETURNING id"
        );
        let now = self.now();
        Ok(!self.lanes.query(&sql, &[number(&now), text(&id)]).await?.is_empty())
    }
}
