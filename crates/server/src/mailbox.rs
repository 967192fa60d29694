//! The way of events from the engine's thread to whoever waits for them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use engine::Event;

/// Events of one request. It holds at most a few more than the request's `max_tokens`: only tokens are kept one by one, and a
/// reader who does not keep up holds back nobody else.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    /// The reader, where it waits.
    waker: Option<Waker>,
    /// The last event has come.
    ended: bool,
    /// Nobody will read.
    abandoned: bool,
}

impl Mailbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event.
    pub(crate) fn push(&self, event: Event) {
        let mut state = self.state();
        if state.abandoned || state.ended {
            return;
        }
        state.ended = matches!(event, Event::Finished(_) | Event::Failed(_));
        // How far the prompt is: only the latest counts.
        if matches!(event, Event::Prefill { .. })
            && matches!(state.events.back(), Some(Event::Prefill { .. }))
        {
            state.events.pop_back();
        }
        state.events.push_back(event);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for the next event; `None` after the last.
    pub(crate) async fn next(&self) -> Option<Event> {
        poll_fn(|context| {
            let mut state = self.state();
            if let Some(event) = state.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            if state.ended {
                return Poll::Ready(None);
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Drops what nobody will read. `true` if more would have come.
    pub(crate) fn abandon(&self) -> bool {
        let mut state = self.state();
        state.abandoned = true;
        state.events = VecDeque::new();
        !state.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{EngineError, GeneratedToken};
    use futures_util::FutureExt;

    fn token(token: u32) -> Event {
        let text = String::new();
        Event::Token(GeneratedToken { token, logprob: 0.0, top_logprobs: Vec::new(), text })
    }

    #[test]
    fn a_slow_reader_sees_every_token_and_the_latest_prefill() {
        let mailbox = Mailbox::default();
        for done in [16, 32, 48] {
            mailbox.push(Event::Prefill { done, total: 48, cached: 0 });
        }
        mailbox.push(token(1));
        mailbox.push(token(2));
        mailbox.push(Event::Failed(EngineError::Deadline));
        mailbox.push(token(3));
        let seen: Vec<String> = std::iter::from_fn(|| mailbox.next().now_or_never().flatten())
            .map(|event| match event {
                Event::Prefill { done, .. } => format!("prefill {done}"),
                Event::Token(token) => format!("token {}", token.token),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(seen, ["prefill 48", "token 1", "token 2", "Failed(Deadline)"]);
        assert!(!mailbox.abandon());
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let mailbox = Mailbox::default();
        mailbox.push(token(1));
        assert!(mailbox.abandon());
        mailbox.push(token(2));
        assert!(mailbox.state().events.is_empty());
    }
}
