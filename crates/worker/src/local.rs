//! Without a platform: one job from the command line, or the platform's own API on this machine, for tests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::input::Call;
use crate::outcome::Outcome;
use crate::place::Place;
use crate::service::Service;

/// Jobs that are remembered, and how many of them may be in progress.
const JOBS_MAX: usize = 1024;
const RUNNING_MAX: usize = 128;

/// How long `/runsync` waits, as the platform does.
const SYNC: Duration = Duration::from_secs(90);

/// The platform's API, answered on this machine.
#[derive(Clone)]
pub struct Local {
    service: Service,
    place: Place,
    jobs: Arc<Mutex<VecDeque<Arc<LocalJob>>>>,
    new_id: fn() -> String,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}

struct LocalJob {
    id: String,
    state: Mutex<JobState>,
    changed: Notify,
}

#[derive(Default)]
struct JobState {
    /// Pieces that nobody has asked for yet.
    pieces: Vec<Value>,
    outcome: Option<Outcome>,
}

impl LocalJob {
    fn state(&self) -> MutexGuard<'_, JobState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `{id, status, output | error}`.
    fn status(&self, place: &Place) -> Value {
        let mut answer = json!({ "id": self.id, "status": "IN_PROGRESS" });
        if let Some(outcome) = &self.state().outcome {
            let status = if outcome.result.is_ok() { "COMPLETED" } else { "FAILED" };
            answer["status"] = status.into();
            if let Value::Object(body) = outcome.body(place, false) {
                body.into_iter().for_each(|(name, value)| answer[name] = value);
            }
        }
        answer
    }
}

/// Runs a job from its input to its end. Returns what would be posted.
pub async fn run_one(service: &Service, place: &Place, input: Value) -> Value {
    let job = LocalJob { id: "test".to_owned(), state: Mutex::default(), changed: Notify::new() };
    let job = Arc::new(job);
    compute(service, &job, input).await;
    let outcome = job.state().outcome.take();
    outcome.map_or(Value::Null, |outcome| outcome.body(place, false))
}

async fn compute(service: &Service, job: &Arc<LocalJob>, input: Value) {
    let outcome = match Call::of(input) {
        Err(error) => Outcome { result: Err(error.into()), is_stream: false },
        Ok(call) => {
            if call.callback.is_some() {
                tracing::warn!("without a platform nobody is called back");
            }
            let keep = |piece| {
                job.state().pieces.push(piece);
                std::future::ready(Ok(())).boxed()
            };
            service.answer(&job.id, &call, keep).await
        }
    };
    job.state().outcome = Some(outcome);
    job.changed.notify_waiters();
}

impl Local {
    /// Jobs get names from `new_id`.
    pub fn new(service: Service, place: Place, new_id: fn() -> String) -> Self {
        Local { service, place, jobs: Arc::default(), new_id }
    }

    /// `/run`, `/runsync`, `/status/{id}` and `/stream/{id}`.
    pub fn routes<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        Router::new()
            .route("/run", post(run))
            .route("/runsync", post(run_sync))
            .route("/status/{id}", get(status).post(status))
            .route("/stream/{id}", get(stream).post(stream))
            .with_state(self)
    }

    fn jobs(&self) -> MutexGuard<'_, VecDeque<Arc<LocalJob>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, mut body: Value) -> Result<Arc<LocalJob>, Refused> {
        let Some(input) = body.get_mut("input").map(Value::take) else {
            return Err(Refused(
                StatusCode::BAD_REQUEST,
                "the body is an object with `input`".to_owned(),
            ));
        };
        let job = Arc::new(LocalJob {
            id: format!("test-{}", (self.new_id)()),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        {
            let mut jobs = self.jobs();
            let running = jobs.iter().filter(|job| job.state().outcome.is_none()).count();
            if running >= RUNNING_MAX {
                let message =
                    format!("{running} jobs are in progress, the most that are taken here");
                return Err(Refused(StatusCode::TOO_MANY_REQUESTS, message));
            }
            jobs.push_back(Arc::clone(&job));
            while jobs.len() > JOBS_MAX {
                // The oldest that has ended: there are more of those than may be in progress.
                let Some(at) = jobs.iter().position(|job| job.state().outcome.is_some()) else {
                    break;
                };
                jobs.remove(at);
            }
        }
        let (service, running) = (self.service.clone(), Arc::clone(&job));
        tokio::spawn(async move { compute(&service, &running, input).await });
        Ok(job)
    }

    fn find(&self, id: &str) -> Result<Arc<LocalJob>, Refused> {
        let found = self.jobs().iter().find(|job| job.id == id).cloned();
        let message = "there is no such job, or it is long ago";
        found.ok_or_else(|| Refused(StatusCode::NOT_FOUND, message.to_owned()))
    }
}

/// Why a request is refused.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused(status, message) = self;
        let error = json!({ "message": message, "type": "invalid_request_error", "param": null, "code": null });
        (status, Json(json!({ "error": error }))).into_response()
    }
}

async fn run(State(local): State<Local>, Json(body): Json<Value>) -> Result<Json<Value>, Refused> {
    let job = local.begin(body)?;
    Ok(Json(json!({ "id": job.id, "status": "IN_PROGRESS" })))
}

async fn run_sync(
    State(local): State<Local>,
    Json(body): Json<Value>,
) -> Result<Json<Value>, Refused> {
    let job = local.begin(body)?;
    let ended = async {
        loop {
            let changed = job.changed.notified();
            tokio::pin!(changed);
            // Before looking: what happens in between is not missed.
            changed.as_mut().enable();
            if job.state().outcome.is_some() {
                return;
            }
            changed.await;
        }
    };
    // What takes longer is to be asked for.
    let _ = timeout(SYNC, ended).await;
    Ok(Json(job.status(&local.place)))
}

async fn status(
    State(local): State<Local>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refused> {
    Ok(Json(local.find(&id)?.status(&local.place)))
}

async fn stream(
    State(local): State<Local>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refused> {
    let job = local.find(&id)?;
    let pieces = std::mem::take(&mut job.state().pieces);
    let pieces: Vec<Value> = pieces.into_iter().map(|piece| json!({ "output": piece })).collect();
    let status = job.status(&local.place);
    let mut answer = json!({ "id": job.id, "status": status["status"], "stream": pieces });
    if let Some(error) = status.get("error") {
        answer["error"] = error.clone();
    }
    Ok(Json(answer))
}
