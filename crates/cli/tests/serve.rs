//! `halfbyte serve`, as a process: what it says, how it answers, how it ends.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::halfbyte;
use support::server::Server;

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
fn a_request_may_take_and_ask_for_so_much() {
    let mut server = Server::start(&["--request-timeout", "1", "--max-tokens-limit", "900"], &[]);
    server.wait_until_ready();
    let refused = server.ask("POST /prompt", "", &prompt(901, false));
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    assert!(refused.contains("`max_tokens` is 901") && refused.contains("have 900"), "{refused}");
    let short = server.ask("POST /prompt", "", &prompt(4, false));
    assert!(short.starts_with("HTTP/1.1 200"), "{short}");
    let body = json!({ "model": "demo", "prompt": "Invoice", "max_tokens": 900, "n": 32, "ignore_eos": true });
    let late = server.ask("POST /v1/completions", "", &body.to_string());
    assert!(late.starts_with("HTTP/1.1 504"), "{late}");
    assert!(late.contains("deadline_exceeded") && late.contains("--request-timeout"), "{late}");
    server.signal("-TERM");
    assert_eq!(server.end().0, 0);
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

/// Processes that read documents for a server, by their ids.
fn readers(server: &Server) -> Vec<String> {
    let pid = server.child.id();
    let mut found = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let children = std::fs::read_to_string(thread.unwrap().path().join("children"));
        for child in children.unwrap_or_default().split_whitespace() {
            let command = std::fs::read_to_string(format!("/proc/{child}/cmdline"));
            if command.is_ok_and(|command| command.contains("document-reader")) {
                found.push(child.to_owned());
            }
        }
    }
    found
}

#[test]
fn documents_are_read_by_processes_that_may_die() {
    let mut server = Server::start(&[], &[]);
    server.wait_until_ready();
    let body = json!({ "document_base64": "YTtiCjE7Mgo=", "filename": "a.csv" }).to_string();
    let extract = || server.ask("POST /extract", "", &body);
    assert!(extract().contains("| a | b |"));
    let first = readers(&server);
    assert_eq!(first.len(), 1);
    let killed = std::process::Command::new("kill").args(["-9", &first[0]]).status().unwrap();
    assert!(killed.success());
    // Dead is who can be waited for.
    let is_alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", first[0]));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    while is_alive() {
        thread::sleep(Duration::from_millis(5));
    }
    // Nobody's document pays for it.
    let answer = extract();
    assert!(answer.contains("| a | b |"), "{answer}");
    let second = readers(&server);
    assert!(second.len() == 1 && second != first, "{first:?} {second:?}");
    server.signal("-TERM");
    assert_eq!(server.end().0, 0);
    // They end with who asked.
    let gone = || !std::path::Path::new(&format!("/proc/{}", second[0])).exists();
    let ends = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(20));
        gone()
    });
    assert!(ends);
}
