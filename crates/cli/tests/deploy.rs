//! What `deploy/` says of the program is so: command lines, paths, names of figures, files.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::halfbyte;
use support::server::Server;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whatever is wrong with an argument is said before the help is printed.
#[track_caller]
fn parses(arguments: &[String]) {
    if let [command, model, ..] = arguments
        && ["serve", "worker"].contains(&command.as_str())
    {
        // A bare name would be looked for nowhere but in the working directory.
        let is_named = model.starts_with('/') || model.split('/').count() == 2;
        assert!(is_named, "{model} is neither a whole path nor ORG/NAME");
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--help"]).collect();
    let run = halfbyte(&arguments);
    assert_eq!(run.code, 0, "{arguments:?}\n{}", run.text());
}

/// The list of texts behind the first `name` in a file, over several lines or not; JSON, as YAML is one of its kinds.
fn list(text: &str, name: &str) -> Vec<String> {
    let after = text.split_once(name).unwrap_or_else(|| panic!("no {name}")).1;
    let list = after.find('[').zip(after.find(']')).and_then(|(from, to)| after.get(from..=to));
    let list = list.unwrap_or_else(|| panic!("{name} is no list"));
    serde_json::from_str(list).unwrap_or_else(|error| panic!("{name}: {error}: {list}"))
}

/// The value of `name: value` in YAML, wherever it stands.
fn values<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let value = |line: &'a str| line.trim().strip_prefix(name)?.strip_prefix(": ");
    text.lines().filter_map(value).collect()
}

#[test]
fn command_lines_are_understood() {
    parses(&list(&read("kubernetes/base/deployment.yaml"), "args:"));
    let template: Value = serde_json::from_str(&read("runpod/template.json")).unwrap();
    let command: Vec<String> = serde_json::from_value(template["dockerStartCmd"].clone()).unwrap();
    parses(&command);
    parses(&list(&read("Dockerfile"), "\nCMD"));

    let unit = read("systemd/halfbyte.service");
    let mut line = values(&unit.replace("ExecStart=", "ExecStart: "), "ExecStart")[0].to_owned();
    for setting in read("systemd/halfbyte.env").lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = setting.split_once('=').unwrap();
        line = line.replace(&format!("${{{name}}}"), value);
    }
    assert!(!line.contains('$'), "a variable is not in halfbyte.env: {line}");
    let words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
    parses(&words);

    // The check itself: a flag that there is not is found.
    assert_eq!(halfbyte(&["serve", "demo", "--drain-second", "1", "--help"]).code, 2);
    assert_eq!(halfbyte(&["serve", "demo", "--port", "x", "--help"]).code, 2);
}

#[test]
fn paths_and_figures_are_those_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = folder.path().join("jobs.sqlite");
    let mut server = Server::start(&["--jobs", jobs.to_str().unwrap()], &[]);
    server.wait_until_ready();
    let answer = server.ask("GET /openapi.json", "", "");
    let document: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let deployment = read("kubernetes/base/deployment.yaml");
    let probes = values(&deployment, "path");
    assert_eq!(probes, ["/ready", "/ready", "/health"]);
    for path in probes {
        assert!(document["paths"][path]["get"].is_object(), "{path}");
    }
    let port = values(&deployment, "containerPort")[0];
    assert!(list(&deployment, "args:").windows(2).any(|pair| pair == ["--port", port]));
    assert!(read("Dockerfile").contains(&format!("EXPOSE {port}\n")));

    let figures = server.ask("GET /metrics", "", "");
    let scaler = read("kubernetes/keda/autoscaler.yaml");
    let asked: Vec<&str> = values(&scaler, "query")[0]
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("halfbyte_"))
        .collect();
    assert!(!asked.is_empty());
    for name in asked {
        let is_there =
            figures.lines().any(|line| line.starts_with(&format!("# TYPE {name} gauge")));
        assert!(is_there, "{name} is no gauge of /metrics");
    }
    server.signal("-TERM");
    assert_eq!(server.end().0, 0);
}

#[test]
fn a_kustomization_lists_the_files_beside_it() {
    for folder in ["base", "keda"] {
        let folder = format!("kubernetes/{folder}");
        let text = read(&format!("{folder}/kustomization.yaml"));
        let resources = text.split_once("resources:\n").unwrap().1;
        let listed = resources.lines().map(|line| line.trim().trim_start_matches("- "));
        let (files, others): (BTreeSet<&str>, BTreeSet<&str>) =
            listed.partition(|name| name.ends_with(".yaml"));
        for other in others {
            let base = deploy().join(&folder).join(other).join("kustomization.yaml");
            assert!(base.exists(), "{}", base.display());
        }
        let beside = fs::read_dir(deploy().join(&folder)).unwrap();
        let beside: Vec<String> =
            beside.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        let beside: BTreeSet<&str> = beside
            .iter()
            .map(String::as_str)
            .filter(|name| *name != "kustomization.yaml")
            .collect();
        assert_eq!(files, beside, "{folder}");
    }
}

#[test]
fn the_audit_finds_nothing_in_the_dockerfile() {
    let dockerfile = deploy().join("Dockerfile").display().to_string();
    let report = halfbyte(&["audit", &dockerfile, "--json"]).json();
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(0), "{report}");
}

/// No key, token or password stands where others would copy it from.
#[test]
fn no_file_holds_a_secret() {
    for path in ["systemd/halfbyte.env", "runpod/template.json", "Dockerfile"] {
        for line in read(path).lines() {
            let line = line.to_uppercase();
            let is_set = ["TOKEN", "API_KEY", "PASSWORD", "SECRET"]
                .iter()
                .any(|name| line.split(['=', ':']).next().is_some_and(|left| left.contains(name)));
            assert!(!is_set || line.starts_with('#'), "{path}: {line}");
        }
    }
}
