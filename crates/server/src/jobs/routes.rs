//! The endpoints.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use jobs::{Accepted, CallbackState, Cancelled, Deleted, End, Filter, State as JobState};

use super::request::JobRequest;
use super::response::{JobAnswer, JobDeleted, JobList};
use super::{PATH, events, unavailable};
use crate::error::ErrorBody;
use crate::extract::JsonBody;
use crate::health::Phase;
use crate::{ApiError, App};

/// Jobs of a list, unless it is said, and at most.
const LIMIT: (u32, u32) = (20, 100);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get, delete))
        .routes(routes!(cancel))
        .routes(routes!(redeliver))
        .routes(routes!(events::events))
}

/// Milliseconds since 1970, for names.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Takes a job in. Once this answers, the job is on disk, and is answered whatever becomes of this process.
///
/// With the header `Idempotency-Key`, the same request again gives the same job, and another one with the same key a 409, as
/// long as the job is known. `callback_url` is told of the job's end, again and again for a day until it answers 2xx, by the
/// Standard Webhooks convention: `webhook-id` (the same each time), `webhook-timestamp`, `webhook-signature`.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, description = "A name of yours for the job, up to 255 characters")),
    request_body = JobRequest,
    responses(
        (status = 202, body = JobAnswer, description = "It is accepted; `location` has its path"),
        (status = 200, body = JobAnswer, description = "It was accepted before, by its key"),
        (status = 400, body = ErrorBody, description = "A field that is unknown, missing or out of range; `param` names it"),
        (status = 409, body = ErrorBody, description = "The key names another job"),
        (status = 413, body = ErrorBody, description = "The body is too large"),
        (status = 429, body = ErrorBody, description = "Too many jobs wait; `Retry-After` says when to try again"),
        (status = 503, body = ErrorBody, description = "No jobs are taken; the message says why"),
    )
)]
async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<JobRequest>,
) -> Result<Response, ApiError> {
    let store = app.jobs().store()?;
    // While the model is loaded, jobs may well be taken in: they wait.
    if matches!(app.health().phase(), Phase::Draining | Phase::Degraded)
        && let Some(refusal) = app.health().refusal()
    {
        return Err(refusal);
    }
    let job = request.check(&app, &headers, now_ms())?;
    let bytes = job.body.len();
    if let Err(full) = check_room(&app, bytes).await {
        // A job that is known needs no room.
        let is_known = match &job.idempotency_key {
            Some(key) => store.has_key(key).await.map_err(|error| unavailable(&error))?,
            None => false,
        };
        if !is_known {
            return Err(full);
        }
    }
    let (status, job) = match store.accept(job).await.map_err(|error| unavailable(&error))? {
        Accepted::New(job) => {
            app.jobs().add(bytes).await;
            (StatusCode::ACCEPTED, job)
        }
        Accepted::Same(job) => (StatusCode::OK, job),
        Accepted::Conflict => {
            let message = "this `Idempotency-Key` names a job that asks for something else; take another key, or the same \
                           `endpoint`, `data` and `callback_url`";
            let error = ApiError::http(StatusCode::CONFLICT, "idempotency_conflict", message);
            return Err(ApiError { param: Some("idempotency-key".to_owned()), ..error });
        }
    };
    let mut response = (status, Json(JobAnswer::of(job.clone()))).into_response();
    if let Ok(path) = HeaderValue::from_str(&format!("{PATH}/{}", job.id)) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    Ok(response)
}

/// Refuses what the queue has no room for.
async fn check_room(app: &App, bytes: usize) -> Result<(), ApiError> {
    let (config, counts) = (app.jobs().config(), app.jobs().counts().await?);
    let is_full = counts.queued >= config.queue
        || counts.queued_bytes.saturating_add(bytes as u64) > config.queue_bytes;
    if !is_full {
        return Ok(());
    }
    let message = format!(
        "{} jobs of {} bytes wait, and {} jobs of {} bytes may (--jobs-waiting); ask again later",
        counts.queued, counts.queued_bytes, config.queue, config.queue_bytes
    );
    let error = ApiError::http(StatusCode::TOO_MANY_REQUESTS, "job_queue_full", message);
    // As long as the oldest one waits, a part of them ends.
    let seconds = (counts.oldest_ms / 10_000).clamp(1, 60);
    Err(ApiError { kind: "rate_limit_error", retry_after: Some(seconds), ..error })
}

