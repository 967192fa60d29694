//! Clients: what they do to a server, and what they may expect of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::ask::Ask;
use super::random::Random;
use super::reply::Reply;

/// How long a client waits for more.
const PATIENCE: Duration = Duration::from_secs(90);

/// A client's name, and how many of a hundred are such.
type Kind = (&'static str, usize, fn(&str, &mut Random) -> Result<()>);

const KINDS: [Kind; 11] = [
    ("good", 30, good),
    ("pipelining", 6, pipelining),
    ("vanishing", 22, vanishing),
    ("not reading", 6, not_reading),
    ("half-closing", 5, half_closing),
    ("slow", 7, slow),
    ("talking no HTTP", 6, no_http),
    ("with odd heads", 6, odd_heads),
    ("with large heads", 3, large_heads),
    ("with large bodies", 3, large_bodies),
    ("with broken bodies", 6, broken_bodies),
];

/// One client of some kind; the name of its kind.
pub(crate) fn visit(address: &str, random: &mut Random) -> (&'static str, Result<()>) {
    let mut rest = random.below(KINDS.iter().map(|(_, share, _)| share).sum());
    for (name, share, client) in KINDS {
        if rest < share {
            return (name, client(address, random).with_context(|| format!("a client {name}")));
        }
        rest -= share;
    }
    ("none", Ok(()))
}

pub(crate) fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Everything until the server closes, or cuts the connection off.
pub(crate) fn read_all(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        // What it sent before counts.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(bytes),
        Err(error) => Err(error).with_context(|| format!("after {} bytes", bytes.len())),
    }
}

/// Sends bytes that the server need not take to their end; what it answers, if anything.
fn send(address: &str, bytes: &[u8]) -> Result<Vec<Reply>> {
    let mut stream = connect(address)?;
    // It may have had enough before all is written.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    Reply::all(&read_all(&mut stream)?)
}

/// Sends all of it, and only then reads what refuses it.
fn refused(address: &str, bytes: &[u8], status: u16) -> Result<()> {
    let mut stream = connect(address)?;
    stream.write_all(bytes)?;
    let replies = Reply::all(&read_all(&mut stream)?)?;
    let [reply] = replies.as_slice() else { bail!("{} answers", replies.len()) };
    ensure!(reply.status == status && reply.is_whole, "{reply:?} instead of {status}");
    Ok(())
}

fn good(address: &str, random: &mut Random) -> Result<()> {
    let ask = Ask::any(random);
    let mut stream = connect(address)?;
    stream.write_all(&ask.bytes(false))?;
    let replies = Reply::all(&read_all(&mut stream)?)?;
    let [reply] = replies.as_slice() else { bail!("{} answers to {ask:?}", replies.len()) };
    ask.check(reply)
}

/// Several requests at once, whose answers come in their order.
fn pipelining(address: &str, random: &mut Random) -> Result<()> {
    let count = 2 + random.below(4);
    let asks: Vec<Ask> = (0..count).map(|_| Ask::any(random)).collect();
    let mut stream = connect(address)?;
    let bytes: Vec<u8> =
        asks.iter().enumerate().flat_map(|(i, ask)| ask.bytes(i + 1 < count)).collect();
    stream.write_all(&bytes)?;
    let replies = Reply::all(&read_all(&mut stream)?)?;
    ensure!(replies.len() == count, "{} answers to {count} requests", replies.len());
    asks.iter().zip(&replies).try_for_each(|(ask, reply)| ask.check(reply))
}

/// Leaves at any moment: before its request is whole, before the answer, in its middle.
fn vanishing(address: &str, random: &mut Random) -> Result<()> {
    let ask = if random.percent(60) { Ask::stream(random, 500) } else { Ask::any(random) };
    let bytes = ask.bytes(random.percent(50));
    let mut stream = connect(address)?;
    if random.percent(30) {
        let _ = stream.write_all(&bytes[..random.below(bytes.len())]);
        return Ok(());
    }
    stream.write_all(&bytes)?;
    if random.percent(60) {
        let mut some = vec![0; 1 + random.below(2000)];
        let _ = stream.read(&mut some);
    }
    thread::sleep(Duration::from_millis(random.below(30) as u64));
    Ok(())
}

/// Asks for much and takes nothing for a while.
fn not_reading(address: &str, random: &mut Random) -> Result<()> {
    let mut stream = connect(address)?;
    for _ in 0..1 + random.below(4) {
        stream.write_all(&Ask::stream(random, 400).bytes(true))?;
    }
    thread::sleep(Duration::from_millis(random.below(500) as u64));
    Ok(())
}

/// Says that it will send no more, which may pass for leaving.
fn half_closing(address: &str, random: &mut Random) -> Result<()> {
    let ask = Ask::any(random);
    let mut stream = connect(address)?;
    stream.write_all(&ask.bytes(false))?;
    // Where the answer is out already, there is nothing left to close.
    let _ = stream.shutdown(Shutdown::Write);
    match Reply::all(&read_all(&mut stream)?)?.as_slice() {
        [] => Ok(()),
        // It broke off, or it did not.
        [reply] if !reply.is_whole => Ok(()),
        [reply] => ask.check(reply),
        more => bail!("{} answers", more.len()),
    }
}

