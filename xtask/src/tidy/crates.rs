//! The layers of ARCHITECTURE.md: who may use whom, and what each crate keeps away from.

use std::collections::BTreeSet;

use super::repository::{Repository, code, lines};

/// A crate's folder, and the crates of ours that it may use, tests aside.
const LAYERS: [(&str, &[&str]); 14] = [
    ("quant", &[]),
    ("backend", &["quant"]),
    ("cuda", &["backend", "quant"]),
    ("model", &["backend", "quant"]),
    ("grammar", &[]),
    ("audit", &[]),
    ("extract", &[]),
    ("fetch", &[]),
    ("hub", &["fetch"]),
    ("engine", &["model", "grammar", "backend"]),
    ("worker", &["fetch", "server"]),
    ("jobs", &["fetch"]),
    ("server", &["fetch", "jobs", "extract", "engine", "model", "grammar", "backend"]),
    (
        "cli",
        &[
            "audit", "extract", "fetch", "hub", "jobs", "worker", "server", "engine", "grammar",
            "model", "cuda", "backend", "quant",
        ],
    ),
];

/// Where something must not be, what, and the invariant that this is.
const ABSENT: [(&str, &[&str], &str); 5] = [
    (
        "crates/quant/src/",
        &["std::fs", "std::io", "std::net", "std::thread", "std::time", "std::env", "rayon"],
        "quant is pure: no files, no threads, no clock",
    ),
    (
        "crates/backend/src/",
        &["std::fs", "std::net", "std::time"],
        "the backend knows no file and no clock",
    ),
    (
        "crates/engine/src/",
        &[
            "std::fs",
            "std::net",
            "Instant",
            "SystemTime",
            "std::env",
            "backend::Cpu",
            "backend::cpu",
        ],
        "the engine knows no file, no clock and no particular backend",
    ),
    (
        "crates/model/src/",
        &["backend::Cpu", "backend::cpu"],
        "the model knows no particular backend",
    ),
    (
        "crates/audit/src/",
        &["fs::write", "File::create", "create_dir", "fs::remove", "fs::rename", "OpenOptions"],
        "an audit only reads",
    ),
];

/// What only some files may name: what, which files (by the beginning of their paths), and the invariant that this is.
const RESERVED: [(&[&str], &[&str], &str); 2] = [
    (
        &["std::net", "tokio::net"],
        &["crates/server/src/", "crates/fetch/src/", "crates/cli/src/commands/bench/http"],
        "only the server, the bench of one, and what fetches know sockets",
    ),
    (
        &["TcpStream::connect", "UdpSocket", "to_socket_addrs", "reqwest", " fetch::"],
        &[
            "crates/server/src/telemetry.rs",
            "crates/server/src/documents/fetching.rs",
            "crates/server/src/jobs/",
            "crates/jobs/src/postgres/",
            "crates/server/src/test",
            "crates/cli/src/commands/bench/http",
            "crates/fetch/src/",
            "crates/hub/src/",
            "crates/cli/src/headers.rs",
            "crates/cli/src/commands/audit/remote.rs",
            "crates/worker/src/",
        ],
        "nothing calls out but what was asked to: spans to a collector, `bench --url`, `plan --hub`, `pull`, a worker's platform, jobs' PostgreSQL and callbacks, documents and wheels by URL",
    ),
];

/// Only the binary talks to people.
const PRINTS: [&str; 5] = ["println!", "eprintln!", "print!(", "process::exit", "anyhow"];
const MAY_PRINT: &str = "crates/cli/";

pub(super) fn check(repository: &Repository) -> Vec<String> {
    let mut found: Vec<String> =
        folders(repository).flat_map(|folder| manifest(repository, folder)).collect();
    let sources = repository.texts().filter(|(path, _)| {
        path.starts_with("crates/")
            && path.ends_with(".rs")
            && path.contains("/src/")
            && !path.ends_with("/tests.rs")
    });
    for (path, text) in sources {
        for (place, line) in lines(path, text) {
            let line = code(line);
            found.extend(
                ABSENT
                    .iter()
                    .filter(|(at, what, _)| {
                        path.starts_with(at) && what.iter().any(|what| line.contains(what))
                    })
                    .map(|(_, _, why)| format!("{place}: {why}")),
            );
            found.extend(
                RESERVED
                    .iter()
                    .filter(|(what, at, _)| {
                        what.iter().any(|what| line.contains(what))
                            && !at.iter().any(|at| path.starts_with(at))
                    })
                    .map(|(_, _, why)| format!("{place}: {why}")),
            );
            if !path.starts_with(MAY_PRINT) && PRINTS.iter().any(|what| line.contains(what)) {
                found.push(format!("{place}: a library returns typed errors and prints nothing"));
            }
        }
    }
    found
}

