//! Runs the fuzz targets over their committed corpora, so that what the fuzzer once reached stays reached.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::fs;
use std::path::Path;

#[path = "corpus/targets.rs"]
mod targets;

fn run(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut num_inputs = 0;
    for entry in fs::read_dir(&corpus).unwrap() {
        target(&fs::read(entry.unwrap().path()).unwrap());
        num_inputs += 1;
    }
    assert!(num_inputs >= 10, "{} holds {num_inputs} inputs", corpus.display());
}

#[test]
fn dequantize() {
    run("quant_dequantize", targets::dequantize);
}

#[test]
fn quantize() {
    run("quant_quantize", targets::quantize_values);
}
