//! Answering jobs: as many at once as the engine has room for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tower::ServiceExt;

use jobs::{End, State, Store, Taken};

use super::callbacks;
use crate::{ApiError, App, Companion, Told, random_seed};

/// Jobs that run at once at most, and that are taken at once.
const RUNNING_MAX: usize = 128;
const TAKE_MAX: usize = 8;

/// How often the store is asked for jobs, should nobody have told of them.
const POLL: Duration = Duration::from_secs(1);

/// How often jobs that ended long ago are looked for, and how many go at once.
const PURGE: Duration = Duration::from_secs(60);
const PURGE_MAX: u32 = 1000;

/// How long a job waits that could not be answered because others took all the room.
const BUSY_MS: i64 = 2000;

/// Waits between attempts to write a result, the last one again and again.
const WRITE_AGAIN: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// What answers jobs beside a server.
pub(crate) fn companion() -> Companion {
    Companion::new(|app, told| work(app, told).boxed())
}

/// Takes jobs and answers them until it is told to stop.
async fn work(app: App, told: watch::Receiver<Told>) {
    if app.jobs().store().is_err() {
        // Ending would end the server.
        return until(told, |told| *told != Told::Work).await;
    }
    let (over, is_over) = watch::channel(false);
    let telling = tokio::spawn(callbacks::tell_all(app.clone(), is_over));
    Runner::new(app).run(told).await;
    let _ = over.send(true);
    let _ = telling.await;
}

async fn until(mut told: watch::Receiver<Told>, is_it: impl FnMut(&Told) -> bool) {
    // Whoever tells lives as long as the server.
    let _ = told.wait_for(is_it).await;
}

/// A job in progress.
struct Running {
    fence: i64,
    bytes: usize,
    task: AbortHandle,
}

type AllRunning = Arc<Mutex<HashMap<String, Running>>>;

struct Runner {
    app: App,
    router: Router,
    /// This process, to the store.
    owner: String,
    running: AllRunning,
    tasks: JoinSet<()>,
}

impl Runner {
    fn new(app: App) -> Self {
        let router = crate::router::inside(app.clone());
        let owner = format!("{:013x}{:013x}", random_seed(), random_seed());
        Runner { app, router, owner, running: AllRunning::default(), tasks: JoinSet::new() }
    }

    async fn run(&mut self, mut told: watch::Receiver<Told>) {
        let app = self.app.clone();
        let Ok(store) = app.jobs().store() else { return };
        let mut changes = store.changes();
        let mut poll = tokio::time::interval(POLL);
        let mut beat = tokio::time::interval(app.jobs().config().lease / 3);
        let mut purge = tokio::time::interval(PURGE);
        let mut may_be_more = false;
        loop {
            let what = told.borrow().clone();
            match what {
                Told::Work if may_be_more => may_be_more = self.take(store).await,
                Told::Drain if self.tasks.is_empty() => return,
                Told::Dead(reason) => return self.give_up(store, &reason).await,
                Told::Work | Told::Drain => {}
            }
            if may_be_more {
                continue;
            }
            tokio::select! {
                _ = told.changed() => {}
                Some(_) = self.tasks.join_next() => may_be_more = true,
                _ = poll.tick() => may_be_more = true,
                _ = beat.tick() => self.beat(store).await,
                _ = purge.tick() => self.purge(store).await,
                change = changes.recv() => match change {
                    Ok(change) if change.state == State::Cancelled => self.break_off(&change.id),
                    Ok(change) => may_be_more = change.state == State::Queued,
                    Err(_) => may_be_more = true,
                },
            }
            may_be_more &= *told.borrow() == Told::Work;
        }
    }

    /// Begins jobs; whether there may be more, and room for them.
    async fn take(&mut self, store: &Store) -> bool {
        let (count, bytes) = {
            let running = lock(&self.running);
            (running.len(), running.values().map(|running| running.bytes).sum::<usize>())
        };
        // Bodies lie in memory as long as their jobs run.
        if bytes >= self.app.config().limits.bodies_bytes {
            return false;
        }
        let room = self.app.job_room(count).min(RUNNING_MAX.saturating_sub(count)).min(TAKE_MAX);
        if room == 0 {
            return false;
        }
        let lease = i64::try_from(self.app.jobs().config().lease.as_millis()).unwrap_or(i64::MAX);
        match store.take(&self.owner, room as u32, lease).await {
            Ok(taken) => {
                let is_full = taken.len() == room;
                taken.into_iter().for_each(|job| self.begin(job));
                is_full
            }
            Err(error) => {
                tracing::warn!(error = %error, "jobs cannot be taken");
                false
            }
        }
    }

