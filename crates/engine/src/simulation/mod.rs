//! The engine on a mock model, in random schedules.
//!
//! A schedule is a seed: bounds, requests, and what happens when. Whatever happens to a request (company, preemption,
//! blocks from the cache, a tiny step), its answer has to be the one that [`reference`] gives, which knows of none of it.
//! `HALFBYTE_SCHEDULE=17` runs the one of that seed; `cargo xtask soak` 100,000.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

pub(crate) mod mock;
mod constraints;
mod reference;
mod schedule;
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{Engine, EngineError, Event, FinishReason, Request, RequestId};
use constraints::Constraint;
use mock::{Device, Mock, tokenizer};
use reference::{Expected, Outcome};
use schedule::{Action, Schedule};

/// What has come of a request so far.
struct Watched {
    request: Request,
    constraint: Option<&'static Constraint>,
    prefilled: usize,
    text: String,
    seen: Expected,
    is_cancelled: bool,
}

struct Simulation {
    seed: u64,
    schedule: Schedule,
    engine: Engine,
    device: Arc<Mutex<Device>>,
    requests: BTreeMap<RequestId, Watched>,
    now: Duration,
    steps: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let schedule = Schedule::new(seed);
        let device =
            Device { fails_in: schedule.fails_in, poison: schedule.poison, ..Device::default() };
        let device = Arc::new(Mutex::new(device));
        let vocab_size = schedule.vocab_size;
        let mock = Mock::new(vocab_size, schedule.blocks, schedule.limits, Arc::clone(&device));
        let engine = Engine::new(Box::new(mock), tokenizer(), schedule.config);
        let requests = BTreeMap::new();
        Simulation { seed, schedule, engine, device, requests, now: Duration::ZERO, steps: 0 }
    }

    /// Runs until everything has arrived and ended.
    fn run(&mut self) {
        while let Some(actions) = self.schedule.next_actions(self.engine.has_work()) {
            for action in actions {
                match action {
                    Action::Submit(request, constraint) => self.submit(request, constraint),
                    Action::Cancel(which) => self.cancel(which),
                }
                self.engine.assert_consistent();
            }
            if self.engine.has_work() && !self.step() {
                return;
            }
        }
        let stats = self.engine.stats();
        assert_eq!((stats.waiting, stats.running, stats.used_blocks), (0, 0, 0));
        for watched in self.requests.values() {
            let ended = watched.seen.outcome.is_some();
            assert!(ended != watched.is_cancelled, "neither ended nor cancelled, or both");
        }
        self.check_work();
    }

    fn submit(&mut self, mut request: Request, constraint: Option<&'static Constraint>) {
        request.deadline = request.deadline.map(|in_time| self.now + in_time);
        let waiting = self.engine.stats().waiting;
        let too_long =
            request.prompt.len() + usize::from(request.max_tokens > 0) > self.schedule.context();
        match self.engine.submit(request.clone()) {
            Ok(id) => {
                assert!(!too_long);
                let watched = Watched {
                    request,
                    constraint,
                    prefilled: 0,
                    text: String::new(),
                    seen: Expected::default(),
                    is_cancelled: false,
                };
                assert!(self.requests.insert(id, watched).is_none());
            }
            Err(EngineError::TooLong { .. }) => assert!(too_long),
            Err(EngineError::Budget { needed, budget }) => {
                let left = self.schedule.context() - request.prompt.len();
                assert_eq!(budget, request.max_tokens.min(left));
                assert!(needed > budget && constraint.is_some());
            }
            Err(EngineError::QueueFull { .. }) => {
                // Those that end without a step are counted too.
                let max = self.schedule.config.max_waiting;
                assert!(waiting >= max || self.requests.len() >= max);
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn cancel(&mut self, which: u64) {
        let open: Vec<RequestId> = self.open().collect();
        let Some(index) = which.checked_rem(open.len() as u64) else { return };
        let id = open[index as usize];
        self.engine.cancel(id);
        self.requests.get_mut(&id).unwrap().is_cancelled = true;
    }

    fn open(&self) -> impl Iterator<Item = RequestId> {
        let is_open = |(_, watched): &(&RequestId, &Watched)| {
            watched.seen.outcome.is_none() && !watched.is_cancelled
        };
        self.requests.iter().filter(is_open).map(|(&id, _)| id)
    }

    /// One step. `false`: the device failed, and that was all.
    fn step(&mut self) -> bool {
        self.now += Duration::from_millis(1);
        self.steps += 1;
        assert!(self.steps < 100_000, "it does not end");
        let mut events = Vec::new();
        let result = self.engine.step(self.now, &mut |id, event| events.push((id, event)));
        self.engine.assert_consistent();
        for (id, event) in events {
            self.watch(id, event);
        }
        if let Ok(report) = &result {
            let computed = self.engine.computed();
            assert_eq!(computed.iter().map(|(_, tokens)| tokens).sum::<usize>(), report.tokens);
            assert!(computed.iter().all(|(id, _)| self.requests.contains_key(id)));
            return true;
        }
        assert_eq!(self.device.lock().unwrap().fails_in, Some(0));
        assert_eq!(self.open().count(), 0, "a request outlived the device");
        assert!(!self.engine.has_work());
        assert_eq!(self.engine.stats().used_blocks, 0);
        let again = self.engine.submit(Request { prompt: vec![1], ..Request::default() });
        assert!(matches!(again, Err(EngineError::Stopped(_))));
        assert!(self.engine.step(self.now, &mut |_, _| {}).is_err());
        false
    }

    fn watch(&mut self, id: RequestId, event: Event) {
        let watched = self.requests.get_mut(&id).unwrap();
        let request = &watched.request;
        assert!(watched.seen.outcome.is_none() && !watched.is_cancelled, "{event:?} after the end");
        match event {
            Event::Prefill { done, total, cached } => {
                assert!(watched.prefilled < done && done <= total && cached <= done);
                assert_eq!(total, request.prompt.len());
                watched.prefilled = done;
            }
            Event::PromptLogprobs(tokens) => watched.seen.prompt = Some(tokens),
            Event::Token(token) => {
                assert_eq!(watched.prefilled, request.prompt.len());
                watched.text.push_str(&token.text);
                watched.seen.tokens.push(token);
            }
            Event::Finished(mut completion) => {
                assert!(completion.text.starts_with(&watched.text));
                assert!(self.schedule.config.prefix_cache || completion.cached_tokens == 0);
                completion.cached_tokens = 0;
                if let Some(Constraint { fits, fits_always, .. }) = watched.constraint
                    && request.stop.is_empty()
                    && (*fits_always || completion.finish_reason == FinishReason::Stop)
                    && request.max_tokens > 0
                {
                    assert!(fits(&completion.text), "{:?} does not fit", completion.text);
                }
                watched.seen.outcome = Some(Outcome::Finished(completion));
            }
            Event::Failed(EngineError::Deadline) => {
                assert!(request.deadline.unwrap() <= self.now);
                watched.seen.outcome = Some(Outcome::Late);
            }
            Event::Failed(EngineError::NotFinite { position }) => {
                watched.seen.outcome = Some(Outcome::NotFinite(position));
            }
            Event::Failed(EngineError::Stopped(_)) => {
                assert_eq!(self.device.lock().unwrap().fails_in, Some(0));
                watched.seen.outcome = Some(Outcome::Late);
            }
            Event::Failed(error) => panic!("{error}"),
        }
        let watched = &self.requests[&id];
        if watched.seen.outcome.is_some() {
            let expected = reference::expected(&watched.request, &self.schedule);
            watched.seen.assert_agrees(&expected, &watched.request, self.seed);
        }
    }

    /// Nobody is computed again and again: work is bounded by what was asked for.
    fn check_work(&self) {
        let asked: usize = self
            .requests
            .values()
            .map(|watched| {
                let Request { prompt, max_tokens, .. } = &watched.request;
                prompt.len() + (*max_tokens).min(self.schedule.context() - prompt.len())
            })
            .sum();
        let computed = self.device.lock().unwrap().tokens;
        // Four preemptions before a sequence is due; beyond that only those that came before it can preempt it.
        assert!(computed <= 8 * asked as u64, "{computed} tokens computed, {asked} asked for");
        assert!(self.steps <= 8 * asked as u64 + 10 * self.requests.len() as u64 + 100);
    }
}
