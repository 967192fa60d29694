//! The thread that runs the engine, and the way of requests to it and of events back.
//!
//! Handlers put requests into an inbox, which is bounded; between two steps the thread takes all that has arrived. Events
//! go to a mailbox for each request. Nobody who is slow holds the thread up.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::{Engine, EngineError, Event, Request, RequestId, Stats, StepReport};
use tokio::sync::oneshot;

use crate::ApiError;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::record::Record;

/// How long to wait before a step is tried again that did nothing.
const IDLE_STEP: Duration = Duration::from_millis(1);

/// What the thread runs: the engine, or a test's stand-in.
pub(crate) trait Steps {
    /// See [`Engine::submit`].
    fn submit(&mut self, request: Request) -> Result<RequestId, EngineError>;
    /// See [`Engine::cancel`].
    fn cancel(&mut self, id: RequestId);
    /// See [`Engine::has_work`].
    fn has_work(&self) -> bool;
    /// See [`Engine::step`].
    fn step(
        &mut self,
        now: Duration,
        on_event: &mut (dyn FnMut(RequestId, Event) + Send),
    ) -> Result<StepReport, EngineError>;
    /// See [`Engine::computed`].
    fn computed(&self) -> &[(RequestId, usize)];
    /// See [`Engine::stats`].
    fn stats(&self) -> Stats;
}

impl Steps for Engine {
    fn submit(&mut self, request: Request) -> Result<RequestId, EngineError> {
        Engine::submit(self, request)
    }

    fn cancel(&mut self, id: RequestId) {
        Engine::cancel(self, id);
    }

    fn has_work(&self) -> bool {
        Engine::has_work(self)
    }

    fn step(
        &mut self,
        now: Duration,
        on_event: &mut (dyn FnMut(RequestId, Event) + Send),
    ) -> Result<StepReport, EngineError> {
        Engine::step(self, now, on_event)
    }

    fn computed(&self) -> &[(RequestId, usize)] {
        Engine::computed(self)
    }

    fn stats(&self) -> Stats {
        Engine::stats(self)
    }
}

/// Where requests go. Cheap to clone; when the last clone is gone, the engine's thread ends.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.inbox().ended = true;
        self.shared.arrived.notify_all();
    }
}

/// What handlers and the thread share.
#[derive(Debug)]
struct Shared {
    /// What the thread has not seen yet.
    inbox: Mutex<Inbox>,
    /// Something is in the inbox.
    arrived: Condvar,
    /// What the engine held after its last step.
    stats: Mutex<Stats>,
    /// Where the engine's time begins.
    start: Instant,
    /// Requests that the inbox holds at most.
    arrivals_max: usize,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Inbox {
    arrivals: Vec<Arrival>,
    /// Requests whose readers are gone.
    cancelled: Vec<RequestId>,
    /// Every answer is to break off, for this reason.
    abort: Option<String>,
    /// Why nothing more is taken.
    closed: Option<ApiError>,
    /// Nobody will ask again.
    ended: bool,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.arrivals.is_empty() && self.cancelled.is_empty() && self.abort.is_none() && !self.ended
    }
}

#[derive(Debug)]
struct Arrival {
    request: Request,
    at: Instant,
    record: Arc<Record>,
    reply: oneshot::Sender<Result<Answer, ApiError>>,
}

impl EngineHandle {
    /// A way to an engine, and the driver that is to run it. `arrivals_max`: requests that may come between two steps.
    pub(crate) fn new(metrics: Arc<Metrics>, arrivals_max: usize) -> (Self, Driver) {
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            stats: Mutex::default(),
            start: Instant::now(),
            arrivals_max,
            metrics,
        });
        let handle = EngineHandle { owner: Arc::new(Owner { shared: Arc::clone(&shared) }) };
        (handle, Driver { shared, open: HashMap::new(), ended: Vec::new() })
    }

    /// Hands a request to the engine and waits until it stands in the queue.
    ///
    /// # Errors
    /// 400 for one that can never be answered, 429 with `Retry-After` where the queue is full, 503 where the engine is dead
    /// or draining.
    pub async fn submit(&self, mut request: Request) -> Result<Answer, ApiError> {
        let shared = &self.owner.shared;
        let (at, record) = (Instant::now(), Record::current());
        if let Some(deadline) = record.deadline() {
            let deadline = deadline.saturating_duration_since(shared.start);
            request.deadline = Some(request.deadline.map_or(deadline, |own| own.min(deadline)));
        }
        let (reply, answered) = oneshot::channel();
        {
            let mut inbox = shared.inbox();
            if let Some(closed) = &inbox.closed {
                return Err(closed.clone());
            }
            if inbox.arrivals.len() >= shared.arrivals_max {
                let waiting = inbox.arrivals.len();
                return Err(shared.refuse(&EngineError::QueueFull { waiting }));
            }
            inbox.arrivals.push(Arrival { request, at, record, reply });
        }
        shared.arrived.notify_one();
        match answered.await {
            Ok(answer) => answer,
            // The thread ended between taking the request and answering it.
            Err(_) => Err(shared.inbox().closed.clone().unwrap_or_else(ApiError::engine_gone)),
        }
    }

    /// What the engine held after its last step.
    pub fn stats(&self) -> Stats {
        *self.owner.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine's time: what [`Request::deadline`] is compared with.
    pub fn now(&self) -> Duration {
        self.owner.shared.start.elapsed()
    }

    /// Takes no more requests; `why` is what they are told.
    pub(crate) fn close(&self, why: ApiError) {
        self.owner.shared.inbox().closed.get_or_insert(why);
    }

    /// Ends the engine's thread after the present step.
    pub(crate) fn end(&self) {
        self.owner.shared.inbox().ended = true;
        self.owner.shared.arrived.notify_all();
    }

    /// Breaks off every answer.
    pub(crate) fn abort(&self, why: &str) {
        self.owner.shared.inbox().abort = Some(why.to_owned());
        self.owner.shared.arrived.notify_one();
    }
}

