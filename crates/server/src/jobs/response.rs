//! What is said of jobs.

use jiff::Timestamp;
use jobs::{CallbackState, Job, State};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobAnswer {
    /// Its name.
    pub(super) id: String,
    /// `job`.
    #[schema(value_type = String)]
    object: &'static str,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`; the last three are final.
    #[schema(value_type = String)]
    pub(super) status: &'static str,
    /// The model that answers it.
    model: String,
    /// What answers it.
    endpoint: String,
    /// The caller's name for it.
    idempotency_key: Option<String>,
    /// How often it was begun. More than once only where a server ended meanwhile.
    attempts: u32,
    /// When it was accepted, in UTC.
    created_at: String,
    /// When it was begun last.
    started_at: Option<String>,
    /// When it ended.
    finished_at: Option<String>,
    /// Why it waits again, where it was begun before.
    reason: Option<String>,
    /// Status that the endpoint answered with.
    http_status: Option<u16>,
    /// What the endpoint answered, once it succeeded; lists leave it out.
    #[schema(value_type = Option<Object>)]
    result: Option<Box<RawValue>>,
    /// What went wrong, `{message, type, param, code}`, once it failed or was cancelled.
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    /// Who is told of its end, and how that goes.
    callback: Option<CallbackAnswer>,
}

/// Who is told of a job's end, and how that goes.
#[derive(Debug, Serialize, ToSchema)]
struct CallbackAnswer {
    /// Who is told.
    url: String,
    /// `waiting` for the job's end, `pending`, `delivered`, or `dead` after all attempts.
    #[schema(value_type = String)]
    status: &'static str,
    /// How often it was tried.
    attempts: u32,
    /// When it is tried next, as long as it is pending.
    next_at: Option<String>,
    /// Why the last attempt failed.
    last_error: Option<String>,
}

/// Some jobs, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobList {
    /// `list`.
    #[schema(value_type = String)]
    pub(super) object: &'static str,
    /// The jobs, without their results.
    pub(super) data: Vec<JobAnswer>,
    /// Whether there are older ones: ask with `after`, the last one's id.
    pub(super) has_more: bool,
}

/// A job that is forgotten.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobDeleted {
    /// Its name.
    pub(super) id: String,
    /// `job`.
    #[schema(value_type = String)]
    pub(super) object: &'static str,
    /// True.
    pub(super) deleted: bool,
}

/// What callbacks carry.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobCallback {
    /// `job.succeeded`, `job.failed` or `job.cancelled`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// When the job ended.
    pub(super) timestamp: String,
    /// The job, with its result.
    pub(super) data: JobAnswer,
}

/// A time in UTC, as ISO 8601 has it.
pub(super) fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

impl JobAnswer {
    pub(super) fn of(job: Job) -> Self {
        let callback = job.callback;
        let callback = job.callback_url.map(|url| match callback {
            None => CallbackAnswer {
                url,
                status: "waiting",
                attempts: 0,
                next_at: None,
                last_error: None,
            },
            Some(callback) => CallbackAnswer {
                url,
                status: callback.state.name(),
                attempts: callback.attempts,
                next_at: (callback.state == CallbackState::Pending).then(|| time(callback.next_at)),
                last_error: callback.reason,
            },
        });
        let (mut result, mut error) = (None, None);
        match (job.state, job.result) {
            (State::Succeeded, Some(text)) => result = RawValue::from_string(text).ok(),
            (_, Some(text)) => error = serde_json::from_str(&text).ok(),
            _ => {}
        }
        JobAnswer {
            id: job.id,
            object: "job",
            status: job.state.name(),
            model: job.model,
            endpoint: job.endpoint,
            idempotency_key: job.idempotency_key,
            attempts: job.attempts,
            created_at: time(job.created_at),
            started_at: job.started_at.map(time),
            finished_at: job.finished_at.map(time),
            reason: job.reason.filter(|_| !job.state.is_final()),
            http_status: job.status,
            result,
            error,
            callback,
        }
    }
}

impl JobCallback {
    pub(super) fn of(job: Job) -> Self {
        let kind = format!("job.{}", job.state.name());
        let timestamp = time(job.finished_at.unwrap_or(job.created_at));
        // How the telling goes is no news to whoever is told, and every attempt says the same.
        let data = JobAnswer { callback: None, ..JobAnswer::of(job) };
        JobCallback { kind, timestamp, data }
    }
}
