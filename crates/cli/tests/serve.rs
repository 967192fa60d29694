//! `halfbyte serve`, as a process: what it says, how it answers, how it ends.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{command, halfbyte};

/// A server of the demo model on a free port.
struct Server {
    child: Child,
    address: String,
    stdout: BufReader<std::process::ChildStdout>,
    /// What it writes to stderr, as it comes: a pipe that nobody reads fills up.
    stderr: Option<thread::JoinHandle<String>>,
}

impl Server {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let all = [
            &["serve", "demo", "--port", "0", "--json", "--device", "cpu", "--context", "1024"],
            args,
        ];
        let mut command = command(&all.concat());
        command.env_remove("HALFBYTE_LOG").env_remove("HALFBYTE_API_KEYS");
        command.envs(env.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut pipe = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        });
        let listening = read_json(&mut stdout);
        assert_eq!(listening["event"], "listening");
        let url = listening["url"].as_str().unwrap();
        let address = url.strip_prefix("http://").unwrap().to_owned();
        Server { child, address, stdout, stderr: Some(stderr) }
    }

    fn wait_until_ready(&mut self) -> Value {
        let loaded = read_json(&mut self.stdout);
        assert_eq!(loaded["event"], "loaded");
        let start = Instant::now();
        while !self.ask("GET /ready", "", "").starts_with("HTTP/1.1 200") {
            assert!(start.elapsed() < Duration::from_secs(60), "not ready");
            thread::sleep(Duration::from_millis(20));
        }
        loaded
    }

    fn open(&self, what: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request = format!(
            "{what} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn ask(&self, what: &str, headers: &str, body: &str) -> String {
        let mut answer = String::new();
        self.open(what, headers, body).read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits for the end; its exit code, and what it wrote to stderr.
    fn end(mut self) -> (i32, String) {
        let stderr = self.stderr.take().unwrap().join().unwrap();
        (self.child.wait().unwrap().code().unwrap(), stderr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only a test that failed leaves it running.
        let _ = self.child.kill();
    }
}

fn read_json(stdout: &mut impl BufRead) -> Value {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

fn prompt(max_tokens: u32, stream: bool) -> String {
    json!({ "prompt": "Invoice", "raw": true, "stream": stream, "max_tokens": max_tokens,
        "temperature": 1.0, "seed": 7 })
    .to_string()
}

#[test]
fn under_load_sigterm_lets_every_stream_end() {
    let mut server = Server::start(&["--max-num-seqs", "8", "--drain-seconds", "1"], &[]);
    let loaded = server.wait_until_ready();
    assert!(loaded["plan"]["kv_tokens"].as_u64().unwrap() >= 1024, "{loaded}");
    let answer = server.ask("POST /prompt", "", &prompt(8, false));
    assert!(answer.contains(r#""success":true"#), "{answer}");
    // More than share a step, of which some end by themselves, and some wait when the signal comes.
    let streams: Vec<TcpStream> =
        (0..24).map(|i| server.open("POST /prompt", "", &prompt(40 * (i + 1), true))).collect();
    let mut first = [0; 1];
    (&streams[0]).read_exact(&mut first).unwrap();
    server.signal("-TERM");
    let ends: Vec<String> = streams
        .into_iter()
        .map(|mut stream| {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        })
        .collect();
    for text in &ends {
        let is_refused = text.starts_with("HTTP/1.1 503") && text.contains("retry-after");
        let has_end = text.contains("event: result") || text.contains("event: error");
        assert!(is_refused || has_end, "{text}");
    }
    assert!(ends[0].contains("event: result") || ends[0].contains("event: error"), "{}", ends[0]);
    let (code, stderr) = server.end();
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("draining") && stderr.contains("ended"), "{stderr}");
}

/// A figure of `/metrics`; 0 where there is none.
fn figure(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.trim().parse::<f64>().unwrap() as u64)
}

/// Open files of a process, and its resident memory in bytes.
fn held(pid: u32) -> (usize, u64) {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = rss.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
    (files, kib * 1024)
}

/// A client of some kind; the fifth of them is a good one.
fn visit(server: &Server, kind: usize) {
    let mut byte = [0; 1];
    match kind % 5 {
        // Vanishes in mid-stream.
        0 => drop((server.open("POST /prompt", "", &prompt(500, true)).read(&mut byte), byte)),
        // Vanishes before the answer.
        1 => drop(server.open("POST /prompt", "", &prompt(500, false))),
        // Talks no HTTP.
        2 => {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            // The server may have had enough before all is written.
            let _ = stream.write_all(b"\x16\x03\x01 no http\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
        // Sends a body slowly, and gives up.
        3 => {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            let head = "POST /prompt HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n";
            for piece in [head, "{", "\"prompt\"", ":"] {
                stream.write_all(piece.as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
        }
        _ => {
            let answer = server.ask("POST /prompt", "", &prompt(4, true));
            assert!(answer.contains("event: result") || answer.contains(" 429 "), "{answer}");
        }
    }
}

#[test]
fn clients_of_all_kinds_leave_nothing_behind() {
    // `cargo xtask soak` asks for more.
    let count = if std::env::var_os("HALFBYTE_SOAK").is_some() { 2000 } else { 200 };
    let mut server = Server::start(&["--max-num-seqs", "16"], &[]);
    server.wait_until_ready();
    let pid = server.child.id();
    let wave = |server: &Server, from: usize, to: usize| {
        thread::scope(|scope| {
            for worker in 0..20 {
                scope.spawn(move || (from + worker..to).step_by(20).for_each(|i| visit(server, i)));
            }
        });
    };
    let until_idle = |server: &Server| {
        let start = Instant::now();
        loop {
            let metrics = server.ask("GET /metrics", "", "");
            let held: u64 = ["halfbyte_requests_waiting", "halfbyte_requests_running"]
                .map(|name| figure(&metrics, name))
                .iter()
                .sum();
            let used = figure(&metrics, "halfbyte_kv_blocks{state=\"used\"}");
            // This one asks.
            let connections = figure(&metrics, "halfbyte_connections");
            if held + used == 0 && connections <= 1 {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{metrics}");
            thread::sleep(Duration::from_millis(20));
        }
    };
    // What grows once, as buffers and threads do, grows now.
    wave(&server, 0, 100);
    until_idle(&server);
    let before = held(pid);
    wave(&server, 100, 100 + count);
    until_idle(&server);
    let after = held(pid);
    assert!(after.0 <= before.0 + 1, "open files: {before:?}, then {after:?}");
    assert!(after.1 <= before.1 + (32 << 20), "memory: {before:?}, then {after:?}");
    server.signal("-TERM");
    let (code, stderr) = server.end();
    assert_eq!(code, 0, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn the_log_has_lines_of_json_and_no_secrets() {
    let env = [("HALFBYTE_API_KEYS", "top-secret-key,other-secret-key"), ("HALFBYTE_LOG", "trace")];
    let mut server = Server::start(&["--log-format", "json", "--host", "0.0.0.0"], &env);
    let port = server.address.rsplit_once(':').unwrap().1.to_owned();
    server.address = format!("127.0.0.1:{port}");
    server.wait_until_ready();
    let body = prompt(4, false).replace("Invoice", "confidential-matter");
    assert!(server.ask("POST /prompt", "", &body).starts_with("HTTP/1.1 401"));
    let wrong = "authorization: Bearer wrong-secret-key\r\n";
    assert!(server.ask("POST /prompt", wrong, &body).starts_with("HTTP/1.1 401"));
    let right = "authorization: Bearer other-secret-key\r\nx-request-id: order-17\r\n";
    assert!(server.ask("POST /prompt", right, &body).starts_with("HTTP/1.1 200"));
    server.signal("-INT");
    let (code, stderr) = server.end();
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<Value> = stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    for secret in ["secret-key", "confidential"] {
        assert!(!stderr.contains(secret), "{secret} is in the log");
    }
    let line = lines.iter().find(|line| line["request_id"] == "order-17").unwrap();
    assert_eq!((&line["route"], &line["status"]), (&"/prompt".into(), &200.into()), "{line}");
    assert!(line["completion_tokens"].as_u64().unwrap() >= 1, "{line}");
    assert!(line["prompt_tokens"].as_u64().unwrap() >= 1, "{line}");
}

#[test]
fn a_port_that_is_taken_is_one_line() {
    let mut server = Server::start(&[], &[]);
    let port = server.address.rsplit_once(':').unwrap().1.to_owned();
    let run = halfbyte(&["serve", "demo", "--device", "cpu", "--port", &port]);
    assert_eq!(run.code, 1, "{}", run.text());
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.contains("something else listens there"), "{}", run.stderr);
    server.wait_until_ready();
    server.signal("-TERM");
    assert_eq!(server.end().0, 0);
}

#[test]
fn what_makes_no_sense_does_not_start() {
    let refused = |args: &[&str], code: i32, what: &str| {
        let run = halfbyte(&[&["serve"], args].concat());
        assert_eq!(run.code, code, "{}", run.text());
        assert!(run.stderr.contains(what), "{}", run.stderr);
    };
    refused(&["demo", "--host", "0.0.0.0"], 2, "no API key");
    refused(&["demo", "--host", "example.org"], 2, "neither an IP address nor");
    refused(&["demo", "--cors-origin", "https://a/b"], 2, "no origin");
    refused(&["demo", "--otlp-endpoint", "https://a"], 2, "only http is spoken");
    refused(&["demo", "--kv-memory", "lots"], 2, "not a number of bytes");
    refused(&["demo", "--api-key-file", "/nonexistent"], 3, "cannot read");
    refused(&["no/such-model", "--port", "0", "--device", "cpu"], 3, "not here");
    refused(&["demo", "--context", "999999", "--port", "0", "--device", "cpu"], 3, "was made for");
    let empty = tempfile::NamedTempFile::new().unwrap();
    let path = empty.path().to_str().unwrap();
    refused(&["demo", "--api-key-file", path], 3, "there is no key in it");
}
