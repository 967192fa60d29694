//! `halfbyte pull` as a user runs it: what it prints, two at once, kills, full volumes, proxies.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

#[path = "../../hub/tests/support/mod.rs"]
mod hub;
mod support;
#[path = "../../fetch/tests/support/mod.rs"]
mod web;

use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use hub::{COMMIT, Hub};
use support::{Run, command};
use web::{Reply, Request, Server, reply};

fn serve(hub: &Hub) -> Server {
    let hub = hub.clone();
    Server::start(move |request| hub.answer(request))
}

/// The program with a hub, a cache, and nothing else of this machine.
fn pull(endpoint: &str, cache: &Path, args: &[&str]) -> Command {
    let mut command = command(&[&["pull"], args].concat());
    for proxy in [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "no_proxy",
        "NO_PROXY",
    ] {
        command.env_remove(proxy);
    }
    for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", "/nonexistent").env("HF_HUB_CACHE", cache);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to the end; names of this machine and times are replaced.
fn run(endpoint: &str, cache: &Path, command: &mut Command) -> Run {
    let output = command.output().unwrap();
    let plain = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap().replace(endpoint, "HUB");
        let text = text.replace(endpoint.split("//").last().unwrap(), "HUB");
        let text = text.replace(&cache.display().to_string(), "CACHE").replace(COMMIT, "COMMIT");
        // Lines of files that are done come in any order.
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_by_key(|line| line.starts_with("error"));
        lines.iter().map(|line| format!("{}\n", timeless(line))).collect()
    };
    Run {
        code: output.status.code().unwrap(),
        stdout: plain(output.stdout),
        stderr: plain(output.stderr),
    }
}

fn timeless(line: &str) -> String {
    match line.split_once(" fetched in ") {
        Some((before, _)) => format!("{before} fetched in TIME"),
        None => line.to_owned(),
    }
}

#[track_caller]
fn check(hub: &Hub, args: &[&str], expected: Expect) {
    let (server, cache) = (serve(hub), tempfile::tempdir().unwrap());
    let run = run(&server.url, cache.path(), &mut pull(&server.url, cache.path(), args));
    expected.assert_eq(&run.text());
}

