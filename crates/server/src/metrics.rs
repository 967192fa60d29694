//! What is counted, and `/metrics`, which shows it to Prometheus.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use engine::{Stats, StepReport};
use jobs::Counts;
use metrics::{
    Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

/// Upper bounds of times, in seconds: of a token as of a whole answer.
const SECONDS: [f64; 20] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0,
    30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Upper bounds of numbers of sequences and tokens.
const COUNTS: [f64; 14] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// The methods that are told apart.
const METHODS: [&str; 9] =
    ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE"];

const METADATA: Metadata<'_> = Metadata::new("halfbyte", Level::INFO, None);

/// The server's figures. Each server has its own, so that several can live in one process.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    first_token: Histogram,
    next_token: Histogram,
    queued: Histogram,
    step_seconds: Histogram,
    step_sequences: Histogram,
    step_tokens: Histogram,
    engine_seconds: Histogram,
    connections: Gauge,
    /// Seconds that requests wait for their first step, a moving average.
    queue_average: Mutex<f64>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        // Fails only for buckets that are empty.
        let buckets = |builder: PrometheusBuilder, name: &str, values: &[f64]| {
            builder.set_buckets_for_metric(Matcher::Suffix(name.to_owned()), values)
        };
        let builder = buckets(PrometheusBuilder::new(), "_seconds", &SECONDS)
            .and_then(|builder| buckets(builder, "_tokens", &COUNTS))
            .and_then(|builder| buckets(builder, "_sequences", &COUNTS))
            .unwrap_or_default();
        let recorder = builder.build_recorder();
        describe(&recorder);
        let histogram = |name| recorder.register_histogram(&Key::from_static_name(name), &METADATA);
        Metrics {
            first_token: histogram("halfbyte_time_to_first_token_seconds"),
            next_token: histogram("halfbyte_inter_token_seconds"),
            queued: histogram("halfbyte_queue_seconds"),
            step_seconds: histogram("halfbyte_step_seconds"),
            step_sequences: histogram("halfbyte_step_sequences"),
            step_tokens: histogram("halfbyte_step_tokens"),
            engine_seconds: histogram("halfbyte_request_engine_seconds"),
            connections: recorder
                .register_gauge(&Key::from_static_name("halfbyte_connections"), &METADATA),
            handle: recorder.handle(),
            recorder,
            queue_average: Mutex::new(0.0),
        }
    }

    fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// A request waited so long for its first step.
    pub(crate) fn queued(&self, waited: Duration) {
        self.queued.record(waited);
        let mut average = self.queue_average.lock().unwrap_or_else(PoisonError::into_inner);
        *average += 0.1 * (waited.as_secs_f64() - *average);
    }

    /// Whole seconds after which a full queue may have room: as long as requests waited of late, at least one.
    pub(crate) fn queue_seconds(&self) -> u64 {
        let average = *self.queue_average.lock().unwrap_or_else(PoisonError::into_inner);
        (average.ceil() as u64).clamp(1, 60)
    }

    /// A request's first token came, so long after the request.
    pub(crate) fn first_token(&self, after: Duration) {
        self.first_token.record(after);
    }

    /// Another token came, so long after the last.
    pub(crate) fn next_token(&self, after: Duration) {
        self.next_token.record(after);
    }

    /// A step was run.
    pub(crate) fn step(&self, report: &StepReport, seconds: f64) {
        self.step_seconds.record(seconds);
        self.step_sequences.record(report.sequences as f64);
        self.step_tokens.record(report.tokens as f64);
    }

    /// A request took so much of the device's time.
    pub(crate) fn engine_seconds(&self, seconds: f64) {
        self.engine_seconds.record(seconds);
    }

    /// An answer is whole.
    pub(crate) fn finished(&self, reason: &'static str) {
        self.counter("halfbyte_answers_total", &[("finish_reason", reason)]).increment(1);
    }

    /// An answer that nobody waits for any more was dropped.
    pub(crate) fn cancelled(&self) {
        self.finished("cancelled");
    }

    /// An answer broke off.
    pub(crate) fn failed(&self, kind: &'static str) {
        self.finished("failed");
        self.error(kind);
    }

    /// An error went to a client.
    pub(crate) fn error(&self, kind: &'static str) {
        self.counter("halfbyte_errors_total", &[("kind", kind)]).increment(1);
    }

    /// An HTTP request was answered. `route` is the pattern, not the path: there are few of them.
    pub(crate) fn http(&self, route: &str, method: &str, status: u16, seconds: f64) {
        let status = status.to_string();
        // Clients may make methods up, and each would be kept for good.
        let method = if METHODS.contains(&method) { method } else { "other" };
        let labels = [("route", route), ("method", method), ("status", status.as_str())];
        self.counter("halfbyte_http_requests_total", &labels).increment(1);
        let key = key("halfbyte_http_request_seconds", &[("route", route)]);
        self.recorder.register_histogram(&key, &METADATA).record(seconds);
    }

    /// So many connections are open.
    pub(crate) fn connections(&self, open: usize) {
        self.connections.set(open as f64);
    }

    /// A connection was closed at once: there were too many.
    pub(crate) fn connection_refused(&self) {
        self.counter("halfbyte_connections_refused_total", &[]).increment(1);
    }

    /// A job has ended.
    pub(crate) fn job_finished(&self, state: &'static str) {
        self.counter("halfbyte_jobs_finished_total", &[("state", state)]).increment(1);
    }

    /// Somebody was told of a job's end, or was not.
    pub(crate) fn job_callback(&self, outcome: &'static str) {
        self.counter("halfbyte_job_callbacks_total", &[("outcome", outcome)]).increment(1);
    }

    /// What the store of jobs holds.
    pub(crate) fn jobs(&self, counts: &Counts) {
        for (state, count) in [("queued", counts.queued), ("running", counts.running)] {
            self.gauge("halfbyte_jobs", &[("state", state)]).set(count as f64);
        }
        self.gauge("halfbyte_jobs_queued_bytes", &[]).set(counts.queued_bytes as f64);
        self.gauge("halfbyte_jobs_oldest_seconds", &[]).set(counts.oldest_ms as f64 / 1e3);
        for (state, count) in
            [("pending", counts.callbacks_pending), ("dead", counts.callbacks_dead)]
        {
            self.gauge("halfbyte_job_callbacks", &[("state", state)]).set(count as f64);
        }
    }

    /// What is served.
    pub(crate) fn serving(&self, build: &str, model: &str, device: &str) {
        let labels = [("build", build), ("model", model), ("device", device)];
        self.gauge("halfbyte_info", &labels).set(1.0);
    }

    /// Drains what histograms have gathered; to be called now and then, or they grow.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// All figures, in Prometheus' text format.
    pub(crate) fn render(&self, stats: Option<Stats>) -> String {
        if let Some(stats) = stats {
            self.set_stats(&stats);
        }
        self.handle.render()
    }

    fn set_stats(&self, stats: &Stats) {
        let free = stats.total_blocks.saturating_sub(stats.used_blocks + stats.cached_blocks);
        let blocks = [("used", stats.used_blocks), ("cached", stats.cached_blocks), ("free", free)];
        for (state, count) in blocks {
            self.gauge("halfbyte_kv_blocks", &[("state", state)]).set(count as f64);
        }
        self.gauge("halfbyte_requests_waiting", &[]).set(stats.waiting as f64);
        self.gauge("halfbyte_requests_running", &[]).set(stats.running as f64);
        for (name, total) in [
            ("halfbyte_prompt_tokens_total", stats.prompt_tokens),
            ("halfbyte_prompt_tokens_cached_total", stats.cached_tokens),
            ("halfbyte_generated_tokens_total", stats.generated_tokens),
            ("halfbyte_preemptions_total", stats.preemptions),
        ] {
            self.counter(name, &[]).absolute(total);
        }
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels = labels.iter().map(|&(name, value)| Label::new(name, value.to_owned()));
    Key::from_parts(name, labels.collect::<Vec<_>>())
}

