//! What surrounds every handler: a name for the request, its line in the log, who may ask, and how large a body may be.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use opentelemetry::trace::SpanContext;
use tokio::sync::watch;

use crate::app::BodyRoom;
use crate::error::ErrorLabel;
use crate::record::Record;
use crate::telemetry::{self, RequestSpan};
use crate::{ApiError, App, random_seed};

/// Names a request, in both directions.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The build that answered.
pub(crate) const BUILD: HeaderName = HeaderName::from_static("x-halfbyte-build");

/// What machines ask every few seconds: in the log only for those who look closely.
const PROBES: [&str; 4] = ["/health", "/ready", "/metrics", "/stats"];

/// Most bytes, and longest time, that a body is taken for that nobody reads.
const DISCARD_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// Requests whose answers have not ended.
#[derive(Debug)]
pub(crate) struct InFlight {
    count: watch::Sender<usize>,
}

impl InFlight {
    /// None.
    pub(crate) fn new() -> Self {
        InFlight { count: watch::Sender::new(0) }
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until all have ended.
    pub(crate) async fn none(&self) {
        // The sender lives as long as `self`.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One request, from its head to the end of its answer. Its end is the one line in the log, whatever ended it.
struct Tracked {
    app: App,
    id: String,
    route: String,
    method: Method,
    start: Instant,
    /// The same as a date.
    started: SystemTime,
    /// The caller's span.
    parent: Option<SpanContext>,
    record: Arc<Record>,
    /// Status of the answer; none where the client left before it came.
    status: Option<StatusCode>,
    /// Whether the answer went out as a whole.
    is_whole: bool,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.app.in_flight().count.send_modify(|count| *count -= 1);
        let seconds = self.start.elapsed().as_secs_f64();
        // As nginx counts clients that have left.
        let status = self.status.map_or(499, |status| status.as_u16());
        self.app.metrics().http(&self.route, self.method.as_str(), status, seconds);
        let figures = self.record.figures();
        if let Some(spans) = self.app.spans() {
            spans.request(RequestSpan {
                parent: self.parent.take(),
                id: &self.id,
                method: self.method.as_str(),
                route: &self.route,
                status,
                start: self.started,
                figures,
            });
        }
        // Levels are constants of the call, so there are two.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = self.id,
                    method = self.method.as_str(),
                    route = self.route,
                    status,
                    whole = self.is_whole,
                    seconds,
                    prompt_tokens = figures.prompt_tokens,
                    cached_tokens = figures.cached_tokens,
                    completion_tokens = figures.completion_tokens,
                    first_token_seconds = figures.first_token_seconds,
                    engine_seconds = figures.engine_seconds,
                    "request"
                )
            };
        }
        if PROBES.contains(&self.route.as_str()) {
            line!(debug);
        } else {
            line!(info);
        }
    }
}

/// Follows a request to the end of its answer.
pub(crate) async fn track(State(app): State<App>, request: Request, next: Next) -> Response {
    app.in_flight().count.send_modify(|count| *count += 1);
    let start = Instant::now();
    let deadline = app.config().limits.request_time.map(|time| start + time);
    let route = request.extensions().get::<MatchedPath>();
    let mut tracked = Tracked {
        id: request_id(request.headers()),
        route: route.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned()),
        method: request.method().clone(),
        start,
        started: SystemTime::now(),
        parent: telemetry::parent(request.headers()),
        record: Arc::new(Record::until(deadline)),
        status: None,
        is_whole: false,
        app: app.clone(),
    };
    let record = Arc::clone(&tracked.record);
    let mut response = record.scope(next.run(request)).await;
    tracked.status = Some(response.status());
    if let Some(ErrorLabel(label)) = response.extensions().get() {
        app.metrics().error(label);
    }
    let headers = response.headers_mut();
    for (name, value) in [(REQUEST_ID, tracked.id.as_str()), (BUILD, app.build())] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response.map(|body| Body::new(TrackedBody { body, tracked }))
}

/// The client's own name for the request if it is a harmless one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_harmless = |id: &&str| {
        (1..=128).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    match given.filter(is_harmless) {
        Some(id) => id.to_owned(),
        None => format!("req-{:013x}{:013x}", random_seed() >> 1, random_seed() >> 1),
    }
}

