//! Servers with jobs, killed at random moments: every job that was accepted ends once, and whoever asked for it is told so by a
//! valid signature. `cargo xtask soak` kills more often (`HALFBYTE_SOAK_JOBS`); `cargo xtask jobs` has a PostgreSQL for three servers
//! (`HALFBYTE_TEST_POSTGRES`, the URL of a database). `HALFBYTE_SOAK_SEED` repeats a run as far as time allows.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

#[path = "../chaos/random.rs"]
#[allow(dead_code, reason = "a part is used here")]
mod random;
mod client;
mod receiver;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use client::{Place, ask, load};
use random::Random;
use receiver::Receiver;
use support::halfbyte;
use support::server::Server;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Clients that hand jobs in all the time.
const CLIENTS: u64 = 2;

/// A server lives so long at most before it is killed, from when it listens.
const LIFE: Duration = Duration::from_millis(3000);

/// How long the jobs that are left may take once nobody is killed any more.
const REST: Duration = Duration::from_secs(300);

fn rounds() -> u64 {
    env::var("HALFBYTE_SOAK_JOBS").map_or(8, |rounds| rounds.parse().unwrap())
}

fn seed() -> u64 {
    match env::var("HALFBYTE_SOAK_SEED") {
        Ok(seed) => u64::from_str_radix(seed.trim_start_matches("0x"), 16).unwrap(),
        Err(_) => 0x5eed,
    }
}

fn start(place: &str) -> Server {
    let args = ["--allow-private-callbacks", "--jobs-lease", "2", "--jobs-attempts", "20"];
    Server::start(&args, &[("HALFBYTE_JOBS", place), ("HALFBYTE_WEBHOOK_SECRET", SECRET)])
}

/// Kills servers that share a place, one after another, while clients hand jobs in.
fn kill(place: &str, replicas: usize, what: &str) {
    let (rounds, seed) = (rounds(), seed());
    let mut random = Random::new(seed, 0);
    let receiver = Receiver::start(seed);
    let servers: Vec<_> = (0..replicas).map(|_| start(place)).collect();
    let addresses =
        Mutex::new(servers.iter().map(|server| server.address.clone()).collect::<Vec<_>>());
    let (is_over, accepted) = (AtomicBool::new(false), Mutex::new(BTreeMap::new()));
    let begin = Instant::now();
    let mut servers = thread::scope(|scope| {
        for index in 0..CLIENTS {
            let place = Place {
                addresses: &addresses,
                accepted: &accepted,
                is_over: &is_over,
                callback: &receiver.url,
            };
            scope.spawn(move || load(&place, Random::new(seed, index + 1), index));
        }
        let mut servers = servers;
        for _ in 0..rounds {
            thread::sleep(LIFE.mul_f64(random.unit() / replicas as f64));
            let victim = random.below(replicas);
            servers[victim].child.kill().unwrap();
            servers[victim].child.wait().unwrap();
            let server = start(place);
            addresses.lock().unwrap()[victim] = server.address.clone();
            servers[victim] = server;
        }
        is_over.store(true, Ordering::Relaxed);
        servers
    });
    for server in &mut servers {
        server.wait_until_ready();
    }
    let accepted = accepted.into_inner().unwrap();
    let jobs = all_ended(&servers[0], accepted.len());
    let taken = check(&servers[0], &accepted, &jobs, &receiver);
    let mut out = std::io::stdout();
    let _ = writeln!(
        out,
        "{what}: {rounds} kills, seed {seed:#x}, {:.0} s: {taken}",
        begin.elapsed().as_secs_f64()
    );
    for server in servers {
        server.signal("-TERM");
        assert_eq!(server.end().0, 0);
    }
}

/// Waits until all jobs have ended, and all callbacks are taken; then all of them, by their names.
fn all_ended(server: &Server, count: usize) -> BTreeMap<String, Value> {
    let start = Instant::now();
    loop {
        let metrics = ask(&server.address, "GET", "/metrics", "", "").unwrap().1;
        let figure = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse::<f64>().unwrap()
        };
        let open =
            figure("halfbyte_jobs{state=\"queued\"}") + figure("halfbyte_jobs{state=\"running\"}");
        let pending = figure("halfbyte_job_callbacks{state=\"pending\"}");
        if open + pending == 0.0 {
            break;
        }
        let what = format!("{open} jobs and {pending} callbacks of {count} jobs are left");
        assert!(start.elapsed() < REST, "{what}");
        thread::sleep(Duration::from_millis(200));
    }
    let mut jobs = BTreeMap::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/jobs?limit=100{after}");
        let list = ask(&server.address, "GET", &path, "", "").unwrap().1;
        let list: Value = serde_json::from_str(&list).unwrap();
        for job in list["data"].as_array().unwrap() {
            let id = job["id"].as_str().unwrap().to_owned();
            after = format!("&after={id}");
            assert!(jobs.insert(id, job.clone()).is_none(), "listed twice: {job}");
        }
        if list["has_more"] == false {
            return jobs;
        }
    }
}

