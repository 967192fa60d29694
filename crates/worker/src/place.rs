//! Where a worker runs: what the platform says in its environment.

use std::time::Duration;

/// The platform's own default.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Version of the SDK whose protocol this is; the platform wants one in every ping.
pub(crate) const SDK_VERSION: &str = "1.12.0";

/// What the platform says about itself, and about this worker.
#[derive(Clone)]
pub struct Place {
    /// This worker's name.
    pub worker_id: String,
    /// The host's name, for errors.
    pub hostname: String,
    take: String,
    output: String,
    stream: Option<String>,
    ping: Option<String>,
    /// Between two pings.
    pub(crate) ping_interval: Duration,
    key: Option<String>,
}

/// Why the environment is not that of a worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// A variable is missing while others are there.
    #[error("{variable} is not set, although RUNPOD_WEBHOOK_GET_JOB is; the platform sets both")]
    Missing {
        /// Its name.
        variable: &'static str,
    },
    /// A variable makes no sense.
    #[error("{variable} is `{value}`: {reason}")]
    Wrong {
        /// Its name.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        reason: &'static str,
    },
}

/// A key in a panic or a log would be one that is known.
impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("worker_id", &self.worker_id).finish_non_exhaustive()
    }
}

impl Place {
    /// Reads the environment; `None` where no platform is. `new_id` names a worker that has no name.
    ///
    /// # Errors
    /// [`PlaceError`], naming the variable.
    pub fn read(
        variable: impl Fn(&str) -> Option<String>,
        new_id: impl FnOnce() -> String,
    ) -> Result<Option<Place>, PlaceError> {
        let read = |name: &str| variable(name).filter(|value| !value.is_empty());
        let url = |name: &'static str| match read(name) {
            Some(value) if value.starts_with("http://") || value.starts_with("https://") => {
                Ok(Some(value))
            }
            Some(value) => Err(PlaceError::Wrong {
                variable: name,
                value,
                reason: "a URL begins with https://",
            }),
            None => Ok(None),
        };
        let Some(take) = url("RUNPOD_WEBHOOK_GET_JOB")? else { return Ok(None) };
        let output = "RUNPOD_WEBHOOK_POST_OUTPUT";
        let output = url(output)?.ok_or(PlaceError::Missing { variable: output })?;
        let worker_id = read("RUNPOD_POD_ID").unwrap_or_else(new_id);
        let of_worker = |url: String| url.replace("$RUNPOD_POD_ID", &worker_id);
        Ok(Some(Place {
            take: take.replace("$ID", &worker_id),
            output: of_worker(output),
            stream: url("RUNPOD_WEBHOOK_POST_STREAM")?.map(of_worker),
            ping: url("RUNPOD_WEBHOOK_PING")?.map(of_worker),
            ping_interval: interval(read("RUNPOD_PING_INTERVAL"))?,
            key: read("RUNPOD_AI_API_KEY"),
            hostname: read("RUNPOD_POD_HOSTNAME").unwrap_or_else(|| "unknown".to_owned()),
            worker_id,
        }))
    }

    /// A place without a platform, where nothing is taken and nothing is told.
    pub fn here(worker_id: String) -> Place {
        Place {
            worker_id,
            hostname: "localhost".to_owned(),
            take: String::new(),
            output: String::new(),
            stream: None,
            ping: None,
            ping_interval: PING_INTERVAL,
            key: None,
        }
    }

    /// The header that says who asks: the key as it is, no `Bearer`.
    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Where up to `count` jobs are taken; `busy` if jobs are in progress.
    pub(crate) fn take_url(&self, count: usize, busy: bool) -> String {
        let busy = u8::from(busy);
        if count > 1 {
            let batch = self.take.replace("/job-take/", "/job-take-batch/");
            return format!("{batch}&batch_size={count}&job_in_progress={busy}");
        }
        format!("{}&job_in_progress={busy}", self.take)
    }

    /// Where the platform says which jobs are to be stopped; none where it has no such channel.
    pub(crate) fn stop_url(&self) -> Option<String> {
        let has_channel = self.take.contains("/job-take/");
        has_channel.then(|| self.take.replace("/job-take/", "/job-stop/"))
    }

    /// Where a job's output goes.
    pub(crate) fn output_url(&self, job: &str, is_stream: bool) -> String {
        format!("{}&isStream={is_stream}", self.output.replace("$ID", &encoded(job)))
    }

    /// Where a piece of a job's output goes. Pieces are said to be no stream: that is the last one's word.
    pub(crate) fn stream_url(&self, job: &str) -> Option<String> {
        let stream = self.stream.as_ref()?;
        Some(format!("{}&isStream=false", stream.replace("$ID", &encoded(job))))
    }

    /// Where to say that the worker lives, and with which jobs; none where the platform asks for no pings.
    pub(crate) fn ping_url(&self, jobs: &[String]) -> Option<String> {
        self.key.as_ref()?;
        let ping = self.ping.as_ref()?;
        let jobs = match jobs {
            [] => String::new(),
            jobs => format!("job_id={}&", encoded(&jobs.join(","))),
        };
        Some(format!("{}{jobs}runpod_version={SDK_VERSION}", with_question(ping)))
    }

    /// Where to say that the worker is unfit.
    pub(crate) fn unfit_url(&self, check: &str, reason: &str) -> Option<String> {
        let ping = self.ping.as_ref()?;
        let (check, reason) = (encoded(check), encoded(reason));
        Some(format!("{}status=unhealthy&check={check}&reason={reason}", with_question(ping)))
    }
}

