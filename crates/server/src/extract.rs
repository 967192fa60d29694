//! Bodies of requests, with errors in the form that all errors have.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use crate::ApiError;

/// The bytes of a JSON body.
#[derive(Debug, Clone)]
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let is_json = is_json(request.headers());
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            ApiError::http(rejection.status(), "unreadable_body", rejection.body_text())
        })?;
        if !is_json {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let message = "the body must be JSON: send `content-type: application/json`";
            return Err(ApiError::http(status, "unsupported_media_type", message));
        }
        Ok(JsonBytes(bytes))
    }
}

/// A JSON body of type `T`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let JsonBytes(bytes) = JsonBytes::from_request(request, state).await?;
        parse(&bytes).map(JsonBody)
    }
}

/// Reads JSON; the field at fault is named.
///
/// # Errors
/// 400 for what is no JSON or has another form.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| refuse(&error.path().to_string(), error.inner()))?;
    let trailing = |error| ApiError::invalid(None, format!("cannot read the body: {error}"));
    json.end().map_err(|error| trailing(error).with_code("invalid_json"))?;
    Ok(value)
}

/// What is wrong with a body, at a dotted path.
fn refuse(path: &str, error: &serde_json::Error) -> ApiError {
    let param = (path != ".").then(|| path.to_owned());
    let text = error.to_string();
    if !error.is_data() {
        let message = format!("cannot read the body: {text}");
        return ApiError::invalid(param, message).with_code("invalid_json");
    }
    // Where in the body helps nobody whose program wrote it; the field does.
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    if text.starts_with("unknown field") {
        return ApiError::invalid(param, text).with_code("unknown_parameter");
    }
    if let Some(name) = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'))
    {
        let name = param.map_or_else(|| name.to_owned(), |parent| format!("{parent}.{name}"));
        return ApiError::invalid(name, text).with_code("missing_parameter");
    }
    let plain = PLAIN.iter().fold(text.to_owned(), |text, (ours, theirs)| {
        text.replace(&format!("expected {ours}"), &format!("expected {theirs}"))
    });
    let message = param.iter().fold(plain, |text, param| format!("{param}: {text}"));
    ApiError::invalid(param, message).with_code("invalid_value")
}

/// Types as people call them, where serde says what Rust calls them.
const PLAIN: [(&str, &str); 9] = [
    ("f32", "a number"),
    ("f64", "a number"),
    ("usize", "a whole number from 0 on"),
    ("u64", "a whole number from 0 on"),
    ("u32", "a whole number from 0 on"),
    ("u8", "a whole number from 0 to 255"),
    ("i64", "a whole number"),
    ("i32", "a whole number"),
    ("a boolean", "true or false"),
];

/// `application/json`, or another type that ends in `+json`; parameters aside.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[expect(dead_code, reason = "only errors are looked at")]
        sizes: Vec<u32>,
    }

    fn check(json: &str, param: Option<&str>, code: &str) {
        let error = parse::<Body>(json.as_bytes()).unwrap_err();
        assert_eq!((error.param.as_deref(), error.code), (param, Some(code)), "{error}");
        assert_eq!(error.status, 400);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        check(r#"{"sizes": [1, "2"]}"#, Some("sizes[1]"), "invalid_value");
        check(r#"{"sizes": [], "more": 1}"#, Some("more"), "unknown_parameter");
        check("{}", Some("sizes"), "missing_parameter");
        check(r#"{"sizes": [1"#, Some("sizes"), "invalid_json");
        check(r#"{"sizes": []} x"#, None, "invalid_json");
        check("", None, "invalid_json");
    }

    #[test]
    fn the_type_may_have_parameters() {
        let check = |value: &'static str, expected: bool| {
            let header = (header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_json(&HeaderMap::from_iter([header])), expected, "{value}");
        };
        check("application/json", true);
        check("Application/JSON; charset=utf-8", true);
        check("application/problem+json", true);
        check("text/plain", false);
        assert!(!is_json(&HeaderMap::new()));
    }
}