/// Sends piece by piece, and sometimes gives up.
fn slow(address: &str, random: &mut Random) -> Result<()> {
    let ask = Ask::any(random);
    let bytes = ask.bytes(false);
    let mut stream = connect(address)?;
    let piece = 1 + bytes.len() / 20;
    let pieces = bytes.chunks(piece);
    let until = if random.percent(50) { random.below(pieces.len()) } else { pieces.len() };
    for piece in pieces.clone().take(until) {
        stream.write_all(piece)?;
        thread::sleep(Duration::from_millis(random.below(8) as u64));
    }
    if until < pieces.len() {
        return Ok(());
    }
    let replies = Reply::all(&read_all(&mut stream)?)?;
    let [reply] = replies.as_slice() else { bail!("{} answers", replies.len()) };
    ask.check(reply)
}

fn no_http(address: &str, random: &mut Random) -> Result<()> {
    let bytes: Vec<u8> = match random.below(6) {
        0 => random.bytes(3000),
        1 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        3 => b"GET /health\r\n\r\n".to_vec(),
        4 => b"\r\n\r\n\r\n\r\n".to_vec(),
        _ => b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
    };
    for reply in send(address, &bytes)? {
        ensure!([400, 431, 505].contains(&reply.status), "{reply:?}");
    }
    Ok(())
}

/// Heads that contradict themselves, or that few send.
fn odd_heads(address: &str, random: &mut Random) -> Result<()> {
    let heads = [
        "POST /prompt HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        "POST /prompt HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
        "POST /prompt HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        "POST /prompt HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "POST /prompt HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "POST /prompt HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost localhost\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n",
        "GET /health HTTP/9.7\r\nhost: localhost\r\n\r\n",
        "GET /%ff%00/../..//%2e%2e?x=%%% HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET http://localhost/health HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "CONNECT localhost:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "DELETE /prompt HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "X-MADE-UP-17 /prompt HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: evil.example\r\n\r\n",
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        "POST /prompt HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-type: application/json\r\n\
         content-length: 2\r\n\r\n{}",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}",
        "POST /prompt HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: gzip\r\ncontent-type: application/json\r\n\
         content-length: 4\r\n\r\n\x1f\x01\x08\0",
    ];
    for reply in send(address, random.pick(&heads).as_bytes())? {
        ensure!(reply.status < 500, "{reply:?}");
    }
    Ok(())
}

fn large_heads(address: &str, random: &mut Random) -> Result<()> {
    let head = match random.below(3) {
        0 => format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(40_000)),
        1 => format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(100_000)),
        _ => format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(500)),
    };
    for reply in send(address, head.as_bytes())? {
        ensure!([400, 414, 431].contains(&reply.status), "{reply:?}");
    }
    Ok(())
}

fn large_bodies(address: &str, random: &mut Random) -> Result<()> {
    let head = |rest: &str| {
        format!(
            "POST /prompt HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{rest}\r\n\r\n"
        )
    };
    let length = (4 << 20) + 1;
    match random.below(4) {
        // One that says how large it is.
        0 => refused(address, head("content-length: 4294967296").as_bytes(), 413),
        1 => {
            let body =
                [head(&format!("content-length: {length}")).into_bytes(), vec![b'x'; length]];
            refused(address, &body.concat(), 413)
        }
        // One that does not.
        2 => {
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
            let body = head("transfer-encoding: chunked") + &chunk.repeat(66);
            refused(address, body.as_bytes(), 413)
        }
        // Just not too large, but for the context.
        _ => {
            let length = 100_000 << random.below(6);
            let text = ["wo rd", "aaaaa", "1.5, "][random.below(3)].repeat(length / 5);
            let body = serde_json::json!({"prompt": text, "max_tokens": 5}).to_string();
            let head = head(&format!("connection: close\r\ncontent-length: {}", body.len()));
            refused(address, (head + &body).as_bytes(), 400)
        }
    }
}

/// Bodies that are no JSON, or no text at all.
fn broken_bodies(address: &str, random: &mut Random) -> Result<()> {
    let ask = loop {
        let ask = Ask::any(random);
        if !ask.body.is_null() {
            break ask;
        }
    };
    let mut body = ask.body.to_string().into_bytes();
    match random.below(5) {
        0 => body.truncate(random.below(body.len())),
        1 => body = [b"[".repeat(100_000), body].concat(),
        2 => body = random.bytes(2000),
        3 => body.extend(b"}"),
        _ => {
            for _ in 0..1 + random.below(8) {
                let at = random.below(body.len());
                body[at] = random.pick(b"\xff\xc3\0\"\\{}[]:,0eu");
            }
        }
    }
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        ask.path,
        body.len()
    );
    let mut stream = connect(address)?;
    let _ = stream.write_all(&[head.into_bytes(), body].concat());
    for reply in Reply::all(&read_all(&mut stream)?)? {
        ensure!(reply.status < 500 && reply.is_whole, "{reply:?}");
        if reply.status >= 400 {
            // `/prompt` says `success: false` before.
            ensure!(reply.json()?["error"]["message"].is_string(), "{reply:?}");
        }
    }
    Ok(())
}
