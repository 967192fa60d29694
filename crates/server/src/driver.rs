//! The thread that runs the engine, and the way of requests to it and of events back.

use engine::{Event, Request, Stats};

use crate::ApiError;

/// Where requests go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineHandle {}

impl EngineHandle {
    /// Hands a request to the engine and waits until it stands in the queue.
    ///
    /// # Errors
    /// 400 for one that can never be answered, 429 with `Retry-After` where the queue is full, 503 where the engine is dead
    /// or draining.
    pub async fn submit(&self, request: Request) -> Result<Answer, ApiError> {
        let _ = request;
        unimplemented!()
    }

    /// What the engine held after its last step.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
}

/// Events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {}

impl Answer {
    /// The next event; `None` after the last ([`Event::Finished`] or [`Event::Failed`]).
    pub async fn next(&mut self) -> Option<Event> {
        unimplemented!()
    }
}
