//! `halfbyte plan --hub` against servers of this machine, honest or not.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;
#[path = "support/headers.rs"]
mod headers;
#[path = "../../fetch/tests/support/mod.rs"]
mod web;

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use expect_test::{Expect, expect};
use headers::{Header, LLAMA_405B, MIXTRAL, Shard};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use support::{Run, command, model};
use web::{Reply, Request, Server, file, reply};

/// The files of a repository.
#[derive(Default)]
struct Repository {
    whole: HashMap<String, Vec<u8>>,
    shards: HashMap<String, Shard>,
}

impl Repository {
    fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.whole.insert(name.to_owned(), content.into());
        self
    }

    fn shard(mut self, name: &str, header: &Header) -> Self {
        self.shards.insert(name.to_owned(), header.shard());
        self
    }

    /// As the hub answers; what lies behind a header is zeros.
    fn answer(&self, request: &Request) -> Reply {
        let name = request.path.strip_prefix("/acme/model/resolve/main/").unwrap_or_default();
        if let Some(content) = self.whole.get(name) {
            return file(request, content);
        }
        let Some(Shard { start, len }) = self.shards.get(name) else {
            return reply("404 Not Found", &[], b"Entry not found");
        };
        let (first, last) = request.range().expect("weights are never asked for");
        assert!(last < 2 << 20, "{last} is far beyond the header");
        let last = last.min(*len as usize - 1);
        let bytes: Vec<u8> = (first..=last).map(|i| start.get(i).copied().unwrap_or(0)).collect();
        reply(
            "206 Partial Content",
            &[&format!("content-range: bytes {first}-{last}/{len}")],
            &bytes,
        )
    }
}

fn serve(repository: Repository) -> Server {
    Server::start(move |request| repository.answer(request))
}

/// Plans `acme/model` of a hub.
fn plan(endpoint: &str, args: &[&str]) -> Run {
    run(endpoint, &[&["plan", "acme/model", "--hub"], args].concat(), &[])
}

