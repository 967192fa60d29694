//! Pulls from servers of this machine that break off, refuse, lie and expire.
#![allow(clippy::unwrap_used)]

#[path = "../../fetch/tests/support/mod.rs"]
mod web;
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use fetch::Token;
use hub::{
    Access, Choice, Event, HubError, Options, Patience, Place, Plan, Progress, Report, Repository,
};
use support::{COMMIT, Hub, noise};
use web::{Reply, Request, Server, file, reply};

/// Two parts and a bit.
const LARGE: usize = 17_000_001;
const SMALL: usize = 5000;

/// Short waits: servers here do not get better with time.
const PATIENCE: Patience = Patience {
    attempts: 4,
    failures: 60,
    first_wait: Duration::from_millis(1),
    asked_wait: Duration::from_secs(2),
    idle: Duration::from_secs(1),
};

struct Pull {
    result: Result<Report, HubError>,
    events: Vec<Event>,
    fetched: u64,
}

impl Pull {
    #[track_caller]
    fn report(&self) -> &Report {
        self.result.as_ref().unwrap()
    }

    fn error(&self) -> String {
        self.result.as_ref().unwrap_err().to_string()
    }

    fn count(&self, is_wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| is_wanted(event)).count()
    }
}

fn serve(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(answer)
}

fn pull_with(server: &Server, place: &Place, token: Option<Token>) -> Pull {
    let access = Access { endpoint: server.url.clone(), token };
    let repository = Repository::parse("acme/model", &access.endpoint, None).unwrap();
    let events = Mutex::new(Vec::new());
    let progress = Progress::default();
    let options = Options { jobs: 4, patience: PATIENCE };
    let plan = Plan::new(&access, &repository, &Choice::default(), &PATIENCE);
    let result = plan.and_then(|plan| {
        plan.pull(&access, place, &options, &progress, &|event| events.lock().unwrap().push(event))
    });
    let fetched = progress.fetched.load(Ordering::Relaxed);
    Pull { result, events: events.into_inner().unwrap(), fetched }
}

fn pull(server: &Server, place: &Place) -> Pull {
    pull_with(server, place, None)
}

fn cache() -> (tempfile::TempDir, Place, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let place = Place::Cache(root.path().join("hub"));
    let repository = root.path().join("hub/models--acme--model");
    (root, place, repository)
}

/// Requests of a file.
fn requests(server: &Server, name: &str) -> usize {
    server.requests.lock().unwrap().iter().filter(|r| r.path.contains(&format!("/{name}"))).count()
}

/// What is left of an answer when the connection breaks after this many bytes of the body.
fn broken(whole: Reply, bytes: usize) -> Reply {
    let Reply::Bytes(mut whole) = whole else { return whole };
    let head = whole.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    whole.truncate(head + bytes);
    Reply::Bytes(whole)
}

#[test]
fn the_cache_is_as_the_official_tool_has_it_and_nothing_comes_twice() {
    let (_root, place, repository) = cache();
    let hub = Hub::model(LARGE).with("sub/ü x.json", b"no part of a model");
    let served = hub.clone();
    let server = serve(move |request| served.answer(request));
    let first = pull(&server, &place);
    let snapshot = repository.join("snapshots").join(COMMIT);
    assert_eq!(first.report().path, snapshot);
    assert_eq!(first.report().fetched_files, 3);
    hub.check(&snapshot);
    let target = fs::read_link(snapshot.join("model.safetensors")).unwrap();
    assert_eq!(target, Path::new("../../blobs").join(hub.id("model.safetensors")));
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    let mut blobs: Vec<_> =
        fs::read_dir(repository.join("blobs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    blobs.sort();
    let mut expected: [std::ffi::OsString; 3] =
        ["config.json", "tokenizer.json", "model.safetensors"].map(|name| hub.id(name).into());
    expected.sort();
    assert_eq!(blobs, expected, "nothing else is left");
    let before = requests(&server, "resolve");
    assert!(before >= 4, "a large file comes in parts");
    let second = pull(&server, &place);
    assert_eq!((second.report().fetched_files, second.fetched), (0, 0));
    assert_eq!(requests(&server, "resolve"), before);
}

#[test]
fn plain_files_are_verified_once() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::Plain(root.path().to_owned());
    let hub = Hub::model(SMALL);
    let served = hub.clone();
    let server = serve(move |request| served.answer(request));
    let directory = root.path().join("acme/model");
    assert_eq!(pull(&server, &place).report().path, directory);
    hub.check(&directory);
    assert!(fs::symlink_metadata(directory.join("config.json")).unwrap().is_file());
    let is_checking = |event: &Event| matches!(event, Event::Checking { .. });
    let again = pull(&server, &place);
    assert_eq!((again.report().fetched_files, again.count(is_checking)), (0, 0));
    // Other bytes of the same length are found out, and replaced.
    let weights = directory.join("model.safetensors");
    fs::write(&weights, noise(SMALL + 1).split_off(1)).unwrap();
    let repaired = pull(&server, &place);
    assert_eq!((repaired.report().fetched_files, repaired.count(is_checking) > 0), (1, true));
    hub.check(&directory);
    // A copy made by hand is taken as it is, once it was read.
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir_all(copy.path().join("acme/model")).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(directory.join(name), copy.path().join("acme/model").join(name)).unwrap();
    }
    assert_eq!(pull(&server, &Place::Plain(copy.path().to_owned())).report().fetched_files, 0);
}