/// Folders of `crates/`.
fn folders(repository: &Repository) -> impl Iterator<Item = &str> {
    let folders: BTreeSet<&str> = repository
        .paths()
        .filter_map(|path| path.strip_prefix("crates/")?.split('/').next())
        .collect();
    folders.into_iter()
}

fn manifest(repository: &Repository, folder: &str) -> Vec<String> {
    let path = format!("crates/{folder}/Cargo.toml");
    let Some(text) = repository.text(&path) else {
        return vec![format!("{path}: missing")];
    };
    let mut found = Vec::new();
    let name = if folder == "cli" { "halfbyte".to_owned() } else { format!("halfbyte-{folder}") };
    for line in [
        format!("name = \"{name}\""),
        "[lints]\nworkspace = true".into(),
        "license.workspace = true".into(),
    ] {
        if !text.contains(&line) {
            found.push(format!("{path}: `{}` is missing", line.replace('\n', " ")));
        }
    }
    let Some((_, may_use)) = LAYERS.iter().find(|(layer, _)| *layer == folder) else {
        found.push(format!("{path}: the crate has no layer in xtask/src/tidy/crates.rs"));
        return found;
    };
    let ours = |name: &&str| LAYERS.iter().any(|(layer, _)| layer == name);
    for used in dependencies(text).filter(ours).filter(|name| !may_use.contains(name)) {
        found.push(format!("{path}: {folder} may not use {used}: arrows point one way"));
    }
    found
}

/// Names in `[dependencies]`, whatever the target; those of tests and build scripts aside.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    manifest.lines().filter_map(move |line| {
        if line.starts_with('[') {
            inside = line == "[dependencies]"
                || line.starts_with("[target.") && line.ends_with(".dependencies]");
        }
        let name = line.split(['.', ' ', '=']).next()?;
        (inside && !line.starts_with('[') && !name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "name = \"halfbyte-model\"\nlicense.workspace = true\n[dependencies]\nquant.workspace = true\n";

    fn check_crate(more: &str, source: &str, expected: &[&str]) {
        let manifest = format!("{MANIFEST}{more}\n[lints]\nworkspace = true\n");
        let found = check(&Repository::of(&[
            ("crates/model/Cargo.toml", &manifest),
            ("crates/model/src/lib.rs", source),
        ]));
        assert_eq!(found, expected, "{more} {source}");
    }

    #[test]
    fn arrows_point_one_way() {
        check_crate("[dev-dependencies]\nengine.workspace = true", "", &[]);
        let expected = "crates/model/Cargo.toml: model may not use engine: arrows point one way";
        check_crate("engine = { path = \"../engine\" }", "", &[expected]);
    }

    #[test]
    fn what_a_crate_keeps_away_from() {
        check_crate("", "// println! is for the binary\n", &[]);
        check_crate(
            "",
            "fn f() {\n    println!();\n}\n",
            &["crates/model/src/lib.rs:2: a library returns typed errors and prints nothing"],
        );
        check_crate(
            "",
            "use backend::Cpu;",
            &["crates/model/src/lib.rs:1: the model knows no particular backend"],
        );
    }

    #[test]
    fn sockets_belong_to_the_server() {
        let listens = "use std::net::SocketAddr;";
        check_crate(
            "",
            listens,
            &[
                "crates/model/src/lib.rs:1: only the server, the bench of one, and what fetches know sockets",
            ],
        );
        let server = |file: &'static str, source: &str| {
            let manifest =
                "name = \"halfbyte-server\"\nlicense.workspace = true\n[lints]\nworkspace = true\n";
            check(&Repository::of(&[("crates/server/Cargo.toml", manifest), (file, source)]))
        };
        assert_eq!(server("crates/server/src/run.rs", listens), [""; 0]);
        let calls = "TcpStream::connect_timeout(&address, time)";
        assert_eq!(server("crates/server/src/telemetry.rs", calls), [""; 0]);
        assert_eq!(
            server("crates/server/src/run.rs", calls),
            [
                "crates/server/src/run.rs:1: nothing calls out but what was asked to: spans to a collector, `bench --url`, `plan --hub`, `pull`, a worker's platform, jobs' PostgreSQL and callbacks, documents and wheels by URL"
            ]
        );
    }

    #[test]
    fn a_crate_without_a_layer_is_named() {
        let manifest =
            "name = \"halfbyte-new\"\nlicense.workspace = true\n[lints]\nworkspace = true\n";
        let found = check(&Repository::of(&[("crates/new/Cargo.toml", manifest)]));
        assert_eq!(
            found,
            ["crates/new/Cargo.toml: the crate has no layer in xtask/src/tidy/crates.rs"]
        );
    }
}
