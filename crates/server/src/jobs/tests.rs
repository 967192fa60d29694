//! Jobs from outside: real sockets, a file of jobs, a receiver of callbacks, a scripted engine behind it all.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post as route_post;
use jobs::Place;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{JobsConfig, WebhookSecrets};
use crate::testing::{Fate, Reply, Scripted, TestServer, config};
use crate::{Config, Keys};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn jobs_in(folder: &TempDir) -> JobsConfig {
    JobsConfig {
        model: "demo".to_owned(),
        place: Place::File(folder.path().join("jobs.sqlite")),
        secrets: WebhookSecrets::parse(SECRET).unwrap(),
        allow_private: true,
        lease: Duration::from_secs(2),
        ..JobsConfig::default()
    }
}

fn with(jobs: JobsConfig) -> Config {
    Config { jobs, ..config() }
}

async fn start(folder: &TempDir) -> TestServer {
    TestServer::start(with(jobs_in(folder)), Scripted::default()).await
}

fn job(max_tokens: u32) -> Value {
    let data = json!({ "prompt": "x", "raw": true, "max_tokens": max_tokens });
    json!({ "endpoint": "/prompt", "data": data })
}

async fn create(server: &TestServer, job: &Value, headers: &str) -> Reply {
    let body = job.to_string();
    let request = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         {headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    server.send(&request).await
}

async fn ended(server: &TestServer, id: &str) -> Value {
    let is_final =
        |reply: &Reply| !["queued", "running"].contains(&reply.json()["status"].as_str().unwrap());
    server.until(&format!("/v1/jobs/{id}"), is_final).await.json()
}

fn id(reply: &Reply) -> String {
    assert!([200, 202].contains(&reply.status), "{reply:?}");
    reply.json()["id"].as_str().unwrap().to_owned()
}

async fn ask(server: &TestServer, method: &str, path: &str) -> Reply {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    server.send(&head).await
}

/// Who is told, and what it has been told.
#[derive(Clone, Default)]
struct Receiver {
    answers: Arc<AtomicU16>,
    told: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Receiver {
    /// One that answers so, and its URL.
    async fn start(status: u16) -> (Self, String) {
        let receiver = Receiver::default();
        receiver.answers.store(status, Ordering::Relaxed);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router =
            Router::new().route("/hook", route_post(Self::take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, url)
    }

    async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
        let webhook = standardwebhooks::Webhook::new(SECRET).unwrap();
        webhook.verify(&body, &headers).unwrap();
        let name = headers["webhook-id"].to_str().unwrap().to_owned();
        let body = serde_json::from_slice(&body).unwrap();
        receiver.told.lock().unwrap().push((name, body));
        StatusCode::from_u16(receiver.answers.load(Ordering::Relaxed)).unwrap()
    }

    async fn wait_for(&self, count: usize) -> Vec<(String, Value)> {
        for _ in 0..1000 {
            let told = self.told.lock().unwrap().clone();
            if told.len() >= count {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("told {} times, not {count}", self.told.lock().unwrap().len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_accepted_answered_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let (receiver, url) = Receiver::start(204).await;
    let mut asked = job(3);
    asked["callback_url"] = url.clone().into();
    let accepted = create(&server, &asked, "").await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = id(&accepted);
    assert_eq!(accepted.header("location"), Some(format!("/v1/jobs/{id}").as_str()));
    assert_eq!(accepted.json()["callback"]["status"], "waiting");
    let job = ended(&server, &id).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    assert_eq!(job["result"]["output"], "word word word ");
    assert_eq!((&job["attempts"], &job["http_status"]), (&1.into(), &200.into()));
    let told = receiver.wait_for(1).await;
    assert_eq!(told[0].0, id.replace("job_", "msg_"));
    assert_eq!(told[0].1["type"], "job.succeeded");
    assert_eq!(told[0].1["data"]["result"], job["result"]);
    let path = format!("/v1/jobs/{id}");
    let delivered = |reply: &Reply| reply.json()["callback"]["status"] == "delivered";
    server.until(&path, delivered).await;
    // Once more, for those who lost it; by the same name.
    assert_eq!(server.post(&format!("{path}/callback"), "").await.status, 202);
    let told = receiver.wait_for(2).await;
    assert_eq!(told[0], told[1]);
    // Figures of the store may be a second old.
    let is_empty = |reply: &Reply| reply.body.contains(r#"halfbyte_jobs{state="queued"} 0"#);
    let metrics = server.until("/metrics", is_empty).await.body;
    assert!(metrics.contains(r#"halfbyte_jobs_finished_total{state="succeeded"} 1"#), "{metrics}");
    assert!(metrics.contains("halfbyte_job_callbacks_total{outcome=\"delivered\"}"), "{metrics}");
    assert_eq!(ask(&server, "DELETE", &path).await.json()["deleted"], true);
    assert_eq!(server.get(&path).await.error(), (404, "job_not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_answers_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    let document = "SW52b2ljZSA3Cg==";
    for (endpoint, data, part) in [
        ("/prompt", json!({ "prompt": "x", "max_tokens": 1 }), "/output"),
        ("/extract", json!({ "document_base64": document, "filename": "a.txt" }), "/markdown"),
        (
            "/process",
            json!({ "document_base64": document, "filename": "a.txt", "prompt": { "max_tokens": 1 } }),
            "/output",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "demo", "messages": messages, "max_tokens": 1 }),
            "/choices/0",
        ),
        (
            "/v1/completions",
            json!({ "model": "demo", "prompt": "x", "max_tokens": 1 }),
            "/choices/0",
        ),
        (
            "/v1/responses",
            json!({ "model": "demo", "input": "x", "max_output_tokens": 16 }),
            "/output/0",
        ),
    ] {
        let reply = create(&server, &json!({ "endpoint": endpoint, "data": data }), "").await;
        let job = ended(&server, &id(&reply)).await;
        assert_eq!(job["status"], "succeeded", "{endpoint}: {job}");
        assert!(job["result"].pointer(part).is_some_and(|part| !part.is_null()), "{job}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_not_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let check = async |job: Value, headers: &str, status: u16, param: &str, part: &str| {
        let reply = create(&server, &job, headers).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, error["param"].as_str()), (status, Some(param)), "{reply:?}");
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    };
    let of = |endpoint: &str, data: Value| json!({ "endpoint": endpoint, "data": data });
    check(of("/v1/jobs", json!({})), "", 400, "endpoint", "/v1/chat/completions").await;
    check(of("prompt", json!({})), "", 400, "endpoint", "one of /prompt").await;
    check(json!({ "data": {} }), "", 400, "endpoint", "missing field").await;
    check(json!({ "endpoint": "/prompt", "data": [] }), "", 400, "data", "sequence").await;
    check(
        json!({ "endpoint": "/prompt", "data": {}, "priority": 1 }),
        "",
        400,
        "priority",
        "unknown",
    )
    .await;
    let stream = json!({ "prompt": "x", "stream": true });
    check(of("/prompt", stream), "", 400, "data.stream", "/v1/jobs/ID/events").await;
    check(of("/prompt", json!({ "promt": "x" })), "", 400, "data.promt", "unknown field").await;
    check(of("/classify", json!({ "text": 1 })), "", 400, "data.text", "expected a string").await;
    check(of("/extract", json!({})), "", 400, "data.file", "no document").await;
    check(of("/v1/completions", json!({})), "", 400, "data.model", "model").await;
    check(job(1), "idempotency-key: \r\n", 400, "idempotency-key", "1 to 255").await;
    let twice = "idempotency-key: a\r\nidempotency-key: b\r\n";
    check(job(1), twice, 400, "idempotency-key", "once").await;
    let mut told = job(1);
    told["callback_url"] = "ftp://a/".into();
    check(told, "", 400, "callback_url", "neither http nor https").await;
    for (path, param) in [
        ("/v1/jobs?status=done", "status"),
        ("/v1/jobs?callback=lost", "callback"),
        ("/v1/jobs?limit=0", "limit"),
        ("/v1/jobs?limit=101", "limit"),
    ] {
        let reply = server.get(path).await;
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &param.into()), "{path}");
    }
    for path in ["/v1/jobs?foo=1", "/v1/jobs?limit=x"] {
        assert_eq!(server.get(path).await.error().0, 400, "{path}");
    }
    for path in ["/v1/jobs/job_none", "/v1/jobs/job_none/events"] {
        assert_eq!(server.get(path).await.error().0, 404, "{path}");
    }
    for path in ["/v1/jobs/job_none/cancel", "/v1/jobs/job_none/callback"] {
        assert_eq!(server.post(path, "").await.error().0, 404, "{path}");
    }
    assert_eq!(ask(&server, "DELETE", "/v1/jobs/job_none").await.error().0, 404);
    assert_eq!(server.get("/v1/jobs").await.json()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_job_and_another_body_a_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let key = "idempotency-key: order-17\r\n";
    let first = create(&server, &job(2), key).await;
    assert_eq!(first.status, 202);
    let again = create(&server, &job(2), key).await;
    assert_eq!((again.status, id(&again)), (200, id(&first)));
    assert_eq!(again.json()["idempotency_key"], "order-17");
    let other = create(&server, &job(3), key).await;
    assert_eq!(other.error(), (409, "idempotency_conflict".to_owned()));
    assert_eq!(server.get("/v1/jobs").await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let asked =
        json!({ "endpoint": "/v1/completions", "data": { "model": "none", "prompt": "x" } });
    let failed = ended(&server, &id(&create(&server, &asked, "").await)).await;
    assert_eq!((&failed["status"], &failed["http_status"]), (&"failed".into(), &404.into()));
    assert!(failed["error"]["message"].as_str().unwrap().contains("none"), "{failed}");
    assert_eq!(failed["result"], Value::Null);
    let list = server.get("/v1/jobs?status=failed").await.json();
    assert_eq!((&list["data"][0]["id"], &list["has_more"]), (&failed["id"], &false.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_is_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = JobsConfig { result_bytes: 256, ..jobs_in(&folder) };
    let server = TestServer::start(with(jobs), Scripted::default()).await;
    let failed = ended(&server, &id(&create(&server, &job(1), "").await)).await;
    assert_eq!(failed["error"]["code"], "result_too_large", "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_jobs_give_their_room_back() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Scripted { step_time: Duration::from_millis(5), ..Scripted::default() };
    let server = TestServer::start(with(jobs_in(&folder)), slow).await;
    let long = id(&create(&server, &job(1_000_000), "").await);
    let path = format!("/v1/jobs/{long}");
    server.until(&path, |reply| reply.json()["status"] == "running").await;
    assert_eq!(ask(&server, "DELETE", &path).await.error(), (409, "job_not_finished".to_owned()));
    let cancelled = server.post(&format!("{path}/cancel"), "").await;
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &"cancelled".into()));
    server.until_idle().await;
    // Cancelling twice is no mistake; cancelling what has ended is.
    assert_eq!(server.post(&format!("{path}/cancel"), "").await.status, 200);
    let short = id(&create(&server, &job(1), "").await);
    ended(&server, &short).await;
    let late = server.post(&format!("/v1/jobs/{short}/cancel"), "").await;
    assert_eq!(late.error(), (409, "job_finished".to_owned()));
    assert_eq!(server.post(&format!("/v1/jobs/{short}/callback"), "").await.error().0, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_a_job_to_its_end_and_are_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Scripted { step_time: Duration::from_millis(2), ..Scripted::default() };
    let server = TestServer::start(with(jobs_in(&folder)), slow).await;
    let id = id(&create(&server, &job(100), "").await);
    let path = format!("/v1/jobs/{id}/events");
    let events = server.get(&path).await;
    let names: Vec<&str> =
        events.body.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names, ["queued", "running", "succeeded"], "{}", events.body);
    assert!(events.body.contains("id: 3"), "{}", events.body);
    let from = async |last: &str| {
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nlast-event-id: {last}\r\n\r\n"
        );
        server.send(&head).await
    };
    let rest = from("2").await.body;
    assert!(rest.contains("event: succeeded") && !rest.contains("event: running"), "{rest}");
    assert!(!from("3").await.body.contains("event: "));
    assert_eq!(from("x").await.error().0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_refuses_is_told_again_and_one_that_is_gone_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let (receiver, url) = Receiver::start(500).await;
    let mut asked = job(1);
    asked["callback_url"] = url.into();
    let id = id(&create(&server, &asked, "").await);
    let path = format!("/v1/jobs/{id}");
    let reply = server
        .until(&path, |reply| reply.json()["callback"]["last_error"].is_string())
        .await
        .json();
    assert_eq!(reply["callback"]["status"], "pending");
    assert!(reply["callback"]["last_error"].as_str().unwrap().contains("500"), "{reply}");
    receiver.answers.store(410, Ordering::Relaxed);
    let told = receiver.wait_for(2).await;
    assert_eq!(told[0], told[1]);
    server.until(&path, |reply| reply.json()["callback"]["status"] == "dead").await;
    assert_eq!(server.get("/v1/jobs?callback=dead").await.json()["data"][0]["id"], id.as_str());
    receiver.answers.store(200, Ordering::Relaxed);
    server.post(&format!("{path}/callback"), "").await;
    server.until(&path, |reply| reply.json()["callback"]["status"] == "delivered").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_inside_is_told_and_nobody_without_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut asked = job(1);
    asked["callback_url"] = "http://127.0.0.1:1/".into();
    let jobs = JobsConfig { allow_private: false, ..jobs_in(&folder) };
    let server = TestServer::start(with(jobs), Scripted::default()).await;
    for inside in ["http://127.0.0.1:1/", "https://169.254.169.254/", "http://example.org/"] {
        asked["callback_url"] = inside.into();
        let refused = create(&server, &asked, "").await;
        assert_eq!(refused.json()["error"]["param"], "callback_url", "{refused:?}");
        assert!(refused.body.contains("--allow-private-callbacks"), "{refused:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let jobs = JobsConfig { secrets: WebhookSecrets::default(), ..jobs_in(&folder) };
    let server = TestServer::start(with(jobs), Scripted::default()).await;
    let refused = create(&server, &asked, "").await;
    assert_eq!(refused.error(), (400, "no_webhook_secret".to_owned()));
    assert!(refused.body.contains("HALFBYTE_WEBHOOK_SECRET"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_but_not_for_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = JobsConfig { queue: 2, ..jobs_in(&folder) };
    // It is still loading, so nothing is taken.
    let (server, _release) = TestServer::loading(with(jobs), Scripted::default()).await;
    assert_eq!(create(&server, &job(1), "idempotency-key: one\r\n").await.status, 202);
    assert_eq!(create(&server, &job(1), "").await.status, 202);
    let full = create(&server, &job(1), "").await;
    assert_eq!(full.error(), (429, "job_queue_full".to_owned()));
    assert!(full.header("retry-after").is_some());
    assert_eq!(create(&server, &job(1), "idempotency-key: one\r\n").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_need_a_key_to_be_asked_for_and_none_to_be_answered() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::parse("first-key-1").unwrap();
    let config = Config { keys, ..with(jobs_in(&folder)) };
    let server = TestServer::start(config, Scripted::default()).await;
    assert_eq!(create(&server, &job(1), "").await.error().0, 401);
    let key = "authorization: Bearer first-key-1\r\n";
    let accepted = create(&server, &job(1), key).await;
    let path = format!("/v1/jobs/{}", id(&accepted));
    assert_eq!(server.get(&path).await.error().0, 401);
    for _ in 0..500 {
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{key}\r\n");
        if server.send(&head).await.json()["status"] == "succeeded" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_jobs_says_so() {
    let server = TestServer::start(config(), Scripted::default()).await;
    let refused = create(&server, &job(1), "").await;
    assert_eq!(refused.error(), (503, "no_jobs".to_owned()));
    assert!(refused.body.contains("--jobs off"), "{refused:?}");
    // The usual place is another server's: this one starts, and says why it takes none.
    let folder = tempfile::tempdir().unwrap();
    let _first = start(&folder).await;
    let jobs = JobsConfig { is_default: true, ..jobs_in(&folder) };
    let second = TestServer::start(with(jobs), Scripted::default()).await;
    let refused = second.get("/v1/jobs").await;
    assert!(
        refused.status == 503 && refused.body.contains("in use by another server"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_progress_when_the_server_ends_is_answered_or_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Scripted { step_time: Duration::from_millis(5), ..Scripted::default() };
    let config = Config { drain: Duration::from_millis(500), ..with(jobs_in(&folder)) };
    let server = TestServer::start(config, slow).await;
    let (short, long) =
        (id(&create(&server, &job(20), "").await), id(&create(&server, &job(1_000_000), "").await));
    let running = |reply: &Reply| reply.json()["status"] != "queued";
    server.until(&format!("/v1/jobs/{long}"), running).await;
    server.signals.send("SIGTERM").await.unwrap();
    server.ended.await.unwrap().unwrap();
    drop(server.app);
    let next = loop {
        let config = with(JobsConfig { is_default: true, ..jobs_in(&folder) });
        let next = TestServer::loading(config, Scripted::default()).await;
        if next.0.get("/v1/jobs").await.status == 200 {
            break next;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let short = next.0.get(&format!("/v1/jobs/{short}")).await.json();
    assert_eq!(short["status"], "succeeded", "{short}");
    let long = next.0.get(&format!("/v1/jobs/{long}")).await.json();
    assert_eq!((&long["status"], &long["attempts"]), (&"queued".into(), &0.into()), "{long}");
    assert!(long["reason"].as_str().unwrap().contains("shutting down"), "{long}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_dead_engine_are_put_back_and_count() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Scripted {
        step_time: Duration::from_millis(5),
        dies_after: Some((40, Fate::Device)),
        ..Scripted::default()
    };
    let server = TestServer::start(with(jobs_in(&folder)), slow).await;
    let job = id(&create(&server, &job(1_000_000), "").await);
    server.ended.await.unwrap().unwrap_err();
    let store = server.app.jobs().store().unwrap();
    let job = store.get(&job).await.unwrap().unwrap();
    assert_eq!((job.state, job.attempts), (jobs::State::Queued, 1), "{job:?}");
    assert!(job.reason.as_deref().unwrap().contains("the card fell out"), "{job:?}");
}
