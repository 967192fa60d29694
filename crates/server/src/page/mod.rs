//! The web page at `/`: embedded, and with nothing from another host.

mod stats;

use axum::extract::Path;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::{ApiError, App};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// A file of the page: its name, its kind, its content.
macro_rules! file {
    ($name:literal, $kind:ident) => {
        ($name, $kind, include_str!(concat!("../../page/", $name)))
    };
}

/// What `index.html` asks for, below `/page/`.
const FILES: [(&str, &str, &str); 9] = [
    file!("style.css", CSS),
    file!("app.js", JS),
    file!("api.js", JS),
    file!("documents.js", JS),
    file!("fields.js", JS),
    file!("gauges.js", JS),
    file!("partial_json.js", JS),
    file!("icon.svg", SVG),
    ("example.txt", TEXT, include_str!("../../../../demo/samples/invoice.txt")),
];

/// Scripts and styles of ours alone, pictures of ours or made by them, no frames, no forms to elsewhere.
const POLICY: &str = "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) fn routes() -> OpenApiRouter<App> {
    let page = OpenApiRouter::new()
        .route("/", get(async || page(HTML, include_str!("../../page/index.html"))))
        .route("/page/{file}", get(file));
    page.merge(OpenApiRouter::new().routes(routes!(stats::stats)).layer(stats::layer()))
}

async fn file(Path(name): Path<String>) -> Result<Response, ApiError> {
    let found = FILES.iter().find(|(file, ..)| *file == name);
    let (_, kind, content) = found.ok_or_else(|| {
        let message = format!("the page has no file `{name}`");
        ApiError::http(axum::http::StatusCode::NOT_FOUND, "not_found", message)
    })?;
    Ok(page(kind, content))
}

fn page(kind: &'static str, content: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // A new build must not meet the scripts of an old one.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, content).into_response()
}
