//! From the engine's events to what `/prompt` answers, whole or in pieces.

use std::time::Instant;

use axum::http::{HeaderName, header};
use axum::response::sse::{Event as Sse, KeepAlive, Sse as Stream};
use axum::response::{IntoResponse, Response};
use engine::{Completion, Event};
use futures_util::stream;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::error::ErrorDetail;
use crate::{Answer, ApiError};

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PromptResponse {
    /// Always `true`: failures have a body of their own.
    success: bool,
    /// The answer: JSON where a schema or a stage asked for it, else a text.
    #[schema(value_type = Object)]
    output: Output,
    /// What it took.
    metadata: Metadata,
}

/// Numbers stay as the model wrote them, whatever their length: they may be account numbers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Output {
    Text(String),
    Json(Box<RawValue>),
}

/// What an answer of `/prompt` took.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Metadata {
    /// Name of the model.
    model: String,
    /// The build of the server.
    build: String,
    /// Tokens of the prompt.
    prompt_tokens: usize,
    /// Those of them that were in the cache already.
    cached_tokens: usize,
    /// Tokens that were generated.
    completion_tokens: usize,
    /// `stop`, or `length` where `max_tokens` or the context ended the answer. JSON is whole in both cases.
    finish_reason: &'static str,
    /// Seconds from the request's arrival to the answer's end.
    processing_time_seconds: f64,
    /// The parameters in force.
    #[schema(value_type = Object)]
    parameters: Value,
}

/// A failure of `/prompt`; see [`super::mark_failures`].
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PromptFailure {
    /// Always `false`.
    success: bool,
    /// What went wrong.
    error: ErrorDetail,
}

/// What stands in an answer beside what the engine says.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) model: String,
    pub(crate) build: String,
    pub(crate) is_json: bool,
    pub(crate) parameters: Value,
    pub(crate) start: Instant,
}

impl PromptFailure {
    fn of(error: &ApiError) -> Self {
        PromptFailure { success: false, error: error.body().error }
    }
}

impl Frame {
    /// The answer as it is sent.
    fn response(&self, completion: Completion) -> Result<PromptResponse, ApiError> {
        let output = if self.is_json {
            let json = RawValue::from_string(completion.text).map_err(|error| {
                ApiError::internal(format!("the model's answer is not JSON: {error}"))
            })?;
            Output::Json(json)
        } else {
            Output::Text(completion.text)
        };
        let metadata = Metadata {
            model: self.model.clone(),
            build: self.build.clone(),
            prompt_tokens: completion.prompt_tokens,
            cached_tokens: completion.cached_tokens,
            completion_tokens: completion.completion_tokens,
            finish_reason: completion.finish_reason.name(),
            processing_time_seconds: self.start.elapsed().as_secs_f64(),
            parameters: self.parameters.clone(),
        };
        Ok(PromptResponse { success: true, output, metadata })
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// Where it broke off.
    pub(crate) async fn whole(self, mut answer: Answer) -> Result<PromptResponse, ApiError> {
        loop {
            match answer.next().await {
                Some(Event::Finished(completion)) => return self.response(completion),
                Some(Event::Failed(error)) => return Err(ApiError::of_engine(&error)),
                Some(Event::Prefill { .. } | Event::PromptLogprobs(_) | Event::Token(_)) => {}
                None => return Err(ApiError::engine_gone()),
            }
        }
    }

    /// The answer as server-sent events.
    pub(crate) fn streamed(self, answer: Answer) -> Response {
        let state = Streaming { frame: self, answer, shown: 0, last: None, ended: false };
        let events = stream::unfold(state, |mut state| async move {
            let event = state.next().await?;
            Some((event, state))
        });
        (STREAM_HEADERS, Stream::new(events).keep_alive(KeepAlive::default())).into_response()
    }
}

/// Asks caches to keep nothing of a stream, and nginx, and others that follow it, not to collect it.
pub(crate) const STREAM_HEADERS: [(HeaderName, &str); 2] =
    [(header::CACHE_CONTROL, "no-cache"), (HeaderName::from_static("x-accel-buffering"), "no")];

/// An answer on its way.
struct Streaming {
    frame: Frame,
    answer: Answer,
    /// Bytes of text that were sent.
    shown: usize,
    /// The last event, where text had to go before it.
    last: Option<Sse>,
    ended: bool,
}

/// A piece of the answer's text.
#[derive(Serialize)]
struct Delta<'a> {
    text: &'a str,
}

impl Streaming {
    async fn next(&mut self) -> Option<Result<Sse, axum::Error>> {
        if self.ended {
            return self.last.take().map(Ok);
        }
        loop {
            match self.answer.next().await {
                Some(Event::Token(token)) if !token.text.is_empty() => {
                    self.shown += token.text.len();
                    return Some(event("delta", &Delta { text: &token.text }));
                }
                Some(Event::Token(_) | Event::Prefill { .. } | Event::PromptLogprobs(_)) => {}
                Some(Event::Finished(completion)) => return Some(self.finish(completion)),
                Some(Event::Failed(error)) => return Some(self.fail(&ApiError::of_engine(&error))),
                None => return Some(self.fail(&ApiError::engine_gone())),
            }
        }
    }

    /// The last events: text that was held back for a stop string or an unfinished character comes with no token.
    fn finish(&mut self, completion: Completion) -> Result<Sse, axum::Error> {
        self.ended = true;
        let rest = completion.text.get(self.shown..).unwrap_or_default();
        let delta = (!rest.is_empty()).then(|| event("delta", &Delta { text: rest }));
        let result = match self.frame.response(completion) {
            Ok(response) => event("result", &response),
            Err(error) => event("error", &PromptFailure::of(&error)),
        };
        match delta {
            None => result,
            Some(delta) => {
                self.last = Some(result?);
                delta
            }
        }
    }

    fn fail(&mut self, error: &ApiError) -> Result<Sse, axum::Error> {
        self.ended = true;
        event("error", &PromptFailure::of(error))
    }
}

fn event(name: &str, data: &impl Serialize) -> Result<Sse, axum::Error> {
    Sse::default().event(name).json_data(data)
}
