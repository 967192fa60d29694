//! One test for every bug that reached a user's hands, named after what went wrong.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::fs;
use std::path::Path;

use model::quantize::{QuantizeOptions, quantize};
use model::{Checkpoint, ModelWeights, QuantizePolicy};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// Writes the fixture `mixtral-bf16` again with more experts than it has: its own, over and over.
fn with_experts(directory: &Path, count: usize) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/mixtral-bf16");
    let config = fs::read_to_string(source.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["num_local_experts"] = count.into();
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("config.json"), config.to_string()).unwrap();

    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let files = names.map(|name| fs::read(source.join(name)).unwrap());
    let mut tensors: Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for file in &files {
        for (name, tensor) in SafeTensors::deserialize(file).unwrap().tensors() {
            let (mut shape, mut bytes) = (tensor.shape().to_vec(), tensor.data().to_vec());
            if name.ends_with("gate.weight") {
                bytes = bytes.repeat(count / shape[0]);
                shape[0] = count;
            }
            if let Some((start, end)) = name.split_once(".experts.0.") {
                for expert in 1..count {
                    let name = format!("{start}.experts.{expert}.{end}");
                    tensors.push((name, tensor.dtype(), shape.clone(), bytes.clone()));
                }
            } else if name.contains(".experts.") {
                continue;
            }
            tensors.push((name, tensor.dtype(), shape, bytes));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    fs::write(directory.join("model.safetensors"), file).unwrap();
}

#[test]
fn quantize_panicked_when_a_header_passed_65535_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let (source, artefact) = (scratch.path().join("source"), scratch.path().join("artefact"));
    with_experts(&source, 128);
    quantize(&source, &artefact, &QuantizeOptions::default(), |_| ()).unwrap();
    let file = fs::read(artefact.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(file[..8].try_into().unwrap());
    assert!(header > 65_535, "a header of {header} bytes does not show it");
    let checkpoint = Checkpoint::open(&artefact).unwrap();
    ModelWeights::load(&checkpoint, &QuantizePolicy::keep(), |_| {}).unwrap();
}
