//! All routes, and what surrounds them.

use axum::Router;
use utoipa_axum::router::OpenApiRouter;

use crate::{App, classify, health, openai, page, prompt, tokenize};

/// The server's routes and layers.
pub fn router(app: App) -> Router {
    let (router, _openapi) = OpenApiRouter::new()
        .merge(openai::routes())
        .merge(tokenize::routes())
        .merge(prompt::routes())
        .merge(classify::routes())
        .merge(health::routes())
        .merge(page::routes())
        .split_for_parts();
    router.with_state(app)
}
