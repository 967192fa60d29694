//! `POST /prompt`: one question, one answer, and stages: questions that are data.

mod request;
mod context;
mod stage;
mod template;
mod schema;
mod answer;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use stage::{StageError, Stages};

use crate::extract::{JsonBody, parse};
use crate::{Answer, ApiError, App};
pub(crate) use answer::{Frame, PromptResponse, STREAM_HEADERS};
pub(crate) use request::{PromptRequest, encode_chat};

use answer::PromptFailure;
use stage::Stage;

/// Longest error that is understood, in bytes.
const MAX_ERROR: usize = 64 << 10;

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
        (status = 504, body = PromptFailure, description = "The time for a request is over (`--request-timeout`)"),
    )
)]
async fn prompt(
    State(app): State<App>,
    JsonBody(body): JsonBody<PromptRequest>,
) -> Result<Response, ApiError> {
    let stream = body.stream.unwrap_or(false);
    let (frame, answer) = begin(&app, body, Instant::now()).await?;
    if stream {
        return Ok(frame.streamed(answer));
    }
    Ok(Json(frame.whole(answer).await?).into_response())
}

/// Checks the form of a body.
///
/// # Errors
/// 400, with the field at fault.
pub(crate) fn check(bytes: &[u8]) -> Result<(), ApiError> {
    parse::<PromptRequest>(bytes).map(drop)
}

/// Hands a prompt to the engine.
///
/// # Errors
/// For what makes no sense, and while nothing is taken.
pub(crate) async fn begin(
    app: &App,
    body: PromptRequest,
    start: Instant,
) -> Result<(Frame, Answer), ApiError> {
    let served = Arc::clone(app.served()?);
    let (model, stages) = (Arc::clone(&served), Arc::clone(app.stages()));
    // Tokens of a long document take milliseconds, in which others want to be heard.
    let mut prepared = app.blocking(move || body.prepare(&model, &stages)).await?;
    let is_json = prepared.spec.is_some();
    if let Some(spec) = prepared.spec.take() {
        let grammar = app.grammars().get(&served.vocabulary, spec).await;
        prepared.request.grammar = Some(grammar.map_err(|error| prepared.schema_error(&error))?);
    }
    let frame = Frame {
        model: served.name.clone(),
        build: app.build().to_owned(),
        is_json,
        parameters: prepared.parameters,
        start,
    };
    let answer = served.engine.submit(prepared.request).await?;
    Ok((frame, answer))
}

/// Errors of `/prompt` say `success: false`, whoever found them: the handler, or what stands around it.
pub(crate) async fn mark_failures(request: Request, next: Next) -> Response {
    let is_prompt = request.uri().path() == "/prompt";
    let response = next.run(request).await;
    if !is_prompt || response.status().is_success() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_ERROR).await.unwrap_or_default();
    let Ok(Value::Object(error)) = serde_json::from_slice(&body) else {
        return Response::from_parts(parts, body.into());
    };
    let mut marked = Map::from_iter([("success".to_owned(), false.into())]);
    marked.extend(error);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Value::Object(marked).to_string().into())
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
