//! Answers as servers give them, honest or not.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use fetch::{Client, FetchError, Limits, Part, Token};
use support::{Reply, Request, Server, file, reply};

const FILE: &[u8] = b"0123456789abcdefghij";

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn client(server: &Server) -> Client {
    Client::new(&server.url, None, Limits::default()).unwrap()
}

/// What comes of asking for bytes 2 to 9 of a file on a server that answers so.
fn range_from(
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (Server, Result<Part, FetchError>) {
    let server = Server::start(answer);
    let url = format!("{}/file", server.url);
    let part = run(client(&server).range(&url, 2..10));
    (server, part)
}

#[track_caller]
fn check_error(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static, expected: &str) {
    let (server, part) = range_from(answer);
    let message = part.unwrap_err().to_string().replace(&server.url, "SERVER");
    assert_eq!(message, expected);
}

fn partial(range: &str, body: &[u8]) -> Reply {
    reply("206 Partial Content", &[&format!("content-range: {range}")], body)
}

#[test]
fn a_part_of_a_file() {
    let (server, part) = range_from(|request| file(request, FILE));
    assert_eq!(part.unwrap(), Part { bytes: FILE[2..10].into(), file_len: 20 });
    assert_eq!(server.requests.lock().unwrap()[0].header("range"), Some("bytes=2-9"));
}

#[test]
fn a_file_that_ends_within_the_part() {
    let (_, part) = range_from(|request| file(request, &FILE[..5]));
    assert_eq!(part.unwrap(), Part { bytes: FILE[2..5].into(), file_len: 5 });
    let expected = "SERVER/file: the server's answer makes no sense: it says that the file ends before the part that was asked for";
    check_error(|request| file(request, &FILE[..2]), expected);
}

#[test]
fn a_server_that_ignores_ranges_is_read_no_further_than_needed() {
    let (_, part) = range_from(|_| reply("200 OK", &[], FILE));
    assert_eq!(part.unwrap(), Part { bytes: FILE[2..10].into(), file_len: 20 });
    // 100 GB are announced, and would come.
    let (_, part) = range_from(|_| {
        Reply::Endless(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n".to_vec())
    });
    assert_eq!(part.unwrap(), Part { bytes: vec![0; 8].into(), file_len: 100_000_000_000 });
    let server = Server::start(|_| reply("200 OK", &[], FILE));
    let far = run(client(&server).range(&format!("{}/file", server.url), 1 << 40..1 << 41));
    assert!(far.unwrap_err().to_string().contains("ignores ranges"));
}

#[test]
fn lies() {
    let nonsense = "SERVER/file: the server's answer makes no sense: ";
    let check = |range: &'static str, what: &str| {
        check_error(move |_| partial(range, &FILE[2..10]), &format!("{nonsense}{what}"));
    };
    check("bytes 0-7/20", "it sends bytes 0-7 of 20 where 2-9 were asked for");
    check("bytes 2-8/20", "it sends bytes 2-8 of 20 where 2-9 were asked for");
    check("bytes 2-9/*", "`bytes 2-9/*` is no range of a file");
    check("bytes 2-9/5", "`bytes 2-9/5` is no range of a file");
    let without = format!("{nonsense}it sends a part without saying which");
    check_error(|_| reply("206 Partial Content", &[], &FILE[2..10]), &without);
    let endless =
        |_: &Request| Reply::Endless(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec());
    check_error(endless, &format!("{nonsense}it does not say how long the file is"));
}

#[test]
fn what_breaks_off_is_no_part() {
    let expected = "SERVER/file: broke off after 4 of 8 bytes; try again";
    check_error(|_| partial("bytes 2-9/20", &FILE[2..6]), expected);
    let (_, part) = range_from(|_| {
        let head = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 2-9/20\r\ncontent-length: 8\r\n\r\n2345";
        Reply::Bytes(head.into())
    });
    let error = part.unwrap_err();
    assert!(matches!(error, FetchError::Failed { .. }), "{error}");
    let (_, part) = range_from(|_| Reply::Bytes(b"no HTTP at all".to_vec()));
    assert!(matches!(part.unwrap_err(), FetchError::Failed { .. }));
}

#[test]
fn refusals_keep_their_meaning() {
    check_error(|_| reply("404 Not Found", &[], b""), "SERVER/file: there is no such file (404)");
    check_error(|_| reply("401 Unauthorized", &[], b""), "SERVER/file: the server refuses (401)");
    check_error(|_| reply("403 Forbidden", &[], b""), "SERVER/file: the server refuses (403)");
    let later = "SERVER/file: the server answers 503; try again later";
    check_error(|_| reply("503 Service Unavailable", &[], b""), later);
    // An answer to nothing that was asked.
    let server = Server::start(|_| partial("bytes 2-9/20", &FILE[2..10]));
    let whole = run(client(&server).get(&format!("{}/file", server.url), 100));
    assert!(matches!(whole.unwrap_err(), FetchError::Status { status: 206, .. }));
}

#[test]
fn a_whole_file_is_bounded() {
    let server = Server::start(|request| file(request, FILE));
    let get = |max| run(client(&server).get(&format!("{}/file", server.url), max));
    assert_eq!(get(20).unwrap(), FILE);
    assert!(matches!(get(19).unwrap_err(), FetchError::TooLarge { max: 19, .. }));
    // Without a length it is found out by reading.
    let server =
        Server::start(|_| Reply::Endless(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec()));
    let endless = run(client(&server).get(&server.url, 1 << 20));
    assert!(matches!(endless.unwrap_err(), FetchError::TooLarge { .. }));
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let limits = Limits { idle: Duration::from_millis(100), ..Limits::default() };
    let stalls: [&[u8]; 3] =
        [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n0123"];
    for stall in stalls {
        let server = Server::start(move |_| Reply::Stall(stall.to_vec(), Duration::from_secs(60)));
        let client = Client::new(&server.url, None, limits).unwrap();
        let start = Instant::now();
        let error = run(client.get(&server.url, 100)).unwrap_err();
        assert!(matches!(error, FetchError::Timeout { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let server = Server::start(|request| match request.path.as_str() {
        "/file" => reply("302 Found", &["location: /there"], b""),
        "/there" => file(request, FILE),
        _ => reply("302 Found", &["location: /round"], b""),
    });
    let fetch = |path: &str| run(client(&server).range(&format!("{}{path}", server.url), 2..10));
    assert_eq!(fetch("/file").unwrap().bytes, FILE[2..10]);
    assert!(fetch("/round").unwrap_err().to_string().ends_with("it redirects again and again"));
    // Home, then five redirects.
    let round = server.requests.lock().unwrap().iter().filter(|r| r.path == "/round").count();
    assert_eq!(round, 6);
    let server = Server::start(|_| reply("302 Found", &["location: http://192.0.2.1/file"], b""));
    let error = run(client(&server).get(&server.url, 100)).unwrap_err().to_string();
    assert!(error.ends_with("it redirects to a place in plain http"), "{error}");
}

#[test]
fn the_token_goes_home_alone() {
    let elsewhere = Server::start(|request| file(request, FILE));
    let there = format!("location: {}/file", elsewhere.url);
    let home = Server::start(move |_| reply("302 Found", &[&there], b""));
    let client = Client::new(&home.url, Token::new(" secret\n"), Limits::default()).unwrap();
    assert!(!format!("{client:?}").contains("secret"));
    run(client.get(&home.url, 100)).unwrap();
    run(client.get(&elsewhere.url, 100)).unwrap();
    let sent = |server: &Server| -> Vec<Option<String>> {
        let requests = server.requests.lock().unwrap();
        requests.iter().map(|r| r.header("authorization").map(str::to_owned)).collect()
    };
    assert_eq!(sent(&home), [Some("bearer secret".to_owned())]);
    assert_eq!(sent(&elsewhere), [None, None]);
    assert!(Token::new(" \n").is_none() && Token::new("two words").is_none());
}

#[test]
fn plain_http_is_for_this_machine_and_the_one_that_was_named() {
    let error = |home: &str, url: &str| {
        let client = Client::new(home, None, Limits::default()).unwrap();
        run(client.get(url, 100)).unwrap_err().to_string()
    };
    let refused = error("https://example.com", "http://example.com/file");
    assert!(refused.ends_with("use https"), "{refused}");
    let secret = error("https://example.com", "https://name:word@example.com/");
    assert!(!secret.contains("word@"), "{secret}");
    assert!(error("https://example.com", "file:///etc/passwd").contains("no URL of a web server"));
    assert!(error("https://example.com", "file").contains("is no URL"));
}
