//! How often something is tried again, and how long is waited in between.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fetch::FetchError;

use crate::HubError;
use crate::files;

/// Bounds on what is put up with.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Failures in a row, of the same part, that bring nothing.
    pub attempts: u32,
    /// Failures of a whole run, whatever they bring.
    pub failures: u32,
    /// The first wait; each further one in a row is twice as long, up to half a minute.
    pub first_wait: Duration,
    /// The longest wait that a server may ask for.
    pub asked_wait: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            attempts: 8,
            failures: 1000,
            first_wait: Duration::from_millis(500),
            asked_wait: Duration::from_secs(300),
            idle: Duration::from_secs(30),
        }
    }
}

const WAIT_MAX: Duration = Duration::from_secs(30);
/// Questions are short: who does not answer them after this many attempts is away.
const ATTEMPTS_OF_QUESTIONS: u32 = 4;

impl Patience {
    /// Asks until there is an answer, or one that will not change.
    pub(crate) fn ask<T>(
        &self,
        url: &str,
        ask: impl Fn() -> Result<T, FetchError>,
    ) -> Result<T, HubError> {
        let mut attempts = 0;
        loop {
            let error = match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) if is_transient(&error) => error,
                Err(error) => return Err(error.into()),
            };
            attempts += 1;
            match self.wait(attempts, &error) {
                Some(wait) if attempts < ATTEMPTS_OF_QUESTIONS.min(self.attempts) => {
                    thread::sleep(wait)
                }
                Some(_) => return Err(error.into()),
                None => return Err(gave_up(url, attempts, &error)),
            }
        }
    }

    /// How long to wait after so many failures in a row; `None` if the server asks for too much.
    fn wait(&self, attempts: u32, error: &FetchError) -> Option<Duration> {
        let doubled = self.first_wait.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        let asked = asked(error);
        // Up to a quarter more, so that many who failed together do not come back together.
        let wait = doubled.min(WAIT_MAX).mul_f64(1.0 + 0.25 * jitter()).max(asked);
        (asked <= self.asked_wait).then_some(wait)
    }
}

/// What the threads of a run share.
#[derive(Debug)]
pub(crate) struct Turns {
    patience: Patience,
    failures: AtomicU32,
    /// A server that has asked to be left alone has asked all of them.
    not_before: Mutex<Option<Instant>>,
}

impl Turns {
    pub(crate) fn new(patience: Patience) -> Self {
        Turns { patience, failures: AtomicU32::new(0), not_before: Mutex::new(None) }
    }

    /// How long to wait, after `attempts` failures in a row of `file`; an error if that is enough.
    pub(crate) fn after(
        &self,
        file: &str,
        attempts: u32,
        error: &FetchError,
    ) -> Result<Duration, HubError> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if attempts >= self.patience.attempts || failures >= self.patience.failures {
            return Err(gave_up(file, attempts.max(1), error));
        }
        let wait = self.patience.wait(attempts.max(1), error);
        let wait = wait.ok_or_else(|| gave_up(file, attempts.max(1), error))?;
        if !asked(error).is_zero() {
            *self.lock() = Some(Instant::now() + wait);
        }
        Ok(wait)
    }

    /// How long everybody has to wait yet.
    pub(crate) fn left(&self) -> Duration {
        self.lock().map_or(Duration::ZERO, |time| time.saturating_duration_since(Instant::now()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.not_before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gave_up(file: &str, attempts: u32, error: &FetchError) -> HubError {
    let mut last = error.to_string();
    if let FetchError::Status { retry_after: Some(asked), .. } = error {
        last += &format!(" (it asks to be left alone for {} s)", asked.as_secs());
    }
    HubError::GaveUp { file: file.to_owned(), attempts, last }
}

fn asked(error: &FetchError) -> Duration {
    match error {
        FetchError::Status { retry_after: Some(asked), .. } => *asked,
        _ => Duration::ZERO,
    }
}

/// Whether another attempt may end otherwise. A refusal behind a redirect is one of a signature, which the next attempt gets anew.
pub(crate) fn is_transient(error: &FetchError) -> bool {
    match error {
        FetchError::Timeout { .. }
        | FetchError::Failed { .. }
        | FetchError::Cut { .. }
        | FetchError::Answer { .. } => true,
        FetchError::Status { status, .. } => {
            [401, 403, 408, 425, 429].contains(status) || *status >= 500
        }
        _ => false,
    }
}

/// A number in `[0, 1)`, another one each time.
fn jitter() -> f64 {
    let mix =
        files::unique().bytes().fold(0_u32, |mix, b| mix.wrapping_mul(31).wrapping_add(b.into()));
    f64::from(mix % 1024) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, seconds: Option<u64>) -> FetchError {
        FetchError::Status {
            url: "U".into(),
            status,
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    #[test]
    fn waits_grow_and_servers_may_ask_for_more() {
        let patience = Patience::default();
        let seconds =
            |attempts, error: &FetchError| patience.wait(attempts, error).map(|w| w.as_secs_f64());
        let failed = status(503, None);
        for (attempts, wait) in [(1, 0.5), (2, 1.0), (5, 8.0), (7, 30.0), (60, 30.0)] {
            let found = seconds(attempts, &failed).unwrap();
            assert!(found >= wait && found <= 1.25 * wait, "{attempts}: {found}");
        }
        assert_eq!(seconds(1, &status(429, Some(7))), Some(7.0));
        assert_eq!(seconds(1, &status(429, Some(86_400))), None);
    }

    #[test]
    fn everybody_waits_for_a_server_that_asks_for_it_and_failures_are_counted() {
        let turns = Turns::new(Patience { failures: 3, ..Patience::default() });
        turns.after("f", 1, &status(503, None)).unwrap();
        assert_eq!(turns.left(), Duration::ZERO);
        turns.after("f", 1, &status(429, Some(60))).unwrap();
        assert!(turns.left() > Duration::from_secs(50));
        let error = turns.after("f", 1, &status(429, Some(7))).unwrap_err().to_string();
        assert!(error.contains("(it asks to be left alone for 7 s)"), "{error}");
    }
}
