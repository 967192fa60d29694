//! The worker beside a platform that fails, repeats itself and changes its mind.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use server::Told;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use worker::{Ended, Options, Place, Service, work};

/// Milliseconds between pings.
const PING_MS: u64 = 200;

/// What the platform has seen.
#[derive(Default)]
struct Seen {
    queue: VecDeque<Value>,
    /// Jobs that are handed out, whatever became of it.
    handed_out: BTreeMap<String, usize>,
    /// What was posted for a job, and whether as the end of a stream.
    results: BTreeMap<String, Vec<(Value, bool)>>,
    pieces: BTreeMap<String, Vec<Value>>,
    progress: BTreeSet<String>,
    to_stop: Vec<String>,
    stopped: BTreeSet<String>,
    pings: Vec<Instant>,
    pinged_jobs: BTreeSet<String>,
    unfit: Vec<String>,
    wrong: Vec<String>,
    requests: u64,
}

#[derive(Clone)]
struct Platform {
    seen: Arc<Mutex<Seen>>,
    /// One request in so many fails; 0 for none.
    faults: u64,
}

fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Platform {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Fails now and then: with a status, after a while, or after what was asked for has been done.
    fn fault(&self, headers: &HeaderMap) -> Option<Fault> {
        let mut seen = self.seen();
        seen.requests += 1;
        if headers.get(header::AUTHORIZATION).is_none_or(|key| key != "key") {
            seen.wrong.push("no key".to_owned());
        }
        let random = mix(seen.requests);
        if self.faults == 0 || !random.is_multiple_of(self.faults) {
            return None;
        }
        Some(match (random >> 32) % 4 {
            0 => Fault::Before(StatusCode::INTERNAL_SERVER_ERROR),
            1 => Fault::Before(StatusCode::TOO_MANY_REQUESTS),
            2 => Fault::Before(StatusCode::BAD_GATEWAY),
            _ => Fault::After,
        })
    }
}

enum Fault {
    Before(StatusCode),
    /// The answer is lost, though the request has been seen to.
    After,
}

