//! One range of a file, asked for until it is there.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use fetch::{Client, FetchError};

use crate::HubError;
use crate::active::Active;
use crate::download::{Download, Event};
use crate::listing::explain;
use crate::patience::is_transient;
use crate::wire::Wire;

/// Bounds of a request's part.
pub(crate) const PART_MIN: u64 = 8 << 20;
const PART_MAX: u64 = 64 << 20;
/// The wait for an answer's first byte takes at most one part of so many of the whole request.
const WAITS_IN_A_PART: f64 = 32.0;
/// What has to come of an attempt for it to count as one that got on.
const PROGRESS: u64 = 256 << 10;

/// Why a request brought not all of its part.
enum Failure {
    /// The address that redirects led to opens nothing any more.
    Expired(FetchError),
    Fetch(FetchError),
    Other(HubError),
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Failure::Fetch(error)
    }
}

/// A thread's work on one part.
struct Work<'a> {
    active: &'a Active,
    range: Range<u64>,
    /// Whether this thread reads the whole file, for the server has no parts.
    is_mine: bool,
    /// Bytes of the last request.
    written: u64,
}

impl Download<'_> {
    /// Fetches what is missing of a range.
    pub(crate) fn fetch(
        &self,
        wire: &Wire,
        active: &Active,
        range: Range<u64>,
    ) -> Result<(), HubError> {
        let mut work = Work { active, range, is_mine: false, written: 0 };
        let mut attempts = 0;
        loop {
            if work.is_mine {
                work.range = 0..active.unit.size;
            } else if active.is_claimed() {
                return Ok(());
            }
            let Some(gap) = active.gap(&work.range) else { return Ok(()) };
            self.rest(self.turns.left());
            if self.is_stopped() {
                return Ok(());
            }
            work.written = 0;
            let direct = active.direct();
            let result = wire.run(|client| self.request(client, &mut work, gap, direct.as_deref()));
            if work.written >= PROGRESS {
                attempts = 0;
            }
            match result {
                Ok(()) => {}
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::Expired(error)) => {
                    attempts += 1;
                    // The next attempt asks for a new address: there is nothing to wait for.
                    self.turns.after(
                        active.unit.name(),
                        attempts,
                        &self.plain(error, active, direct),
                    )?;
                }
                Err(Failure::Fetch(error)) if is_transient(&error) => {
                    attempts += 1;
                    let error = self.plain(error, active, direct);
                    let wait = self.turns.after(active.unit.name(), attempts, &error)?;
                    let (file, reason) = (active.unit.name().to_owned(), error.to_string());
                    self.tell(Event::Retrying { file, reason, wait });
                    self.rest(wait);
                }
                Err(Failure::Fetch(error)) => {
                    let error = self.plain(error, active, direct);
                    return Err(explain(
                        error.into(),
                        self.repository,
                        self.access.token.is_some(),
                    ));
                }
            }
        }
    }

    async fn request(
        &self,
        client: &Client,
        work: &mut Work<'_>,
        gap: Range<u64>,
        direct: Option<&str>,
    ) -> Result<(), Failure> {
        let active = work.active;
        let url = self.repository.url_at(self.commit, active.unit.name());
        let start = Instant::now();
        let stream = client.stream(direct.unwrap_or(&url), gap.clone(), active.unit.size).await;
        let mut stream = stream.map_err(|error| match (&error, direct) {
            (FetchError::Status { status: 429, .. }, _) | (_, None) => Failure::Fetch(error),
            (
                FetchError::Denied { .. }
                | FetchError::NotFound { .. }
                | FetchError::Status { status: 400..=499, .. },
                Some(_),
            ) => {
                active.remember(None);
                Failure::Expired(error)
            }
            _ => Failure::Fetch(error),
        })?;
        let waited = start.elapsed();
        if let Some(url) = stream.led_to() {
            active.remember(Some(url.to_owned()));
        }
        if stream.range() != gap && !work.is_mine {
            if !active.claim() {
                return Ok(());
            }
            work.is_mine = true;
            self.tell(Event::NoRanges { file: active.unit.name().to_owned() });
        }
        let mut at = stream.range().start;
        while let Some(chunk) = stream.chunk().await? {
            let written = active.write(at, &chunk).map_err(Failure::Other)?;
            at += chunk.len() as u64;
            work.written += written;
            self.progress.done.fetch_add(written, Ordering::Relaxed);
            self.progress.fetched.fetch_add(written, Ordering::Relaxed);
            if self.is_stopped() {
                return Ok(());
            }
        }
        self.learn(waited, start.elapsed(), work.written);
        Ok(())
    }

    /// An error without the address that redirects led to, whose signature is a secret.
    fn plain(&self, error: FetchError, active: &Active, direct: Option<String>) -> FetchError {
        let Some(direct) = direct else { return error };
        let url = self.repository.url_at(self.commit, active.unit.name());
        match error {
            FetchError::Status { status, retry_after, .. } => {
                FetchError::Status { url, status, retry_after }
            }
            FetchError::Denied { status, .. } => {
                FetchError::Status { url, status, retry_after: None }
            }
            FetchError::NotFound { .. } => {
                FetchError::Status { url, status: 404, retry_after: None }
            }
            FetchError::Cut { got, expected, .. } => FetchError::Cut { url, got, expected },
            FetchError::Timeout { .. } => FetchError::Timeout { url },
            FetchError::Answer { what, .. } => FetchError::Answer { url, what },
            other => FetchError::Failed {
                url: url.clone(),
                reason: other.to_string().replace(&direct, &url),
            },
        }
    }

    /// Parts grow with the time that a server takes before it answers: near ones get small parts, so that what is hashed is close
    /// behind what comes; far ones large parts, so that the waits do not count.
    fn learn(&self, waited: Duration, all: Duration, bytes: u64) {
        let transfer = all.saturating_sub(waited).as_secs_f64().max(1e-6);
        let wanted = bytes as f64 / transfer * waited.as_secs_f64() * WAITS_IN_A_PART;
        let wanted = (wanted as u64).clamp(PART_MIN, PART_MAX);
        let old = self.part_len.load(Ordering::Relaxed);
        self.part_len.store((3 * old + wanted) / 4, Ordering::Relaxed);
    }

    /// Sleeps, in steps, for the run may be stopped.
    fn rest(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_stopped() {
            match end.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return,
                left => thread::sleep(left.min(Duration::from_millis(100))),
            }
        }
    }
}
