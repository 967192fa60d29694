//! `/metrics` and `/warmup`.

use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use engine::{Event, Request};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::ErrorBody;
use crate::{ApiError, App, Served, extract};

/// The routes of this file.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metrics)).routes(routes!(warmup))
}

/// The server's figures, in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let stats = app.loaded().map(|served| served.engine.stats());
    // What cannot be asked is left as it was.
    if let Ok(counts) = app.jobs().counts().await {
        app.metrics().jobs(&counts);
    }
    let text = app.metrics().render(stats);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// What `/warmup` takes: an empty object, or nothing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WarmupRequest {}

/// What `/warmup` answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Warmup {
    /// Tokens of the prompt.
    prompt_tokens: usize,
    /// Tokens that were generated.
    completion_tokens: usize,
    /// From the request to the first token.
    time_to_first_token_seconds: f64,
    /// From the request to the last token.
    total_seconds: f64,
    /// The model.
    model: String,
    /// Version and commit.
    build: String,
}

/// Runs a tiny request, so that whatever happens at a first request has happened, and says how long it took.
#[utoipa::path(post, path = "/warmup", tag = "operations", request_body = Option<WarmupRequest>,
    responses((status = 200, body = Warmup), (status = 503, body = ErrorBody)))]
async fn warmup(State(app): State<App>, body: Bytes) -> Result<Json<Warmup>, ApiError> {
    if !body.is_empty() {
        extract::parse::<WarmupRequest>(&body)?;
    }
    warm_up(&app, app.served()?).await.map(Json)
}

/// Runs a tiny request.
pub(crate) async fn warm_up(app: &App, served: &Served) -> Result<Warmup, ApiError> {
    let prompt = served.tokenizer.encode("Hello").map_err(|e| ApiError::of_engine(&e.into()))?;
    let request = Request { prompt, max_tokens: 2, ..Request::default() };
    let start = Instant::now();
    let mut answer = served.engine.submit(request).await?;
    let mut first = None;
    while let Some(event) = answer.next().await {
        match event {
            Event::Token(_) => {
                first.get_or_insert(start.elapsed().as_secs_f64());
            }
            Event::Finished(completion) => {
                let total_seconds = start.elapsed().as_secs_f64();
                return Ok(Warmup {
                    prompt_tokens: completion.prompt_tokens,
                    completion_tokens: completion.completion_tokens,
                    time_to_first_token_seconds: first.unwrap_or(total_seconds),
                    total_seconds,
                    model: served.name.clone(),
                    build: app.build().to_owned(),
                });
            }
            Event::Failed(error) => return Err(ApiError::of_engine(&error)),
            Event::Prefill { .. } | Event::PromptLogprobs(_) => {}
        }
    }
    Err(ApiError::engine_gone())
}
