//! SIGTERM, at any moment.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::ask::{Ask, End, stream_end};
use super::client::{connect, read_all};
use super::random::Random;
use super::reply::Reply;
use super::support::server::Server;
use super::{count, seed};

/// Streams that are open when the signal comes.
const STREAMS: usize = 24;

/// What comes on top of `--drain-seconds`: telling the streams, and closing their connections.
const FAREWELL: Duration = Duration::from_secs(5);

/// How the requests of a round ended.
#[derive(Debug, Default)]
struct Ends {
    whole: usize,
    broken_off: usize,
    refused: usize,
    /// Not even begun, as the connection was closed before.
    unanswered: usize,
}

/// Reads an answer, and puts it where it belongs.
fn end(ask: &Ask, stream: &mut TcpStream, ends: &mut Ends) -> Result<()> {
    let bytes = read_all(stream)?;
    let replies = Reply::all(&bytes)?;
    let Some(reply) = replies.first() else {
        ends.unanswered += 1;
        return Ok(());
    };
    ensure!(reply.is_whole, "cut off: {reply:?}");
    match reply.status {
        200 if reply.is_stream() => match stream_end(ask.path, reply)? {
            End::Whole => ends.whole += 1,
            End::Error(why) => {
                ensure!(why.contains("shutting down"), "{why}");
                ends.broken_off += 1;
            }
        },
        200 => ends.whole += 1,
        503 => {
            ensure!(reply.header("retry-after").is_some(), "no retry-after: {reply:?}");
            ends.refused += 1;
        }
        status => anyhow::bail!("status {status}: {reply:?}"),
    }
    Ok(())
}

/// New requests, until nobody listens any more: each is refused, and said so.
fn knock(address: &str) -> Result<usize> {
    let start = Instant::now();
    let mut refused = 0;
    loop {
        let mut stream = match TcpStream::connect(address) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(refused),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => continue,
            Err(error) => return Err(error).context("connecting"),
        };
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let ask = Ask::stream(&mut Random::new(7, 0), 4);
        if stream.write_all(&ask.bytes(false)).is_ok() {
            let bytes = read_all(&mut stream)?;
            // One that came in while the socket was being closed gets nothing.
            if let Some(reply) = Reply::all(&bytes)?.first() {
                let tells = reply.status == 503 && reply.header("retry-after").is_some();
                // A busy machine may hand the signal over late.
                let is_early = start.elapsed() < Duration::from_secs(1);
                ensure!(reply.is_whole && (tells || is_early), "{reply:?}");
                refused += usize::from(tells);
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A server with streams, a signal at a random moment, and what became of all of them.
fn round(random: &mut Random) -> Result<Ends> {
    let drain = random.pick(&[0, 1, 3]);
    let mut server =
        Server::start(&["--max-num-seqs", "8", "--drain-seconds", &drain.to_string()], &[]);
    server.wait_until_ready();
    let asks: Vec<Ask> = (0..STREAMS)
        .map(|_| {
            let mut ask = Ask::stream(random, 400);
            ask.body["stream"] = random.percent(80).into();
            ask
        })
        .collect();
    let mut streams = Vec::new();
    for ask in &asks {
        let mut stream = connect(&server.address)?;
        stream.write_all(&ask.bytes(false))?;
        streams.push(stream);
    }
    // Until one has begun, so that there is load; then any moment.
    let mut first = [0];
    let _ = streams[0].peek(&mut first);
    thread::sleep(Duration::from_millis(random.below(400) as u64));
    server.signal("-TERM");
    let start = Instant::now();
    let address = server.address.clone();
    let knocking = thread::spawn(move || {
        // The signal takes a moment.
        thread::sleep(Duration::from_millis(150));
        knock(&address)
    });
    let mut ends = Ends::default();
    for (ask, stream) in asks.iter().zip(&mut streams) {
        end(ask, stream, &mut ends).with_context(|| format!("{ask:?}"))?;
    }
    knocking.join().unwrap().context("a new request")?;
    let (code, stderr) = server.end();
    let took = start.elapsed();
    ensure!(code == 0, "exit code {code}: {stderr}");
    ensure!(took < Duration::from_secs(drain) + FAREWELL, "took {took:?} of {drain} s");
    ensure!(ends.unanswered == 0, "{} requests got no answer", ends.unanswered);
    ensure!(!stderr.contains("panicked"), "{stderr}");
    Ok(ends)
}

#[test]
fn a_signal_at_any_moment_lets_every_stream_end() {
    let rounds = count("HALFBYTE_SOAK_SIGNALS", 3);
    let seed = seed();
    let mut all = Ends::default();
    for index in 0..rounds {
        let mut random = Random::new(seed, index as u64);
        let ends = round(&mut random);
        let ends = ends.unwrap_or_else(|e| panic!("seed {seed:#x}, round {index}: {e:#}"));
        all.whole += ends.whole;
        all.broken_off += ends.broken_off;
        all.refused += ends.refused;
    }
    println!("{rounds} signals, {STREAMS} requests each, seed {seed:#x}: {all:?}");
}

#[test]
fn a_signal_ends_a_server_that_does_nothing_at_once() {
    let mut server = Server::start(&[], &[]);
    server.wait_until_ready();
    // A connection that waits for its next request holds up nothing.
    let mut idle = connect(&server.address).unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 1024]).unwrap() > 0);
    server.signal("-TERM");
    let start = Instant::now();
    let (code, stderr) = server.end();
    assert_eq!(code, 0, "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn slow_senders_do_not_hold_up_the_end() {
    let mut server = Server::start(&["--drain-seconds", "30"], &[]);
    server.wait_until_ready();
    let mut in_head = connect(&server.address).unwrap();
    in_head.write_all(b"POST /prompt HTTP/1.1\r\nhost: local").unwrap();
    let mut in_body = connect(&server.address).unwrap();
    let head = b"POST /prompt HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{\"prompt\"";
    in_body.write_all(head).unwrap();
    // Both have arrived by the time that a question after them is answered.
    assert!(server.ask("GET /health", "", "").starts_with("HTTP/1.1 200"));
    server.signal("-TERM");
    let start = Instant::now();
    let reply = Reply::all(&read_all(&mut in_body).unwrap()).unwrap().remove(0);
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.body.contains("draining") && reply.header("retry-after").is_some(), "{reply:?}");
    let (code, stderr) = server.end();
    assert_eq!(code, 0, "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn a_signal_while_loading_ends_it() {
    // The line that it listens is out, and nothing else yet.
    let server = Server::start(&[], &[]);
    server.signal("-TERM");
    let start = Instant::now();
    let (code, stderr) = server.end();
    assert_eq!(code, 0, "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start(&["--drain-seconds", "60"], &[]);
    server.wait_until_ready();
    let ask = Ask::stream(&mut Random::new(3, 0), 2);
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..4 {
        let mut ask = ask.clone();
        ask.path = "/prompt";
        ask.body = serde_json::json!({"prompt": "Invoice", "raw": true, "stream": true, "max_tokens": 900,
            "temperature": 1.5, "seed": 1});
        let mut stream = connect(&server.address).unwrap();
        stream.write_all(&ask.bytes(false)).unwrap();
        assert!(stream.peek(&mut [0]).unwrap() > 0);
        streams.push(stream);
    }
    server.signal("-TERM");
    thread::sleep(Duration::from_millis(100));
    server.signal("-TERM");
    let start = Instant::now();
    let (code, stderr) = server.end();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("second SIGTERM"), "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}
