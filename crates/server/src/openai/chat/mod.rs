//! `/v1/chat/completions`.

mod request;
mod response;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use engine::Request;
use grammar::{Grammar, ToolFormat};
use model::ChatTemplate;

pub use request::{ChatRequest, StreamOptions};
pub use response::{
    ChatChoice, ChatChunk, ChatCompletion, ChatMessage, ChunkChoice, Delta, FunctionDelta,
    ToolCallDelta,
};

use super::body;
use super::choice::{self, Choice};
use super::dialogue::Dialogue;
use super::generation::{self, Options};
use super::structured::Constraint;
use super::{ids, sse};
use crate::error::ErrorBody;
use crate::extract::JsonBytes;
use crate::{ApiError, App, Served};

/// The next message of a chat
///
/// The model's chat template is applied. With `stream`, the answer comes as server-sent events of `ChatChunk`, ended by
/// `data: [DONE]`; an error in mid-stream is an event `{"error": …}`.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "openai",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answers", content(
            (ChatCompletion = "application/json"),
            (ChatChunk = "text/event-stream"),
        )),
        (status = 400, description = "A request that cannot be answered as it is", body = ErrorBody),
        (status = 404, description = "Another model", body = ErrorBody),
        (status = 429, description = "Too many requests wait", body = ErrorBody),
        (status = 503, description = "The model is not ready", body = ErrorBody),
        (status = 504, description = "The time for a request is over (`--request-timeout`)", body = ErrorBody),
    )
)]
pub(super) async fn chat_completions(
    State(app): State<App>,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, ApiError> {
    let (request, unknown) = ChatRequest::from_json(&bytes)?;
    let served = generation::served(&app, &request.model)?;
    let prepared = prepare(
        &app,
        served,
        request.dialogue()?,
        request.constraint()?,
        request.choices()?,
        &request.options()?,
        "messages",
    )
    .await?;
    let logprobs = request.logprobs.unwrap_or(false);
    let choices = prepared.choices(served, logprobs);
    let first = prepared.requests[0].clone();
    let answers = generation::submit(served, prepared.requests).await?;
    let header = stream::Header {
        id: ids::id("chatcmpl"),
        created: ids::now(),
        model: request.model,
        build: app.build().to_owned(),
        texts: if logprobs { Some(app.token_texts(served)?) } else { None },
        call_id: ids::call_id,
    };
    let events = choice::events(answers);
    let response = if request.stream.unwrap_or(false) {
        let options = request.stream_options.unwrap_or_default();
        let include_usage = options.include_usage.unwrap_or(false);
        sse::respond(stream::messages(header, choices, include_usage, events))
    } else {
        Json(stream::collect(header, choices, events).await?).into_response()
    };
    Ok(body::note_unknown(&unknown, generation::note_parameters(response, &first)))
}

/// Requests of the engine, and what becomes of their answers.
pub(super) struct Prepared {
    /// At least one.
    pub(super) requests: Vec<Request>,
    /// If tools may be called: how that is written, and which.
    tools: Option<(ToolFormat, Vec<String>)>,
}

impl Prepared {
    /// The answers, before their first event.
    pub(super) fn choices(&self, served: &Served, logprobs: bool) -> Vec<Choice> {
        let choice = |request: &Request| {
            let choice = Choice::new(request.eos_token_id.clone(), logprobs);
            match &self.tools {
                Some((format, names)) => {
                    choice.with_calls(format.clone(), names.clone(), &served.tokenizer)
                }
                None => choice,
            }
        };
        self.requests.iter().map(choice).collect()
    }
}

/// Turns a chat into requests; `param` is the field that holds it.
///
/// # Errors
/// 400 for messages that the template refuses, constraints that are not supported, and what does not fit the context.
pub(super) async fn prepare(
    app: &App,
    served: &Arc<Served>,
    dialogue: Dialogue,
    constraint: Option<Constraint>,
    n: usize,
    options: &Options,
    param: &'static str,
) -> Result<Prepared, ApiError> {
    let toolbox = dialogue.tools.clone();
    let (prompt, format) = {
        let served = Arc::clone(served);
        app.blocking(move || encode(&served, dialogue, param)).await?
    };
    let tools = (!toolbox.is_empty()).then(|| (format.clone(), toolbox.names()));
    let constraint = match &tools {
        Some(_) => Some(Constraint { param: "tools".to_owned(), spec: toolbox.spec(format) }),
        None => constraint,
    };
    let grammar: Option<Grammar> = generation::grammar(app, served, constraint).await?;
    let requests = generation::requests(served, &prompt, n, options, grammar.as_ref());
    let requests = requests.map_err(|error| match error.param {
        None => ApiError { param: Some(param.to_owned()), ..error },
        Some(_) => error,
    })?;
    Ok(Prepared { requests, tools })
}

/// The model's chat template.
///
/// # Errors
/// 400 if it has none; `param` is the field that needs it.
pub(super) fn template<'a>(served: &'a Served, param: &str) -> Result<&'a ChatTemplate, ApiError> {
    served.template.as_ref().ok_or_else(|| {
        let message = "this model has no chat template: use /v1/completions";
        ApiError::invalid(param.to_owned(), message).with_code("no_chat_template")
    })
}

/// The tokens of a chat, and how calls of tools are written.
fn encode(
    served: &Served,
    dialogue: Dialogue,
    param: &str,
) -> Result<(Vec<u32>, ToolFormat), ApiError> {
    let (text, format) = dialogue.render(template(served, param)?, true)?;
    let too_long = |error| ApiError { param: Some(param.to_owned()), ..error };
    served.check_length(&text).map_err(too_long)?;
    let prompt = served.tokenizer.encode_chat(&text).map_err(|e| generation::of_model(&e))?;
    Ok((prompt, format))
}