    fn begin(&mut self, job: Taken) {
        let (id, fence, bytes) = (job.id.clone(), job.fence, job.body.len());
        let (app, router, running) =
            (self.app.clone(), self.router.clone(), Arc::clone(&self.running));
        // Held until it is listed, so that the task cannot end before.
        let mut all = lock(&self.running);
        let name = id.clone();
        let task = self.tasks.spawn(async move {
            let outcome = answer(&app, router, job).await;
            write(&app, &name, fence, outcome).await;
            let mut running = lock(&running);
            if running.get(&name).is_some_and(|running| running.fence == fence) {
                running.remove(&name);
            }
        });
        all.insert(id, Running { fence, bytes, task });
    }

    /// Drops a job's answer: the engine stops working on it before its next step.
    fn break_off(&self, id: &str) {
        if let Some(running) = lock(&self.running).remove(id) {
            running.task.abort();
            tracing::info!(job = id, "job broken off");
        }
    }

    /// Says that this process lives, learns what it has no more, and puts back what others have left.
    async fn beat(&self, store: &Store) {
        let config = self.app.jobs().config();
        let lease = i64::try_from(config.lease.as_millis()).unwrap_or(i64::MAX);
        let before: Vec<(String, i64)> =
            lock(&self.running).iter().map(|(id, running)| (id.clone(), running.fence)).collect();
        match store.extend(&self.owner, lease).await {
            Ok(held) => {
                for (id, _) in before.iter().filter(|one| !held.contains(one)) {
                    // Cancelled, or taken by another; or it has just ended.
                    self.break_off(id);
                }
            }
            Err(error) => tracing::warn!(error = %error, "leases of jobs cannot be extended"),
        }
        let message = format!(
            "the server that answered the job ended {} times before the answer did; the job may be what ends it",
            config.attempts
        );
        let error = json!({ "message": message, "type": "server_error", "param": null, "code": "attempts_exhausted" });
        let end = End {
            state: State::Failed,
            status: None,
            result: error.to_string(),
            reason: Some(message),
        };
        match store.expire(config.attempts, end).await {
            Ok(expired) => {
                for id in &expired.queued {
                    tracing::warn!(
                        job = id,
                        "job taken back: its server has ended, or does not answer"
                    );
                }
                for id in &expired.failed {
                    tracing::error!(
                        job = id,
                        attempts = config.attempts,
                        "job failed: its servers ended"
                    );
                    self.app.metrics().job_finished(State::Failed.name());
                }
            }
            Err(error) => tracing::warn!(error = %error, "leases of jobs cannot be looked at"),
        }
    }

    async fn purge(&self, store: &Store) {
        let age = i64::try_from(self.app.jobs().config().retention.as_millis()).unwrap_or(i64::MAX);
        loop {
            match store.purge(age, PURGE_MAX).await {
                Ok(0) => return,
                Ok(count) => tracing::info!(count, "jobs forgotten that ended long ago"),
                Err(error) => {
                    return tracing::warn!(error = %error, "old jobs cannot be forgotten");
                }
            }
        }
    }

    /// Nothing is answered any more: what is in progress is put back, and counts, for it may be the reason.
    async fn give_up(&mut self, store: &Store, reason: &str) {
        let running: Vec<_> = lock(&self.running).drain().collect();
        for (id, running) in running {
            running.task.abort();
            let released = store.release(&id, running.fence, 0, true, reason).await;
            if let Err(error) = released {
                tracing::warn!(job = id, error = %error, "job not put back: others take it when its lease is over");
            }
        }
    }
}

