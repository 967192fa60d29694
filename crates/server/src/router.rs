//! All routes, and what surrounds them.

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::limits::{self, BUILD, REQUEST_ID};
use crate::{
    App, classify, documents, health, jobs, openai, openapi, operations, page, prompt, tokenize,
};

/// All routes, and the document that describes them.
fn collect(app: &App) -> (Router<App>, OpenApi) {
    let (router, document) = OpenApiRouter::with_openapi(openapi::base(app.build()))
        .merge(openai::routes())
        .merge(tokenize::routes())
        .merge(prompt::routes())
        .merge(classify::routes())
        .merge(documents::routes())
        .merge(jobs::routes())
        .merge(operations::routes())
        .merge(health::routes())
        .merge(page::routes())
        .split_for_parts();
    (router.merge(openapi::route(&document)), document)
}

/// The server's routes and layers.
pub fn router(app: App) -> Router {
    router_with(app, Router::new())
}

/// The same with `more` routes, which the document does not describe.
pub(crate) fn router_with(app: App, more: Router<App>) -> Router {
    let authorize = middleware::from_fn_with_state(app.clone(), limits::authorize);
    surrounded(&app, bounded(&app, more).layer(authorize))
}

/// The server's routes for requests that this process makes itself, for somebody who has shown a key before.
pub(crate) fn inside(app: App) -> Router {
    surrounded(&app, bounded(&app, Router::new()))
}

/// All routes, with what bounds them. The last layer is the outermost.
fn bounded(app: &App, more: Router<App>) -> Router<App> {
    let (router, _) = collect(app);
    router
        .merge(more)
        .fallback(limits::not_found)
        .method_not_allowed_fallback(limits::method_not_allowed)
        // `read_body` bounds bodies by what was configured.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), limits::read_body))
}

/// What surrounds all routes.
fn surrounded(app: &App, router: Router<App>) -> Router {
    router
        .layer(CatchPanicLayer::custom(limits::panicked))
        .layer(cors(&app.config().cors_origins))
        .layer(middleware::from_fn(prompt::mark_failures))
        .layer(middleware::from_fn_with_state(app.clone(), limits::track))
        .with_state(app.clone())
}

/// Lets pages of these origins ask.
fn cors(origins: &[String]) -> CorsLayer {
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            REQUEST_ID,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([
            REQUEST_ID,
            BUILD,
            header::RETRY_AFTER,
            header::LOCATION,
            HeaderName::from_static("x-halfbyte-parameters"),
            HeaderName::from_static("x-halfbyte-unknown-parameters"),
        ])
}

/// The document, and the paths of all routes, for a test that compares them.
#[cfg(test)]
pub(crate) fn document(app: &App) -> (OpenApi, Vec<String>) {
    let (router, document) = collect(app);
    // A router shows its paths only to those who debug it.
    let shown = format!("{router:?}");
    let paths = shown.split('"').filter(|text| text.starts_with('/')).map(str::to_owned);
    (document, paths.collect())
}
