//! `halfbyte audit` as a user runs it, on a stack that a team ran.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use std::fs;

use serde_json::Value;
use support::{Run, halfbyte};

/// A run on one file.
fn audit(name: &str, text: &str, args: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    halfbyte(&[&["audit", path.to_str().unwrap()], args].concat())
}

const OLD_STACK: &str = "torch==2.3.1\nbitsandbytes==0.42.0\n";

#[test]
fn an_old_stack_on_a_new_and_an_old_card() {
    let new = audit("requirements.txt", OLD_STACK, &["--gpu", "RTX 5090"]);
    assert!(new.code == 5 && new.stdout.ends_with("verdict: does not work\n"), "{}", new.text());
    assert!(new.stdout.contains("no kernel image is available"), "{}", new.text());
    let old = audit("requirements.txt", OLD_STACK, &["--gpu", "RTX 4090"]);
    assert!(old.code == 0 && old.stdout.ends_with("verdict: works\n"), "{}", old.text());
}

#[test]
fn claims_are_decided() {
    let claim = |claim: &str, path: &str, op: &str, value: &str| {
        format!("[[assert]]\nclaim = '{claim}'\npath = '{path}'\nop = '{op}'\nvalue = {value}\n")
    };
    let text = [
        claim("RTX 5090 is compute capability 9.0", "gpu.compute_capability", "==", "'9.0'"),
        claim("torch 2.3.1 is built with CUDA 12.1", "torch.cuda", "==", "'12.1'"),
        claim("4-bit Mixtral takes 16-17 GB", "model.weights_bytes", "<=", "17_000_000_000"),
        claim("the moon", "torch.moon", "==", "1"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let claims = folder.path().join("claims.toml");
    fs::write(&claims, text.concat()).unwrap();
    let claims = claims.to_str().unwrap();
    let args = ["--gpu", "RTX 5090", "--assert", claims, "--model", "mixtral-8x7b", "--json"];
    let run = audit("requirements.txt", OLD_STACK, &args);
    assert_eq!(run.code, 5, "{}", run.text());
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let outcomes = report["assertions"].as_array().unwrap();
    let truths: Vec<&str> = outcomes.iter().map(|it| it["truth"].as_str().unwrap()).collect();
    assert_eq!(truths, ["false", "true", "false", "undecidable"], "{report}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let code = |name: &str, text: &str, args: &[&str]| audit(name, text, args).code;
    assert_eq!(code("requirements.txt", OLD_STACK, &["--gpu", "RTX 9090"]), 2);
    assert_eq!(code("requirements.txt", OLD_STACK, &["--env", "CUDA_HOME=x"]), 2);
    assert_eq!(code("requirements.txt", OLD_STACK, &["--driver", "new"]), 2);
    assert_eq!(code("x.bin", "a\0b", &[]), 3);
}
