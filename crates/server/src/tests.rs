//! The server from outside: real sockets, a scripted engine behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use engine::EngineError;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::metrics::Metrics;
use crate::run::ServeError;
use crate::testing::{self, Fate, Reply, Scripted, TestServer, config, post, stream};
use crate::{App, Collector, Config, EngineHandle, Keys, Limits, Served, router};

fn with_limits(limits: Limits) -> Config {
    Config { limits, ..config() }
}

/// An engine whose answers take as long as a test needs them to.
fn slow() -> Scripted {
    Scripted { step_time: Duration::from_millis(5), ..Scripted::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_then_ready_then_draining_then_ended() {
    let (server, release) = TestServer::loading(config(), slow()).await;
    assert_eq!(server.get("/health").await.json()["status"], "ok");
    let ready = server.until("/ready", |reply| reply.json()["load"]["layers_done"] == 1).await;
    assert_eq!((ready.status, &ready.json()["status"]), (503, &"starting".into()));
    assert_eq!(ready.json()["load"]["layers_total"], 3);
    let early = server.post("/warmup", "").await;
    assert_eq!(early.error(), (503, "starting".to_owned()));
    assert_eq!(early.header("retry-after"), Some("1"));

    release.send(Ok(())).unwrap();
    let ready = server.until("/ready", |reply| reply.status == 200).await;
    assert_eq!(ready.json()["model"], "demo");
    assert!(server.post("/warmup", "{}").await.json()["total_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(server.post("/warmup", r#"{"x": 1}"#).await.error().0, 400);

    let mut answer = server.open(&stream(100)).await;
    let mut first = [0; 512];
    assert!(answer.read(&mut first).await.unwrap() > 0);
    server.signals.send("SIGTERM").await.unwrap();
    let draining = server.until("/ready", |reply| reply.json()["status"] == "draining").await;
    assert_eq!(draining.status, 503);
    let refused = server.post("/prompt", r#"{"prompt": "x"}"#).await;
    assert_eq!(refused.json()["error"]["code"], "draining");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let mut rest = String::new();
    answer.read_to_string(&mut rest).await.unwrap();
    assert!(
        rest.contains("event: result") && rest.contains(r#""completion_tokens":100"#),
        "{rest}"
    );
    server.ended.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_end_in_time_ends_with_an_error_event() {
    let drain = Duration::from_millis(100);
    let server = TestServer::start(Config { drain, ..config() }, slow()).await;
    let mut answer = server.open(&stream(1_000_000)).await;
    let mut waiting = server.open(&post("/prompt", r#"{"prompt": "x", "raw": true}"#)).await;
    assert!(answer.read(&mut [0; 64]).await.unwrap() > 0);
    server.signals.send("SIGTERM").await.unwrap();
    let mut rest = String::new();
    answer.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("event: error") && rest.contains("shutting down"), "{rest}");
    let mut refused = String::new();
    waiting.read_to_string(&mut refused).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("shutting down"), "{refused}");
    server.ended.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let server = TestServer::start(config(), slow()).await;
    let mut answer = server.open(&stream(1_000_000)).await;
    assert!(answer.read(&mut [0; 64]).await.unwrap() > 0);
    server.signals.send("SIGTERM").await.unwrap();
    server.signals.send("SIGINT").await.unwrap();
    let error = server.ended.await.unwrap().unwrap_err();
    assert!(matches!(error, ServeError::Killed { signal: "SIGINT" }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_its_time() {
    let time = Duration::from_millis(200);
    let limits = Limits { request_time: Some(time), ..Limits::default() };
    let server = TestServer::start(with_limits(limits), slow()).await;
    let long = r#"{"prompt": "x", "raw": true, "max_tokens": 100000}"#;
    let start = std::time::Instant::now();
    let long_stream = stream(100_000);
    let (whole, streamed) = tokio::join!(server.post("/prompt", long), server.send(&long_stream));
    assert!((time..time * 10).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(whole.status, 504, "{}", whole.body);
    assert_eq!(whole.json()["error"]["code"], "deadline_exceeded");
    assert!(streamed.body.contains("event: error"), "{}", streamed.body);
    assert!(streamed.body.contains("--request-timeout"), "{}", streamed.body);
    server.until_idle().await;
    assert_eq!(server.post("/warmup", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_only_announced_keep_nobody_out() {
    let limits = Limits { body_bytes: 64 << 10, bodies_bytes: 128 << 10, ..Limits::default() };
    let server = TestServer::start(with_limits(limits), slow()).await;
    let head = |rest: &str| {
        format!(
            "POST /warmup HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{rest}\r\n\r\n"
        )
    };
    let mut announced = Vec::new();
    for _ in 0..8 {
        announced.push(server.open(&head("content-length: 65536")).await);
        announced.push(server.open(&head("transfer-encoding: chunked")).await);
    }
    let start = std::time::Instant::now();
    assert_eq!(server.post("/warmup", "{}").await.status, 200);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_sent_share_the_room() {
    let limits = Limits { body_bytes: 64 << 10, bodies_bytes: 128 << 10, ..Limits::default() };
    let mut config = with_limits(limits);
    // There is always room for the largest document.
    config.documents.limits.bytes_max = 1 << 10;
    let server = TestServer::start(config, slow()).await;
    let part = " ".repeat(60 << 10);
    let head = "POST /warmup HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let held = format!("{head}content-length: 65536\r\n\r\n{part}");
    let (_one, _other) = (server.open(&held).await, server.open(&held).await);
    let body = format!("{{{}}}", " ".repeat(32 << 10));
    let mut third = server.post("/warmup", &body).await;
    // The two may take a moment to arrive.
    for _ in 0..100 {
        if third.status != 200 {
            break;
        }
        third = server.post("/warmup", &body).await;
    }
    assert_eq!(third.error(), (503, "busy".to_owned()));
    assert_eq!(third.header("retry-after"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_as_large_as_it_was_configured() {
    let limits = Limits { body_bytes: 6 << 20, ..Limits::default() };
    let server = TestServer::start(with_limits(limits), slow()).await;
    let body = |len: usize| format!("{{{}}}", " ".repeat(len - 2));
    assert_eq!(server.post("/warmup", &body(6 << 20)).await.status, 200);
    // Who sends more, and reads only then, learns why.
    let refused = server.post("/warmup", &body((6 << 20) + 1)).await;
    assert_eq!(refused.error(), (413, "body_too_large".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_a_large_body_without_a_key_learns_that() {
    let keys = Keys::parse("first-key-1").unwrap();
    let server = TestServer::start(Config { keys, ..config() }, slow()).await;
    let refused = server.post("/warmup", &" ".repeat(8 << 20)).await;
    assert_eq!(refused.error(), (401, "missing_api_key".to_owned()));
}

#[test]
fn a_text_that_is_far_too_long_is_refused_by_its_beginning() {
    let (engine, _driver) = EngineHandle::new(Arc::new(Metrics::new()), 1);
    let served = Served { context: 1000, ..testing::served(engine) };
    let error = served.check_length(&"wo rd ".repeat(10_000)).unwrap_err();
    assert_eq!((error.status.as_u16(), error.code), (400, Some("context_length_exceeded")));
    assert!(error.message.contains("the first 16384 of its 60000 bytes"), "{}", error.message);
    // What may fit is counted as a whole.
    assert_eq!(served.check_length(&" ".repeat(60_000)), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_clients_make_up_are_counted_together() {
    let server = TestServer::start(config(), slow()).await;
    for method in ["BREW", "WHEN", "PROPFIND"] {
        let head =
            format!("{method} /prompt HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        assert_eq!(server.send(&head).await.status, 405);
    }
    let metrics = server.get("/metrics").await;
    let name = r#"halfbyte_http_requests_total{route="/prompt",method="other",status="405"}"#;
    assert_eq!(figure(&metrics, name), 3.0);
    assert!(!metrics.body.contains("BREW"), "{}", metrics.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_ends_the_server() {
    let (server, release) = TestServer::loading(config(), slow()).await;
    release.send(Err("no such file".to_owned())).unwrap();
    let error = server.ended.await.unwrap().unwrap_err();
    assert!(matches!(&error, ServeError::Load(why) if why == "no such file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_tells_everybody_and_ends_the_server() {
    for fate in [Fate::Device, Fate::Panic] {
        // Two tokens go to the warm-up.
        let engine = Scripted { dies_after: Some((20, fate)), ..slow() };
        let server = TestServer::start(config(), engine).await;
        let long = stream(1000);
        let (streamed, whole) = tokio::join!(
            server.send(&long),
            server.post("/prompt", r#"{"prompt": "x", "raw": true}"#)
        );
        assert_eq!(streamed.status, 200);
        assert!(streamed.body.contains("event: error"), "{}", streamed.body);
        assert_eq!(whole.status, 503, "{}", whole.body);
        let error = server.ended.await.unwrap().unwrap_err();
        match fate {
            Fate::Device => {
                assert!(matches!(error, ServeError::Engine(EngineError::Backend(_))), "{error}");
                assert!(whole.body.contains("the card fell out"), "{}", whole.body);
            }
            Fate::Panic => assert!(error.to_string().contains("a fault on purpose"), "{error}"),
        }
        assert!(server.app.served().unwrap_err().message.len() > 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_with_the_time_to_wait() {
    let engine = Scripted { slots: 1, max_waiting: 1, ..slow() };
    let server = TestServer::start(config(), engine).await;
    let mut first = server.open(&stream(1_000_000)).await;
    assert!(first.read(&mut [0; 64]).await.unwrap() > 0);
    let _second = server.open(&stream(1)).await;
    server.until("/metrics", |reply| figure(reply, "halfbyte_requests_waiting") == 1.0).await;
    let third = server.post("/warmup", "").await;
    assert_eq!(third.error(), (429, "queue_full".to_owned()));
    let seconds: u64 = third.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_gives_everything_back() {
    let server =
        TestServer::start(config(), Scripted { slots: 64, max_waiting: 64, ..slow() }).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut streaming = server.open(&stream(1_000_000)).await;
        assert!(streaming.read(&mut [0; 64]).await.unwrap() > 0);
        streams.push(streaming);
        // This one waits for a whole answer that never comes.
        streams.push(server.open(&post("/prompt", r#"{"prompt": "x", "raw": true}"#)).await);
    }
    server.until("/metrics", |reply| figure(reply, "halfbyte_requests_running") == 16.0).await;
    drop(streams);
    server.until_idle().await;
    let metrics = server.get("/metrics").await;
    assert_eq!(figure(&metrics, r#"halfbyte_answers_total{finish_reason="cancelled"}"#), 16.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_cut_off() {
    let limits = Limits { stall_time: Duration::from_millis(200), ..Limits::default() };
    let engine = Scripted { text: "x".repeat(64 << 10), ..Scripted::default() };
    let server = TestServer::start(with_limits(limits), engine).await;
    // More than the system's buffers hold.
    let stalled = server.open(&stream(10_000)).await;
    server.until("/metrics", |reply| figure(reply, "halfbyte_requests_running") == 1.0).await;
    server.until_idle().await;
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_bodies_are_not_waited_for() {
    let limits = Limits {
        head_time: Duration::from_millis(200),
        body_time: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = TestServer::start(with_limits(limits), slow()).await;
    let head = server.send("GET /health HTTP/1.1\r\nhost: local").await;
    assert!([0, 408].contains(&head.status), "{head:?}");
    let idle = server.send("").await;
    assert!([0, 408].contains(&idle.status), "{idle:?}");
    let body = server
        .send("POST /warmup HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
        .await;
    assert_eq!(body.error(), (408, "body_timeout".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused_and_harms_nobody() {
    // Some of it could go on.
    let limits = Limits { head_time: Duration::from_millis(200), ..Limits::default() };
    let server = TestServer::start(with_limits(limits), slow()).await;
    for garbage in [
        "\r\n\r\n",
        "\0\u{1}\u{2}\u{16}\u{3}\u{1}",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /warmup HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        "POST /warmup HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\nzz\r\n",
        "GET /health HTTP/1.1\r\nhost: localhost\r\nx: \u{1}\r\n\r\n",
    ] {
        let reply = server.send(garbage).await;
        assert!(reply.status == 0 || (400..500).contains(&reply.status), "{garbage:?}: {reply:?}");
    }
    let long =
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let reply = server.send(&long).await;
    assert!([0, 431].contains(&reply.status), "{reply:?}");
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_most_are_told() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let server = TestServer::start(with_limits(limits), slow()).await;
    let held = [server.open("GET").await, server.open("GET").await];
    let refused = server.get("/health").await;
    assert!(refused.status == 503 && refused.error().1 == "busy", "{refused:?}");
    drop(held);
    server.until("/health", |reply| reply.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_the_form_of_errors() {
    let limits = Limits { body_bytes: 100, ..Limits::default() };
    let server = TestServer::start(with_limits(limits), slow()).await;
    let error = |status, code: &str| (status, code.to_owned());
    assert_eq!(server.get("/nothing").await.error(), error(404, "not_found"));
    let wrong = server.get("/prompt").await;
    assert_eq!(wrong.error(), error(405, "method_not_allowed"));
    assert_eq!(wrong.header("allow"), Some("post"));
    let large = server.post("/warmup", &" ".repeat(101)).await;
    assert_eq!(large.error(), error(413, "body_too_large"));
    let chunked = "POST /warmup HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = format!("{chunked}65\r\n{}\r\n0\r\n\r\n", "x".repeat(0x65));
    assert_eq!(server.send(&chunked).await.error(), error(413, "body_too_large"));
    let broken = server.post("/warmup", "{").await;
    assert_eq!(broken.error(), error(400, "invalid_json"));
    let text = post("/prompt", "x").replace("application/json", "text/plain");
    assert_eq!(server.send(&text).await.json()["error"]["code"], "unsupported_media_type");
    let metrics = server.get("/metrics").await;
    assert_eq!(figure(&metrics, r#"halfbyte_errors_total{kind="body_too_large"}"#), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_guard_all_but_what_is_open() {
    let keys = Keys::parse("first-key-1\nsecond-key-2").unwrap();
    let shared = Config { keys, is_loopback: false, allow_no_key: false, ..config() };
    let server = TestServer::start(shared, slow()).await;
    let ask = async |path: &str, authorization: &str| {
        let method = if path == "/warmup" { "POST" } else { "GET" };
        server
            .send(&format!(
                "{method} {path} HTTP/1.1\r\nhost: models.example\r\nconnection: close\r\n{authorization}\r\n"
            ))
            .await
    };
    for path in ["/health", "/ready", "/openapi.json"] {
        assert_eq!(ask(path, "").await.status, 200, "{path}");
    }
    for path in ["/warmup", "/metrics", "/nothing"] {
        let refused = ask(path, "").await;
        assert_eq!(refused.error(), (401, "missing_api_key".to_owned()), "{path}");
        assert_eq!(refused.header("www-authenticate"), Some("bearer"));
    }
    for wrong in ["Bearer first-key-2", "Bearer ", "Basic first-key-1", "Bearer first-key-1 x"] {
        let refused = ask("/metrics", &format!("authorization: {wrong}\r\n")).await;
        assert_eq!(refused.status, 401, "{wrong}");
        assert!(!refused.body.contains("first-key"), "{}", refused.body);
    }
    for right in ["Bearer first-key-1", "bearer second-key-2"] {
        let reply = ask("/warmup", &format!("authorization: {right}\r\n")).await;
        assert_eq!(reply.status, 200, "{right}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_cannot_pass_as_this_machine() {
    let server = TestServer::start(config(), slow()).await;
    let ask = async |host: &str| {
        let head = format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        server.send(&head).await
    };
    for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]:8000", "books.example"] {
        assert_eq!(ask(host).await.status, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1"] {
        assert_eq!(ask(host).await.error(), (403, "foreign_host".to_owned()), "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_names_request_and_build() {
    let server = TestServer::start(config(), slow()).await;
    let ask = async |id: &str| {
        let head =
            "GET /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: ";
        server.send(&format!("{head}{id}\r\n\r\n")).await
    };
    let reply = ask("order-17.a:b_c").await;
    assert_eq!(reply.header("x-request-id"), Some("order-17.a:b_c"));
    assert_eq!(reply.header("x-halfbyte-build"), Some("0.0.0+test"));
    for harmful in ["a b", "<script>", &"x".repeat(129), ""] {
        let reply = ask(harmful).await;
        assert!(reply.header("x-request-id").unwrap().starts_with("req-"), "{harmful}");
    }
    let (one, other) = tokio::join!(server.get("/health"), server.get("/health"));
    assert_ne!(one.header("x-request-id"), other.header("x-request-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_listed_origins_may_ask() {
    let server = TestServer::start(config(), slow()).await;
    let preflight = async |origin: &str| {
        server
            .send(&format!(
                "OPTIONS /prompt HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\norigin: {origin}\r\n\
                 access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n\r\n"
            ))
            .await
    };
    let allowed = preflight("https://books.example").await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://books.example"));
    assert_eq!(preflight("https://evil.example").await.header("access-control-allow-origin"), None);
}

/// The value of a figure; 0 where there is none.
fn figure(reply: &Reply, name: &str) -> f64 {
    prometheus(&reply.body).get(name).copied().unwrap_or(0.0)
}

/// Reads Prometheus' text format, and checks what a parser of it would.
fn prometheus(text: &str) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let (what, rest) = comment.split_once(' ').unwrap();
            let (name, value) = rest.split_once(' ').unwrap();
            assert!(["HELP", "TYPE"].contains(&what), "{line}");
            if what == "TYPE" {
                assert_eq!(kinds.insert(name.to_owned(), value.to_owned()), None, "{line}");
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let base = name.split('{').next().unwrap();
        let is_part =
            |suffix| base.strip_suffix(suffix).is_some_and(|base| kinds.contains_key(base));
        let has_kind = ["_bucket", "_sum", "_count"].iter().any(|suffix| is_part(*suffix));
        assert!(kinds.contains_key(base) || has_kind, "no type: {line}");
        assert!(base.starts_with("halfbyte_"), "{line}");
        assert_eq!(figures.insert(name.to_owned(), value.parse().unwrap()), None, "{line}");
    }
    figures
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_count_what_happened() {
    let server = TestServer::start(config(), slow()).await;
    let reply = server.send(&stream(10)).await;
    assert!(reply.body.contains("event: result"), "{}", reply.body);
    server.until_idle().await;
    let figures = prometheus(&server.get("/metrics").await.body);
    // The warm-up's two tokens, and ten.
    let count = |name: &str| {
        figures.get(name).copied().unwrap_or_else(|| panic!("no {name}: {figures:#?}"))
    };
    assert_eq!(count("halfbyte_generated_tokens_total"), 12.0);
    assert_eq!(count("halfbyte_time_to_first_token_seconds_count"), 2.0);
    assert_eq!(count("halfbyte_inter_token_seconds_count"), 10.0);
    assert_eq!(count(r#"halfbyte_inter_token_seconds_bucket{le="+Inf"}"#), 10.0);
    assert_eq!(count("halfbyte_queue_seconds_count"), 2.0);
    assert_eq!(count("halfbyte_request_engine_seconds_count"), 2.0);
    assert_eq!(count("halfbyte_step_tokens_count"), count("halfbyte_step_seconds_count"));
    assert_eq!(count(r#"halfbyte_answers_total{finish_reason="length"}"#), 2.0);
    assert_eq!(count(r#"halfbyte_kv_blocks{state="free"}"#), 64.0);
    let engine = count("halfbyte_request_engine_seconds_sum");
    let steps = count("halfbyte_step_seconds_sum");
    assert!((engine - steps).abs() < 0.01 * steps, "{engine} of {steps}");
    let info = r#"halfbyte_info{build="0.0.0+test",model="demo",device="a script"}"#;
    assert_eq!(count(info), 1.0);
    let http = r#"halfbyte_http_requests_total{route="/prompt",method="POST",status="200"}"#;
    assert_eq!(count(http), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_go_to_a_collector_that_was_asked_for() {
    let (url, mut received) = testing::collector().await;
    let collector: Collector = url.parse().unwrap();
    let server = TestServer::start(Config { collector: Some(collector), ..config() }, slow()).await;
    assert_eq!(server.send(&stream(3)).await.status, 200);
    let app = server.app.clone();
    tokio::task::spawn_blocking(move || app.spans().unwrap().end()).await.unwrap();
    let sent = String::from_utf8_lossy(&received.recv().await.unwrap()).into_owned();
    assert!(sent.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("content-type: application/x-protobuf"), "{sent}");
    for part in ["halfbyte", "POST /prompt", "gen_ai.usage.output_tokens", "0.0.0+test"] {
        assert!(sent.contains(part), "{part} is not in {sent}");
    }
    assert!(!sent.contains("Hello"), "the prompt left the machine");
}

#[tokio::test]
async fn the_document_describes_every_route() {
    let app = App::new(config()).unwrap();
    let (document, routes) = router::document(&app);
    let json = serde_json::to_value(&document).unwrap();
    let described: BTreeSet<&str> =
        json["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    // The page and its parts are for people, the document is itself, and a model's name may hold a slash.
    let hidden = |path: &str| {
        ["/", "/openapi.json", "/v1/models/{id}/{name}", "/{*__private__axum_fallback}"]
            .contains(&path)
            || path.starts_with("/page/")
    };
    let missing: Vec<_> =
        routes.iter().filter(|path| !hidden(path) && !described.contains(path.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(routes.len() > 5, "{routes:?}");
    let mut references = Vec::new();
    collect_references(&json, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(json.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

/// What the way from the engine to its clients costs: microseconds of the engine's thread for each step of 128 streams, all of
/// which are read. Run it by name, in a release build.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn overhead_of_128_streams() {
    const STREAMS: usize = 128;
    const TOKENS: usize = 2000;
    let engine = Scripted {
        slots: STREAMS,
        max_waiting: STREAMS,
        step_time: Duration::ZERO,
        ..Scripted::default()
    };
    let server = TestServer::start(config(), engine).await;
    let start = std::time::Instant::now();
    let long = stream(TOKENS);
    let all = (0..STREAMS).map(|_| server.send(&long));
    let replies = futures_util::future::join_all(all).await;
    let seconds = start.elapsed().as_secs_f64();
    assert!(replies.iter().all(|reply| reply.body.contains("event: result")));
    let figures = prometheus(&server.get("/metrics").await.body);
    let steps = figures["halfbyte_step_seconds_count"];
    let busy = figures["halfbyte_step_seconds_sum"];
    println!(
        "{steps} steps, {:.1} us each within the engine and its events; {:.0} tokens/s over {STREAMS} connections",
        1e6 * busy / steps,
        (STREAMS * TOKENS) as f64 / seconds
    );
}
