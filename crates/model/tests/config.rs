//! What `config.json` may say, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::path::Path;

use model::{Config, Family, RopeScaling};
use proptest::prelude::*;
use quant::{Dtype, QuantType};
use serde_json::{Value, json};

fn base(architecture: &str) -> Value {
    json!({
        "architectures": [architecture],
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    })
}

fn with(architecture: &str, changes: Value) -> Value {
    let mut config = base(architecture);
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn parse(config: &Value) -> Result<Config, String> {
    Config::from_json(config.to_string().as_bytes(), Path::new("config.json"))
        .map_err(|e| e.to_string())
}

fn check(architecture: &str, changes: Value) -> Config {
    parse(&with(architecture, changes)).unwrap()
}

fn check_error(architecture: &str, changes: Value, expected: &str) {
    let error = parse(&with(architecture, changes)).unwrap_err();
    assert!(error.starts_with("config.json: "), "{error}");
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    assert!(!error.contains('\n'), "{error:?}");
}

const LLAMA: &str = "LlamaForCausalLM";
const MISTRAL: &str = "MistralForCausalLM";
const QWEN2: &str = "Qwen2ForCausalLM";
const QWEN3_MOE: &str = "Qwen3MoeForCausalLM";

#[test]
fn every_family_is_known_by_its_architecture_or_its_model_type() {
    for family in Family::ALL {
        assert_eq!(check(family.architecture(), json!({})).family, family);
        let mut config = base("");
        config["architectures"] = Value::Null;
        config["model_type"] = family.model_type().into();
        assert_eq!(parse(&config).unwrap().family, family);
    }
    check_error("GemmaForCausalLM", json!({}), "architecture `GemmaForCausalLM`");
    check_error("GemmaForCausalLM", json!({}), "MixtralForCausalLM");
}

#[test]
fn what_is_missing_is_filled_in_as_transformers_does() {
    let llama = check(LLAMA, json!({ "num_key_value_heads": null }));
    assert_eq!((llama.num_key_value_heads, llama.head_dim), (4, 16));
    assert_eq!((llama.rope_theta, llama.rms_norm_eps), (1e4, 1e-6));
    assert_eq!(llama.rope_scaling, RopeScaling::Default);
    assert!(!llama.tie_word_embeddings && !llama.attention_bias && llama.moe.is_none());
    let mixtral = check("MixtralForCausalLM", json!({}));
    assert_eq!((mixtral.rope_theta, mixtral.rms_norm_eps), (1e6, 1e-5));
    assert!(mixtral.moe.unwrap().norm_topk_prob && mixtral.layers.iter().all(|l| l.is_moe));
    assert_eq!(check("Qwen3ForCausalLM", json!({})).head_dim, 128);
    let qwen2 = check(QWEN2, json!({}));
    assert!(qwen2.attention_bias && !qwen2.o_proj_bias);
    let biased = check(LLAMA, json!({ "attention_bias": true, "mlp_bias": true }));
    assert!(biased.attention_bias && biased.o_proj_bias && biased.mlp_bias);
}

#[test]
fn windows_follow_each_familys_rule() {
    let windows = |architecture, changes| -> Vec<Option<usize>> {
        check(architecture, changes).layers.iter().map(|layer| layer.sliding_window).collect()
    };
    assert_eq!(windows(MISTRAL, json!({ "sliding_window": 8 })), [Some(8); 4]);
    assert_eq!(windows(MISTRAL, json!({ "sliding_window": null })), [None; 4]);
    assert_eq!(windows(MISTRAL, json!({})), [Some(4096); 4]);
    assert_eq!(windows("MixtralForCausalLM", json!({})), [None; 4]);
    assert_eq!(windows(LLAMA, json!({ "sliding_window": 8 })), [None; 4]);
    assert_eq!(windows(QWEN2, json!({ "sliding_window": 8, "max_window_layers": 2 })), [None; 4]);
    let used = json!({ "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 3 });
    assert_eq!(windows(QWEN2, used.clone()), [None, None, None, Some(8)]);
    assert_eq!(windows(QWEN3_MOE, used), [Some(8); 4]);
    let types =
        ["sliding_attention", "full_attention", "sliding_attention", "full_attention"].as_slice();
    let typed = json!({ "sliding_window": 8, "use_sliding_window": true, "layer_types": types });
    assert_eq!(windows(QWEN2, typed), [Some(8), None, Some(8), None]);
    check_error(QWEN2, json!({ "layer_types": types }), "no sliding_window is in use");
    check_error(QWEN2, json!({ "layer_types": ["full_attention"] }), "1 entries for 4 layers");
    check_error(QWEN2, json!({ "layer_types": ["a", "b", "c", "d"] }), "layer type `a`");
    check_error(MISTRAL, json!({ "sliding_window": 0 }), "sliding_window is 0");
}

#[test]
fn rope_is_read_in_both_dialects() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    let config = check(LLAMA, json!({ "rope_scaling": llama3, "rope_theta": 5e5 }));
    assert_eq!((config.rope_scaling, config.rope_theta), (expected, 5e5));
    let mut parameters = llama3;
    parameters["rope_theta"] = json!(5e5);
    let config = check(LLAMA, json!({ "rope_parameters": parameters }));
    assert_eq!((config.rope_scaling, config.rope_theta), (expected, 5e5));
    let linear = json!({ "rope_scaling": { "type": "linear", "factor": 2 } });
    assert_eq!(check(LLAMA, linear).rope_scaling, RopeScaling::Linear { factor: 2.0 });
    let yarn = json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0 } });
    check_error(
        LLAMA,
        yarn,
        "rope type `yarn` is not supported; supported: default, linear, llama3",
    );
    check_error(LLAMA, json!({ "rope_scaling": { "type": "linear" } }), "is missing");
    check_error(LLAMA, json!({ "rope_scaling": { "type": "linear", "factor": 0.5 } }), "below 1");
    check_error(LLAMA, json!({ "rope_theta": 0 }), "rope_theta 0 is not positive");
    check_error(LLAMA, json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor `0.5`");
}

