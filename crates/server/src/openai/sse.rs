//! Streams of events over HTTP.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, StreamExt};
use serde::Serialize;

use crate::ApiError;

/// Seconds of silence after which a comment keeps proxies from closing the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// The line `event:`, in the APIs that have it.
    pub(super) name: Option<&'static str>,
    /// The line `data:`.
    pub(super) data: String,
}

impl Message {
    /// An event without a name.
    pub(super) fn data(value: &impl Serialize) -> Self {
        Message { name: None, data: json(value) }
    }

    /// An event with a name.
    pub(super) fn named(name: &'static str, value: &impl Serialize) -> Self {
        Message { name: Some(name), data: json(value) }
    }

    /// An error in mid-stream: `{"error": …}`, on which clients raise theirs.
    pub(super) fn error(error: &ApiError) -> Self {
        Self::data(&error.body())
    }

    /// The end.
    pub(super) fn done() -> Self {
        Message { name: None, data: "[DONE]".to_owned() }
    }
}

/// Types of this API always serialize; should one not, the stream says so instead of ending.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| {
        let error = ApiError::internal(format!("cannot write an event: {error}"));
        serde_json::json!(error.body()).to_string()
    })
}

/// A response that streams.
pub(super) fn respond(messages: impl Stream<Item = Message> + Send + 'static) -> Response {
    let events = messages.map(|message| {
        // The name goes first: there are clients that expect it there.
        let event = match message.name {
            Some(name) => Event::default().event(name),
            None => Event::default(),
        };
        Ok::<_, Infallible>(event.data(message.data))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // nginx would collect the answer before it passes it on.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
