//! `halfbyte serve` among many clients, most of them bad, and at the end of its life. `cargo xtask soak` sends more of them,
//! and more signals: `HALFBYTE_SOAK_CLIENTS`, `HALFBYTE_SOAK_SIGNALS`; `HALFBYTE_SOAK_SEED` repeats a run.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod random;
mod reply;
mod ask;
mod client;
mod termination;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use random::Random;
use support::server::Server;

/// Clients at once.
const AT_ONCE: usize = 32;

/// What a server may hold more after all clients than after a first part of them.
const MEMORY_GROWTH: u64 = 48 << 20;

/// A count of `cargo xtask soak`, or that of a plain test.
pub(crate) fn count(variable: &str, usual: usize) -> usize {
    env::var(variable).map_or(usual, |value| value.parse().unwrap())
}

/// The seed: that of the soak, or always the same.
pub(crate) fn seed() -> u64 {
    let seed = match env::var("HALFBYTE_SOAK_SEED") {
        Ok(seed) => u64::from_str_radix(seed.trim_start_matches("0x"), 16).unwrap(),
        Err(_) => 0x5eed,
    };
    println!("HALFBYTE_SOAK_SEED={seed:#x}");
    seed
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    files: usize,
    threads: u64,
    memory: u64,
}

impl Held {
    fn of(pid: u32) -> Self {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches("kB").trim().parse().unwrap()
        };
        Held { files, threads: number("Threads:"), memory: number("VmRSS:") * 1024 }
    }
}

/// Figures of `/metrics`.
fn figures(server: &Server) -> BTreeMap<String, f64> {
    let text = server.ask("GET /metrics", "", "");
    let lines = text.lines().filter(|line| line.starts_with("halfbyte_"));
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    pairs.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// Threads that wait for work go after ten seconds.
const THREADS_STAY: Duration = Duration::from_secs(11);

/// Waits until nothing of any request is left, nor of its connection; `most`: nor more files and threads than these.
fn until_idle(server: &Server, most: Option<Held>) {
    let start = Instant::now();
    loop {
        let now = figures(server);
        let names = [
            "halfbyte_requests_waiting",
            "halfbyte_requests_running",
            "halfbyte_kv_blocks{state=\"used\"}",
        ];
        let work: f64 = names.iter().map(|name| now[*name]).sum();
        let held = Held::of(server.child.id());
        // The question has a connection of its own, which may just be closing.
        let is_less = |most: Held| held.files <= most.files + 1 && held.threads <= most.threads;
        let connections = now["halfbyte_connections"];
        if work == 0.0 && connections <= 1.0 && most.is_none_or(is_less) {
            return;
        }
        let what = format!("{work} requests and blocks, {connections} connections");
        assert!(start.elapsed() < Duration::from_secs(60), "{what}; {held:?}, before {most:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Sends the clients `from..to` of a seed; how many of each kind there were.
fn wave(server: &Server, seed: u64, from: usize, to: usize) -> BTreeMap<&'static str, usize> {
    let next = AtomicUsize::new(from);
    let kinds = Mutex::new(BTreeMap::new());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= to {
                        return;
                    }
                    let mut random = Random::new(seed, index as u64);
                    let (kind, result) = client::visit(&server.address, &mut random);
                    *kinds.lock().unwrap().entry(kind).or_insert(0) += 1;
                    if let Err(error) = result {
                        failures.lock().unwrap().push(format!("client {index}: {error:#}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let shown = failures.iter().take(5).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(failures.is_empty(), "seed {seed:#x}: {} failures\n{shown}", failures.len());
    kinds.into_inner().unwrap()
}

/// What a model answers that takes the likeliest token each time.
fn likeliest(server: &Server) -> Value {
    let body =
        json!({"prompt": "Invoice 7, total 19.00 EUR", "max_tokens": 24, "temperature": 0.0});
    let answer = server.ask("POST /prompt", "", &body.to_string());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str::<Value>(body).unwrap()["output"].clone()
}

#[test]
fn clients_of_all_kinds_leave_nothing_behind() {
    let clients = count("HALFBYTE_SOAK_CLIENTS", 120);
    let seed = seed();
    let mut server = Server::start(&["--max-num-seqs", "16", "--max-waiting", "256"], &[]);
    server.wait_until_ready();
    let expected = likeliest(&server);
    let start = Instant::now();
    // What grows once, as buffers and pools of threads do, grows now.
    wave(&server, seed, 0, clients / 2);
    until_idle(&server, None);
    thread::sleep(THREADS_STAY);
    let before = Held::of(server.child.id());
    let kinds = wave(&server, seed, clients / 2, clients / 2 + clients);
    until_idle(&server, Some(before));
    let after = Held::of(server.child.id());
    assert_eq!(likeliest(&server), expected, "answers have changed");
    assert!(
        after.memory <= before.memory + MEMORY_GROWTH,
        "seed {seed:#x}: {before:?}, then {after:?}"
    );
    let figures = figures(&server);
    for (name, value) in &figures {
        // While it starts, `/ready` says so by a 503.
        let is_fault = name.contains("status=\"5") && !name.contains("route=\"/ready\"")
            || name.contains("internal_error");
        assert!(!is_fault || *value == 0.0, "seed {seed:#x}: {name} {value}");
    }
    let mut out = std::io::stdout();
    let _ = writeln!(
        out,
        "{clients} clients after {}, {:.1} s, seed {seed:#x}: {kinds:?}; before {before:?}, \
         after {after:?}; {} tokens, {} preemptions",
        clients / 2,
        start.elapsed().as_secs_f64(),
        figures["halfbyte_generated_tokens_total"],
        figures["halfbyte_preemptions_total"],
    );
    server.signal("-TERM");
    let (code, stderr) = server.end();
    assert_eq!(code, 0, "{stderr}");
    for word in ["panicked", " ERROR "] {
        let line = stderr.lines().find(|line| line.contains(word));
        assert!(line.is_none(), "seed {seed:#x}: {line:?}");
    }
}