#[test]
fn experts_are_where_the_config_puts_them() {
    let sparse = |changes| -> Vec<bool> {
        check(QWEN3_MOE, changes).layers.iter().map(|layer| layer.is_moe).collect()
    };
    assert_eq!(sparse(json!({})), [true; 4]);
    assert_eq!(sparse(json!({ "decoder_sparse_step": 2 })), [false, true, false, true]);
    assert_eq!(sparse(json!({ "mlp_only_layers": [0, 2] })), [false, true, false, true]);
    let moe = check(QWEN3_MOE, json!({ "num_local_experts": null, "num_experts": 6 })).moe.unwrap();
    assert_eq!((moe.num_experts, moe.moe_intermediate_size, moe.norm_topk_prob), (6, 32, false));
    check_error(QWEN3_MOE, json!({ "num_experts_per_tok": 9 }), "num_experts_per_tok 9");
    check_error(QWEN3_MOE, json!({ "decoder_sparse_step": 0 }), "decoder_sparse_step 0");
}

#[test]
fn quantization_must_be_4_bit_bitsandbytes() {
    let config = |value: Value| json!({ "quantization_config": value });
    let nf4 = json!({
        "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": true, "llm_int8_skip_modules": ["lm_head"],
    });
    let read = check(LLAMA, config(nf4)).quantization_config.unwrap();
    assert_eq!((read.quant_type, read.use_double_quant), (QuantType::Nf4, true));
    assert_eq!(read.skip_modules, ["lm_head"]);
    check_error(LLAMA, config(json!({ "quant_method": "gptq" })), "quantization `gptq`");
    check_error(LLAMA, config(json!({ "load_in_8bit": true })), "quantization `load_in_8bit`");
    let int4 = json!({ "load_in_4bit": true, "bnb_4bit_quant_type": "int4" });
    check_error(LLAMA, config(int4), "quantization `int4`");
}

#[test]
fn token_ids_and_types_are_read() {
    let config = check(LLAMA, json!({ "eos_token_id": [2, 7], "dtype": "bfloat16" }));
    assert_eq!((config.eos_token_id, config.dtype), (vec![2, 7], Some(Dtype::Bf16)));
    let config = check(LLAMA, json!({ "eos_token_id": 2, "torch_dtype": "float16" }));
    assert_eq!((config.eos_token_id, config.dtype), (vec![2], Some(Dtype::F16)));
}

#[test]
fn sizes_are_bounded_and_fit() {
    check_error(LLAMA, json!({ "hidden_size": null }), "hidden_size is missing");
    check_error(LLAMA, json!({ "hidden_size": 0 }), "hidden_size 0 is not within");
    check_error(LLAMA, json!({ "hidden_size": u64::MAX }), "hidden_size");
    check_error(LLAMA, json!({ "hidden_size": -64 }), "not a model's config");
    check_error(LLAMA, json!({ "num_hidden_layers": 1_u64 << 40 }), "num_hidden_layers");
    check_error(LLAMA, json!({ "num_key_value_heads": 3 }), "does not divide");
    check_error(LLAMA, json!({ "num_attention_heads": 5 }), "does not divide");
    check_error(LLAMA, json!({ "head_dim": 15 }), "odd");
    check_error(LLAMA, json!({ "rms_norm_eps": -1 }), "rms_norm_eps");
    check_error(LLAMA, json!({ "hidden_act": "gelu" }), "hidden_act `gelu`");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_0-9]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const FIELDS: [&str; 24] = [
    "architectures",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "decoder_sparse_step",
    "mlp_only_layers",
    "eos_token_id",
    "quantization_config",
];

proptest! {
    /// Whatever is accepted keeps the promises of `Config`.
    #[test]
    fn no_config_panics(
        family in 0_usize..6,
        changes in prop::collection::vec((0_usize..FIELDS.len(), any_json()), 0..4),
    ) {
        let mut config = base(Family::ALL[family].architecture());
        for (field, value) in changes {
            config[FIELDS[field]] = value;
        }
        if let Ok(config) = parse(&config) {
            prop_assert_eq!(config.layers.len(), config.num_hidden_layers);
            prop_assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
            prop_assert_eq!(config.head_dim % 2, 0);
            prop_assert!(config.moe.is_some() || config.layers.iter().all(|layer| !layer.is_moe));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = Config::from_json(&bytes, Path::new("config.json"));
    }
}