/// Compares what was accepted, what is stored and what was told.
fn check(
    server: &Server,
    accepted: &BTreeMap<String, String>,
    jobs: &BTreeMap<String, Value>,
    receiver: &Receiver,
) -> String {
    let ids: BTreeSet<&String> = accepted.values().collect();
    assert_eq!(ids.len(), accepted.len(), "two keys have the same job");
    let stored: BTreeSet<&String> = jobs.keys().collect();
    assert_eq!(ids, stored, "accepted is not what is stored");
    let told = receiver.told.lock().unwrap();
    assert_eq!(told.invalid, 0, "callbacks without a valid signature");
    let (mut ends, mut again, mut most) = (BTreeMap::new(), 0, 0);
    for (id, job) in jobs {
        let status = job["status"].as_str().unwrap();
        *ends.entry(status.to_owned()).or_insert(0) += 1;
        again += u64::from(job["attempts"].as_u64().unwrap() > 1);
        let whole = ask(&server.address, "GET", &format!("/v1/jobs/{id}"), "", "").unwrap().1;
        let whole: Value = serde_json::from_str(&whole).unwrap();
        match status {
            "succeeded" => assert_eq!(whole["result"]["success"], true, "{whole}"),
            "failed" => assert_eq!(whole["error"]["code"], "attempts_exhausted", "{whole}"),
            _ => panic!("{whole}"),
        }
        let events =
            ask(&server.address, "GET", &format!("/v1/jobs/{id}/events"), "", "").unwrap().1;
        let finals = ["succeeded", "failed", "cancelled"]
            .map(|name| events.matches(&format!("event: {name}\n")).count());
        assert_eq!(finals.iter().sum::<usize>(), 1, "{events}");
        let message = id.replace("job_", "msg_");
        let bodies = told.bodies.get(&message).unwrap_or_else(|| panic!("nobody was told of {id}"));
        assert_eq!(bodies.len(), 1, "{id} was told in several ways: {bodies:?}");
        let (body, times) = bodies.iter().next().unwrap();
        most = most.max(*times);
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["data"]["id"], &body["data"]["status"]), (&json!(id), &json!(status)));
        assert_eq!(body["data"]["result"], whole["result"], "{id} was told something else");
        assert_eq!(job["callback"]["status"], "delivered", "{job}");
    }
    assert_eq!(told.bodies.len(), jobs.len(), "told of jobs that nobody has accepted");
    format!(
        "{} jobs accepted and ended ({ends:?}), {again} begun more than once; {} callbacks, all signed, {most} at most of a job",
        jobs.len(),
        told.count,
    )
}

#[test]
fn a_server_killed_at_random_loses_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state/jobs.sqlite");
    kill(file.to_str().unwrap(), 1, "SQLite");
}

#[test]
fn servers_that_share_a_postgresql_lose_no_job_when_killed() {
    let Ok(url) = env::var("HALFBYTE_TEST_POSTGRES") else {
        println!("left out: PostgreSQL; `cargo xtask jobs` has it");
        return;
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let schema = format!("kill_{}", since.as_nanos());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
        let (client, connection) = connected.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&format!("CREATE SCHEMA {schema}")).await.unwrap();
    });
    let divider = if url.contains('?') { '&' } else { '?' };
    kill(&format!("{url}{divider}options=-csearch_path%3D{schema}"), 3, "PostgreSQL, 3 servers");
}

#[test]
fn a_place_that_was_asked_for_is_had_or_the_start_ends() {
    let refused = |args: &[&str], code: i32, what: &str| {
        let run = halfbyte(&[&["serve", "demo", "--port", "0", "--device", "cpu"], args].concat());
        assert_eq!(run.code, code, "{}", run.text());
        assert!(run.stderr.contains(what) && !run.stderr.contains("secret-word"), "{}", run.stderr);
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.sqlite");
    let path = file.to_str().unwrap();
    let mut server = Server::start(&["--jobs", path], &[]);
    refused(&["--jobs", path], 3, "in use by another server");
    refused(&["--jobs", "/dev/null/jobs"], 3, "cannot open /dev/null/jobs");
    refused(&["--jobs", "mysql://u:secret-word@h/d"], 2, "no store of jobs");
    refused(&["--jobs", "postgres://u:secret-word@127.0.0.1:1/d"], 3, "refused");
    let secrets = folder.path().join("secrets");
    std::fs::write(&secrets, "secret-word").unwrap();
    refused(&["--webhook-secret-file", secrets.to_str().unwrap()], 3, "secret 1 is none");
    server.wait_until_ready();
    // The usual place may be another's: then there are none, and the rest works.
    let state = folder.path().join("state");
    let usual = [("XDG_STATE_HOME", state.to_str().unwrap())];
    let mut first = Server::with_usual_jobs(&usual);
    let mut second = Server::with_usual_jobs(&usual);
    first.wait_until_ready();
    second.wait_until_ready();
    assert!(state.join("halfbyte/jobs.sqlite").exists());
    assert!(first.ask("GET /v1/jobs", "", "").starts_with("HTTP/1.1 200"));
    let answer = second.ask("GET /v1/jobs", "", "");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("in use by another"), "{answer}");
    for server in [server, first, second] {
        server.signal("-TERM");
        assert_eq!(server.end().0, 0);
    }
}
