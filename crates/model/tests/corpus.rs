//! Runs the parsers on the inputs of `fuzz/corpus`: seeds, and whatever once went wrong.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod targets;
#[path = "../../../fuzz/seeds.rs"]
mod seeds;

use seeds::run;

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