#[test]
fn connections_that_drop_cost_what_they_did_not_bring() {
    let (_root, place, repository) = cache();
    let hub = Hub::model(LARGE);
    let served = hub.clone();
    let count = AtomicU32::new(0);
    let server = serve(move |request| {
        let whole = served.answer(request);
        let is_part = request.path.contains("resolve");
        // Every other answer breaks off after 3 MB, or after the head.
        match count.fetch_add(u32::from(is_part), Ordering::Relaxed) % 4 {
            1 if is_part => broken(whole, 3_000_000),
            3 if is_part => broken(whole, 0),
            _ => whole,
        }
    });
    let pull = pull(&server, &place);
    hub.check(&pull.report().path);
    assert!(pull.count(|event| matches!(event, Event::Retrying { .. })) > 0);
    let needed: u64 = ["config.json", "tokenizer.json", "model.safetensors"]
        .iter()
        .map(|n| hub.files[*n].len() as u64)
        .sum();
    assert_eq!(pull.fetched, needed, "no byte counts twice");
    assert!(repository.join("refs/main").exists());
}

#[test]
fn a_server_that_is_busy_is_left_alone_for_as_long_as_it_asks() {
    let (_root, place, _) = cache();
    let hub = Hub::model(SMALL);
    let served = hub.clone();
    let count = AtomicU32::new(0);
    let server = serve(move |request| match count.fetch_add(1, Ordering::Relaxed) {
        0 => reply("503 Service Unavailable", &[], b""),
        3 => reply("429 Too Many Requests", &["retry-after: 1"], b""),
        _ => served.answer(request),
    });
    let start = std::time::Instant::now();
    let patient = pull(&server, &place);
    hub.check(&patient.report().path);
    assert!(start.elapsed() >= Duration::from_secs(1));
    // It asks for an hour.
    let (_root, place, _) = cache();
    let served = hub.clone();
    let server = serve(move |request| match served.api(request) {
        Some(reply) => reply,
        None => reply("429 Too Many Requests", &["retry-after: 3600"], b""),
    });
    let error = pull(&server, &place).error();
    assert!(error.contains("429") && error.contains("left alone for 3600 s"), "{error}");
}

#[test]
fn who_never_answers_is_given_up() {
    let (_root, place, repository) = cache();
    let hub = Hub::model(SMALL);
    let served = hub.clone();
    let server = serve(move |request| match served.api(request) {
        Some(reply) => reply,
        None => reply("503 Service Unavailable", &[], b""),
    });
    let error = pull(&server, &place).error();
    assert!(error.contains("given up after 4 attempts") && error.contains("503"), "{error}");
    assert!(!repository.join("refs").exists() && !repository.join("snapshots").exists());
    let served = hub.clone();
    let server = serve(move |request| match served.asked(request) {
        Some("model.safetensors") => {
            let Reply::Bytes(bytes) = broken(served.answer(request), 10) else { unreachable!() };
            Reply::Stall(bytes, Duration::from_secs(60))
        }
        _ => served.answer(request),
    });
    let error = pull(&server, &place).error();
    assert!(
        error.contains("model.safetensors: given up") && error.contains("no answer in time"),
        "{error}"
    );
}

