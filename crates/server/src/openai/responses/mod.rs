//! `/v1/responses`, without a memory: each request holds its whole conversation.

mod request;
mod response;
mod stream;
#[cfg(test)]
mod tests;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use engine::Request;

pub use request::{FunctionTool, Input, InputItem, ResponsesRequest, TextFormat, TextOptions};
pub use response::{
    Happening, Incomplete, InputTokens, OutputItem, OutputText, OutputTokens, ResponseBody,
    ResponseError, ResponseEvent, ResponseUsage,
};

use super::tools::ToolChoice;
use super::{body, chat, choice, generation, ids, sse};
use crate::error::ErrorBody;
use crate::extract::JsonBytes;
use crate::{ApiError, App};

/// The next turn of a conversation
///
/// The server keeps nothing: `store: true` and `previous_response_id` are errors, and an absent `store` means false. With
/// `stream`, the answer comes as server-sent events, each with its name, of which the last is `response.completed`,
/// `response.incomplete` or `response.failed`.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "openai",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The answer", content(
            (ResponseBody = "application/json"),
            (ResponseEvent = "text/event-stream"),
        )),
        (status = 400, description = "A request that cannot be answered as it is", body = ErrorBody),
        (status = 404, description = "Another model", body = ErrorBody),
        (status = 429, description = "Too many requests wait", body = ErrorBody),
        (status = 503, description = "The model is not ready", body = ErrorBody),
        (status = 504, description = "The time for a request is over (`--request-timeout`)", body = ErrorBody),
    )
)]
pub(super) async fn responses(
    State(app): State<App>,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, ApiError> {
    let (request, unknown) = ResponsesRequest::from_json(&bytes)?;
    let served = generation::served(&app, &request.model)?;
    let (dialogue, constraint) = (request.dialogue()?, request.constraint()?);
    let options = request.options()?;
    let prepared = chat::prepare(&app, served, dialogue, constraint, 1, &options, "input").await?;
    let choice = prepared.choices(served, false).swap_remove(0);
    let first = prepared.requests[0].clone();
    let answers = generation::submit(served, prepared.requests).await?;
    let streams = request.stream.unwrap_or(false);
    let names = stream::Names { item: ids::id, call: ids::call_id };
    let writer = stream::Writer::new(start(request, &first), choice, names);
    let events = choice::events(answers);
    let response = if streams {
        sse::respond(stream::messages(writer, events))
    } else {
        Json(stream::collect(writer, events).await?).into_response()
    };
    Ok(body::note_unknown(&unknown, generation::note_parameters(response, &first)))
}

/// The response before anything was generated.
fn start(request: ResponsesRequest, engine: &Request) -> ResponseBody {
    let text = TextFormat {
        kind: "text".to_owned(),
        name: None,
        description: None,
        schema: None,
        strict: None,
        open: None,
    };
    let asked = request.text.unwrap_or_default();
    ResponseBody {
        id: ids::id("resp"),
        object: "response",
        created_at: ids::now(),
        status: "in_progress",
        error: None,
        incomplete_details: None,
        instructions: request.instructions,
        max_output_tokens: request.max_output_tokens,
        model: request.model,
        output: Vec::new(),
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        previous_response_id: None,
        store: false,
        temperature: engine.sampling.temperature,
        top_p: engine.sampling.top_p,
        text: TextOptions { format: Some(asked.format.unwrap_or(text)), ..asked },
        tool_choice: request.tool_choice.unwrap_or_else(|| ToolChoice::Mode("auto".to_owned())),
        tools: request.tools.unwrap_or_default(),
        truncation: "disabled",
        usage: None,
        metadata: request.metadata.unwrap_or_default(),
        user: request.user,
    }
}
