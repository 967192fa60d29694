//! `POST /prompt`: one question, one answer, and stages: questions that are data.

mod request;
mod context;
mod stage;
mod template;
mod schema;
mod answer;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use stage::{StageError, Stages};

use crate::extract::JsonBody;
use crate::{ApiError, App};
use answer::{Failure, Frame, PromptFailure, PromptResponse};
use request::PromptRequest;
use stage::Stage;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(prompt)).routes(routes!(stages))
}

/// Answers a prompt, as text or as JSON that fits a schema.
///
/// The text goes through the model's chat template as a user's message unless `raw` is true. `context.stage` names a stage,
/// which wraps the prompt into instructions and constrains the answer to its schema; what it needs of `context` must be
/// there. The answer's `metadata` says what the request took and which parameters were in force.
///
/// With `stream`, the answer is a stream of server-sent events: `delta` with `{"text": "…"}`, then one `result` with the
/// same object as without, or one `error` with `{"success": false, "error": {…}}`.
#[utoipa::path(
    post,
    path = "/prompt",
    tag = "prompt",
    request_body = PromptRequest,
    responses(
        (status = 200, body = PromptResponse, description = "The answer, or a stream of events"),
        (status = 400, body = PromptFailure, description = "A field that is unknown, missing or out of range; `param` names it"),
        (status = 413, body = PromptFailure, description = "The body is too large"),
        (status = 429, body = PromptFailure, description = "The queue is full; `Retry-After` says when to try again"),
        (status = 503, body = PromptFailure, description = "The model is not ready, or the server is about to end"),
    )
)]
async fn prompt(
    State(app): State<App>,
    body: Result<JsonBody<PromptRequest>, ApiError>,
) -> Response {
    match answer(&app, body).await {
        Ok(response) => response,
        Err(error) => Failure(error).into_response(),
    }
}

async fn answer(
    app: &App,
    body: Result<JsonBody<PromptRequest>, ApiError>,
) -> Result<Response, ApiError> {
    let start = Instant::now();
    let JsonBody(body) = body?;
    let served = Arc::clone(app.served()?);
    let stream = body.stream.unwrap_or(false);
    let (model, stages) = (Arc::clone(&served), Arc::clone(app.stages()));
    // Tokens of a long document and grammars take milliseconds, in which others want to be heard.
    let prepared = tokio::task::spawn_blocking(move || body.prepare(&model, &stages)).await;
    let prepared = prepared.map_err(|error| ApiError::internal(error.to_string()))??;
    let frame = Frame {
        model: served.name.clone(),
        build: app.build().to_owned(),
        is_json: prepared.is_json,
        parameters: prepared.parameters,
        start,
    };
    let answer = served.engine.submit(prepared.request).await?;
    if stream {
        return Ok(frame.streamed(answer));
    }
    Ok(Json(frame.whole(answer).await?).into_response())
}

/// The stages of `/prompt`.
#[derive(Debug, Serialize, ToSchema)]
struct StagesResponse {
    /// By name.
    stages: Vec<StageInfo>,
}

/// A stage of `/prompt`.
#[derive(Debug, Serialize, ToSchema)]
struct StageInfo {
    /// What `context.stage` calls it.
    name: String,
    /// What it does.
    description: String,
    /// Fields of `context` that it cannot do without.
    context: Vec<&'static str>,
    /// What its answers fit; `null` where they are texts.
    #[schema(value_type = Option<Object>)]
    schema: Option<Value>,
    /// JSON pointer to the part of it whose place a request's `schema` takes; `null` where there is none.
    schema_at: Option<String>,
}

/// Lists the stages of `/prompt`, built-in ones and those of `--stages`.
#[utoipa::path(
    get,
    path = "/prompt/stages",
    tag = "prompt",
    responses((status = 200, body = StagesResponse, description = "The stages"))
)]
async fn stages(State(app): State<App>) -> Json<StagesResponse> {
    let info = |stage: &Arc<Stage>| StageInfo {
        name: stage.name.clone(),
        description: stage.description.clone(),
        context: stage.needs.iter().map(|field| field.name()).collect(),
        schema: stage.schema.clone(),
        schema_at: stage.schema_at.clone(),
    };
    Json(StagesResponse { stages: app.stages().iter().map(info).collect() })
}