#[test]
fn what_it_prints() {
    let hub = Hub::model(5000);
    let (server, cache) = (serve(&hub), tempfile::tempdir().unwrap());
    let text = |args: &[&str]| {
        run(&server.url, cache.path(), &mut pull(&server.url, cache.path(), args)).text()
    };
    let dry = text(&["acme/model", "--dry-run"]);
    let (before, _) = dry.rsplit_once(", and ").unwrap();
    expect![[r#"
        exit 0
        --- stdout
              1 kB  config.json
              5 kB  model.safetensors
              1 kB  tokenizer.json
        6 kB of 6 kB would be fetched to CACHE/models--acme--model/snapshots/COMMIT; 6 kB are needed there"#]].assert_eq(before);
    let fetched = text(&["acme/model", "--jobs", "1"]);
    let mut lines: Vec<&str> = fetched.lines().collect();
    // Each file is hashed on a thread of its own: which is first to be done is not said.
    let files = lines.len() - 3;
    lines[files..].sort_unstable();
    expect![[r#"
        exit 0
        --- stdout
        CACHE/models--acme--model/snapshots/COMMIT: 3 files, 6 kB; 6 kB fetched in TIME
        --- stderr
        left out: 2 files: 1 .bin (2 kB), 1 .md (1 kB)
        config.json, 1 kB
        model.safetensors, 5 kB
        tokenizer.json, 1 kB"#]]
    .assert_eq(&lines.join("\n"));
    expect![[r#"
        exit 0
        --- stdout
        CACHE/models--acme--model/snapshots/COMMIT: 3 files, 6 kB; all of it was here
        --- stderr
        left out: 2 files: 1 .bin (2 kB), 1 .md (1 kB)
    "#]]
    .assert_eq(&text(&["acme/model"]));
    let json = pull(&server.url, cache.path(), &["acme/model", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["revision"], COMMIT);
    assert_eq!(
        (json["fetched_bytes"].as_u64(), json["files"].as_array().unwrap().len()),
        (Some(0), 3)
    );
    assert_eq!(json["files"][1]["sha256"], hub.id("model.safetensors"));
    assert!(Path::new(json["path"].as_str().unwrap()).join("config.json").exists());
    // Other commands find it, and say that the model in it is none.
    let mut prompt = command(&["prompt", "acme/model", "x", "--device", "cpu"]);
    let found = prompt.env("HF_HUB_CACHE", cache.path()).output().unwrap();
    let said = String::from_utf8(found.stderr).unwrap();
    assert!(said.contains("snapshots") && said.contains("config.json"), "{said}");
}

#[test]
fn bad_input() {
    let hub = Hub::model(5000);
    check(
        &hub,
        &["model"],
        expect![[r#"
        exit 3
        --- stderr
        error: `model` is no repository; give ORG/NAME, or its URL
    "#]],
    );
    check(
        &hub,
        &["acme/other"],
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/api/models/acme/other/revision/main: the server refuses (401): there is no such repository, or it wants a token; set HF_TOKEN, or name a file in --token-file
    "#]],
    );
    check(
        &hub,
        &["acme/model@v9"],
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model@v9: the repository has no such branch, tag or commit
    "#]],
    );
    check(
        &hub,
        &["acme/model@v9", "--revision", "v8"],
        expect![[r#"
        exit 3
        --- stderr
        error: `acme/model@v9` is at `v9`, and `v8` was asked for; give one of them
    "#]],
    );
    check(
        &hub,
        &["acme/model", "--include", "*.gguf"],
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model has no file that `*.gguf` takes
    "#]],
    );
    check(
        &hub,
        &["acme/model", "--exclude", "model.safetensors"],
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model: --exclude takes all of its weights
    "#]],
    );
    check(
        &hub,
        &["acme/model", "--token-file", "/nonexistent/token"],
        expect![[r#"
        exit 3
        --- stderr
        error: cannot read /nonexistent/token: there is no such file
    "#]],
    );
    check(
        &hub,
        &["acme/model", "--jobs", "0"],
        expect![[r#"
        exit 2
        --- stderr

        For more information, try '--help'.
        error: invalid value '0' for '--jobs <N>': 0 is not in 1..=64
    "#]],
    );
    let cache = tempfile::tempdir().unwrap();
    let mut offline = pull("http://hub.invalid", cache.path(), &["acme/model"]);
    let offline = run("http://hub.invalid", cache.path(), offline.env("HF_HUB_OFFLINE", "1"));
    expect![[r#"
        exit 2
        --- stderr
        error: HF_HUB_OFFLINE is set: nothing is read from the hub; unset it, or fetch the model first
    "#]].assert_eq(&offline.text());
}

#[test]
fn a_directory_of_models_takes_plain_files() {
    let hub = Hub::model(5000);
    let (server, models) = (serve(&hub), tempfile::tempdir().unwrap());
    let directory = models.path().display().to_string();
    let args = ["acme/model", "--model-dir", &directory];
    let run =
        run(&server.url, models.path(), &mut pull(&server.url, Path::new("/nonexistent"), &args));
    assert_eq!(run.code, 0, "{}", run.text());
    hub.check(&models.path().join("acme/model"));
}

#[test]
fn two_processes_fetch_everything_once() {
    let hub = Hub::model(20_000_000);
    let slow = hub.clone();
    let server = Server::start(move |request| {
        if slow.asked(request).is_some() {
            thread::sleep(Duration::from_millis(300));
        }
        slow.answer(request)
    });
    let cache = tempfile::tempdir().unwrap();
    let spawn = || pull(&server.url, cache.path(), &["acme/model", "--json"]).spawn().unwrap();
    let children = [spawn(), spawn()];
    let outputs = children.map(|child| child.wait_with_output().unwrap());
    let mut fetched: Vec<u64> = outputs
        .iter()
        .map(|output| {
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            json["fetched_bytes"].as_u64().unwrap()
        })
        .collect();
    fetched.sort_unstable();
    let whole = ["config.json", "tokenizer.json", "model.safetensors"]
        .map(|name| hub.files[name].len() as u64);
    assert_eq!(fetched, [0, whole.iter().sum()]);
    let waited = outputs
        .iter()
        .filter(|o| String::from_utf8_lossy(&o.stderr).contains("another process fetches it"));
    assert_eq!(waited.count(), 1);
    hub.check(&cache.path().join("models--acme--model/snapshots").join(COMMIT));
}

/// `SplitMix64`, as a share of one.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Rounds of kill -9 at random moments until the files are whole; `cargo xtask soak` asks for more of them.
#[test]
fn kills_at_any_moment_lose_nothing() {
    let kills = env::var("HALFBYTE_SOAK_PULLS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let seed = env::var("HALFBYTE_SOAK_SEED").ok();
    let seed = seed
        .and_then(|seed| u64::from_str_radix(seed.trim_start_matches("0x"), 16).ok())
        .unwrap_or(7);
    let hub = Hub::model(30_000_000);
    let server = serve(&hub);
    let root = tempfile::tempdir().unwrap();
    let time = |cache: &Path| {
        let start = Instant::now();
        let run = run(&server.url, cache, &mut pull(&server.url, cache, &["acme/model"]));
        assert_eq!(run.code, 0, "{}", run.text());
        start.elapsed()
    };
    let usual = time(&root.path().join("whole"));
    let (mut state, mut killed, mut late, mut resumed, mut round) = (seed, 0, 0, 0, 0);
    while killed < kills {
        round += 1;
        let cache = root.path().join(format!("cache{round}"));
        for _ in 0..3 {
            let mut child = pull(&server.url, &cache, &["acme/model"]).spawn().unwrap();
            thread::sleep(usual.mul_f64(random(&mut state)));
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            match output.status.signal() {
                Some(_) => killed += 1,
                None => late += 1,
            }
            whole_or_not_there(&hub, &cache);
            if output.status.success() {
                break;
            }
        }
        let before = server.requests.lock().unwrap().len();
        let last = run(&server.url, &cache, &mut pull(&server.url, &cache, &["acme/model"]));
        assert_eq!(last.code, 0, "seed {seed:#x}, round {round}: {}", last.text());
        assert!(
            !last.stderr.contains("thrown away"),
            "seed {seed:#x}, round {round}: {}",
            last.text()
        );
        resumed +=
            u32::from(last.stderr.contains("are here already") || last.stdout.contains("was here"));
        assert!(server.requests.lock().unwrap().len() > before);
        hub.check(&cache.join("models--acme--model/snapshots").join(COMMIT));
        fs::remove_dir_all(&cache).unwrap();
    }
    println!(
        "pull killed {killed} times (seed {seed:#x}), {late} came too late; {resumed} of {round} last runs continued"
    );
}

/// What has its final name is whole.
fn whole_or_not_there(hub: &Hub, cache: &Path) {
    let repository = cache.join("models--acme--model");
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        for path in [
            repository.join("blobs").join(hub.id(name)),
            repository.join("snapshots").join(COMMIT).join(name),
        ] {
            if let Ok(content) = fs::read(&path) {
                assert!(content == hub.files[name], "{} differs", path.display());
            }
        }
    }
    if repository.join("refs/main").exists() {
        hub.check(&repository.join("snapshots").join(COMMIT));
    }
}

#[test]
fn a_volume_that_takes_no_more_keeps_what_it_has() {
    let hub = Hub::model(9_000_000);
    let (server, cache) = (serve(&hub), tempfile::tempdir().unwrap());
    // No file over 4 MiB; without the signal for that, which would end the program.
    let limit = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" pull acme/model";
    let mut shell = Command::new("bash");
    shell.args(["-c", limit, env!("CARGO_BIN_EXE_halfbyte")]);
    shell
        .env("HF_ENDPOINT", &server.url)
        .env("HF_HUB_CACHE", cache.path())
        .env("HF_HOME", "/nonexistent");
    shell.env_remove("HALFBYTE_MODEL_DIR").env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
    let full = run(&server.url, cache.path(), &mut shell);
    assert_eq!(full.code, 1, "{}", full.text());
    assert!(
        full.stderr
            .contains("the volume is full (File too large (os error 27)); what has come is kept"),
        "{}",
        full.text()
    );
    let run = run(&server.url, cache.path(), &mut pull(&server.url, cache.path(), &["acme/model"]));
    assert_eq!(run.code, 0, "{}", run.text());
    hub.check(&cache.path().join("models--acme--model/snapshots").join(COMMIT));
}

#[test]
fn a_proxy_is_asked_where_the_environment_names_one() {
    let hub = Hub::model(5000);
    let answers = hub.clone();
    let asked = std::sync::Arc::new(AtomicU32::new(0));
    let count = std::sync::Arc::clone(&asked);
    let proxy = Server::start(move |request: &Request| -> Reply {
        // A proxy gets the whole URL.
        let Some(path) = request.path.strip_prefix("http://hub.invalid") else {
            return reply("400 Bad Request", &[], b"");
        };
        count.fetch_add(1, Ordering::Relaxed);
        answers.answer(&Request { path: path.to_owned(), headers: request.headers.clone() })
    });
    let cache = tempfile::tempdir().unwrap();
    let mut command = pull("http://hub.invalid", cache.path(), &["acme/model"]);
    let run = run("http://hub.invalid", cache.path(), command.env("http_proxy", &proxy.url));
    assert_eq!(run.code, 0, "{}", run.text());
    assert!(asked.load(Ordering::Relaxed) >= 5);
    hub.check(&cache.path().join("models--acme--model/snapshots").join(COMMIT));
}
