//! Every fixture model gives the logits that transformers and bitsandbytes gave for it.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::path::{Path, PathBuf};

use backend::{Batch, Cpu, KV_BLOCK_SIZE, Precision, SequenceSpan};
use model::{Checkpoint, ModelWeights, QuantizePolicy, Transformer};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}

struct Expected {
    tokens: Vec<u32>,
    /// `[tokens, vocab_size]`.
    logits: Vec<f32>,
}

fn expected(case: &Path) -> Expected {
    let bytes = std::fs::read(case.join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = |name| file.tensor(name).unwrap().data().to_vec();
    let tokens = data("tokens");
    let logits = data("logits");
    Expected {
        tokens: tokens
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect(),
        logits: logits.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
    }
}

/// Runs the tokens in steps of the given lengths.
fn run(case: &Path, precision: Precision, tokens: &[u32], steps: &[usize]) -> Vec<f32> {
    let checkpoint = Checkpoint::open(case).unwrap();
    let weights = ModelWeights::load(&checkpoint, &QuantizePolicy::keep(), |_| {}).unwrap();
    let mut cpu = Cpu::new(2, precision).unwrap();
    let model = Transformer::load(checkpoint.config(), weights, &cpu, |_| {}).unwrap();
    let mut workspace = model.workspace(&cpu, tokens.len()).unwrap();
    let mut cache = model.kv_cache(&cpu, tokens.len()).unwrap();
    let block_table: Vec<u32> = (0..tokens.len().div_ceil(KV_BLOCK_SIZE) as u32).rev().collect();
    let (mut all, mut logits, mut start) = (Vec::new(), Vec::new(), 0);
    for &len in steps {
        let positions: Vec<u32> = (start as u32..(start + len) as u32).collect();
        let spans = [SequenceSpan { start: 0, len, block_table: &block_table }];
        let batch =
            Batch { tokens: &tokens[start..start + len], positions: &positions, sequences: &spans };
        let rows: Vec<u32> = (0..len as u32).collect();
        model.step(&mut cpu, &mut workspace, &mut cache, &batch, &rows, &mut logits).unwrap();
        all.extend_from_slice(&logits);
        start += len;
    }
    assert_eq!(start, tokens.len());
    all
}

/// `max |a - b| / max |b|`.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    found.iter().zip(expected).fold(0.0f32, |max, (a, b)| max.max((a - b).abs())) / largest
}

fn cases() -> Vec<PathBuf> {
    let cases: Vec<PathBuf> = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.safetensors").exists())
        .collect();
    assert!(cases.len() >= 30, "only {} fixture models", cases.len());
    cases
}

#[test]
fn logits_agree_with_transformers_and_bitsandbytes() {
    for case in cases() {
        let expected = expected(&case);
        let len = expected.tokens.len();
        for steps in [vec![len], vec![1; len], vec![7, 1, len - 8]] {
            let found = run(&case, Precision::F32, &expected.tokens, &steps);
            let error = relative_error(&found, &expected.logits);
            println!("{} in {} steps: {error:e}", case.display(), steps.len());
            assert!(error <= 1e-4, "{} in {} steps: {error:e}", case.display(), steps.len());
        }
    }
}
