//! `/v1/completions`: texts continued as they are, without a chat template.

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
use model::Tokenizer;

pub use request::{CompletionRequest, Prompt};
pub use response::{CompletionChoice, Completions, TextLogprobs};
use stream::Echo;

use super::body;
use super::choice::{self, Choice};
use super::{generation, ids, sse};
use crate::error::ErrorBody;
use crate::extract::JsonBytes;
use crate::{ApiError, App, Served};

/// A text, continued
///
/// No chat template is applied; the token that begins a text comes once. With `stream`, the answer comes as server-sent
/// events of the same form, ended by `data: [DONE]`.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "openai",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answers", content(
            (Completions = "application/json"),
            (Completions = "text/event-stream"),
        )),
        (status = 400, description = "A request that cannot be answered as it is", body = ErrorBody),
        (status = 404, description = "Another model", body = ErrorBody),
        (status = 429, description = "Too many requests wait", body = ErrorBody),
        (status = 503, description = "The model is not ready", body = ErrorBody),
        (status = 504, description = "The time for a request is over (`--request-timeout`)", body = ErrorBody),
    )
)]
pub(super) async fn completions(
    State(app): State<App>,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, ApiError> {
    let (request, unknown) = CompletionRequest::from_json(&bytes)?;
    let served = generation::served(&app, &request.model)?;
    let prompts = {
        let located = request.echo() && request.logprobs.is_some();
        let (served, prompt) = (Arc::clone(served), request.prompt.clone());
        app.blocking(move || encode(&served, prompt, located)).await?
    };
    let options = request.options()?;
    let n = request.choices()?;
    let grammar = generation::grammar(&app, served, request.constraint()?).await?;
    let mut requests: Vec<Request> = Vec::new();
    for Echo { tokens: prompt, .. } in &prompts {
        // The first token follows nothing, so it has no log-probability.
        let scored = request.logprobs.is_some() && request.echo() && prompt.len() > 1;
        let options =
            generation::Options { prompt_logprobs_from: scored.then_some(1), ..options.clone() };
        requests.extend(generation::requests(served, prompt, n, &options, grammar.as_ref())?);
    }
    let choices = requests
        .iter()
        .map(|one| Choice::new(one.eos_token_id.clone(), request.logprobs.is_some()))
        .collect();
    let first = requests[0].clone();
    let header = stream::Header {
        id: ids::id("cmpl"),
        created: ids::now(),
        model: request.model.clone(),
        build: app.build().to_owned(),
        texts: match request.logprobs {
            Some(_) => Some(app.token_texts(served)?),
            None => None,
        },
        n,
        echo: if request.echo() { prompts } else { Vec::new() },
    };
    let answers = generation::submit(served, requests).await?;
    let events = choice::events(answers);
    let response = if request.stream.unwrap_or(false) {
        let include_usage = request.stream_options.as_ref().and_then(|o| o.include_usage);
        sse::respond(stream::messages(header, choices, include_usage.unwrap_or(false), events))
    } else {
        Json(stream::collect(header, choices, events).await?).into_response()
    };
    Ok(body::note_unknown(&unknown, generation::note_parameters(response, &first)))
}

/// Prompts as tokens and texts; `located`: and where in these the tokens begin.
fn encode(served: &Served, prompt: Prompt, located: bool) -> Result<Vec<Echo>, ApiError> {
    let tokenizer = &served.tokenizer;
    let offsets =
        |tokens: &[u32]| if located { offsets(tokenizer, tokens) } else { Ok(Vec::new()) };
    let of_text = |text: String| {
        let too_long = |error| ApiError { param: Some("prompt".to_owned()), ..error };
        served.check_length(&text).map_err(too_long)?;
        let tokens = tokenizer.encode(&text).map_err(|e| generation::of_model(&e))?;
        Ok(Echo { offsets: offsets(&tokens)?, text, tokens })
    };
    let of_tokens = |tokens: Vec<u32>| {
        let text = tokenizer.decode(&tokens, true).map_err(|e| generation::of_model(&e))?;
        Ok(Echo { offsets: offsets(&tokens)?, text, tokens })
    };
    match prompt {
        Prompt::Text(text) => Ok(vec![of_text(text)?]),
        Prompt::Texts(texts) => texts.into_iter().map(of_text).collect(),
        Prompt::Tokens(tokens) => Ok(vec![of_tokens(tokens)?]),
        Prompt::TokenLists(lists) => lists.into_iter().map(of_tokens).collect(),
    }
}

/// Where each token begins in the text of all, in characters.
fn offsets(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<Vec<usize>, ApiError> {
    let mut stream = tokenizer.stream(true);
    let mut at = 0;
    let mut offsets = Vec::with_capacity(tokens.len());
    for &token in tokens {
        offsets.push(at);
        let text = stream.step(tokenizer, token).map_err(|e| generation::of_model(&e))?;
        at += text.chars().count();
    }
    Ok(offsets)
}
