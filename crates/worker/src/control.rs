//! The way to the platform.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::job::{Job, JobError};
use crate::place::Place;

/// How long the platform may hold a question for jobs, or for jobs to stop.
pub(crate) const POLL: Duration = Duration::from_secs(90);

/// How long it may take to take a result.
const POST: Duration = Duration::from_secs(60);

/// After a 429, as the SDK does.
pub(crate) const TOO_MANY: Duration = Duration::from_secs(5);

/// Waits between attempts to hand over a result: the SDK gives up after three, and the job is lost.
const RETRIES: [Duration; 6] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
];

/// Most bytes of jobs in one answer: the platform's own limit is 20 MB a job.
const TAKEN_BYTES_MAX: usize = 256 << 20;

/// Why the platform could not be asked, or told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// It does not want to be asked for some seconds.
    #[error("the platform says 429: too many requests")]
    TooMany,
    /// The request failed on its way.
    #[error("{0}")]
    Http(String),
    /// It answers with an error.
    #[error("the platform answers {0}")]
    Status(StatusCode),
    /// What it hands out makes no sense.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl From<reqwest::Error> for ControlError {
    /// Without the URL, which may carry a secret.
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        ControlError::Http(text)
    }
}

/// The platform, as seen by a worker.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    http: reqwest::Client,
    pub(crate) place: Place,
}

impl Control {
    /// # Errors
    /// If the system has no certificates, threads or sockets.
    pub(crate) fn new(place: Place) -> Result<Self, ControlError> {
        let http = fetch::builder()
            .connect_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Control { http, place })
    }

    fn request(&self, request: RequestBuilder, time: Duration) -> RequestBuilder {
        let request = request.timeout(time);
        match self.place.key() {
            Some(key) => request.header("authorization", key),
            None => request,
        }
    }

    fn get(&self, url: &str, time: Duration) -> RequestBuilder {
        self.request(self.http.get(url), time)
    }

    /// Takes up to `count` jobs; none if the platform has none within its time.
    ///
    /// # Errors
    /// [`ControlError`].
    pub(crate) async fn take(&self, count: usize, busy: bool) -> Result<Vec<Job>, ControlError> {
        let response = self.get(&self.place.take_url(count, busy), POLL).send().await?;
        match response.status() {
            // 400 is what a platform says that is just waking the worker up.
            StatusCode::NO_CONTENT | StatusCode::BAD_REQUEST => Ok(Vec::new()),
            StatusCode::TOO_MANY_REQUESTS => Err(ControlError::TooMany),
            status if status.is_success() => {
                let body = body(response).await?;
                Ok(if body.is_empty() { Vec::new() } else { Job::parse(&body)? })
            }
            status => Err(ControlError::Status(status)),
        }
    }

    /// Asks which jobs are to be stopped; `None` where the platform has no such channel.
    ///
    /// # Errors
    /// [`ControlError`].
    pub(crate) async fn to_stop(&self) -> Result<Option<Vec<String>>, ControlError> {
        let Some(url) = self.place.stop_url() else { return Ok(None) };
        let response = self.get(&url, POLL).send().await?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(Some(Vec::new())),
            StatusCode::TOO_MANY_REQUESTS => Err(ControlError::TooMany),
            status if status.is_success() => {
                let value: Value =
                    serde_json::from_slice(&body(response).await?).unwrap_or_default();
                let ids = value["jobsToStop"].as_array().cloned().unwrap_or_default();
                Ok(Some(ids.iter().filter_map(Value::as_str).map(str::to_owned).collect()))
            }
            status => Err(ControlError::Status(status)),
        }
    }

    /// Hands over what a job came to, again and again if need be.
    ///
    /// # Errors
    /// [`ControlError`], after the last attempt.
    pub(crate) async fn done(
        &self,
        job: &str,
        body: &Value,
        is_stream: bool,
    ) -> Result<(), ControlError> {
        self.post(&self.place.output_url(job, is_stream), job, body, &RETRIES).await
    }

    /// Says that a job goes on, and how.
    ///
    /// # Errors
    /// [`ControlError`]; the next time will do.
    pub(crate) async fn progress(&self, job: &str, body: &Value) -> Result<(), ControlError> {
        self.post(&self.place.output_url(job, false), job, body, &[]).await
    }

    /// Hands over a piece of a job's answer. Nothing where the platform takes none.
    ///
    /// # Errors
    /// [`ControlError`], after the last attempt.
    pub(crate) async fn piece(&self, job: &str, body: &Value) -> Result<(), ControlError> {
        match self.place.stream_url(job) {
            Some(url) => self.post(&url, job, body, &RETRIES[..3]).await,
            None => Ok(()),
        }
    }

    async fn post(
        &self,
        url: &str,
        job: &str,
        body: &Value,
        waits: &[Duration],
    ) -> Result<(), ControlError> {
        let text = body.to_string();
        let mut waits = waits.iter();
        loop {
            let error = match self.post_once(url, job, text.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // What is wrong with the request stays wrong, but for the status that says so.
            let is_final = matches!(&error, ControlError::Status(status)
                if status.is_client_error() && *status != StatusCode::REQUEST_TIMEOUT);
            match waits.next() {
                Some(wait) if !is_final => {
                    tracing::warn!(job, error = %error, "handing over again");
                    tokio::time::sleep(*wait).await;
                }
                _ => return Err(error),
            }
        }
    }

    async fn post_once(&self, url: &str, job: &str, text: String) -> Result<(), ControlError> {
        let request = self.request(self.http.post(url), POST);
        let response = request
            // JSON under a form's name is what the platform takes.
            .header("content-type", "application/x-www-form-urlencoded")
            .header("charset", "utf-8")
            .header("x-request-id", job)
            .body(text)
            .send()
            .await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::TOO_MANY_REQUESTS => Err(ControlError::TooMany),
            status => Err(ControlError::Status(status)),
        }
    }

    /// Says that the worker lives.
    ///
    /// # Errors
    /// [`ControlError`].
    pub(crate) async fn ping(&self, jobs: &[String]) -> Result<(), ControlError> {
        let Some(url) = self.place.ping_url(jobs) else { return Ok(()) };
        let response = self.get(&url, self.place.ping_interval * 2).send().await?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(ControlError::Status(response.status()))
        }
    }

    /// Says that the worker is unfit: the platform takes it away.
    pub(crate) async fn unfit(&self, check: &str, reason: &str) {
        let Some(url) = self.place.unfit_url(check, reason) else { return };
        if let Err(error) = self.get(&url, Duration::from_secs(5)).send().await {
            tracing::warn!(error = %ControlError::from(error), "could not say that the worker is unfit");
        }
    }
}

/// Says that a worker is unfit before it could begin, as when its model cannot be loaded: the platform takes it away.
///
/// # Errors
/// If the system has no certificates, threads or sockets.
pub async fn unfit(place: Place, check: &str, reason: &str) -> Result<(), ControlError> {
    Control::new(place)?.unfit(check, reason).await;
    Ok(())
}

async fn body(mut response: Response) -> Result<Vec<u8>, ControlError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > TAKEN_BYTES_MAX {
            return Err(ControlError::Http(format!(
                "more than {TAKEN_BYTES_MAX} bytes of jobs in one answer"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