#[test]
fn wrong_bytes_get_no_name() {
    let (_root, place, repository) = cache();
    let hub = Hub::model(LARGE);
    let wrong_times = |times: u32| {
        let (served, count) = (hub.clone(), AtomicU32::new(0));
        serve(move |request| {
            let wrong = request.range().is_some_and(|(first, _)| first == 0)
                && served.asked(request) == Some("model.safetensors")
                && count.fetch_add(1, Ordering::Relaxed) < times;
            match served.answer(request) {
                Reply::Bytes(mut bytes) if wrong => {
                    *bytes.last_mut().unwrap() ^= 1;
                    Reply::Bytes(bytes)
                }
                whole => whole,
            }
        })
    };
    let server = wrong_times(u32::MAX);
    let error = pull(&server, &place).error();
    let right = hub.id("model.safetensors");
    assert!(error.starts_with("model.safetensors: came 3 times with sha256 "), "{error}");
    assert!(error.contains(&format!("where the hub says {right}")), "{error}");
    assert!(!repository.join("blobs").join(&right).exists());
    let left: Vec<_> =
        fs::read_dir(repository.join("blobs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(&right)), "{left:?}");
    let server = wrong_times(1);
    let second = pull(&server, &place);
    hub.check(&second.report().path);
    assert_eq!(second.count(|event| matches!(event, Event::Discarded { .. })), 1);
    // A small file is verified by git's digest.
    let (_root, place, _) = cache();
    let (served, other) =
        (hub.clone(), Hub::model(SMALL).with("config.json", b"{\"model_type\": \"LLAMA\"}"));
    let server = serve(move |request| match served.asked(request) {
        Some("config.json") => other.answer(request),
        _ => served.answer(request),
    });
    let error = pull(&server, &place).error();
    assert!(error.starts_with("config.json: came 3 times with git blob id "), "{error}");
}

#[test]
fn servers_without_ranges_send_the_whole_file_to_one_connection() {
    for drops in [false, true] {
        let (_root, place, _) = cache();
        let hub = Hub::model(LARGE);
        let (served, count) = (hub.clone(), AtomicU32::new(0));
        let server = serve(move |request| match served.asked(request) {
            Some(path) => {
                let whole = reply("200 OK", &[], &served.files[path]);
                let is_first =
                    path == "model.safetensors" && count.fetch_add(1, Ordering::Relaxed) < 2;
                if drops && is_first { broken(whole, 6_000_000) } else { whole }
            }
            None => served.answer(request),
        });
        let pull = pull(&server, &place);
        hub.check(&pull.report().path);
        assert_eq!(pull.count(|event| matches!(event, Event::NoRanges { .. })), 1);
    }
}

#[test]
fn lies_about_sizes() {
    let check = |answer: fn(&Hub, &Request) -> Reply, expected: &str| {
        let (_root, place, repository) = cache();
        let hub = Hub::model(SMALL);
        let server = serve(move |request| match hub.asked(request) {
            Some("model.safetensors") => answer(&hub, request),
            _ => hub.answer(request),
        });
        let error = pull(&server, &place).error();
        assert!(error.contains(expected), "{error}");
        assert!(!repository.join("snapshots").exists());
    };
    check(|_, request| file(request, &noise(SMALL + 1)), "the file has 5001 bytes there, not 5000");
    check(|_, request| file(request, &noise(SMALL - 1)), "the file has 4999 bytes there, not 5000");
    check(|_, _| reply("200 OK", &[], &noise(7)), "the file has 7 bytes there, not 5000");
    check(
        |_, _| Reply::Endless(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec()),
        "came 3 times with sha256",
    );
    check(
        |_, _| reply("206 Partial Content", &["content-range: bytes 1-5000/5000"], b""),
        "is no range of a file",
    );
    // A list that claims more than any volume holds.
    let (_root, place, _) = cache();
    let hub = Hub::model(SMALL);
    let server = serve(move |request| match hub.api(request) {
        Some(Reply::Bytes(bytes)) => {
            let text = String::from_utf8(bytes).unwrap();
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            let body = body.replace("\"size\": 5000", "\"size\": 50000000000000");
            reply("200 OK", &[], body.as_bytes())
        }
        _ => panic!("no byte is asked for"),
    });
    let access = Access { endpoint: server.url.clone(), token: None };
    let repository = Repository::parse("acme/model", &access.endpoint, None).unwrap();
    let choice = Choice::new(&["model.safetensors".to_owned()], &[]).unwrap();
    // Without its link the first page is all.
    let plan = Plan::new(&access, &repository, &choice, &PATIENCE).unwrap();
    let options = Options { jobs: 1, patience: PATIENCE };
    let error = plan.pull(&access, &place, &options, &Progress::default(), &|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("50000.00 GB are needed in "), "{error}");
}

#[test]
fn a_second_host_gets_no_token_and_its_signatures_expire() {
    let (_root, place, _) = cache();
    let hub = Hub::model(LARGE);
    let content = hub.files["model.safetensors"].clone();
    // A signature is good for two requests.
    let uses = Mutex::new(std::collections::HashMap::<String, u32>::new());
    let storage = serve(move |request| {
        let mut uses = uses.lock().unwrap();
        let used = uses.entry(request.path.clone()).or_default();
        *used += 1;
        if *used > 2 { reply("403 Forbidden", &[], b"expired") } else { file(request, &content) }
    });
    let there = storage.url.clone();
    let (served, count) = (hub.clone(), AtomicUsize::new(0));
    let server = serve(move |request| match served.asked(request) {
        Some("model.safetensors") => {
            let location = format!(
                "location: {there}/blob?signature=secret{}",
                count.fetch_add(1, Ordering::Relaxed)
            );
            reply("302 Found", &[&location], b"")
        }
        _ => served.answer(request),
    });
    let pull = pull_with(&server, &place, Token::new("hf_secret"));
    hub.check(&pull.report().path);
    let said = format!("{:?}", pull.events);
    assert!(!said.contains("signature="), "{said}");
    let authorized = |server: &Server| {
        server
            .requests
            .lock()
            .unwrap()
            .iter()
            .filter(|r| r.header("authorization").is_some())
            .count()
    };
    assert_eq!(authorized(&storage), 0);
    assert_eq!(authorized(&server), server.requests.lock().unwrap().len());
}

#[test]
fn a_signed_address_is_asked_again_while_it_is_good() {
    let (_root, place, _) = cache();
    let hub = Hub::model(4 * LARGE);
    let content = hub.files["model.safetensors"].clone();
    let storage = serve(move |request| file(request, &content));
    let location = format!("location: {}/blob?signature=x", storage.url);
    let served = hub.clone();
    let server = serve(move |request| match served.asked(request) {
        Some("model.safetensors") => reply("302 Found", &[&location], b""),
        _ => served.answer(request),
    });
    hub.check(&pull(&server, &place).report().path);
    let (asked, stored) =
        (requests(&server, "model.safetensors"), storage.requests.lock().unwrap().len());
    // Those that began together all asked the hub.
    assert!(asked <= 4 && stored > asked, "{asked} {stored}");
}

#[test]
fn what_came_before_a_failure_is_kept() {
    let (_root, place, repository) = cache();
    let hub = Hub::model(LARGE);
    let (served, sent) = (hub.clone(), AtomicU32::new(0));
    let server = serve(move |request| match served.asked(request) {
        Some("model.safetensors") if sent.fetch_add(1, Ordering::Relaxed) > 0 => {
            // The first part is through by then.
            std::thread::sleep(Duration::from_millis(500));
            reply("503 Service Unavailable", &[], b"")
        }
        _ => served.answer(request),
    });
    let failed = pull(&server, &place);
    assert!(failed.error().contains("what has come is kept"), "{}", failed.error());
    let record =
        repository.join("blobs").join(format!("{}.halfbyte.ranges", hub.id("model.safetensors")));
    assert!(record.exists());
    let served = hub.clone();
    let server = serve(move |request| served.answer(request));
    let resumed = pull(&server, &place);
    hub.check(&resumed.report().path);
    assert!(resumed.fetched < LARGE as u64 - 8_000_000, "{}", resumed.fetched);
    assert!(!record.exists());
}

#[test]
fn what_another_tool_has_begun_is_continued() {
    for name in ["ID.incomplete", "ID.0123abcd.incomplete"] {
        let (_root, place, repository) = cache();
        let hub = Hub::model(LARGE);
        let blobs = repository.join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        let id = hub.id("model.safetensors");
        let begun = blobs.join(name.replace("ID", &id));
        fs::write(&begun, &hub.files["model.safetensors"][..16_000_000]).unwrap();
        // A blob that is whole, but by its length only, is taken by its name.
        fs::write(blobs.join(hub.id("tokenizer.json")), "[]").unwrap();
        let served = hub.clone();
        let server = serve(move |request| served.answer(request));
        let pull = pull(&server, &place);
        assert_eq!(
            fs::read(pull.report().path.join("model.safetensors")).unwrap(),
            hub.files["model.safetensors"]
        );
        assert_eq!(requests(&server, "tokenizer.json"), 0);
        assert_eq!(pull.fetched, 1_000_001 + hub.files["config.json"].len() as u64);
        assert!(!begun.exists());
    }
}

#[test]
fn a_record_is_worth_nothing_without_its_file() {
    let (_root, place, repository) = cache();
    let hub = Hub::model(SMALL);
    let id = hub.id("model.safetensors");
    let blobs = repository.join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        blobs.join(format!("{id}.halfbyte.ranges")),
        format!("halfbyte ranges 1\n{id} 5000\n0-4000\nend\n"),
    )
    .unwrap();
    let served = hub.clone();
    let server = serve(move |request| served.answer(request));
    let pull = pull(&server, &place);
    hub.check(&pull.report().path);
    assert_eq!(
        pull.count(|event| matches!(event, Event::Discarded { .. } | Event::Resumed { .. })),
        0
    );
}

#[test]
fn two_at_once_fetch_everything_once() {
    let (_root, place, _) = cache();
    let hub = Hub::model(LARGE);
    let served = hub.clone();
    let server = serve(move |request| served.answer(request));
    let pulls: Vec<Pull> = std::thread::scope(|scope| {
        let threads = [0, 1].map(|_| scope.spawn(|| pull(&server, &place)));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    pulls.iter().for_each(|pull| hub.check(&pull.report().path));
    let mut files: Vec<usize> = pulls.iter().map(|pull| pull.report().fetched_files).collect();
    files.sort_unstable();
    assert_eq!(files, [0, 3]);
}

#[test]
fn same_contents_and_empty_files_have_all_their_names() {
    let hub = Hub::model(SMALL).with("tokenizer_config.json", b"{}").with("merges.txt", b"");
    for is_cache in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().to_owned();
        let place = if is_cache { Place::Cache(at) } else { Place::Plain(at) };
        let served = hub.clone();
        let server = serve(move |request| served.answer(request));
        let pulled = pull(&server, &place);
        let path = &pulled.report().path;
        hub.check(path);
        assert_eq!(fs::read(path.join("tokenizer_config.json")).unwrap(), b"{}");
        assert_eq!(fs::metadata(path.join("merges.txt")).unwrap().size(), 0);
        assert_eq!(
            requests(&server, "tokenizer.json") + requests(&server, "tokenizer_config.json"),
            1
        );
        assert_eq!(pull(&server, &place).report().fetched_files, 0);
    }
}

#[test]
fn refusals_say_what_to_do() {
    let refusal = |answer: fn(&Request) -> Reply, token: Option<Token>| {
        let (_root, place, _) = cache();
        let server = serve(answer);
        let error = pull_with(&server, &place, token).error();
        error.replace(server.url.strip_prefix("http://").unwrap(), "HUB")
    };
    let gated = |_: &Request| reply("401 Unauthorized", &["x-error-code: GatedRepo"], b"");
    assert_eq!(
        refusal(gated, None),
        "HUB/acme/model is gated: accept its conditions at http://HUB/acme/model, then set HF_TOKEN or name a file in --token-file"
    );
    assert_eq!(
        refusal(gated, Token::new("x")),
        "HUB/acme/model is gated, and the token does not open it: accept its conditions at http://HUB/acme/model"
    );
    let revision = |_: &Request| reply("404 Not Found", &["x-error-code: RevisionNotFound"], b"");
    assert_eq!(
        refusal(revision, None),
        "HUB/acme/model: the repository has no such branch, tag or commit"
    );
    let nonsense = |_: &Request| reply("200 OK", &[], b"<html>");
    assert!(refusal(nonsense, None).contains("the hub's answer makes no sense: expected value"));
    let evil = |_: &Request| reply("200 OK", &[], b"{\"sha\": \"../../../../etc\"}");
    assert!(refusal(evil, None).contains("is no commit"));
}
