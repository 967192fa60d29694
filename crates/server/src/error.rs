//! What goes wrong, as HTTP says it.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

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
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(axum::http::header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
