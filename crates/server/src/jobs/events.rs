//! `GET /v1/jobs/{id}/events`: what happens to a job, as it happens.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::sse::{Event as Sse, KeepAlive, Sse as Stream};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use jobs::{Change, Event};

use super::response::time;
use super::routes::unknown;
use super::unavailable;
use crate::error::ErrorBody;
use crate::{ApiError, App};

/// How often the store is asked, should a change not have been heard.
const POLL: Duration = Duration::from_secs(2);

/// Seconds of silence after which a comment keeps proxies from closing the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What happens to a job, as server-sent events: `queued`, `running`, `succeeded`, `failed` or `cancelled`.
///
/// All that has happened comes first. The stream ends with the job's end; one that broke off goes on after `Last-Event-ID`.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/events",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "Its name"),
        ("Last-Event-ID" = Option<u32>, Header, description = "The last event that came before"),
    ),
    responses(
        (status = 200, body = String, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody, description = "`Last-Event-ID` is no number"),
        (status = 404, body = ErrorBody, description = "There is no such job"),
        (status = 503, body = ErrorBody, description = "The store does not answer"),
    )
)]
pub(super) async fn events(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last = match headers.get("last-event-id") {
        None => 0,
        Some(value) => {
            value.to_str().ok().and_then(|value| value.parse().ok()).ok_or_else(|| {
                let message = "`Last-Event-ID` must be the `id` of an event of this job, a number";
                ApiError::invalid("last-event-id".to_owned(), message)
            })?
        }
    };
    // Before the first look: what happens after it is heard.
    let changes = app.jobs().store()?.changes();
    let mut following =
        Following { app, id, last, changes, waiting: VecDeque::new(), is_over: false };
    if !following.look().await? {
        return Err(unknown(&following.id));
    }
    let events = stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok::<_, Infallible>(event), following))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Stream::new(events).keep_alive(keep_alive).into_response();
    // nginx would collect the answer before it passes it on.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Somebody who follows a job.
struct Following {
    app: App,
    id: String,
    last: u32,
    changes: Receiver<Change>,
    waiting: VecDeque<Event>,
    is_over: bool,
}

impl Following {
    /// Asks the store for what is new; `false` if there is no such job any more.
    async fn look(&mut self) -> Result<bool, ApiError> {
        let store = self.app.jobs().store()?;
        let events =
            store.events(&self.id, self.last).await.map_err(|error| unavailable(&error))?;
        let Some(events) = events else { return Ok(false) };
        if let Some(last) = events.last() {
            self.last = last.number;
        } else if self.last > 0 && self.waiting.is_empty() {
            // Whoever has seen the end has nothing to wait for.
            let job = store.get(&self.id).await.map_err(|error| unavailable(&error))?;
            self.is_over = job.is_none_or(|job| job.state.is_final());
        }
        self.waiting.extend(events);
        Ok(true)
    }

    async fn next(&mut self) -> Option<Sse> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.is_over = event.state.is_final();
                return Some(self.sse(&event));
            }
            if self.is_over {
                return None;
            }
            let app = self.app.clone();
            tokio::select! {
                () = self.changed() => {}
                () = tokio::time::sleep(POLL) => {}
                // The stream can be taken up again elsewhere.
                _ = app.health().ending() => return None,
            }
            // An error may pass; a job that was deleted has no more events.
            if let Ok(false) = self.look().await {
                return None;
            }
        }
    }

    /// Waits until this job has changed, or may have.
    async fn changed(&mut self) {
        loop {
            match self.changes.recv().await {
                Ok(change) if change.id != self.id => {}
                Err(RecvError::Closed) => return std::future::pending().await,
                Ok(_) | Err(RecvError::Lagged(_)) => return,
            }
        }
    }

    fn sse(&self, event: &Event) -> Sse {
        let name = event.state.name();
        let data = json!({
            "id": self.id, "status": name, "at": time(event.at), "attempts": event.attempts, "reason": event.reason,
        });
        Sse::default().id(event.number.to_string()).event(name).data(data.to_string())
    }
}
