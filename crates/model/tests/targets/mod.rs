//! What is fuzzed: one function a parser, which must return whatever it is given. `fuzz/` runs them on inputs that it
//! makes up, `tests/corpus.rs` on those in `fuzz/corpus`.

use std::path::Path;

use model::bitsandbytes::QuantState;
use model::{
    Chat, ChatTemplate, Checkpoint, Config, GenerationConfig, ModelWeights, QuantizePolicy,
    safetensors,
};
use quant::QuantConfig;
use serde_json::{Map, Value, json};

/// `config.json`.
pub(crate) fn config(bytes: &[u8]) {
    if let Ok(config) = Config::from_json(bytes, Path::new("config.json")) {
        assert_eq!(config.layers.len(), config.num_hidden_layers);
        assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
    }
}

/// A safetensors file; and the same bytes as the JSON of a header, which is where most that can go wrong is.
pub(crate) fn safetensors(bytes: &[u8]) {
    check_header(bytes);
    let mut file = (bytes.len() as u64).to_le_bytes().to_vec();
    file.extend(bytes);
    file.extend([0; 64]);
    check_header(&file);
}

fn check_header(file: &[u8]) {
    let Ok(tensors) =
        safetensors::parse_header(file, file.len() as u64, Path::new("model.safetensors"))
    else {
        return;
    };
    for info in tensors.values() {
        let num_bytes = info.shape.iter().product::<usize>() * info.dtype.size();
        assert_eq!(file[info.bytes.clone()].len(), num_bytes);
    }
}

/// The JSON of a quant_state.
pub(crate) fn quant_state(bytes: &[u8]) {
    if let Ok(state) = QuantState::parse(bytes) {
        assert!(state.shape.iter().product::<usize>() > 0);
    }
}

/// `generation_config.json`.
pub(crate) fn generation_config(bytes: &[u8]) {
    let _ = GenerationConfig::from_json(bytes, Path::new("generation_config.json"));
}

/// `model.safetensors.index.json`, of a checkpoint without shards.
pub(crate) fn index(bytes: &[u8]) {
    const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": 8, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "hidden_act": "silu"}"#;
    let files = [
        ("config.json".to_owned(), CONFIG.as_bytes().to_vec().into()),
        ("model.safetensors.index.json".to_owned(), bytes.to_vec().into()),
    ];
    if let Ok(checkpoint) = Checkpoint::from_memory("fuzzed", files) {
        assert_eq!(checkpoint.infos().count(), 0);
    }
}

/// The header of a safetensors file that another machine claims to have: what is planned from it must be as large as the claim, or
/// refused, and nothing may be read of tensors that are not there.
pub(crate) fn remote(bytes: &[u8]) {
    const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": 8, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "hidden_act": "silu"}"#;
    // The first four bytes choose how much the file is said to hold behind its header.
    let Some((claim, json)) = bytes.split_first_chunk() else { return };
    let claim = u64::from(u32::from_le_bytes(*claim));
    let mut start = (json.len() as u64).to_le_bytes().to_vec();
    start.extend(json);
    let header = start.len() as u64;
    for len in [header + claim, header.saturating_add(claim << 28)] {
        let config = ("config.json".to_owned(), CONFIG.as_bytes().to_vec().into());
        let shard = ("model.safetensors".to_owned(), start.clone().into(), len);
        let Ok(checkpoint) = Checkpoint::from_headers("remote", [config], [shard]) else {
            continue;
        };
        let sum: u64 = checkpoint.infos().map(|(_, info)| info.bytes.len() as u64).sum();
        assert_eq!(sum, len - header);
        for name in checkpoint.infos().map(|(name, _)| name) {
            assert!(
                checkpoint.tensor(name).is_err()
                    || checkpoint.info(name).unwrap().0.bytes.is_empty()
            );
        }
        for policy in [QuantizePolicy::keep(), QuantizePolicy::quantize(QuantConfig::default())] {
            if let Ok(weights) = ModelWeights::outline(&checkpoint, &policy) {
                assert_eq!(weights.embed_tokens.shape(), [8, 64]);
                assert_eq!(weights.embed_tokens.num_bytes(), 0);
            }
        }
    }
}

/// A chat template, compiled and rendered.
pub(crate) fn chat_template(bytes: &[u8]) {
    let Ok(source) = str::from_utf8(bytes) else { return };
    let tokens: Map<String, Value> =
        [("bos_token".to_owned(), "<s>".into()), ("eos_token".to_owned(), "</s>".into())]
            .into_iter()
            .collect();
    let Ok(template) = ChatTemplate::parse(&[("default", source)], tokens) else { return };
    let messages = [
        json!({ "role": "system", "content": "Be brief." }),
        json!({ "role": "user", "content": [{ "type": "text", "text": "<é & \"b\">" }] }),
        json!({ "role": "assistant", "content": null, "tool_calls": [{ "function": { "name": "f" } }] }),
    ];
    let tools = [json!({ "type": "function", "function": { "name": "f", "parameters": {} } })];
    let chat = Chat {
        messages: &messages,
        tools: Some(&tools),
        add_generation_prompt: true,
        variables: Map::new(),
    };
    let _ = template.render(chat);
}
