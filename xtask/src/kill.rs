//! `halfbyte quantize`, killed at random moments: it leaves no half artefact, and the next run ends as if nothing was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

/// Kills of one artefact before it may be finished.
const KILLS_EACH: u32 = 3;

/// Small enough for half a dozen shards, so that a run finds some of them finished.
const SHARD_BYTES: &str = "3000000";

/// Rows and columns of the layers of a small Llama, 64 MB in 16 bits: enough for a kill to hit the middle of something.
const LAYERS: usize = 8;
const HIDDEN: usize = 512;
const INTERMEDIATE: usize = 2048;
const KEY_VALUE: usize = 256;
const VOCABULARY: usize = 1024;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Kills `kills` runs in all, and compares every artefact with that of a run left alone, byte for byte.
pub(crate) fn kill(root: &Path, halfbyte: &Path, kills: u32) -> Result<()> {
    let work = root.join("target/soak");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot empty {}", work.display()))?;
    }
    let source = work.join("source");
    write_source(&source)?;
    let before = files(&source)?;

    let whole = work.join("whole");
    let start = Instant::now();
    let status = spawn(halfbyte, &source, &whole)?.wait()?;
    ensure!(status.success(), "quantize ended with {status}");
    let expected = files(&whole)?;
    let usual = start.elapsed();

    let seed = 0x5eed;
    let mut random = Random(seed);
    let (mut killed, mut late) = (0, 0);
    while killed < kills {
        let artefact = work.join("artefact");
        for _ in 0..KILLS_EACH.min(kills - killed) {
            let moment = usual.mul_f64(random.unit());
            match killed_in(halfbyte, &source, &artefact, moment)? {
                true => killed += 1,
                false => late += 1,
            }
            // Done, or killed after the rename: what stands under the final name is compared as it is.
            if artefact.exists() {
                break;
            }
        }
        if !artefact.exists() {
            let status = spawn(halfbyte, &source, &artefact)?.wait()?;
            ensure!(status.success(), "after a kill, quantize ended with {status}");
        }
        ensure!(files(&artefact)? == expected, "after a kill, {} differs", artefact.display());
        fs::remove_dir_all(&artefact)?;
    }
    ensure!(files(&source)? == before, "the source was changed");
    println!(
        "soak: quantize killed {killed} times at random moments of {:.2} s (seed {seed:#x}), {late} came too late; \
         every artefact equals that of a run left alone",
        usual.as_secs_f64()
    );
    fs::remove_dir_all(&work)?;
    Ok(())
}

fn spawn(halfbyte: &Path, source: &Path, artefact: &Path) -> Result<Child> {
    Command::new(halfbyte)
        .arg("quantize")
        .args([source, artefact])
        .args(["--max-shard-bytes", SHARD_BYTES])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {}", halfbyte.display()))
}

/// Whether the run could be killed: `false` if it was done by then.
fn killed_in(halfbyte: &Path, source: &Path, artefact: &Path, moment: Duration) -> Result<bool> {
    let mut child = spawn(halfbyte, source, artefact)?;
    thread::sleep(moment);
    child.kill()?;
    let status = child.wait()?;
    ensure!(status.success() || status.code().is_none(), "quantize ended with {status}");
    Ok(!status.success())
}

/// A checkpoint with random weights, in two shards.
fn write_source(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN / 64, "num_key_value_heads": KEY_VALUE / 64, "head_dim": 64,
        "vocab_size": VOCABULARY, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    });
    fs::write(directory.join("config.json"), config.to_string())?;

    let mut random = Random(1);
    let mut weight_map = serde_json::Map::new();
    for shard in 0..2 {
        let file = format!("model-{:05}-of-00002.safetensors", shard + 1);
        let tensors: Vec<(String, Vec<usize>)> =
            tensors().filter(|(name, _)| in_shard(name, shard)).collect();
        weight_map.extend(tensors.iter().map(|(name, _)| (name.clone(), json!(file))));
        fs::write(directory.join(&file), shard_bytes(&tensors, &mut random))?;
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(directory.join("model.safetensors.index.json"), index.to_string())?;
    Ok(())
}

/// Even layers and the rest lie in the first shard, odd layers in the second.
fn in_shard(name: &str, shard: usize) -> bool {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
    layer.and_then(|layer| layer.parse::<usize>().ok()).unwrap_or(0) % 2 == shard
}

fn tensors() -> impl Iterator<Item = (String, Vec<usize>)> {
    let layer = [
        ("input_layernorm", vec![HIDDEN]),
        ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
        ("self_attn.k_proj", vec![KEY_VALUE, HIDDEN]),
        ("self_attn.v_proj", vec![KEY_VALUE, HIDDEN]),
        ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
        ("post_attention_layernorm", vec![HIDDEN]),
        ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
        ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
        ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
    ];
    let ends = [
        ("model.embed_tokens", vec![VOCABULARY, HIDDEN]),
        ("model.norm", vec![HIDDEN]),
        ("lm_head", vec![VOCABULARY, HIDDEN]),
    ];
    let ends = ends.into_iter().map(|(name, shape)| (format!("{name}.weight"), shape));
    ends.chain((0..LAYERS).flat_map(move |index| {
        let named = move |(name, shape)| (format!("model.layers.{index}.{name}.weight"), shape);
        layer.clone().into_iter().map(named)
    }))
}

/// A safetensors file: the header's length, the header, bf16 values within ±1.
fn shard_bytes(tensors: &[(String, Vec<usize>)], random: &mut Random) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(
            name.clone(),
            json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }),
        );
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    for _ in 0..end / 2 {
        let value = (random.unit() * 2.0 - 1.0) as f32;
        bytes.extend(&value.to_bits().to_le_bytes()[2..]);
    }
    bytes
}

/// All files but the run's own records, which a kill just after the rename leaves.
fn files(directory: &Path) -> Result<Files> {
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut files = Files::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("halfbyte-quantize.") {
            continue;
        }
        files.insert(entry.file_name().into(), read(&entry.path())?);
    }
    Ok(files)
}

/// SplitMix64 (Steele, Lea, Flood 2014): a few lines, and the same moments for the same seed.
struct Random(u64);

impl Random {
    /// A number in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