/// A path's job, or why there is none.
pub(super) fn unknown(id: &str) -> ApiError {
    let shown: String = id.chars().take(64).collect();
    let message = format!(
        "there is no job `{shown}`; it may have been deleted, or have ended so long ago that it was forgotten"
    );
    let error = ApiError::http(StatusCode::NOT_FOUND, "job_not_found", message);
    ApiError { param: Some("id".to_owned()), ..error }
}

async fn find(app: &App, id: &str) -> Result<JobAnswer, ApiError> {
    let job = app.jobs().store()?.get(id).await.map_err(|error| unavailable(&error))?;
    job.map(JobAnswer::of).ok_or_else(|| unknown(id))
}

/// A job, with its answer once it has one.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(("id" = String, Path, description = "Its name")),
    responses(
        (status = 200, body = JobAnswer),
        (status = 404, body = ErrorBody, description = "There is no such job"),
        (status = 503, body = ErrorBody, description = "The store does not answer"),
    )
)]
async fn get(State(app): State<App>, Path(id): Path<String>) -> Result<Json<JobAnswer>, ApiError> {
    find(&app, &id).await.map(Json)
}

/// Which jobs are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those in this state.
    status: Option<String>,
    /// Only those whose callback is `pending`, `delivered` or `dead`.
    callback: Option<String>,
    /// At most so many, up to 100; 20 unless it is said.
    limit: Option<u32>,
    /// Only those before this one.
    after: Option<String>,
}

/// A query, with errors in the form that all errors have.
pub(super) struct Asked(ListQuery);

impl FromRequestParts<App> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        app: &App,
    ) -> Result<Self, ApiError> {
        let query = Query::<ListQuery>::from_request_parts(parts, app).await;
        let wrong = |error: axum::extract::rejection::QueryRejection| {
            let text = error.body_text();
            let text = text.rsplit_once("string: ").map_or(text.as_str(), |(_, why)| why);
            ApiError::invalid(None, format!("cannot read the query: {text}"))
        };
        query.map(|Query(query)| Asked(query)).map_err(wrong)
    }
}

/// Lists jobs, the newest first, without their results. `callback=dead` lists those whose end nobody has taken.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    tag = "jobs",
    params(ListQuery),
    responses(
        (status = 200, body = JobList),
        (status = 400, body = ErrorBody, description = "A parameter that is unknown or out of range; `param` names it"),
        (status = 503, body = ErrorBody, description = "The store does not answer"),
    )
)]
async fn list(State(app): State<App>, Asked(query): Asked) -> Result<Json<JobList>, ApiError> {
    let of = |param: &str, names: Vec<&str>| {
        ApiError::invalid(
            param.to_owned(),
            format!("`{param}` must be one of {}", names.join(", ")),
        )
    };
    let state = query.status.map(|name| {
        let names = JobState::ALL.map(JobState::name).to_vec();
        JobState::parse(&name).ok_or_else(|| of("status", names))
    });
    let callback = query.callback.map(|name| {
        let names = CallbackState::ALL.map(CallbackState::name).to_vec();
        CallbackState::parse(&name).ok_or_else(|| of("callback", names))
    });
    let limit = query.limit.unwrap_or(LIMIT.0);
    if !(1..=LIMIT.1).contains(&limit) {
        let message = format!("`limit` must be between 1 and {}", LIMIT.1);
        return Err(ApiError::invalid("limit".to_owned(), message));
    }
    let filter = Filter {
        state: state.transpose()?,
        callback: callback.transpose()?,
        after: query.after,
        // One more tells whether there are more.
        limit: limit + 1,
    };
    let jobs = app.jobs().store()?.list(filter).await.map_err(|error| unavailable(&error))?;
    let has_more = jobs.len() > limit as usize;
    let data = jobs.into_iter().take(limit as usize).map(JobAnswer::of).collect();
    Ok(Json(JobList { object: "list", data, has_more }))
}

