//! What goes wrong, as HTTP says it.

use axum::http::StatusCode;
use backend::BackendError;
use engine::EngineError;
use grammar::GrammarError;
use serde::Serialize;
use utoipa::ToSchema;

/// What a request is told whose time is over.
const TOO_LONG: &str = "the answer was not whole when the time for a request was over (--request-timeout of the server); \
    ask for a shorter one, or again when fewer others ask";

/// An error of the API: `{"error": {message, type, param, code}}`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What, where, and what to do.
    pub message: String,
    /// The kind, as OpenAI names them: `invalid_request_error`, `rate_limit_error`, `server_error` …
    pub kind: &'static str,
    /// The parameter that is at fault.
    pub param: Option<String>,
    /// A word for machines: `unknown_parameter`, `context_length_exceeded`, `queue_full` …
    pub code: Option<&'static str>,
    /// Seconds after which it may work.
    pub retry_after: Option<u64>,
}

/// The body of an error.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// What, where, and what to do.
    pub message: String,
    /// The kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The parameter that is at fault.
    pub param: Option<String>,
    /// A word for machines.
    pub code: Option<String>,
}

impl ApiError {
    /// A request that makes no sense: 400. `param` names the field at fault.
    pub fn invalid(param: impl Into<Option<String>>, message: impl Into<String>) -> Self {
        ApiError {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
            kind: "invalid_request_error",
            param: param.into(),
            code: None,
            retry_after: None,
        }
    }

    /// The same with a word for machines.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Another status, with what it means.
    fn other(status: StatusCode, kind: &'static str, code: &'static str, message: String) -> Self {
        ApiError { status, message, kind, param: None, code: Some(code), retry_after: None }
    }

    /// A fault of ours: 500.
    pub fn internal(message: impl Into<String>) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::other(status, "server_error", "internal_error", message.into())
    }

    /// Something that will not last: 503, to be tried again after so many seconds.
    pub(crate) fn unavailable(code: &'static str, message: String, retry_after: u64) -> Self {
        let error = Self::other(StatusCode::SERVICE_UNAVAILABLE, "server_error", code, message);
        ApiError { retry_after: Some(retry_after), ..error }
    }

    /// The engine is dead: 503, and nothing to wait for here; another process may answer.
    pub(crate) fn engine_dead(why: &str) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::other(status, "server_error", "engine_dead", why.to_owned())
    }

    /// The same, where nobody has said why.
    pub(crate) fn engine_gone() -> Self {
        Self::engine_dead("the engine has ended; the log of the server says why")
    }

    /// A refusal of HTTP: a path, a method, a header.
    pub(crate) fn http(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self::other(status, "invalid_request_error", code, message.into())
    }

    /// What an error of the engine means to a client, be it at the beginning or in mid-answer.
    pub fn of_engine(error: &EngineError) -> Self {
        let message = error.to_string();
        let invalid = |param: &str| Self::invalid(param.to_owned(), message.clone());
        match error {
            EngineError::EmptyPrompt | EngineError::Token { .. } => invalid("prompt"),
            EngineError::TooLong { .. } => {
                Self::invalid(None, message).with_code("context_length_exceeded")
            }
            EngineError::Param(param) => invalid(param.name).with_code("invalid_value"),
            EngineError::Budget { .. } => invalid("max_tokens").with_code("budget_too_small"),
            EngineError::Grammar(GrammarError::Failed(_)) => Self::internal(message),
            EngineError::Grammar(_) => {
                Self::invalid(None, message).with_code("unsupported_constraint")
            }
            EngineError::QueueFull { .. } => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                let error = Self::other(status, "rate_limit_error", "queue_full", message);
                ApiError { retry_after: Some(1), ..error }
            }
            EngineError::Deadline => {
                let status = StatusCode::GATEWAY_TIMEOUT;
                Self::other(status, "server_error", "deadline_exceeded", TOO_LONG.to_owned())
            }
            EngineError::Stopped(_) => Self::unavailable("stopped", message, 1),
            EngineError::Backend(BackendError::Device(_)) => Self::engine_dead(&message),
            _ => Self::internal(message),
        }
    }

    /// The word that counts this error: its code, or else its kind.
    pub(crate) fn label(&self) -> &'static str {
        self.code.unwrap_or(self.kind)
    }

    /// The body.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: self.message.clone(),
                kind: self.kind.to_owned(),
                param: self.param.clone(),
                code: self.code.map(str::to_owned),
            },
        }
    }
}

impl axum::response::IntoResponse for ApiError {
    fn into_response(self) -> axum::response::Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        response.extensions_mut().insert(ErrorLabel(self.label()));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(axum::http::header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// What an error counts as, for the metrics of the response that carries it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorLabel(pub(crate) &'static str);
