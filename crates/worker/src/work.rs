//! The worker's loops: taking jobs, answering them, stopping those that nobody wants any more.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;
use server::Told;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use crate::callback;
use crate::control::{Control, ControlError, TOO_MANY};
use crate::desk::{Desk, Seen};
use crate::input::Call;
use crate::job::Job;
use crate::outcome::Outcome;
use crate::ping;
use crate::place::Place;
use crate::service::{Refusal, Service};

/// Most jobs that are taken at once.
const TAKE_MAX: usize = 64;

/// Pause where nothing can be taken.
const FULL: Duration = Duration::from_millis(100);

/// Where the platform could not be asked, the first wait and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long a question for jobs may go on once no more are wanted: jobs that are on their way would be lost with it.
const LAST_TAKE: Duration = Duration::from_secs(2);

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As it was told.
    AsTold,
    /// After a job, as it was to be refreshed.
    Refresh,
}

/// How a worker works.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether the worker ends after one job, and has its machine made anew.
    pub refresh: bool,
    /// How often the platform is told that a job goes on.
    pub progress: Option<Duration>,
}

/// What all loops share.
#[derive(Clone)]
struct Worker {
    control: Control,
    service: Service,
    desk: Desk,
    options: Options,
}

/// Works until told otherwise. The service answers already. Every job that was taken is answered, failed explicitly, or stopped
/// by the platform.
///
/// # Errors
/// [`ControlError`] if the worker cannot begin.
pub async fn work(
    place: Place,
    service: Service,
    options: Options,
    mut told: watch::Receiver<Told>,
) -> Result<Ended, ControlError> {
    let control = Control::new(place)?;
    let desk = Desk::default();
    let (ended, is_ended) = watch::channel(false);
    ping::start(control.clone(), desk.clone(), is_ended)
        .map_err(|error| ControlError::Http(format!("no thread for pings: {error}")))?;
    let worker = Worker { control, service, desk, options };
    tracing::info!(worker = worker.control.place.worker_id, "taking jobs");
    let stopping = tokio::spawn(worker.clone().stop_jobs());
    let mut jobs = JoinSet::new();
    worker.take_jobs(&mut told, &mut jobs).await;
    let end = if *told.borrow() == Told::Work { Ended::Refresh } else { Ended::AsTold };
    tracing::info!(jobs = worker.desk.count(), "taking no more jobs");
    while jobs.join_next().await.is_some() {}
    stopping.abort();
    let why = told.borrow().clone();
    if let Told::Dead(reason) = why {
        worker.control.unfit("engine", &reason).await;
    }
    let _ = ended.send(true);
    Ok(end)
}

