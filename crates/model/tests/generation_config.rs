//! What `generation_config.json` may say, and where the tokens that end an answer come from.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::path::Path;

use model::{Config, Files, GenerationConfig, QuantizePolicy};
use proptest::prelude::*;
use quant::QuantConfig;

fn parse(json: &str) -> Result<GenerationConfig, String> {
    GenerationConfig::from_json(json.as_bytes(), Path::new("generation_config.json"))
        .map_err(|e| e.to_string())
}

#[test]
fn recommendations_are_read() {
    let read = parse(r#"{"eos_token_id": [7, 9], "temperature": 0.6, "top_k": 20, "top_p": 0.95}"#);
    let expected = GenerationConfig {
        eos_token_id: vec![7, 9],
        temperature: Some(0.6),
        top_k: Some(20),
        top_p: Some(0.95),
        ..GenerationConfig::default()
    };
    assert_eq!(read, Ok(expected));
    assert_eq!(parse(r#"{"eos_token_id": 2}"#).unwrap().eos_token_id, [2]);
}

#[test]
fn values_out_of_range_are_named() {
    for (json, expected) in [
        (r#"{"temperature": -1}"#, "temperature -1 is not within"),
        (r#"{"top_p": 1.5}"#, "top_p 1.5 is not within 0…1"),
        (r#"{"min_p": -0.5}"#, "min_p -0.5"),
        (r#"{"repetition_penalty": 0}"#, "repetition_penalty is 0"),
        (r#"{"top_k": -3}"#, "not a generation config"),
        ("{", "not a generation config"),
    ] {
        let error = parse(json).unwrap_err();
        assert!(
            error.starts_with("generation_config.json: ") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn the_end_is_the_models_if_the_file_names_none() {
    let config =
        br#"{"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "eos_token_id": 5}"#;
    let config = Config::from_json(config, Path::new("config.json")).unwrap();
    let load = |files: &[(&str, &str)]| {
        let files =
            files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec().into()));
        let files = Files::Memory { name: "test".to_owned(), files: files.collect() };
        GenerationConfig::load(&files, &config).unwrap().eos_token_id
    };
    assert_eq!(load(&[]), [5]);
    assert_eq!(load(&[("generation_config.json", "{}")]), [5]);
    assert_eq!(load(&[("generation_config.json", r#"{"eos_token_id": 6}"#)]), [6]);
}

#[test]
fn the_policy_is_bitsandbytes_unless_told_otherwise() {
    let mut policy = QuantizePolicy::quantize(QuantConfig::default());
    let quantizes = |policy: &QuantizePolicy, module| policy.for_linear(module).is_some();
    assert!(quantizes(&policy, "model.layers.0.mlp.gate"));
    assert!(!quantizes(&policy, "lm_head"));
    assert!(!quantizes(&QuantizePolicy::keep(), "model.layers.0.mlp.gate"));
    policy.skip = vec!["mlp.gate".to_owned(), "layers.1".to_owned()];
    policy.include = vec!["lm_head".to_owned()];
    assert!(!quantizes(&policy, "model.layers.0.mlp.gate"));
    // Only whole names at the end count.
    assert!(quantizes(&policy, "model.layers.0.xmlp.gate"));
    assert!(quantizes(&policy, "model.layers.1.self_attn.q_proj"));
    assert!(quantizes(&policy, "lm_head"));
}

proptest! {
    #[test]
    fn no_bytes_panic(json in "[\\[\\]{}\":,a-z_0-9.e-]{0,60}") {
        let _ = parse(&json);
    }
}