/// Cancels a job that has not ended: one that waits is not begun, one that runs is broken off.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    tag = "jobs",
    params(("id" = String, Path, description = "Its name")),
    responses(
        (status = 200, body = JobAnswer, description = "It is cancelled, now or before"),
        (status = 404, body = ErrorBody, description = "There is no such job"),
        (status = 409, body = ErrorBody, description = "It has ended"),
        (status = 503, body = ErrorBody, description = "The store does not answer"),
    )
)]
async fn cancel(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<JobAnswer>, ApiError> {
    let error = json!({
        "message": "the job was cancelled", "type": "invalid_request_error", "param": null, "code": "cancelled",
    });
    let end = End {
        state: JobState::Cancelled,
        status: None,
        result: error.to_string(),
        reason: Some("the job was cancelled".to_owned()),
    };
    let cancelled = app.jobs().store()?.cancel(&id, end).await;
    match cancelled.map_err(|error| unavailable(&error))? {
        Cancelled::Unknown => Err(unknown(&id)),
        Cancelled::Final(state) if state != JobState::Cancelled => {
            let message = format!("the job has {}; its result stands", state.name());
            Err(ApiError::http(StatusCode::CONFLICT, "job_finished", message))
        }
        Cancelled::Done => {
            app.metrics().job_finished(JobState::Cancelled.name());
            find(&app, &id).await.map(Json)
        }
        Cancelled::Final(_) => find(&app, &id).await.map(Json),
    }
}

/// Forgets a job that has ended, with its result, and with what was left to tell of it.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(("id" = String, Path, description = "Its name")),
    responses(
        (status = 200, body = JobDeleted),
        (status = 404, body = ErrorBody, description = "There is no such job"),
        (status = 409, body = ErrorBody, description = "It has not ended: cancel it first"),
        (status = 503, body = ErrorBody, description = "The store does not answer"),
    )
)]
async fn delete(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<JobDeleted>, ApiError> {
    let deleted = app.jobs().store()?.delete(&id).await.map_err(|error| unavailable(&error))?;
    match deleted {
        Deleted::Done => Ok(Json(JobDeleted { id, object: "job", deleted: true })),
        Deleted::Unknown => Err(unknown(&id)),
        Deleted::NotFinal(state) => {
            let message =
                format!("the job is {}; cancel it first (POST {PATH}/ID/cancel)", state.name());
            Err(ApiError::http(StatusCode::CONFLICT, "job_not_finished", message))
        }
    }
}

/// Has the end of a job told anew, from the first attempt, whether or not somebody has taken it before.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/callback",
    tag = "jobs",
    params(("id" = String, Path, description = "Its name")),
    responses(
        (status = 202, body = JobAnswer, description = "It is told soon"),
        (status = 404, body = ErrorBody, description = "There is no such job"),
        (status = 409, body = ErrorBody, description = "It has not ended, or has no `callback_url`"),
        (status = 503, body = ErrorBody, description = "The store does not answer"),
    )
)]
async fn redeliver(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<JobAnswer>), ApiError> {
    let told = app.jobs().store()?.redeliver(&id).await.map_err(|error| unavailable(&error))?;
    let job = find(&app, &id).await?;
    if !told {
        let message =
            "the job has not ended yet, or has no `callback_url`: there is nothing to tell";
        return Err(ApiError::http(StatusCode::CONFLICT, "no_callback", message));
    }
    Ok((StatusCode::ACCEPTED, Json(job)))
}
