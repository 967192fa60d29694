//! Headers of checkpoints that are not there: as large as one likes, and all that a plan reads.
#![allow(dead_code, reason = "each file of tests is a crate of its own and uses a part of this")]

use serde_json::{Map, Value, json};

/// A safetensors file of which the beginning alone exists.
#[derive(Debug, Clone)]
pub(crate) struct Shard {
    /// Length and header.
    pub(crate) start: Vec<u8>,
    /// Bytes that the whole file would have.
    pub(crate) len: u64,
}

/// Lays tensors out one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Header {
    entries: Map<String, Value>,
    end: usize,
}

impl Header {
    pub(crate) fn put(&mut self, name: &str, dtype: &str, shape: &[usize]) {
        let size = match dtype {
            "U8" => 1,
            "BF16" => 2,
            _ => 4,
        };
        let begin = self.end;
        self.end += shape.iter().product::<usize>() * size;
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, self.end] });
        self.entries.insert(name.to_owned(), entry);
    }

    /// A matrix in NF4, in blocks of 64 with double quantization.
    pub(crate) fn put_nf4(&mut self, name: &str, shape: &[usize]) {
        let len: usize = shape.iter().product();
        let blocks = len.div_ceil(64);
        self.put(name, "U8", &[len.div_ceil(2), 1]);
        self.put(&format!("{name}.absmax"), "U8", &[blocks]);
        self.put(&format!("{name}.quant_map"), "F32", &[16]);
        self.put(&format!("{name}.nested_absmax"), "F32", &[blocks.div_ceil(256)]);
        self.put(&format!("{name}.nested_quant_map"), "F32", &[256]);
        self.put(&format!("{name}.quant_state.bitsandbytes__nf4"), "U8", &[180]);
    }

    pub(crate) fn shard(&self) -> Shard {
        let json = Value::Object(self.entries.clone()).to_string().into_bytes();
        let mut start = (json.len() as u64).to_le_bytes().to_vec();
        start.extend(json);
        let len = (start.len() + self.end) as u64;
        Shard { start, len }
    }

    /// Names of the tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }
}

pub(crate) const MIXTRAL: &str = r#"{"architectures": ["MixtralForCausalLM"], "vocab_size": 32000,
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "sliding_window": null, "quantization_config": {"quant_method":
    "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true}}"#;

/// Mixtral 8x7B as transformers and bitsandbytes write it: a header a layer, and one of the rest.
pub(crate) fn mixtral() -> Vec<Header> {
    let (hidden, width, kv) = (4096, 14336, 1024);
    let layer = |index: usize| {
        let mut header = Header::default();
        let prefix = format!("model.layers.{index}");
        for (name, rows) in [("q", hidden), ("k", kv), ("v", kv), ("o", hidden)] {
            header.put_nf4(&format!("{prefix}.self_attn.{name}_proj.weight"), &[rows, hidden]);
        }
        let block = format!("{prefix}.block_sparse_moe");
        header.put_nf4(&format!("{block}.gate.weight"), &[8, hidden]);
        for expert in 0..8 {
            let expert = format!("{block}.experts.{expert}");
            header.put_nf4(&format!("{expert}.w1.weight"), &[width, hidden]);
            header.put_nf4(&format!("{expert}.w2.weight"), &[hidden, width]);
            header.put_nf4(&format!("{expert}.w3.weight"), &[width, hidden]);
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            header.put(&format!("{prefix}.{norm}.weight"), "BF16", &[hidden]);
        }
        header
    };
    let mut rest = Header::default();
    rest.put("model.embed_tokens.weight", "BF16", &[32000, hidden]);
    rest.put("model.norm.weight", "BF16", &[hidden]);
    rest.put("lm_head.weight", "BF16", &[32000, hidden]);
    (0..32).map(layer).chain([rest]).collect()
}

/// Llama 3.1 405B's sizes in bf16.
pub(crate) const LLAMA_405B: &str = r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 128256,
    "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128,
    "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0}"#;

pub(crate) fn llama_405b() -> Header {
    let (hidden, width, kv) = (16384, 53248, 1024);
    let mut header = Header::default();
    header.put("model.embed_tokens.weight", "BF16", &[128256, hidden]);
    for index in 0..126 {
        let mut put = |name: &str, shape: &[usize]| {
            header.put(&format!("model.layers.{index}.{name}.weight"), "BF16", shape);
        };
        put("input_layernorm", &[hidden]);
        put("self_attn.q_proj", &[hidden, hidden]);
        put("self_attn.k_proj", &[kv, hidden]);
        put("self_attn.v_proj", &[kv, hidden]);
        put("self_attn.o_proj", &[hidden, hidden]);
        put("post_attention_layernorm", &[hidden]);
        put("mlp.gate_proj", &[width, hidden]);
        put("mlp.up_proj", &[width, hidden]);
        put("mlp.down_proj", &[hidden, width]);
    }
    header.put("model.norm.weight", "BF16", &[hidden]);
    header.put("lm_head.weight", "BF16", &[128256, hidden]);
    header
}

/// `model.safetensors.index.json` of shards with these names.
pub(crate) fn index(headers: &[(String, Header)]) -> String {
    let map: Map<String, Value> = headers
        .iter()
        .flat_map(|(file, header)| header.names().map(move |name| (name.clone(), json!(file))))
        .collect();
    json!({ "metadata": {}, "weight_map": map }).to_string()
}
