//! How the server is: starting, ready, draining, or done for; and `/health` and `/ready`, which say so.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::{ApiError, App};

/// Where the server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The model is being loaded.
    Starting,
    /// It answers.
    Ready,
    /// It finishes what it has begun, and takes nothing more.
    Draining,
    /// The engine is dead; the process is about to end.
    Degraded,
}

/// How far loading is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct LoadState {
    /// What is done at the moment.
    #[schema(value_type = String)]
    pub doing: &'static str,
    /// Layers that are done.
    pub layers_done: usize,
    /// Layers of the model; 0 as long as it is unknown.
    pub layers_total: usize,
    /// Seconds since the start; or, once it is loaded, that it took.
    pub seconds: f64,
}

/// How the server is, for all who want to know.
#[derive(Debug)]
pub(crate) struct Health {
    start: Instant,
    state: watch::Sender<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    phase: Phase,
    reason: Option<String>,
    load: LoadState,
}

impl Health {
    /// That of a server whose model is yet to come.
    pub(crate) fn new() -> Self {
        let load = LoadState { doing: "opening", layers_done: 0, layers_total: 0, seconds: 0.0 };
        let current = Current { phase: Phase::Starting, reason: None, load };
        Health { start: Instant::now(), state: watch::Sender::new(current) }
    }

    /// The phase.
    pub(crate) fn phase(&self) -> Phase {
        self.state.borrow().phase
    }

    /// Loading goes on.
    pub(crate) fn loading(&self, doing: &'static str, layers_done: usize, layers_total: usize) {
        self.state.send_modify(|now| {
            now.load = LoadState { doing, layers_done, layers_total, ..now.load };
        });
    }

    /// The engine has answered.
    pub(crate) fn ready(&self) {
        self.state.send_modify(|now| {
            now.load = LoadState { doing: "loaded", seconds: self.seconds(), ..now.load };
            if now.phase == Phase::Starting {
                now.phase = Phase::Ready;
            }
        });
    }

    /// No more requests are taken.
    pub(crate) fn draining(&self) {
        self.state.send_modify(|now| {
            if now.phase != Phase::Degraded {
                now.phase = Phase::Draining;
                now.reason = Some("the server is shutting down".to_owned());
            }
        });
    }

    /// The engine is dead.
    pub(crate) fn dead(&self, reason: &str) {
        self.state.send_modify(|now| {
            now.phase = Phase::Degraded;
            now.reason = Some(reason.to_owned());
        });
    }

    /// Why a request cannot be answered now.
    pub(crate) fn refusal(&self) -> Option<ApiError> {
        let now = self.state.borrow();
        let reason = || now.reason.clone().unwrap_or_default();
        match now.phase {
            Phase::Ready => None,
            Phase::Starting => Some(ApiError::unavailable(
                "starting",
                "the model is being loaded; /ready says when it answers".to_owned(),
                1,
            )),
            Phase::Draining => Some(ApiError::unavailable("draining", reason(), 1)),
            Phase::Degraded => Some(ApiError::engine_dead(&reason())),
        }
    }

    /// Waits until nothing is taken any more; what requests are told then.
    pub(crate) async fn ending(&self) -> ApiError {
        let mut state = self.state.subscribe();
        // The sender lives as long as `self`.
        let _ = state.wait_for(|now| matches!(now.phase, Phase::Draining | Phase::Degraded)).await;
        self.refusal().unwrap_or_else(ApiError::engine_gone)
    }

    fn seconds(&self) -> f64 {
        (self.start.elapsed().as_secs_f64() * 1e3).round() / 1e3
    }
}

/// Tells how far loading is.
#[derive(Debug, Clone)]
pub struct LoadProgress {
    pub(crate) app: App,
}

impl LoadProgress {
    /// So many of so many layers are done.
    pub fn layers(&self, done: usize, total: usize) {
        self.app.health().loading("loading", done, total);
    }
}

/// What `/health` answers.
#[derive(Debug, Serialize, ToSchema)]
struct HealthAnswer {
    /// `ok`, as long as the process is alive.
    #[schema(value_type = String)]
    status: &'static str,
    /// Version and commit.
    build: String,
    /// Seconds since the start.
    uptime_seconds: f64,
}

/// What `/ready` answers.
#[derive(Debug, Serialize, ToSchema)]
struct ReadyAnswer {
    /// Where the server is in its life.
    status: Phase,
    /// Why it is not ready, where that is not plain.
    reason: Option<String>,
    /// How far loading is, or was.
    load: LoadState,
    /// The model, once it is known.
    model: Option<String>,
    /// Version and commit.
    build: String,
}

/// The routes of this file.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(ready))
}

/// Whether the process is alive.
#[utoipa::path(get, path = "/health", tag = "operations", security(()), responses((status = 200, body = HealthAnswer)))]
async fn health(State(app): State<App>) -> Json<HealthAnswer> {
    Json(HealthAnswer {
        status: "ok",
        build: app.build().to_owned(),
        uptime_seconds: app.health().seconds(),
    })
}

/// Whether requests are answered: 200 once the engine has answered one, else 503 with the reason and how far loading is.
#[utoipa::path(get, path = "/ready", tag = "operations", security(()),
    responses((status = 200, body = ReadyAnswer), (status = 503, body = ReadyAnswer)))]
async fn ready(State(app): State<App>) -> Response {
    let Current { phase, reason, mut load } = app.health().state.borrow().clone();
    if phase == Phase::Starting {
        load.seconds = app.health().seconds();
    }
    let status = match phase {
        Phase::Ready => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let model = app.model_name().map(str::to_owned);
    let answer = ReadyAnswer { status: phase, reason, load, model, build: app.build().to_owned() };
    (status, Json(answer)).into_response()
}
