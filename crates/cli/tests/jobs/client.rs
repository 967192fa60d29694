//! Clients that hand jobs in, to whichever server lives.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::random::Random;

/// Who may be asked, and what came of it.
pub(crate) struct Place<'a> {
    pub(crate) addresses: &'a Mutex<Vec<String>>,
    /// Jobs that were accepted, by their keys.
    pub(crate) accepted: &'a Mutex<BTreeMap<String, String>>,
    pub(crate) is_over: &'a AtomicBool,
    pub(crate) callback: &'a str,
}

/// Status and body of an answer, if there is a whole one.
pub(crate) fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
}

/// Hands jobs in until it is over, each until it is accepted.
pub(crate) fn load(place: &Place<'_>, mut random: Random, client: u64) {
    let mut number = 0;
    while !place.is_over.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("{client}-{number}");
        let data = json!({ "prompt": "Invoice", "raw": true, "max_tokens": random.below(12) + 1, "seed": number });
        let job = json!({ "endpoint": "/prompt", "data": data, "callback_url": place.callback });
        hand_in(place, &mut random, &key, &job.to_string());
        thread::sleep(Duration::from_millis(random.below(150) as u64));
    }
}

/// Hands a job in until somebody has accepted it. Whoever was killed before the answer may have it: so the key stays.
fn hand_in(place: &Place<'_>, random: &mut Random, key: &str, body: &str) {
    let header = format!("idempotency-key: {key}\r\n");
    for _ in 0..1000 {
        let address = {
            let addresses = place.addresses.lock().unwrap();
            random.pick(&addresses)
        };
        match ask(&address, "POST", "/v1/jobs", &header, body) {
            Some((status @ (200 | 202), body)) => {
                let Ok(job) = serde_json::from_str::<Value>(&body) else { continue };
                let id =
                    job["id"].as_str().unwrap_or_else(|| panic!("{status}: {body}")).to_owned();
                place.accepted.lock().unwrap().insert(key.to_owned(), id);
                return;
            }
            Some((429 | 503, _)) | None => thread::sleep(Duration::from_millis(50)),
            Some((status, body)) => panic!("{status}: {body}"),
        }
    }
    panic!("nobody takes {key}");
}