impl Worker {
    /// Takes jobs until told otherwise, or until the one job of a worker that is to be refreshed has ended.
    async fn take_jobs(&self, told: &mut watch::Receiver<Told>, jobs: &mut JoinSet<()>) {
        let mut wait = BACKOFF.0;
        let mut taken_any = false;
        while *told.borrow() == Told::Work {
            // What has ended is not to be held any longer.
            while jobs.try_join_next().is_some() {}
            let running = self.desk.count();
            if self.options.refresh && taken_any {
                if running == 0 {
                    return;
                }
                self.pause(told, FULL).await;
                continue;
            }
            let wanted = if self.options.refresh {
                1
            } else {
                (self.service.capacity)(running).min(TAKE_MAX)
            };
            if wanted == 0 {
                self.pause(told, FULL).await;
                continue;
            }
            let Some(taken) = self.take(told, wanted, running > 0).await else { return };
            match taken {
                Ok(taken) => {
                    wait = BACKOFF.0;
                    taken_any |= !taken.is_empty();
                    for job in taken {
                        self.begin(job, jobs);
                    }
                }
                Err(ControlError::TooMany) => self.pause(told, TOO_MANY).await,
                Err(error) => {
                    tracing::warn!(error = %error, seconds = wait.as_secs(), "no jobs could be taken; trying again");
                    self.pause(told, wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// Asks for jobs. `None` if told to end meanwhile, and nothing came soon after.
    async fn take(
        &self,
        told: &mut watch::Receiver<Told>,
        wanted: usize,
        busy: bool,
    ) -> Option<Result<Vec<Job>, ControlError>> {
        let taking = self.control.take(wanted, busy);
        tokio::pin!(taking);
        tokio::select! {
            taken = &mut taking => return Some(taken),
            _ = told.wait_for(|told| *told != Told::Work) => {}
        }
        timeout(LAST_TAKE, taking).await.ok()
    }

    async fn pause(&self, told: &mut watch::Receiver<Told>, time: Duration) {
        let _ = timeout(time, told.wait_for(|told| *told != Told::Work)).await;
    }

    /// Begins a job, unless it is one that is known.
    fn begin(&self, job: Job, jobs: &mut JoinSet<()>) {
        let worker = self.clone();
        let id = job.id.clone();
        match self.desk.enter(&id) {
            Seen::Running => tracing::warn!(job = id, "taken again while it is in progress"),
            Seen::Before(outcome) => {
                tracing::warn!(
                    job = id,
                    "taken again after it has ended: its result is sent once more"
                );
                jobs.spawn(async move { worker.send(&id, &outcome).await });
            }
            Seen::Never => {
                let handle = jobs.spawn(async move { worker.answer(job).await });
                self.desk.can_stop(&id, handle);
            }
        }
    }

    /// Answers a job, from its input to the platform's word that it has the result.
    async fn answer(self, job: Job) {
        let start = Instant::now();
        let Job { id, input } = job;
        let call = Call::of(input);
        let outcome = match &call {
            Ok(call) => self.compute(&id, call).await,
            Err(error) => Outcome { result: Err(error.clone().into()), is_stream: false },
        };
        if !self.desk.keep(&id, &outcome) {
            return;
        }
        self.send(&id, &outcome).await;
        if let Ok(Call { callback: Some(callback), .. }) = &call
            && let Err(error) = callback::tell(callback, &id, &outcome).await
        {
            tracing::error!(job = id, error, "the callback was not taken");
        }
        self.desk.leave(&id);
        let seconds = start.elapsed().as_secs_f64();
        tracing::info!(job = id, success = outcome.result.is_ok(), seconds, "job");
    }

    async fn send(&self, id: &str, outcome: &Outcome) {
        let body = outcome.body(&self.control.place, self.options.refresh);
        if let Err(error) = self.control.done(id, &body, outcome.is_stream).await {
            tracing::error!(job = id, error = %error, "the result could not be handed over; it is kept for when the job comes again");
        }
    }

    async fn compute(&self, id: &str, call: &Call) -> Outcome {
        let answer = self.service.answer(id, call, |piece| {
            let (control, id) = (self.control.clone(), id.to_owned());
            let hand_over = async move {
                let handed_over = control.piece(&id, &json!({ "output": piece })).await;
                handed_over.map_err(|error| {
                    let message =
                        format!("a piece of the answer could not be handed over: {error}");
                    Refusal::internal(message)
                })
            };
            hand_over.boxed()
        });
        tokio::pin!(answer);
        let Some(period) = self.options.progress else { return answer.await };
        let start = Instant::now();
        let mut beat = interval_at(start + period, period);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                outcome = &mut answer => return outcome,
                _ = beat.tick() => {
                    let output = json!({ "seconds": start.elapsed().as_secs_f64() });
                    let body = json!({ "status": "IN_PROGRESS", "output": output });
                    if let Err(error) = self.control.progress(id, &body).await {
                        tracing::debug!(job = id, error = %error, "the progress of a job was not taken");
                    }
                }
            }
        }
    }

    /// Stops what the platform wants to be stopped: such a job tells nothing more.
    async fn stop_jobs(self) {
        loop {
            match self.control.to_stop().await {
                Ok(None) => return,
                Ok(Some(ids)) => {
                    for id in &ids {
                        let was_running = self.desk.stop(id);
                        tracing::info!(job = id, was_running, "stopped by the platform");
                    }
                    if ids.is_empty() {
                        // Where the platform does not hold the question.
                        sleep(ping::AFTER_FAILURE).await;
                    }
                }
                Err(ControlError::TooMany) => sleep(TOO_MANY).await,
                Err(error) => {
                    tracing::debug!(error = %error, "the platform did not say what to stop");
                    sleep(ping::AFTER_FAILURE).await;
                }
            }
        }
    }
}