/// The URL, ready for parameters.
fn with_question(url: &str) -> String {
    format!("{url}{}", if url.contains('?') { '&' } else { '?' })
}

/// Milliseconds, of which whole seconds count, as with the SDK.
fn interval(text: Option<String>) -> Result<Duration, PlaceError> {
    let Some(text) = text else { return Ok(PING_INTERVAL) };
    match text.parse::<u64>() {
        Ok(ms @ 1..=86_400_000) => Ok(Duration::from_millis(ms)),
        _ => Err(PlaceError::Wrong {
            variable: "RUNPOD_PING_INTERVAL",
            value: text,
            reason: "it is a number of milliseconds, up to a day",
        }),
    }
}

/// A text as part of a URL: all but what is harmless in any part of one.
fn encoded(text: &str) -> String {
    let mut to = String::new();
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' => {
                to.push(byte.into())
            }
            _ => to.push_str(&format!("%{byte:02X}")),
        }
    }
    to
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A place whose control plane listens at `base`.
    pub(crate) fn at(base: &str) -> Place {
        let variables = [
            ("RUNPOD_WEBHOOK_GET_JOB", format!("{base}/v2/e/job-take/$ID?gpu=H200")),
            (
                "RUNPOD_WEBHOOK_POST_OUTPUT",
                format!("{base}/v2/e/job-done/$RUNPOD_POD_ID/$ID?gpu=H200"),
            ),
            (
                "RUNPOD_WEBHOOK_POST_STREAM",
                format!("{base}/v2/e/job-stream/$RUNPOD_POD_ID/$ID?gpu=H200"),
            ),
            ("RUNPOD_WEBHOOK_PING", format!("{base}/v2/e/ping/$RUNPOD_POD_ID?gpu=H200")),
            ("RUNPOD_PING_INTERVAL", "50".to_owned()),
            ("RUNPOD_AI_API_KEY", "key".to_owned()),
            ("RUNPOD_POD_ID", "pod-1".to_owned()),
        ];
        let read = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        };
        Place::read(read, || unreachable!("the pod has an id")).unwrap().unwrap()
    }

    #[test]
    fn urls_are_those_of_the_protocol() {
        let place = at("https://api.example/x");
        let base = "https://api.example/x/v2/e";
        assert_eq!(
            place.take_url(1, false),
            format!("{base}/job-take/pod-1?gpu=H200&job_in_progress=0")
        );
        assert_eq!(
            place.take_url(4, true),
            format!("{base}/job-take-batch/pod-1?gpu=H200&batch_size=4&job_in_progress=1")
        );
        assert_eq!(place.stop_url().unwrap(), format!("{base}/job-stop/pod-1?gpu=H200"));
        assert_eq!(
            place.output_url("a-1/u2", true),
            format!("{base}/job-done/pod-1/a-1%2Fu2?gpu=H200&isStream=true")
        );
        assert_eq!(
            place.stream_url("j").unwrap(),
            format!("{base}/job-stream/pod-1/j?gpu=H200&isStream=false")
        );
        let jobs = ["a".to_owned(), "b".to_owned()];
        assert_eq!(
            place.ping_url(&jobs).unwrap(),
            format!("{base}/ping/pod-1?gpu=H200&job_id=a%2Cb&runpod_version=1.12.0")
        );
        assert_eq!(
            place.unfit_url("gpu", "no driver").unwrap(),
            format!("{base}/ping/pod-1?gpu=H200&status=unhealthy&check=gpu&reason=no%20driver")
        );
        assert!(!format!("{place:?}").contains("key"));
    }

    #[test]
    fn a_place_is_whole_or_none() {
        let read = |set: &'static [(&'static str, &'static str)]| {
            let variable = |name: &str| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            Place::read(variable, || "new".to_owned())
                .map(|place| place.map(|place| place.worker_id))
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("RUNPOD_WEBHOOK_GET_JOB", "")]), Ok(None));
        let take = ("RUNPOD_WEBHOOK_GET_JOB", "https://h/job-take/$ID?x=1");
        let output = ("RUNPOD_WEBHOOK_POST_OUTPUT", "https://h/job-done/$ID?x=1");
        let check = |set: &'static [_], expected: &str| {
            assert_eq!(read(set).unwrap_err().to_string(), expected);
        };
        check(
            Box::leak(Box::new([take])),
            "RUNPOD_WEBHOOK_POST_OUTPUT is not set, although RUNPOD_WEBHOOK_GET_JOB is; the platform sets both",
        );
        assert_eq!(read(Box::leak(Box::new([take, output]))), Ok(Some("new".to_owned())));
        check(
            Box::leak(Box::new([take, output, ("RUNPOD_PING_INTERVAL", "soon")])),
            "RUNPOD_PING_INTERVAL is `soon`: it is a number of milliseconds, up to a day",
        );
        check(
            &[("RUNPOD_WEBHOOK_GET_JOB", "h/job-take")],
            "RUNPOD_WEBHOOK_GET_JOB is `h/job-take`: a URL begins with https://",
        );
    }
}
