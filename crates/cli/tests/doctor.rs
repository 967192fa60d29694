//! `halfbyte doctor` as a user runs it, on a machine that may or may not have a GPU.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{command, copy, halfbyte, model};

/// The report of a run, and how it ended.
fn report(command: &mut Command) -> (Value, i32) {
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code().unwrap())
}

fn ids(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["id"].as_str().unwrap()).collect()
}

#[test]
fn it_reports_in_words_and_in_json() {
    let run = halfbyte(&["doctor"]);
    for name in ["halfbyte:", "cpu", "cuda", "memory:", "system:", "driver:", "findings:"] {
        let line = run.stdout.lines().find(|line| line.split(' ').next() == Some(name));
        assert!(line.is_some(), "{name}: {}", run.text());
    }
    let (report, code) = report(&mut command(&["doctor", "--json"]));
    for probe in ["system", "driver", "cuda"] {
        assert!(report["facts"][probe]["found"].is_object(), "{probe}: {report}");
    }
    // Findings are this machine's; what they mean to the shell is not.
    let findings = report["findings"].as_array().unwrap();
    let notes = findings.iter().all(|finding| finding["severity"] == "note");
    assert_eq!((run.code, code), if notes { (0, 0) } else { (5, 5) }, "{report}");
}

#[test]
fn a_model_is_looked_at_where_it_lies() {
    let (report, _) = report(&mut command(&["doctor", "--json", &model("mixtral-nf4-dq")]));
    let facts = &report["facts"]["model"]["found"];
    assert_eq!((&facts["quantized"], &facts["context"]), (&"nf4".into(), &256.into()), "{report}");
    let storage = &report["facts"]["storage"]["found"];
    let bytes =
        fs::metadata(Path::new(&model("mixtral-nf4-dq")).join("model.safetensors")).unwrap().len();
    assert!(storage["bytes"].as_u64().unwrap() >= bytes, "{storage}");
    assert!(ids(&report).contains(&"model_fits"), "{report}");
    let (report, _) = self::report(&mut command(&["doctor", "--json", "demo"]));
    assert_eq!(report["facts"]["model"]["found"]["directory"], "this binary");
    assert!(report["facts"]["storage"].is_null());
}

#[test]
fn a_model_that_is_not_there_is_a_finding() {
    let (report, code) = report(&mut command(&["doctor", "--json", "org/none"]));
    assert_eq!((ids(&report)[0], code), ("model_unreadable", 5), "{report}");
}

/// Opening a pipe that nobody writes to takes for ever, as a read from a volume that is gone does, or a driver that hangs.
#[test]
#[cfg(target_os = "linux")]
fn nothing_makes_it_hang() {
    let folder = tempfile::tempdir().unwrap();
    let libraries = folder.path().join("lib");
    fs::create_dir(&libraries).unwrap();
    for name in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        assert!(Command::new("mkfifo").arg(libraries.join(name)).status().unwrap().success());
    }
    let start = Instant::now();
    let mut doctor = command(&["doctor", "--json", "--timeout", "1"]);
    let (report, code) = report(doctor.env("LD_LIBRARY_PATH", &libraries));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    for probe in ["cuda", "nvml"] {
        assert_eq!(report["facts"][probe]["timed_out"], 1, "{report}");
    }
    assert_eq!((ids(&report)[0], code), ("no_answer", 5), "{report}");
    assert!(report["facts"]["system"]["found"].is_object(), "{report}");
}

#[test]
fn a_damaged_model_is_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy("llama-tied-nf4", folder.path());
    fs::write(Path::new(&model).join("model.safetensors"), [0xff; 64]).unwrap();
    let (report, code) = report(&mut command(&["doctor", "--json", &model]));
    assert!(ids(&report).contains(&"model_unreadable"), "{report}");
    assert_eq!(code, 5);
}
