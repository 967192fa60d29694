//! What a job asks for, and what of it can be checked before it is accepted.

use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use jobs::{NewJob, new_id};

use super::JobsConfig;
use crate::{ApiError, App, classify, documents, openai, prompt, random_seed};

/// Longest key and URL, in bytes.
const KEY_MAX: usize = 255;
const URL_MAX: usize = 2048;

/// Checks a body as far as that is cheap: its form, not what only the model can say.
type Check = fn(&[u8]) -> Result<(), ApiError>;

/// What answers jobs.
pub(super) const ENDPOINTS: [(&str, Check); 7] = [
    ("/prompt", prompt::check),
    ("/classify", classify::check),
    ("/extract", documents::check_extract),
    ("/process", documents::check_process),
    ("/v1/chat/completions", openai::check_chat),
    ("/v1/completions", openai::check_completions),
    ("/v1/responses", openai::check_responses),
];

/// A job to be done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JobRequest {
    /// What answers it: `/prompt`, `/classify`, `/extract`, `/process`, `/v1/chat/completions`, `/v1/completions` or
    /// `/v1/responses`.
    endpoint: String,
    /// What is sent there; without `stream`.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    /// Who is told of its end: an https URL of the public network. Callbacks are signed by the Standard Webhooks convention.
    callback_url: Option<String>,
}

impl JobRequest {
    /// Checks it, and gives it a name.
    ///
    /// # Errors
    /// For what would fail anyway.
    pub(super) fn check(
        self,
        app: &App,
        headers: &HeaderMap,
        now_ms: i64,
    ) -> Result<NewJob, ApiError> {
        let config = app.jobs().config();
        let idempotency_key = key(headers)?;
        let Some((endpoint, check)) = ENDPOINTS.iter().find(|(path, _)| *path == self.endpoint)
        else {
            let names: Vec<&str> = ENDPOINTS.iter().map(|(path, _)| *path).collect();
            let message = format!("`endpoint` must be one of {}", names.join(", "));
            return Err(invalid("endpoint", message).with_code("unknown_endpoint"));
        };
        if self
            .data
            .get("stream")
            .is_some_and(|stream| !matches!(stream, Value::Bool(false) | Value::Null))
        {
            let message = "a job's answer comes as a whole: leave `stream` out, and follow /v1/jobs/ID/events";
            return Err(invalid("data.stream", message).with_code("unsupported_parameter"));
        }
        let callback_url = self.callback_url.map(|url| callback(url, config)).transpose()?;
        let body = Value::Object(self.data).to_string();
        let most = app.config().body_max(endpoint);
        if body.len() > most {
            let message =
                format!("`data` is larger than {most} bytes, the most that {endpoint} takes");
            let error = ApiError::http(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message);
            return Err(ApiError { param: Some("data".to_owned()), ..error });
        }
        check(body.as_bytes()).map_err(|error| {
            let param = error.param.map_or("data".to_owned(), |param| format!("data.{param}"));
            ApiError { param: Some(param), ..error }
        })?;
        let mut hash = Sha256::new();
        for part in
            [config.model.as_str(), endpoint, callback_url.as_deref().unwrap_or_default(), &body]
        {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let hash = hash.finalize();
        Ok(NewJob {
            id: new_id(now_ms, [random_seed(), random_seed()]),
            endpoint: (*endpoint).to_owned(),
            request_hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            body,
            idempotency_key,
            callback_url,
        })
    }
}

fn invalid(param: &str, message: impl Into<String>) -> ApiError {
    ApiError::invalid(param.to_owned(), message)
}

/// The caller's name for the job.
fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=KEY_MAX).contains(&key.len()));
    match (key, keys.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => {
            let message = format!(
                "`Idempotency-Key` must come once, with 1 to {KEY_MAX} printable ASCII characters"
            );
            Err(invalid("idempotency-key", message))
        }
    }
}

/// Who is told, if they may be.
fn callback(url: String, config: &JobsConfig) -> Result<String, ApiError> {
    let refused = |why: String| Err(invalid("callback_url", format!("`callback_url`: {why}")));
    if url.len() > URL_MAX {
        return refused(format!("is longer than {URL_MAX} bytes"));
    }
    if config.secrets.is_empty() {
        return refused(
            "this server has no secret to sign callbacks with; start it with HALFBYTE_WEBHOOK_SECRET or \
             --webhook-secret-file"
                .to_owned(),
        )
        .map_err(|error: ApiError| error.with_code("no_webhook_secret"));
    }
    match super::callbacks::url(&url, config.allow_private) {
        Ok(_) => Ok(url),
        Err(why) => refused(why),
    }
}
