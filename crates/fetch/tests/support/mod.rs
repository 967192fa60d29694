//! A web server that answers what a test tells it to, byte for byte.
#![allow(dead_code, reason = "each file of tests is a crate of its own and uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The lines of a request, the first being `GET /path HTTP/1.1`.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: Vec<String>,
}

impl Request {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        Request { path: path.to_owned(), headers: lines.map(str::to_lowercase).collect() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// First and last byte of `range: bytes=0-99`.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().unwrap(), last.parse().unwrap()))
    }
}

/// An answer.
pub(crate) enum Reply {
    /// These bytes, then the connection is closed.
    Bytes(Vec<u8>),
    /// These bytes, then nothing for so long.
    Stall(Vec<u8>, Duration),
    /// Zeros after this head, until the other side has had enough.
    Endless(Vec<u8>),
}

/// An answer with a status, header lines and a body.
pub(crate) fn reply(status: &str, headers: &[&str], body: &[u8]) -> Reply {
    let mut bytes = format!("HTTP/1.1 {status}\r\nconnection: close\r\n").into_bytes();
    for header in headers {
        bytes.extend(format!("{header}\r\n").into_bytes());
    }
    bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
    bytes.extend(body);
    Reply::Bytes(bytes)
}

/// A file, or the part of it that is asked for, as a web server should answer.
pub(crate) fn file(request: &Request, content: &[u8]) -> Reply {
    match request.range() {
        Some((first, last)) if first < content.len() => {
            let last = last.min(content.len() - 1);
            let header = format!("content-range: bytes {first}-{last}/{}", content.len());
            reply("206 Partial Content", &[&header], &content[first..=last])
        }
        Some(_) => reply("416 Range Not Satisfiable", &[], b""),
        None => reply("200 OK", &[], content),
    }
}

/// A server on this machine; what it was asked for.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Starts; it ends with the process.
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (Arc::new(answer), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                thread::spawn(move || handle(stream.unwrap(), &*answer, &seen));
            }
        });
        Server { url, requests }
    }
}

/// One request and its answer. The other side may close at any moment, which is no fault.
pub(crate) fn handle(
    mut stream: impl Read + Write,
    answer: &dyn Fn(&Request) -> Reply,
    seen: &Mutex<Vec<Request>>,
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let request = Request::parse(&String::from_utf8_lossy(&head));
    seen.lock().unwrap().push(request.clone());
    match answer(&request) {
        Reply::Bytes(bytes) => _ = stream.write_all(&bytes).and_then(|()| stream.flush()),
        Reply::Stall(bytes, time) => {
            _ = stream.write_all(&bytes).and_then(|()| stream.flush());
            thread::sleep(time);
        }
        Reply::Endless(head) => {
            _ = stream.write_all(&head);
            while stream.write_all(&[0; 4096]).is_ok() {}
        }
    }
}
