//! `halfbyte serve` as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::command;

/// A server of the demo model on a free port.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
    stdout: BufReader<std::process::ChildStdout>,
    /// What it writes to stderr, as it comes: a pipe that nobody reads fills up.
    stderr: Option<thread::JoinHandle<String>>,
}

impl Server {
    pub(crate) fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let all = [
            &["serve", "demo", "--port", "0", "--json", "--device", "cpu", "--context", "1024"],
            args,
        ];
        let mut command = command(&all.concat());
        command.env_remove("HALFBYTE_LOG").env_remove("HALFBYTE_API_KEYS");
        command.env_remove("HALFBYTE_WEBHOOK_SECRET");
        // The usual place is this machine's.
        command.env("HALFBYTE_JOBS", "off").envs(env.iter().copied());
        Self::run(command)
    }

    /// One whose jobs are where this environment says that they usually are.
    pub(crate) fn with_usual_jobs(env: &[(&str, &str)]) -> Self {
        let all =
            ["serve", "demo", "--port", "0", "--json", "--device", "cpu", "--context", "1024"];
        let mut command = command(&all);
        command.env_remove("HALFBYTE_JOBS").envs(env.iter().copied());
        Self::run(command)
    }

    fn run(mut command: Command) -> Self {
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

    pub(crate) fn wait_until_ready(&mut self) -> Value {
        assert_eq!(read_json(&mut self.stdout)["event"], "reading");
        let loaded = read_json(&mut self.stdout);
        assert_eq!(loaded["event"], "loaded");
        let start = Instant::now();
        while !self.ask("GET /ready", "", "").starts_with("HTTP/1.1 200") {
            assert!(start.elapsed() < Duration::from_secs(60), "not ready");
            thread::sleep(Duration::from_millis(20));
        }
        loaded
    }

    pub(crate) fn open(&self, what: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request = format!(
            "{what} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    pub(crate) fn ask(&self, what: &str, headers: &str, body: &str) -> String {
        let mut answer = String::new();
        self.open(what, headers, body).read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits for the end; its exit code, and what it wrote to stderr.
    pub(crate) fn end(mut self) -> (i32, String) {
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
