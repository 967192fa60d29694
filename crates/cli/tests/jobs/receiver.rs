//! Who is told of ends: refuses some, and remembers all.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::SECRET;
use super::random::Random;

/// What was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Bodies with a valid signature, by message, and how often each came.
    pub(crate) bodies: BTreeMap<String, BTreeMap<String, u32>>,
    pub(crate) count: u32,
    /// Calls without a valid signature.
    pub(crate) invalid: u32,
}

pub(crate) struct Receiver {
    pub(crate) url: String,
    pub(crate) told: Arc<Mutex<Told>>,
}

impl Receiver {
    pub(crate) fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let told = Arc::new(Mutex::new(Told::default()));
        let remembered = Arc::clone(&told);
        // It ends with the test.
        thread::spawn(move || {
            let mut random = Random::new(seed, 99);
            for stream in listener.incoming().flatten() {
                let told = Arc::clone(&remembered);
                let refuses = random.percent(5);
                // A server that was killed in mid-request must not hold others up.
                thread::spawn(move || take(stream, &told, refuses));
            }
        });
        Receiver { url, told }
    }
}

/// Takes calls until the connection ends.
fn take(stream: TcpStream, told: &Mutex<Told>, refuses: bool) {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut reader = BufReader::new(stream);
    while let Some((headers, body)) = read(&mut reader) {
        note(told, &headers, &body);
        // Some are told that they were not taken, and come again.
        let status = if refuses { "500 Internal Server Error" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
        if refuses {
            return;
        }
    }
}

fn note(told: &Mutex<Told>, headers: &http::HeaderMap, body: &[u8]) {
    let webhook = standardwebhooks::Webhook::new(SECRET).unwrap();
    let mut told = told.lock().unwrap();
    told.count += 1;
    if webhook.verify(body, headers).is_err() {
        told.invalid += 1;
        return;
    }
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    let body = String::from_utf8(body.to_vec()).unwrap();
    *told.bodies.entry(id).or_default().entry(body).or_insert(0) += 1;
}

/// A whole request; nothing where the sender ended before its end.
fn read(reader: &mut BufReader<TcpStream>) -> Option<(http::HeaderMap, Vec<u8>)> {
    let mut headers = http::HeaderMap::new();
    let mut line = String::new();
    let mut is_first = true;
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if let (false, Some((name, value))) = (is_first, text.split_once(": ")) {
            let name: http::HeaderName = name.parse().ok()?;
            headers.insert(name, value.parse().ok()?);
        }
        is_first = false;
    }
    let length = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((headers, body))
}
