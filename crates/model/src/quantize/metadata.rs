//! The small files of the artefact: `config.json`, the index of shards, and what is copied.

use std::fs;
use std::path::Path;

use quant::{Dtype, QuantConfig};
use serde_json::{Map, Value, json};

use super::partial::Partial;
use super::plan::Plan;
use crate::{ModelError, Result, safetensors};

/// Largest file that is copied along: tokenizers take about 10 MB.
const MAX_COPIED: u64 = 64 << 20;

/// Writes all of them.
pub(super) fn write(
    src: &Path,
    plan: &Plan,
    partial: &mut Partial,
    quant: &QuantConfig,
) -> Result<()> {
    copy_small_files(src, partial)?;
    let path = src.join("config.json");
    let json = fs::read(&path).map_err(ModelError::io("read", &path))?;
    let config: Map<String, Value> =
        serde_json::from_slice(&json).map_err(|e| ModelError::malformed(&path, e.to_string()))?;
    partial.write("config.json", &pretty(&quantized_config(config, plan, quant).into()))?;
    if plan.shards.len() > 1 {
        partial.write("model.safetensors.index.json", &pretty(&index(plan, partial)?))?;
    }
    Ok(())
}

/// The config with `quantization_config`, in the dialect of transformers 4 even if the source was in that of 5.
fn quantized_config(
    mut config: Map<String, Value>,
    plan: &Plan,
    quant: &QuantConfig,
) -> Map<String, Value> {
    if let Some(Value::Object(mut rope)) = config.get("rope_parameters").cloned() {
        if let Some(theta) = rope.remove("rope_theta") {
            config.entry("rope_theta").or_insert(theta);
        }
        if rope.get("rope_type").is_some_and(|name| name != "default") {
            config.entry("rope_scaling").or_insert(rope.into());
        }
    }
    let compute_dtype = match plan.dtype {
        Dtype::Bf16 => "bfloat16",
        Dtype::F16 => "float16",
        Dtype::F32 => "float32",
    };
    let quantization = json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": quant.quant_type.name(),
        "bnb_4bit_use_double_quant": quant.double_quant,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skip_modules(plan),
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    });
    config.insert("quantization_config".to_owned(), quantization);
    config
}

/// `null` stands for transformers' own rule, which leaves `lm_head` alone; a list replaces that rule, so it must hold
/// every linear layer that was kept.
fn skip_modules(plan: &Plan) -> Value {
    let quantizes_lm_head = plan
        .shards
        .iter()
        .flat_map(|shard| &shard.items)
        .any(|item| item.name == "lm_head.weight" && item.quant.is_some());
    let follows_rule = plan.kept_modules.iter().all(|module| module == "lm_head");
    if follows_rule && !quantizes_lm_head {
        return Value::Null;
    }
    let mut modules = plan.kept_modules.clone();
    if !quantizes_lm_head && !modules.iter().any(|module| module == "lm_head") {
        modules.push("lm_head".to_owned());
    }
    modules.into()
}

/// `model.safetensors.index.json`: which tensor lies in which shard, read back from the shards themselves.
fn index(plan: &Plan, partial: &Partial) -> Result<Value> {
    let mut weight_map = Map::new();
    let mut total_size = 0;
    for i in 0..plan.shards.len() {
        let name = plan.shard_name(i);
        for (tensor, info) in safetensors::read_header(&partial.join(&name))? {
            total_size += info.bytes.len();
            weight_map.insert(tensor, name.clone().into());
        }
    }
    weight_map.sort_keys();
    Ok(json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map }))
}

/// Copies the tokenizer and its like: small files in the directory itself that are neither weights nor hidden.
fn copy_small_files(src: &Path, partial: &mut Partial) -> Result<()> {
    let failed = || ModelError::io("read", src);
    for entry in fs::read_dir(src).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // In the Hugging Face cache these are links, so the metadata of what they point to counts.
        let metadata = fs::metadata(&path).map_err(ModelError::io("read", &path))?;
        if metadata.is_file() && metadata.len() <= MAX_COPIED && is_copied(name) {
            let bytes = fs::read(&path).map_err(ModelError::io("read", &path))?;
            partial.write(name, &bytes)?;
        }
    }
    Ok(())
}

fn is_copied(name: &str) -> bool {
    const WEIGHTS: [&str; 10] =
        ["safetensors", "bin", "pt", "pth", "ckpt", "gguf", "h5", "msgpack", "onnx", "lock"];
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.')
        && !name.ends_with(".index.json")
        && !name.starts_with("halfbyte-quantize")
        && !["config.json", "SHA256SUMS"].contains(&name)
        && !extension.is_some_and(|extension| WEIGHTS.contains(&extension))
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
