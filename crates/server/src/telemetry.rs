//! Spans of requests, for those who ask that an OpenTelemetry collector gets them.

use std::fmt;
use std::future::{Future, ready};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::http::{HeaderMap, Request, Response, Uri, header};
use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::record::Figures;

/// Time for each thing that is done to send spans: to connect, to write, to read.
const SEND_TIME: Duration = Duration::from_secs(5);

/// Bytes of a collector's answer that are read.
const ANSWER_BYTES: u64 = 64 << 10;

/// Where a collector takes OTLP over HTTP: `http://127.0.0.1:4318`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// Host and port.
    authority: String,
    /// The whole address.
    url: String,
}

impl FromStr for Collector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no address of a collector, as http://127.0.0.1:4318");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(format!(
                    "`{text}`: only http is spoken; run a collector on this machine, it can encrypt"
                ));
            }
            _ => return Err(wrong()),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(4318));
        let path = match uri.path().trim_end_matches('/') {
            path if path.ends_with("/v1/traces") => path.to_owned(),
            path => format!("{path}/v1/traces"),
        };
        Ok(Collector { url: format!("http://{authority}{path}"), authority })
    }
}

/// Sends a span for every request to a collector. Spans wait in a bounded queue, those beyond it are dropped.
pub(crate) struct Spans {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").finish_non_exhaustive()
    }
}

/// A request, as its span tells it.
pub(crate) struct RequestSpan<'a> {
    pub(crate) parent: Option<SpanContext>,
    pub(crate) id: &'a str,
    pub(crate) method: &'a str,
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    pub(crate) start: SystemTime,
    pub(crate) figures: Figures,
}

impl Spans {
    /// Begins to send. Starts a thread; a collector that does not answer is no error, only a line in the log.
    pub(crate) fn new(collector: &Collector, build: &str) -> io::Result<Self> {
        let client =
            Client { authority: collector.authority.clone(), failing: AtomicBool::new(false) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(&collector.url)
            .with_timeout(SEND_TIME)
            .build()
            .map_err(io::Error::other)?;
        let resource = Resource::builder()
            .with_service_name("halfbyte")
            .with_attribute(KeyValue::new("service.version", build.to_owned()))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        Ok(Spans { tracer: provider.tracer("halfbyte"), provider })
    }

    /// Records a request that has ended.
    pub(crate) fn request(&self, request: RequestSpan<'_>) {
        let RequestSpan { parent, id, method, route, status, start, figures } = request;
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("http.route", route.to_owned()),
            KeyValue::new("http.response.status_code", i64::from(status)),
            KeyValue::new("halfbyte.request_id", id.to_owned()),
            KeyValue::new("gen_ai.usage.input_tokens", count(figures.prompt_tokens)),
            KeyValue::new("gen_ai.usage.output_tokens", count(figures.completion_tokens)),
            KeyValue::new("halfbyte.cached_tokens", count(figures.cached_tokens)),
            KeyValue::new("halfbyte.engine_seconds", figures.engine_seconds),
        ];
        let first = figures.first_token_seconds;
        attributes.extend(first.map(|s| KeyValue::new("halfbyte.time_to_first_token_seconds", s)));
        let builder = self
            .tracer
            .span_builder(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_start_time(start)
            .with_attributes(attributes);
        let mut span = self.tracer.build_with_context(builder, &context);
        if status >= 500 {
            span.set_status(Status::error(""));
        }
        span.end();
    }

    /// Sends what is left.
    pub(crate) fn end(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

/// The span of a caller, from the header `traceparent` of W3C Trace Context.
pub(crate) fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = value.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_known = version == "00" && parts.next().is_none();
    if !(is_known && hex(trace, 32) && hex(span, 16) && hex(flags, 2)) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}

/// Speaks just enough HTTP to hand spans over: one request to a connection.
#[derive(Debug)]
struct Client {
    authority: String,
    /// Whether the last attempt failed: the log says when that changes, not each time.
    failing: AtomicBool,
}

impl HttpClient for Client {
    // Spans are sent on a thread of their own, which may block.
    fn send_bytes<'a, 'f>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        let sent = self.send(&request);
        let failed = sent.as_ref().map_or(true, |response| !response.status().is_success());
        if self.failing.swap(failed, Ordering::Relaxed) != failed {
            match &sent {
                Ok(response) if failed => {
                    tracing::warn!(collector = self.authority, status = %response.status(), "spans are refused");
                }
                Ok(_) => tracing::info!(collector = self.authority, "spans are sent again"),
                Err(error) => {
                    tracing::warn!(collector = self.authority, %error, "spans cannot be sent")
                }
            }
        }
        Box::pin(ready(sent.map_err(HttpError::from)))
    }
}

impl Client {
    fn send(&self, request: &Request<Bytes>) -> io::Result<Response<Bytes>> {
        let address = self.authority.to_socket_addrs()?.next();
        let address = address.ok_or_else(|| io::Error::other("the collector has no address"))?;
        let mut stream = TcpStream::connect_timeout(&address, SEND_TIME)?;
        stream.set_write_timeout(Some(SEND_TIME))?;
        stream.set_read_timeout(Some(SEND_TIME))?;
        let path = request.uri().path();
        let mut head =
            format!("POST {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.authority);
        head.push_str(&format!("content-length: {}\r\n", request.body().len()));
        let own = [header::HOST, header::CONNECTION, header::CONTENT_LENGTH];
        for (name, value) in request.headers().iter().filter(|(name, _)| !own.contains(name)) {
            let value = value.to_str().map_err(io::Error::other)?;
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(request.body())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
        // `HTTP/1.1 200 OK`: the rest says nothing that matters.
        let status = str::from_utf8(answer.get(9..12).unwrap_or_default()).unwrap_or_default();
        Response::builder().status(status).body(Bytes::new()).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, url: Result<&str, &str>) {
        let parsed = text.parse::<Collector>().map(|collector| collector.url);
        match (parsed, url) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
            (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_collector_is_an_address() {
        check("http://localhost:4318", Ok("http://localhost:4318/v1/traces"));
        check("http://localhost", Ok("http://localhost:4318/v1/traces"));
        check("http://c:1/otel/", Ok("http://c:1/otel/v1/traces"));
        check("http://c:1/v1/traces", Ok("http://c:1/v1/traces"));
        check("https://c:1", Err("only http is spoken"));
        check("c:1", Err("is no address"));
        check("", Err("is no address"));
    }

    #[test]
    fn a_callers_span_is_taken_over_if_it_is_one() {
        let parse = |value: &'static str| {
            parent(&HeaderMap::from_iter([(
                "traceparent".parse().unwrap(),
                value.parse().unwrap(),
            )]))
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parse(good).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.is_sampled());
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