/// The body of an answer, and what is written down at its end.
struct TrackedBody {
    body: Body,
    tracked: Tracked,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.tracked.is_whole |= matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Lets in whoever carries a key. What says how the server is stays open, as does what it says about itself.
pub(crate) async fn authorize(State(app): State<App>, request: Request, next: Next) -> Response {
    match refusal(&app, &request) {
        None => next.run(request).await,
        Some(error) => {
            let (parts, body) = request.into_parts();
            discard(&parts.headers, body).await;
            let mut response = error.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                let scheme = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            response
        }
    }
}

/// Paths that need no key.
fn is_open(path: &str, is_loopback: bool) -> bool {
    ["/", "/health", "/ready", "/openapi.json"].contains(&path)
        || path.starts_with("/page/")
        || (path == "/metrics" && is_loopback)
}

fn refusal(app: &App, request: &Request) -> Option<ApiError> {
    let config = app.config();
    if config.keys.is_empty() {
        return (config.is_loopback && !is_our_host(request, &config.cors_origins)).then(|| {
            let message = "the request names another host than this machine; to serve it under that name, start the \
                           server with an API key, or allow the origin with --cors-origin";
            ApiError::http(StatusCode::FORBIDDEN, "foreign_host", message)
        });
    }
    if is_open(request.uri().path(), config.is_loopback) {
        return None;
    }
    let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = value.and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    let error = |code, message| Some(ApiError::http(StatusCode::UNAUTHORIZED, code, message));
    match key {
        Some(key) if config.keys.contains(key) => None,
        Some(_) => error("invalid_api_key", "the API key is unknown"),
        None => error(
            "missing_api_key",
            "an API key is needed: send the header `authorization: Bearer KEY`",
        ),
    }
}

/// A page of another site can make its own name mean this machine, and then asks as if from here. Its name stays in
/// `host`.
fn is_our_host(request: &Request, origins: &[String]) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host.or_else(|| request.uri().host()) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let allowed = |origin: &String| {
        origin == "*" || origin.split_once("://").is_some_and(|(_, allowed)| allowed == host)
    };
    let ip = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost")
        || ip.is_ok_and(|ip| ip.is_loopback())
        || origins.iter().any(allowed)
}

/// Reads the body before the handler runs, within bounds of size and time.
pub(crate) async fn read_body(State(app): State<App>, request: Request, next: Next) -> Response {
    let max = app.config().body_max(request.uri().path());
    let (parts, mut body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let limits = app.config().limits;
    let read = tokio::time::timeout(limits.body_time, collect(&app, &mut body, max));
    let late = || {
        let message = format!("the body did not come within {} s", limits.body_time.as_secs());
        ApiError::http(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
    };
    let read = tokio::select! {
        biased;
        read = read => read.unwrap_or_else(|_| Err(late())),
        // A slow sender does not hold up the end: what it sends would be refused.
        refusal = app.health().ending() => Err(refusal),
    };
    match read {
        Ok((bytes, _room)) => {
            Record::current().set_body(bytes.len());
            next.run(Request::from_parts(parts, Body::from(bytes))).await
        }
        Err(error) => {
            if error.status == StatusCode::PAYLOAD_TOO_LARGE {
                discard(&parts.headers, body).await;
            }
            let mut response = error.into_response();
            // What the client still sends is not worth reading.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

/// Takes what is on its way of a body that nobody reads. Many clients write it all before they read, and a connection that
/// is closed meanwhile would cost them the answer, which says what is wrong.
async fn discard(headers: &HeaderMap, mut body: Body) {
    // This one asks before it sends.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let all = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await
            && bytes < DISCARD_BYTES
        {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Whoever sends more, or slowly, may miss the answer.
    let _ = tokio::time::timeout(DISCARD_TIME, all).await;
}

/// The whole body, and the room that it takes among all bodies until its request is answered. Room is taken as bytes arrive:
/// whoever only says that there will be many keeps nobody else out.
async fn collect(app: &App, body: &mut Body, limit: usize) -> Result<(Bytes, BodyRoom), ApiError> {
    let too_large = || {
        let message = format!("the body is larger than {limit} bytes, the most that is taken");
        ApiError::http(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut room = app.body_room();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            let message = "the body broke off before its end";
            return Err(ApiError::http(StatusCode::BAD_REQUEST, "broken_body", message));
        };
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large());
        }
        room.grow_to(bytes.len() + data.len()).await?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.into(), room))
}

/// A path that is none.
pub(crate) async fn not_found(request: Request) -> ApiError {
    let message =
        format!("there is no {}; /openapi.json lists what there is", request.uri().path());
    ApiError::http(StatusCode::NOT_FOUND, "not_found", message)
}

/// A method that the path does not know.
pub(crate) async fn method_not_allowed(request: Request) -> ApiError {
    let message = format!(
        "{} does not take {}; the header `allow` lists what it takes",
        request.uri().path(),
        request.method()
    );
    ApiError::http(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// A handler panicked: a fault of ours, which the client need not see in detail.
pub(crate) fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!(panic = crate::driver::panic_message(&*panic), "a handler panicked");
    ApiError::internal("internal error; the log of the server says more").into_response()
}