fn lock(running: &AllRunning) -> std::sync::MutexGuard<'_, HashMap<String, Running>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of a job.
enum Outcome {
    /// It has ended.
    End(End),
    /// It could not be answered here and now: what for, whether that counts, and how long to wait.
    Back { reason: String, counts: bool, delay_ms: i64 },
}

/// Has the router answer a job.
async fn answer(app: &App, router: Router, job: Taken) -> Outcome {
    let most = app.jobs().config().result_bytes;
    let request = Request::post(&job.endpoint)
        .header("x-request-id", &job.id)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(job.body));
    let request = match request {
        Ok(request) => request,
        Err(error) => return failed(500, &ApiError::internal(error.to_string())),
    };
    let Ok(response) = router.oneshot(request).await;
    let status = response.status();
    let bytes = match Limited::new(response.into_body(), most).collect().await {
        Ok(bytes) => bytes.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let message =
                format!("the answer is larger than {most} bytes, the most that is stored");
            let error = ApiError::internal(message).with_code("result_too_large");
            return failed(500, &error);
        }
        Err(error) => {
            return failed(500, &ApiError::internal(format!("the answer broke off: {error}")));
        }
    };
    if status.is_success() {
        let result = match serde_json::from_slice::<&RawValue>(&bytes) {
            Ok(json) => json.get().to_owned(),
            Err(_) => Value::from(String::from_utf8_lossy(&bytes)).to_string(),
        };
        let status = Some(status.as_u16());
        return Outcome::End(End { state: State::Succeeded, status, result, reason: None });
    }
    refused(status, &bytes)
}

/// Codes of refusals that are not the job's fault, and pass.
const PASSING: [&str; 6] =
    ["queue_full", "busy", "starting", "draining", "stopped", "jobs_unavailable"];

/// What an error of the router means to a job.
fn refused(status: StatusCode, bytes: &[u8]) -> Outcome {
    let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let error = match &body["error"] {
        error @ Value::Object(_) => error.clone(),
        _ => {
            json!({ "message": String::from_utf8_lossy(bytes), "type": "server_error", "param": null, "code": null })
        }
    };
    let message = error["message"].as_str().unwrap_or_default().to_owned();
    let code = error["code"].as_str().unwrap_or_default();
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        if PASSING.contains(&code) {
            return Outcome::Back { reason: message, counts: false, delay_ms: BUSY_MS };
        }
        if code == "engine_dead" {
            return Outcome::Back { reason: message, counts: true, delay_ms: 0 };
        }
    }
    Outcome::End(End {
        state: State::Failed,
        status: Some(status.as_u16()),
        result: error.to_string(),
        reason: Some(message),
    })
}

fn failed(status: u16, error: &ApiError) -> Outcome {
    Outcome::End(End {
        state: State::Failed,
        status: Some(status),
        result: json!(error.body().error).to_string(),
        reason: Some(error.message.clone()),
    })
}

/// Writes what became of a job, as often as it takes.
async fn write(app: &App, id: &str, fence: i64, outcome: Outcome) {
    let Ok(store) = app.jobs().store() else { return };
    let mut waits = WRITE_AGAIN.iter();
    let mut wait = WRITE_AGAIN[0];
    loop {
        let written = match &outcome {
            Outcome::End(end) => store.finish(id, fence, end.clone()).await,
            Outcome::Back { reason, counts, delay_ms } => {
                store.release(id, fence, *delay_ms, *counts, reason).await
            }
        };
        match (written, &outcome) {
            (Ok(true), Outcome::End(end)) => {
                app.metrics().job_finished(end.state.name());
                return tracing::info!(
                    job = id,
                    state = end.state.name(),
                    status = end.status,
                    "job ended"
                );
            }
            (Ok(true), Outcome::Back { reason, .. }) => {
                return tracing::info!(job = id, reason, "job put back");
            }
            (Ok(false), _) => {
                return tracing::warn!(
                    job = id,
                    "what became of a job was not written: it is another's by now, or cancelled"
                );
            }
            (Err(error), _) => {
                tracing::warn!(job = id, error = %error, "what became of a job cannot be written yet");
            }
        }
        wait = waits.next().copied().unwrap_or(wait);
        tokio::time::sleep(wait).await;
    }
}