fn run(endpoint: &str, args: &[&str], env: &[(&str, &str)]) -> Run {
    let mut command = command(args);
    for proxy in
        ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
    {
        command.env_remove(proxy);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", "/nonexistent").env_remove("HF_TOKEN");
    command.env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN_PATH").envs(env.iter().copied());
    let output = command.output().unwrap();
    let plain = |bytes: Vec<u8>| {
        String::from_utf8(bytes)
            .unwrap()
            .replace(endpoint, "HUB")
            .replace(endpoint.split("//").last().unwrap(), "HUB")
    };
    Run {
        code: output.status.code().unwrap(),
        stdout: plain(output.stdout),
        stderr: plain(output.stderr),
    }
}

fn tiny(name: &str) -> Repository {
    let read = |file: &str| std::fs::read(Path::new(&model(name)).join(file)).unwrap();
    Repository::default()
        .file("config.json", read("config.json"))
        .file("model.safetensors", read("model.safetensors"))
}

fn mixtral() -> Repository {
    let headers: Vec<(String, Header)> = headers::mixtral()
        .into_iter()
        .enumerate()
        .map(|(index, header)| (format!("model-{index:05}-of-00033.safetensors"), header))
        .collect();
    let index = headers::index(&headers);
    let start = Repository::default()
        .file("config.json", MIXTRAL)
        .file("model.safetensors.index.json", index);
    headers.iter().fold(start, |repository, (name, header)| repository.shard(name, header))
}

#[test]
fn a_repository_is_planned_as_its_files_would_be() {
    let server = serve(tiny("mixtral-nf4-dq"));
    let cards = |run: Run| run.json()["cards"].clone();
    let there = cards(plan(&server.url, &["--json"]));
    assert_eq!(there, cards(support::halfbyte(&["plan", &model("mixtral-nf4-dq"), "--json"])));
    let requests = server.requests.lock().unwrap();
    let paths: Vec<&str> = requests.iter().map(|r| r.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(paths, ["config.json", "model.safetensors"], "nothing else is asked for");
}

#[test]
fn mixtral_is_planned_from_its_headers_alone() {
    let server = serve(mixtral());
    let there = plan(&server.url, &["--json"]).json();
    let shape = support::halfbyte(&["plan", "mixtral-8x7b", "--json"]).json();
    assert_eq!(there["cards"], shape["cards"]);
    // 24.48 GB of tensors; 33 headers.
    assert_eq!(there["stored_bytes"].as_u64().unwrap() / 10_000_000, 2448);
    let requests = server.requests.lock().unwrap();
    assert!(requests.iter().skip(1).all(|r| r.range().is_some() || r.path.ends_with("index.json")));
}

#[test]
fn a_model_that_fits_nowhere() {
    let header = headers::llama_405b();
    let repository =
        Repository::default().file("config.json", LLAMA_405B).shard("model.safetensors", &header);
    let server = serve(repository);
    expect![[r#"
        exit 4
        --- stdout
        HUB/acme/model (headers on the hub): LlamaForCausalLM, 126 layers, made for 131072 tokens
        weights: not quantized; 811.71 GB = 755.96 GiB stored
        planned: one sequence, as `prompt` has it; keys and values in bf16, 516096 bytes a token
        `halfbyte quantize` would make 215.61 GB = 200.80 GiB of it, in NF4

        on the card: 807.51 GB = 752.05 GiB of weights, beside keys and values, workspace and 650.0 MB for the driver

                             memory              tokens   of these  tokens/s
        card            GB      GiB  fits  a sequence    at once   at most  expected
        A10             23.61  21.99  no             0          0         -         -  nor quantized
        L4              23.61  21.99  no             0          0         -         -  nor quantized
        RTX 3090        25.45  23.70  no             0          0         -         -  nor quantized
        RTX 4090        25.35  23.61  no             0          0         -         -  nor quantized
        RTX 5090        33.67  31.36  no             0          0         -         -  nor quantized
        A100 40GB       42.41  39.50  no             0          0         -         -  nor quantized
        A40             47.67  44.40  no             0          0         -         -  nor quantized
        L40S            47.70  44.42  no             0          0         -         -  nor quantized
        A100 80GB SXM   85.09  79.25  no             0          0         -         -  nor quantized
        A100 80GB PCIe  85.09  79.25  no             0          0         -         -  nor quantized
        H100 SXM        84.94  79.11  no             0          0         -         -  nor quantized
        H100 PCIe       84.94  79.11  no             0          0         -         -  nor quantized
        RTX PRO 6000   101.97  94.97  no             0          0         -         -  nor quantized
        H200           150.11 139.80  no             0          0         -         -  nor quantized
        B200           191.50 178.35  no             0          0         -         -  nor quantized

        memory: all that CUDA shows of it, as seen on real cards; --json has the sources. tokens a sequence: the most for one sequence. of these at once: sequences of 32768 tokens under `serve`. tokens/s: decoding one sequence, at most by the memory's bandwidth, and at the share of it that was measured with mixtral-8x7b on an H200; `plan --gpu NAME` shows the formula. quantized: the most after `halfbyte quantize`.
        It fits on none of them.
        --- stderr
        fits on none of these cards
    "#]].assert_eq(&plan(&server.url, &[]).text());
}

#[track_caller]
fn check(repository: Repository, expected: Expect) {
    let server = serve(repository);
    expected.assert_eq(&plan(&server.url, &["--gpu", "L4"]).text());
}

#[test]
fn what_is_no_model_is_refused() {
    check(
        Repository::default(),
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/resolve/main/config.json: there is no such file (404)
    "#]],
    );
    let config = || Repository::default().file("config.json", MIXTRAL);
    check(
        config(),
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/resolve/main/model.safetensors.index.json: there is no such file (404), nor model.safetensors: only safetensors checkpoints are read
    "#]],
    );
    check(
        config().file("model.safetensors.index.json", "{}"),
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/resolve/main/model.safetensors.index.json: the server's answer makes no sense: model.safetensors.index.json: not an index of shards: missing field `weight_map` at line 1 column 2
    "#]],
    );
    let evil = r#"{"weight_map": {"a": "../../../etc/passwd.safetensors"}}"#;
    check(
        config().file("model.safetensors.index.json", evil),
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/resolve/main/model.safetensors.index.json: the server's answer makes no sense: model.safetensors.index.json: `../../../etc/passwd.safetensors` is no name of a shard
    "#]],
    );
    check(
        config().file("model.safetensors", "<html>"),
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/resolve/main/model.safetensors: the server's answer makes no sense: model.safetensors: holds 6 bytes, too few for a safetensors file; fetch it again
    "#]],
    );
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    check(
        config().file("model.safetensors", huge),
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/resolve/main/model.safetensors: the server's answer makes no sense: model.safetensors: claims a header of 18446744073709551615 bytes, so it is no safetensors file
    "#]],
    );
    let mut header = Header::default();
    header.put("a", "U8", &[1 << 46]);
    check(
        config().shard("model.safetensors", &header),
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/model.safetensors: claims 70368744177751 bytes, which is more than any model has
    "#]],
    );
    check(
        tiny("mixtral-nf4-dq").file("config.json", vec![b' '; 2 << 20]),
        expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/resolve/main/config.json: is larger than the 1048576 bytes that are read of it
    "#]],
    );
}

#[test]
fn servers_that_do_not_keep_to_the_rules() {
    // The whole of a file, whatever part was asked for.
    let repository = tiny("llama-tied-nf4");
    let server = Server::start(move |request| {
        let name = request.path.rsplit('/').next().unwrap();
        match repository.whole.get(name) {
            Some(content) => reply("200 OK", &[], content),
            None => reply("404 Not Found", &[], b""),
        }
    });
    assert_eq!(plan(&server.url, &["--gpu", "L4"]).code, 0);
    let broken = |status: &'static str, headers: &'static [&'static str], body: &'static [u8]| {
        let server = Server::start(move |request| match request.path.ends_with("config.json") {
            true => reply("200 OK", &[], MIXTRAL.as_bytes()),
            false => reply(status, headers, body),
        });
        plan(&server.url, &["--gpu", "L4"]).text()
    };
    expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/resolve/main/model.safetensors: the server's answer makes no sense: it sends bytes 5-7 of 100 where 0-131071 were asked for
    "#]].assert_eq(&broken(
        "206 Partial Content",
        &["content-range: bytes 5-7/100"],
        b"abc",
    ));
    expect![[r#"
        exit 1
        --- stderr
        error: HUB/acme/model/resolve/main/model.safetensors: broke off after 3 of 100 bytes; try again
    "#]].assert_eq(&broken(
        "206 Partial Content",
        &["content-range: bytes 0-99/100"],
        b"abc",
    ));
    expect![[r#"
        exit 1
        --- stderr
        error: HUB/acme/model/resolve/main/model.safetensors: the server answers 503; try again later
    "#]].assert_eq(&broken("503 Service Unavailable", &[], b""));
    expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/resolve/main/model.safetensors: the server refuses (401): there is no such repository, or it wants a token; set HF_TOKEN, or name a file in HF_TOKEN_PATH
    "#]].assert_eq(&broken("401 Unauthorized", &[], b""));
}

#[test]
fn the_token_is_sent_and_never_shown() {
    let server = Server::start(|_| reply("401 Unauthorized", &[], b""));
    let args = ["plan", "acme/model", "--hub"];
    let run = run(&server.url, &args, &[("HF_TOKEN", "hf_secret")]);
    expect![[r#"
        exit 3
        --- stderr
        error: HUB/acme/model/resolve/main/config.json: the server refuses (401): there is no such repository, or the token does not open it
    "#]].assert_eq(&run.text());
    assert_eq!(
        server.requests.lock().unwrap()[0].header("authorization"),
        Some("bearer hf_secret")
    );
}

#[test]
fn nothing_is_asked_that_must_not_be() {
    let text = |args: &[&str], env: &[(&str, &str)]| run("https://hub.invalid", args, env).text();
    let offline = [("HF_HUB_OFFLINE", "1")];
    expect![[r#"
        exit 2
        --- stderr
        error: HF_HUB_OFFLINE is set: nothing is read from the hub; unset it, or fetch the model first
    "#]].assert_eq(&text(&["plan", "acme/model", "--hub"], &offline));
    expect![[r#"
        exit 3
        --- stderr
        error: http://hub.example/acme/model/resolve/main/config.json: plain http is spoken with this machine alone; use https
    "#]].assert_eq(&text(&["plan", "http://hub.example/acme/model"], &[]));
    expect![[r#"
        exit 3
        --- stderr
        error: `acme` is no repository; give ORG/NAME, or its URL
    "#]]
    .assert_eq(&text(&["plan", "acme", "--hub"], &[]));
}

/// A server that speaks TLS, with a certificate that the authority of these tests vouches for.
fn serve_tls(repository: Repository) -> String {
    let path = |file: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(file);
    let chain = vec![CertificateDer::from_pem_file(path("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(path("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config =
        Arc::new(config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            web::handle(&mut stream, &|request| repository.answer(request), &Mutex::default());
            stream.conn.send_close_notify();
            _ = stream.flush();
        }
    });
    url
}

#[test]
fn tls_with_an_authority_that_the_system_trusts_and_with_none() {
    let authority = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/authority.pem");
    let url = serve_tls(tiny("llama-tied-nf4"));
    let args = ["plan", "acme/model", "--hub", "--gpu", "L4"];
    let trusted = run(&url, &args, &[("SSL_CERT_FILE", authority.to_str().unwrap())]);
    assert_eq!(trusted.code, 0, "{}", trusted.text());
    let empty = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent")];
    expect![[r#"
        exit 1
        --- stderr
        error: HUB/acme/model/resolve/main/config.json: invalid peer certificate: UnknownIssuer; this system trusts no authority: install ca-certificates, or name a file of them in SSL_CERT_FILE
    "#]].assert_eq(&run(&url, &args, &empty).text());
}
