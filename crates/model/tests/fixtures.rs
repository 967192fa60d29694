//! Loads every model of `fixtures/models`, which transformers and bitsandbytes wrote.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::path::{Path, PathBuf};

use backend::Weight;
use model::{
    Checkpoint, LayerWeights, LinearWeights, Mlp, ModelWeights, QuantizePolicy, WeightLoader,
};
use quant::{QuantConfig, QuantType, Values};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    family: String,
    weights: String,
    layout: String,
    double_quant: Option<bool>,
    blocksize: Option<usize>,
    router: Option<String>,
    quantized_from: Option<String>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}

fn cases() -> Vec<Case> {
    let json = std::fs::read(directory().join("cases.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&directory().join(name)).unwrap()
}

fn load(name: &str, policy: &QuantizePolicy) -> ModelWeights {
    ModelWeights::load(&open(name), policy, |_| ()).unwrap()
}

fn projections(layer: &LayerWeights) -> Vec<&Weight> {
    let mut linears: Vec<&LinearWeights> =
        vec![&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj];
    let mut weights = Vec::new();
    match &layer.mlp {
        Mlp::Dense(mlp) => linears.extend([&mlp.gate_proj, &mlp.up_proj, &mlp.down_proj]),
        Mlp::Moe { gate, experts } => {
            weights.push(gate);
            for expert in experts {
                linears.extend([&expert.gate_proj, &expert.up_proj, &expert.down_proj]);
            }
        }
    }
    weights.extend(linears.into_iter().map(|linear| &linear.weight));
    weights
}

fn values(weight: &Weight) -> Vec<f32> {
    match weight {
        Weight::Packed(packed) => packed.dequantize(),
        Weight::Dense { dtype, bytes, .. } => {
            Values::from_le_bytes(*dtype, bytes).unwrap().iter().collect()
        }
    }
}

#[test]
fn every_case_loads_and_uses_every_tensor() {
    for case in cases() {
        let checkpoint = open(&case.name);
        assert_eq!(checkpoint.config().family.model_type(), case.family.replace('-', "_"));
        let policy = QuantizePolicy::keep();
        let mut loader = WeightLoader::new(&checkpoint, &policy);
        loader.embed_tokens().unwrap();
        for index in 0..checkpoint.config().num_hidden_layers {
            let layer = loader.layer(index).unwrap();
            let packed = projections(&layer).iter().any(|w| matches!(w, Weight::Packed(_)));
            // The fused tensors may all begin within a block, but q_proj is a 4-bit tensor in any layout.
            assert_eq!(packed, case.weights == "nf4" || case.weights == "fp4", "{}", case.name);
        }
        loader.norm().unwrap();
        loader.lm_head().unwrap();
        let unused: Vec<_> = loader.unused().collect();
        assert!(unused.is_empty(), "{}: {unused:?}", case.name);
    }
}

/// Quantizing while loading gives what bitsandbytes gave: the same values, save that a nested scale may have moved by one
/// step of its 8-bit map.
#[test]
fn quantizing_while_loading_agrees_with_bitsandbytes() {
    let mut compared = 0;
    for case in cases() {
        let (Some(source), Some(quant_type)) =
            (&case.quantized_from, QuantType::from_name(&case.weights))
        else {
            continue;
        };
        if case.layout == "fused" {
            continue;
        }
        let config = QuantConfig {
            quant_type,
            blocksize: case.blocksize.unwrap(),
            double_quant: case.double_quant.unwrap(),
        };
        let mut policy = QuantizePolicy::quantize(config);
        if case.router.as_deref() == Some("plain") {
            let block = if case.family == "mixtral" { "block_sparse_moe" } else { "mlp" };
            policy.skip = vec![format!("{block}.gate")];
        }
        let (ours, theirs) = (load(source, &policy), load(&case.name, &QuantizePolicy::keep()));
        for (ours, theirs) in ours.layers.iter().zip(&theirs.layers) {
            for (ours, theirs) in projections(ours).into_iter().zip(projections(theirs)) {
                check_close(ours, theirs, &case);
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "only {compared} weights compared");
}

fn check_close(ours: &Weight, theirs: &Weight, case: &Case) {
    let name = &case.name;
    assert_eq!(matches!(ours, Weight::Packed(_)), matches!(theirs, Weight::Packed(_)), "{name}");
    let (ours, theirs) = (values(ours), values(theirs));
    let largest = theirs.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
    // The widest step of the dynamic map is 1/64 of the largest nested scale; code values are at most 1.
    let tolerance = if case.double_quant == Some(true) { largest / 32.0 } else { 0.0 };
    let mut differing = 0;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!((ours - theirs).abs() <= tolerance, "{name}: {ours} is not {theirs}");
        differing += usize::from(ours != theirs);
    }
    assert!(differing <= ours.len() / 10, "{name}: {differing} of {} differ", ours.len());
}

/// The fused layout holds the same weights: 16-bit ones exactly, 4-bit ones within the error of quantization.
#[test]
fn fused_experts_are_sliced_where_the_plain_layout_has_them() {
    let keep = QuantizePolicy::keep();
    for (fused, plain) in [
        ("mixtral-fused-bf16", "mixtral-bf16"),
        ("mixtral-fused-nf4-dq", "mixtral-bf16"),
        ("qwen3-moe-fused-bf16", "qwen3-moe-bf16"),
        ("qwen3-moe-fused-nf4", "qwen3-moe-bf16"),
    ] {
        let (fused_weights, plain_weights) = (load(fused, &keep), load(plain, &keep));
        for (a, b) in fused_weights.layers.iter().zip(&plain_weights.layers) {
            for (a, b) in projections(a).into_iter().zip(projections(b)) {
                assert_eq!(a.shape(), b.shape());
                let (a, b) = (values(a), values(b));
                let largest = b.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
                // NF4's widest gap is 0.3, so half of it times the block's scale bounds the error; a nested scale adds up
                // to 1/64 of the largest scale.
                let tolerance = if fused.ends_with("bf16") { 0.0 } else { 0.17 * largest };
                for (a, b) in a.iter().zip(&b) {
                    assert!((a - b).abs() <= tolerance, "{fused}: {a} is not {b}");
                }
            }
        }
    }
}