async fn take(
    State(platform): State<Platform>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let fault = platform.fault(&headers);
    if let Some(Fault::Before(status)) = fault {
        return status.into_response();
    }
    let count = query.get("batch_size").map_or(1, |count| count.parse().unwrap());
    for _ in 0..20 {
        {
            let mut seen = platform.seen();
            let ready = count.min(seen.queue.len());
            let jobs: Vec<Value> = seen.queue.drain(..ready).collect();
            if !jobs.is_empty() {
                for job in &jobs {
                    let id = job["id"].as_str().unwrap().to_owned();
                    *seen.handed_out.entry(id).or_default() += 1;
                }
                if matches!(fault, Some(Fault::After)) {
                    // Nobody took them: the platform hands them out again.
                    seen.queue.extend(jobs);
                    return StatusCode::GATEWAY_TIMEOUT.into_response();
                }
                return if query.contains_key("batch_size") {
                    Json(json!(jobs)).into_response()
                } else {
                    Json(jobs[0].clone()).into_response()
                };
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn done(
    State(platform): State<Platform>,
    Path((pod, id)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: String,
) -> StatusCode {
    let fault = platform.fault(&headers);
    if let Some(Fault::Before(status)) = fault {
        return status;
    }
    let mut seen = platform.seen();
    if pod != "pod-1" || headers.get("x-request-id").is_none_or(|given| given != id.as_str()) {
        seen.wrong.push(format!("a result of {id} from {pod} without its name"));
    }
    let body: Value = serde_json::from_str(&body).unwrap();
    if body["status"] == "IN_PROGRESS" {
        seen.progress.insert(id);
        return StatusCode::OK;
    }
    if seen.stopped.contains(&id) {
        seen.wrong.push(format!("{id} was stopped, and yet has a result"));
    }
    seen.results.entry(id).or_default().push((body, query["isStream"] == "true"));
    match fault {
        Some(_) => StatusCode::INTERNAL_SERVER_ERROR,
        None => StatusCode::OK,
    }
}

async fn piece(
    State(platform): State<Platform>,
    Path((_, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: String,
) -> StatusCode {
    if let Some(Fault::Before(status)) = platform.fault(&headers) {
        return status;
    }
    let body: Value = serde_json::from_str(&body).unwrap();
    platform.seen().pieces.entry(id).or_default().push(body["output"].clone());
    StatusCode::OK
}

async fn ping(
    State(platform): State<Platform>,
    Query(query): Query<BTreeMap<String, String>>,
) -> StatusCode {
    let mut seen = platform.seen();
    if let Some(reason) = query.get("reason") {
        seen.unfit.push(format!("{} {}: {reason}", query["status"], query["check"]));
        return StatusCode::OK;
    }
    seen.pings.push(Instant::now());
    let jobs = query.get("job_id").map(String::as_str).unwrap_or_default();
    seen.pinged_jobs.extend(jobs.split(',').filter(|id| !id.is_empty()).map(str::to_owned));
    StatusCode::OK
}

async fn stop(State(platform): State<Platform>) -> Response {
    for _ in 0..20 {
        {
            let mut seen = platform.seen();
            let ids = std::mem::take(&mut seen.to_stop);
            if !ids.is_empty() {
                return Json(json!({ "jobsToStop": ids })).into_response();
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    StatusCode::NO_CONTENT.into_response()
}

/// What the jobs are answered by: an echo, a stream, a refusal, and what takes its time.
fn service(at_once: usize) -> Service {
    let router = Router::new()
        .route(
            "/prompt",
            post(|Json(body): Json<Value>| async move {
                sleep(Duration::from_millis(mix(body["n"].as_u64().unwrap_or(0)) % 20)).await;
                Json(json!({ "success": true, "output": body }))
            }),
        )
        .route(
            "/stream",
            post(|Json(body): Json<Value>| async move {
                let pieces = (0..5).map(move |at| {
                    Ok::<_, std::io::Error>(format!("data: [{}, {at}]\n\n", body["n"]))
                });
                (
                    [(header::CONTENT_TYPE, "text/event-stream")],
                    Body::from_stream(futures_util::stream::iter(pieces)),
                )
            }),
        )
        .route(
            "/slow",
            get(|| async {
                sleep(Duration::from_secs(60)).await;
                "slow"
            }),
        )
        .route(
            "/while",
            get(|| async {
                sleep(Duration::from_millis(700)).await;
                Json(json!("while"))
            }),
        );
    Service {
        router,
        capacity: Arc::new(move |running| at_once.saturating_sub(running)),
        model: Arc::new(|| None),
    }
}

struct Running {
    platform: Platform,
    told: watch::Sender<Told>,
    ended: tokio::task::JoinHandle<Ended>,
}

async fn start(faults: u64, at_once: usize, options: Options) -> Running {
    let platform = Platform { seen: Arc::default(), faults };
    let router = Router::new()
        .route("/job-take/{pod}", get(take))
        .route("/job-take-batch/{pod}", get(take))
        .route("/job-done/{pod}/{id}", post(done))
        .route("/job-stream/{pod}/{id}", post(piece))
        .route("/job-stop/{pod}", get(stop))
        .route("/ping/{pod}", get(ping))
        .with_state(platform.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let variables = BTreeMap::from([
        ("RUNPOD_WEBHOOK_GET_JOB", format!("{base}/job-take/$ID?gpu=H200")),
        ("RUNPOD_WEBHOOK_POST_OUTPUT", format!("{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=H200")),
        ("RUNPOD_WEBHOOK_POST_STREAM", format!("{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=H200")),
        ("RUNPOD_WEBHOOK_PING", format!("{base}/ping/$RUNPOD_POD_ID")),
        ("RUNPOD_PING_INTERVAL", PING_MS.to_string()),
        ("RUNPOD_AI_API_KEY", "key".to_owned()),
        ("RUNPOD_POD_ID", "pod-1".to_owned()),
    ]);
    let place = Place::read(|name| variables.get(name).cloned(), String::new).unwrap().unwrap();
    let (told, hears) = watch::channel(Told::Work);
    let ended =
        tokio::spawn(async move { work(place, service(at_once), options, hears).await.unwrap() });
    Running { platform, told, ended }
}

const PLAIN: Options = Options { refresh: false, progress: None };

impl Running {
    fn give(&self, id: &str, input: Value) {
        self.platform.seen().queue.push_back(json!({ "id": id, "input": input }));
    }

    async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let waiting = async {
            while !holds(&self.platform.seen()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(600), waiting)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Ends the worker.
    async fn drain(self) -> Platform {
        self.told.send_replace(Told::Drain);
        let ended = timeout(Duration::from_secs(30), self.ended).await.expect("it does not end");
        assert_eq!(ended.unwrap(), Ended::AsTold);
        assert_eq!(self.platform.seen().wrong, Vec::<String>::new());
        self.platform
    }
}

/// A job of one of five kinds, and what it should come to.
fn job(n: u64) -> (Value, Result<Value, &'static str>) {
    let data = json!({ "n": n });
    match n % 5 {
        0 => (
            json!({ "endpoint": "/prompt", "data": data }),
            Ok(json!({ "success": true, "output": data })),
        ),
        1 => (
            json!({ "route": "/stream", "body": data }),
            Ok(json!((0..5).map(|at| json!([n, at])).collect::<Vec<_>>())),
        ),
        2 => (
            json!({ "prompt": "x", "sampling_params": data }),
            Ok(json!({ "success": true, "output": { "prompt": "x", "n": n } })),
        ),
        3 => (json!({ "endpoint": "/absent" }), Err("404")),
        _ => (json!({ "nonsense": n }), Err("`input` has none of")),
    }
}

/// All kinds of jobs, handed out twice now and then, by a platform of which one request in eight fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_is_answered_once_or_failed_explicitly() {
    let soak = std::env::var_os("HALFBYTE_SOAK").is_some();
    let count: u64 = if soak { 10_000 } else { 300 };
    let worker = start(8, 32, PLAIN).await;
    let name = |n: u64| format!("job-{n}");
    for n in 0..count {
        worker.give(&name(n), job(n).0);
        if n % 10 == 7 {
            worker.give(&name(n), job(n).0);
        }
    }
    worker
        .until("all have results", |seen| {
            seen.results.len() as u64 == count && seen.queue.is_empty()
        })
        .await;
    let platform = worker.drain().await;
    let seen = platform.seen();
    for n in 0..count {
        let (name, (_, wanted)) = (name(n), job(n));
        let results = &seen.results[&name];
        // The platform may have lost the answer to a result, or asked again: but there is one result.
        assert!(results.iter().all(|result| result == &results[0]), "{name}: {results:?}");
        let (body, is_stream) = &results[0];
        match wanted {
            Ok(output) => {
                assert_eq!((&body["output"], *is_stream), (&output, n % 5 == 1), "{name}")
            }
            Err(part) => {
                let error: Value = serde_json::from_str(body["error"].as_str().unwrap()).unwrap();
                assert_eq!(error["success"], false);
                let text = error.to_string();
                assert!(text.contains(part), "{name}: {text}");
            }
        }
        if n % 5 == 1 {
            let pieces: Vec<&Value> = seen.pieces[&name].iter().collect();
            let distinct: BTreeSet<String> = pieces.iter().map(|piece| piece.to_string()).collect();
            assert_eq!(distinct.len(), 5, "{name}: {pieces:?}");
        }
    }
    let again = seen.handed_out.values().filter(|times| **times > 1).count();
    assert!(again > 0, "nothing was handed out twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_job_says_nothing_and_others_go_on() {
    let worker = start(0, 4, PLAIN).await;
    worker.give("slow", json!({ "endpoint": "/slow" }));
    worker.give("while", json!({ "endpoint": "/while" }));
    worker.until("both run", |seen| seen.pinged_jobs.len() == 2).await;
    {
        let mut seen = worker.platform.seen();
        seen.stopped.insert("slow".to_owned());
        seen.to_stop.push("slow".to_owned());
    }
    worker.until("the other ends", |seen| seen.results.contains_key("while")).await;
    // It would hold up the drain for a minute if it still ran.
    let platform = worker.drain().await;
    assert!(!platform.seen().results.contains_key("slow"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_begun_ends_before_the_worker_does() {
    let worker = start(0, 4, Options { progress: Some(Duration::from_millis(200)), ..PLAIN }).await;
    for n in 0..3 {
        worker.give(&format!("while-{n}"), json!({ "endpoint": "/while" }));
    }
    worker.until("all run", |seen| seen.pinged_jobs.len() == 3).await;
    let platform = worker.drain().await;
    let seen = platform.seen();
    assert_eq!(seen.results.len(), 3);
    assert_eq!(seen.progress.len(), 3, "progress was told");
    assert_eq!(seen.unfit, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_engine_is_told() {
    let worker = start(0, 4, PLAIN).await;
    worker.until("it pings", |seen| !seen.pings.is_empty()).await;
    worker.told.send_replace(Told::Dead("out of order".to_owned()));
    timeout(Duration::from_secs(10), worker.ended).await.unwrap().unwrap();
    assert_eq!(worker.platform.seen().unfit, ["unhealthy engine: out of order"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_to_be_refreshed_takes_one_job() {
    let worker = start(0, 4, Options { refresh: true, ..PLAIN }).await;
    worker.give("a", json!({ "endpoint": "/while" }));
    worker.give("b", json!({ "endpoint": "/while" }));
    let ended = timeout(Duration::from_secs(10), worker.ended).await.unwrap().unwrap();
    assert_eq!(ended, Ended::Refresh);
    let seen = worker.platform.seen();
    assert_eq!(seen.results.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(seen.results["a"][0].0["stopPod"], true);
    assert_eq!(seen.queue.len(), 1);
}

/// Pings come from a thread of their own: the runtime that answers may be as busy as it likes.
#[tokio::test(flavor = "current_thread")]
async fn pings_are_not_starved_by_work() {
    let worker = start(0, 4, PLAIN).await;
    worker.until("it pings", |seen| !seen.pings.is_empty()).await;
    let platform = worker.platform.clone();
    let before = platform.seen().pings.len();
    std::thread::sleep(Duration::from_millis(5 * PING_MS));
    sleep(Duration::from_millis(PING_MS)).await;
    // What was sent meanwhile has waited at the socket, and is seen now.
    let after = platform.seen().pings.len();
    assert!(after >= before + 4, "{before} pings before, {after} after");
    worker.drain().await;
}