impl Shared {
    /// An error of the engine as HTTP says it; with the seconds after which a full queue may have room.
    fn refuse(&self, error: &EngineError) -> ApiError {
        let mut error = ApiError::of_engine(error);
        if error.retry_after.is_some() {
            error.retry_after = Some(self.metrics.queue_seconds());
        }
        error
    }
}

/// Events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {
    id: RequestId,
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
}

impl Answer {
    /// The next event; `None` after the last ([`Event::Finished`] or [`Event::Failed`]).
    pub async fn next(&mut self) -> Option<Event> {
        self.mailbox.next().await
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.mailbox.abandon() {
            self.shared.inbox().cancelled.push(self.id);
            self.shared.arrived.notify_one();
        }
    }
}

/// A request that the engine has.
#[derive(Debug)]
struct Open {
    mailbox: Arc<Mailbox>,
    record: Arc<Record>,
    at: Instant,
    /// Whether anything of it was computed.
    begun: bool,
    /// Whether it was said how much of its prompt was in the cache.
    cached_is_known: bool,
    last_token: Option<Instant>,
    engine_seconds: f64,
}

/// Why the engine runs no more.
#[derive(Debug)]
pub(crate) enum Death {
    /// The device failed.
    Engine(EngineError),
    /// A fault of ours, in these words.
    Panic(String),
}

impl Death {
    /// In words.
    pub(crate) fn reason(&self) -> String {
        match self {
            Death::Engine(error) => error.to_string(),
            Death::Panic(what) => format!("internal error: {what}"),
        }
    }
}

/// Runs an engine on the thread it is called on.
#[derive(Debug)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
    open: HashMap<RequestId, Open>,
    /// Requests that ended in the present step.
    ended: Vec<(RequestId, Open)>,
}

impl Driver {
    /// Runs until all handles are gone, or the engine is dead; then every open request has got a `Failed`.
    pub(crate) fn run(mut self, engine: &mut impl Steps) -> Result<(), Death> {
        let result = match catch_unwind(AssertUnwindSafe(|| self.steps(engine))) {
            Ok(result) => result.map_err(Death::Engine),
            Err(panic) => Err(Death::Panic(panic_message(&*panic))),
        };
        let why = match &result {
            Ok(()) => "the server has ended".to_owned(),
            Err(death) => format!("the engine stopped: {}", death.reason()),
        };
        let error = ApiError::engine_dead(&why);
        let arrivals = {
            let mut inbox = self.shared.inbox();
            inbox.closed = Some(error.clone());
            std::mem::take(&mut inbox.arrivals)
        };
        for arrival in arrivals {
            // Whoever does not wait any more needs no answer.
            let _ = arrival.reply.send(Err(error.clone()));
        }
        for (_, open) in self.open.drain() {
            open.mailbox.push(Event::Failed(EngineError::Stopped(why.clone())));
        }
        result
    }

    fn steps(&mut self, engine: &mut impl Steps) -> Result<(), EngineError> {
        let mut idle = false;
        loop {
            let inbox = self.wait(engine.has_work(), idle);
            if inbox.ended {
                return Ok(());
            }
            for id in inbox.cancelled {
                self.open.remove(&id);
                engine.cancel(id);
                self.shared.metrics.cancelled();
            }
            for arrival in inbox.arrivals {
                self.admit(engine, arrival);
            }
            // Last, so that what has just arrived breaks off with the others.
            if let Some(why) = inbox.abort {
                for (id, open) in self.open.drain() {
                    engine.cancel(id);
                    open.mailbox.push(Event::Failed(EngineError::Stopped(why.clone())));
                }
            }
            idle = engine.has_work() && self.step(engine)?.tokens == 0;
            *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = engine.stats();
        }
    }

