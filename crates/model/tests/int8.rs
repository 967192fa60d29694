//! How far the int8-activation path is from the `f32` one, on the demo model and documents it was not trained on.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::path::{Path, PathBuf};

use backend::{Batch, Cpu, KV_BLOCK_SIZE, Precision, SequenceSpan};
use model::{Checkpoint, ModelWeights, QuantizePolicy, Tokenizer, Transformer};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo")
}

/// Texts of the held-out split.
fn documents(count: usize) -> Vec<String> {
    let lines = std::fs::read_to_string(demo().join("heldout.jsonl")).unwrap();
    lines
        .lines()
        .take(count)
        .map(|line| {
            let document: serde_json::Value = serde_json::from_str(line).unwrap();
            document["text"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// Logits of every token, in one step.
fn logits(checkpoint: &Checkpoint, precision: Precision, tokens: &[u32]) -> Vec<f32> {
    let weights = ModelWeights::load(checkpoint, &QuantizePolicy::keep(), |_| {}).unwrap();
    let mut cpu = Cpu::new(2, precision).unwrap();
    let model = Transformer::load(checkpoint.config(), weights, &cpu, |_| {}).unwrap();
    let mut workspace = model.workspace(&cpu, tokens.len()).unwrap();
    let mut cache = model.kv_cache(&cpu, tokens.len()).unwrap();
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let block_table: Vec<u32> = (0..tokens.len().div_ceil(KV_BLOCK_SIZE) as u32).collect();
    let spans = [SequenceSpan { start: 0, len: tokens.len(), block_table: &block_table }];
    let batch = Batch { tokens, positions: &rows, sequences: &spans };
    let mut logits = Vec::new();
    model.step(&mut cpu, &mut workspace, &mut cache, &batch, &rows, &mut logits).unwrap();
    logits
}

#[test]
fn int8_logits_stay_close_to_f32() {
    let checkpoint = Checkpoint::open(&demo().join("model")).unwrap();
    let tokenizer = Tokenizer::load(checkpoint.files()).unwrap();
    let (mut difference, mut reference, mut same_top, mut rows) = (0.0f64, 0.0f64, 0, 0);
    for text in documents(12) {
        let tokens = tokenizer.encode(&text).unwrap();
        let exact = logits(&checkpoint, Precision::F32, &tokens);
        let int8 = logits(&checkpoint, Precision::Int8, &tokens);
        for (a, b) in int8.iter().zip(&exact) {
            difference += f64::from(a - b).powi(2);
            reference += f64::from(*b).powi(2);
        }
        let vocab_size = checkpoint.config().vocab_size;
        for (a, b) in int8.chunks_exact(vocab_size).zip(exact.chunks_exact(vocab_size)) {
            let top = |x: &[f32]| (0..x.len()).max_by(|&i, &j| x[i].total_cmp(&x[j]));
            same_top += usize::from(top(a) == top(b));
            rows += 1;
        }
    }
    let error = (difference / reference).sqrt();
    let agreement = same_top as f64 / rows as f64;
    println!(
        "int8 against f32: relative error {error:.4}, same top token {agreement:.4} of {rows}"
    );
    // In a block of 64 normal values the largest is about 2.5 standard deviations, so rounding to 1/127 of it adds noise
    // of 2.5 / (127 * sqrt(12)) = 0.6 % of the activations; the integers for the NF4 code add 0.0017 / 0.517 = 0.3 %:
    // 0.7 % a product. A branch has three products in a row, 1.2 %, which the sum over branches keeps; the last
    // projection adds its own: 1.4 %. What the nonlinearities and changes of experts add must stay below as much again.
    assert!(error < 0.028, "{error}");
    assert!(agreement > 0.95, "{agreement}");
}
