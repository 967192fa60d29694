//! Runs the parsers on the inputs of `fuzz/corpus`: seeds, and whatever once went wrong.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod targets;

use std::fs;
use std::path::Path;

fn run(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        target(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 2, "only {count} inputs for {name}");
}

#[test]
fn config() {
    run("config", targets::config);
}

#[test]
fn safetensors() {
    run("safetensors", targets::safetensors);
}

#[test]
fn quant_state() {
    run("quant_state", targets::quant_state);
}

#[test]
fn index() {
    run("index", targets::index);
}

#[test]
fn remote() {
    run("remote", targets::remote);
}

#[test]
fn generation_config() {
    run("generation_config", targets::generation_config);
}

#[test]
fn chat_template() {
    run("chat_template", targets::chat_template);
}