    /// Takes what has arrived. Blocks while there is nothing to do at all; `idle`: the last step did nothing.
    fn wait(&self, has_work: bool, idle: bool) -> Inbox {
        let mut inbox = self.shared.inbox();
        while inbox.is_empty() && !has_work {
            inbox = self.shared.arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        if inbox.is_empty() && idle {
            let waited = self.shared.arrived.wait_timeout(inbox, IDLE_STEP);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Inbox {
            arrivals: std::mem::take(&mut inbox.arrivals),
            cancelled: std::mem::take(&mut inbox.cancelled),
            abort: inbox.abort.take(),
            closed: None,
            ended: inbox.ended,
        }
    }

    fn admit(&mut self, engine: &mut impl Steps, arrival: Arrival) {
        let Arrival { request, at, record, reply } = arrival;
        if reply.is_closed() {
            return;
        }
        let prompt_tokens = request.prompt.len();
        let id = match engine.submit(request) {
            Ok(id) => id,
            Err(error) => {
                // Whoever does not wait any more needs no answer.
                let _ = reply.send(Err(self.shared.refuse(&error)));
                return;
            }
        };
        record.add_prompt(prompt_tokens);
        let mailbox = Arc::new(Mailbox::default());
        let answer = Answer { id, mailbox: Arc::clone(&mailbox), shared: Arc::clone(&self.shared) };
        let open = Open {
            mailbox,
            record,
            at,
            begun: false,
            cached_is_known: false,
            last_token: None,
            engine_seconds: 0.0,
        };
        self.open.insert(id, open);
        // Where nobody waits any more, the answer comes back, is dropped, and that cancels the request.
        let _ = reply.send(Ok(answer));
    }

    fn step(&mut self, engine: &mut impl Steps) -> Result<StepReport, EngineError> {
        let began = Instant::now();
        let now = self.shared.start.elapsed();
        let Driver { shared, open, ended } = self;
        let report = engine.step(now, &mut |id, event| {
            let Some(request) = open.get_mut(&id) else { return };
            request.note(&event, &shared.metrics);
            let is_last = matches!(event, Event::Finished(_) | Event::Failed(_));
            request.mailbox.push(event);
            if is_last && let Some(request) = open.remove(&id) {
                ended.push((id, request));
            }
        })?;
        self.charge(engine.computed(), &report, began);
        Ok(report)
    }

    /// Shares the time of a step among the requests whose tokens it computed. Events do not say which these are: they tell of
    /// the step before.
    fn charge(&mut self, computed: &[(RequestId, usize)], report: &StepReport, began: Instant) {
        let Driver { shared, open, ended } = self;
        let seconds = began.elapsed().as_secs_f64();
        if report.tokens > 0 {
            shared.metrics.step(report, seconds);
        }
        let each = seconds / report.tokens.max(1) as f64;
        for &(id, tokens) in computed {
            let request = match open.get_mut(&id) {
                Some(request) => Some(request),
                None => ended.iter_mut().find(|(ended, _)| *ended == id).map(|(_, open)| open),
            };
            if let Some(request) = request {
                request.begin(began, &shared.metrics);
                let seconds = tokens as f64 * each;
                request.engine_seconds += seconds;
                request.record.add_engine(seconds);
            }
        }
        for (_, request) in ended.drain(..) {
            shared.metrics.engine_seconds(request.engine_seconds);
        }
    }
}

impl Open {
    /// Measures an event.
    fn note(&mut self, event: &Event, metrics: &Metrics) {
        let now = Instant::now();
        match event {
            Event::Prefill { cached, .. } => {
                if !std::mem::replace(&mut self.cached_is_known, true) {
                    self.record.add_cached(*cached);
                }
            }
            Event::PromptLogprobs(_) => {}
            Event::Token(_) => {
                self.record.add_token(now - self.at);
                match self.last_token.replace(now) {
                    None => metrics.first_token(now - self.at),
                    Some(last) => metrics.next_token(now - last),
                }
            }
            Event::Finished(completion) => metrics.finished(completion.finish_reason.name()),
            Event::Failed(error) => metrics.failed(ApiError::of_engine(error).label()),
        }
    }

    /// A step that computed some of it began.
    fn begin(&mut self, step: Instant, metrics: &Metrics) {
        if !std::mem::replace(&mut self.begun, true) {
            metrics.queued(step - self.at);
        }
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}