/// Says what each figure is.
fn describe(recorder: &PrometheusRecorder) {
    let seconds = Some(Unit::Seconds);
    let text = |text: &'static str| SharedString::const_str(text);
    for (name, unit, what) in [
        (
            "halfbyte_time_to_first_token_seconds",
            seconds,
            "From a request's arrival at the engine to its first token",
        ),
        ("halfbyte_inter_token_seconds", seconds, "From one token of an answer to the next"),
        ("halfbyte_queue_seconds", seconds, "From a request's arrival to its first step"),
        ("halfbyte_step_seconds", seconds, "Time of a step"),
        ("halfbyte_step_sequences", None, "Sequences that share a step"),
        ("halfbyte_step_tokens", None, "Tokens that a step computes"),
        (
            "halfbyte_request_engine_seconds",
            seconds,
            "Time of the device that a request took: its share of each step's tokens",
        ),
        ("halfbyte_http_request_seconds", seconds, "From a request's headers to its answer's end"),
    ] {
        recorder.describe_histogram(name.into(), unit, text(what));
    }
    for (name, what) in [
        ("halfbyte_connections", "Open connections"),
        ("halfbyte_info", "What is served"),
        ("halfbyte_kv_blocks", "Blocks of keys and values"),
        ("halfbyte_jobs", "Jobs in the store, of all servers that share it, by state"),
        ("halfbyte_jobs_queued_bytes", "Bytes of the jobs that wait"),
        ("halfbyte_jobs_oldest_seconds", "How long the oldest job waits"),
        ("halfbyte_job_callbacks", "Callbacks to be told, and those that nobody took"),
        ("halfbyte_requests_waiting", "Requests that have not begun"),
        ("halfbyte_requests_running", "Requests that share steps"),
    ] {
        recorder.describe_gauge(name.into(), None, text(what));
    }
    for (name, what) in [
        ("halfbyte_answers_total", "Answers that ended, by how"),
        ("halfbyte_errors_total", "Errors, by kind"),
        ("halfbyte_http_requests_total", "HTTP requests, by route, method and status"),
        ("halfbyte_connections_refused_total", "Connections beyond the most that are allowed"),
        ("halfbyte_jobs_finished_total", "Jobs whose end this server wrote, by how"),
        ("halfbyte_job_callbacks_total", "Attempts to tell of a job's end, by how"),
        ("halfbyte_prompt_tokens_total", "Tokens of prompts"),
        ("halfbyte_prompt_tokens_cached_total", "Tokens of prompts that were in the prefix cache"),
        ("halfbyte_generated_tokens_total", "Tokens that were generated"),
        ("halfbyte_preemptions_total", "Requests that lost their blocks and were computed again"),
    ] {
        recorder.describe_counter(name.into(), None, text(what));
    }
}
