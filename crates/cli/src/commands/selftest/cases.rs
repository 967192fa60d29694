//! What is compared: small models, each for one kind of operation, and the steps that they run.

use std::path::Path;

use anyhow::Result;
use model::Config;
use quant::{QuantConfig, QuantType};
use serde_json::{Value, json};

use super::weights::{Form, NF4, Part, Recipe};

/// A model and what it runs.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) config: Config,
    pub(super) recipe: Recipe,
    pub(super) classes: &'static [Class],
    pub(super) fp8_kv: bool,
    /// Largest `||d|| / ||ref||` of a step's logits.
    pub(super) bound: f64,
}

/// Steps that take the same kernels. Sequences go on from class to class.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) name: &'static str,
    /// Each a list of (sequence, rows).
    pub(super) steps: &'static [&'static [(usize, usize)]],
}

/// Most rows of a step, and most sequences.
pub(super) const STEP_ROWS: usize = 640;
pub(super) const SEQUENCES: usize = 10;

/// Rows for products: up to eight take the kernels that read weights once, more those for tensor cores, which have tiles
/// of different sizes for up to 48 rows and beyond. The same number of rows three times is launched, recorded, repeated.
const PRODUCTS: &[Class] = &[
    Class { name: "1 row, replayed", steps: &[&[(0, 1)], &[(0, 1)], &[(0, 1)]] },
    Class {
        name: "2 to 8 rows, replayed",
        steps: &[
            &[(0, 1), (1, 1)],
            &[(0, 1), (1, 1), (2, 1)],
            &[(0, 1), (1, 1), (2, 1), (3, 1)],
            &[(4, 5)],
            EIGHT,
            EIGHT,
            EIGHT,
        ],
    },
    Class { name: "9 to 33 rows", steps: &[NINE, NINE, NINE, &[(0, 9)], &[(1, 33)]] },
    Class { name: "130 and 600 rows", steps: &[&[(2, 130)], &[(3, 600)]] },
];

const EIGHT: &[(usize, usize)] = &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1)];
const NINE: &[(usize, usize)] =
    &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1)];

/// Each number of rows by itself: with wide matrices each has its own way to cut them into chunks.
const WIDE: &[Class] = &[
    Class { name: "1 row", steps: &[&[(0, 1)]] },
    Class { name: "2 rows", steps: &[&[(0, 2)]] },
    Class { name: "4 rows", steps: &[&[(1, 4)]] },
    Class { name: "8 rows", steps: &[&[(2, 8)]] },
    Class { name: "8 rows, replayed", steps: &[EIGHT, EIGHT, EIGHT] },
    Class { name: "10 rows", steps: &[&[(3, 10)]] },
];

const ATTENTION: &[Class] = &[
    Class { name: "prefill", steps: &[&[(0, 33)], &[(1, 130)], &[(2, 600)]] },
    Class { name: "prefill over cached keys", steps: &[&[(0, 100), (1, 257)], &[(2, 5)]] },
    Class { name: "decode, replayed", steps: &[&[(2, 1)], &[(2, 1)], &[(2, 1)]] },
    Class {
        name: "decode of several, replayed",
        steps: &[
            &[(0, 1), (1, 1), (2, 1), (3, 1)],
            &[(0, 1), (1, 1), (2, 1), (3, 1)],
            &[(0, 1), (1, 1), (2, 1), (3, 1)],
            NINE,
        ],
    },
    Class { name: "prefill and decode mixed", steps: &[&[(0, 1), (9, 7), (1, 64), (3, 1)]] },
];

const LONG: &[Class] = &[
    Class {
        name: "prefill of 3000",
        steps: &[&[(0, 640)], &[(0, 640)], &[(0, 640)], &[(0, 640)], &[(0, 440)]],
    },
    Class { name: "decode over 3000, replayed", steps: &[&[(0, 1)], &[(0, 1)], &[(0, 1)]] },
    Class {
        name: "decode over 3000 and 100",
        steps: &[&[(1, 100)], &[(0, 1), (1, 1)], &[(0, 1), (1, 1)], &[(0, 1), (1, 1)]],
    },
];

/// Activations and 16-bit weights are rounded to f16: 2^-12 of a product each, root mean square. Three times that.
const HEAD_BOUND: f64 = 1e-3;
/// 4-bit codes become pairs of 8-bit integers, 7.6e-4 of a product; with both roundings 8.5e-4. Three times that.
const HEAD4_BOUND: f64 = 2.5e-3;
/// Three such products, of which two are multiplied: 8.5e-4 * sqrt(3) = 1.5e-3. Three times that.
const FEED_FORWARD_BOUND: f64 = 5e-3;
/// Queries, keys and values are rounded to bf16: 1.1e-3 of each, root mean square (2^-9 at most twice); with the products
/// before it 1.4e-3. A score of 1.5 is off by 1.5 * sqrt(2) * 1.4e-3 = 3e-3, and so are probabilities; values, rounded
/// probabilities and the output's product add to 3.7e-3. Not quite three times that.
const ATTENTION_BOUND: f64 = 1e-2;
/// Two layers of all that, with scores of 0.5: 3.8e-3.
const ALL_BOUND: f64 = 1e-2;
/// e4m3 has three bits after the point: 2.6e-2 of a key or value, root mean square. A score of 0.5 is off by 1.3e-2; with
/// the values 2.9e-2.
const FP8_BOUND: f64 = 5e-2;

const SPREAD: f32 = 1.5;
const SPREAD_SMALL: f32 = 0.5;

/// All cases.
///
/// # Errors
/// None in practice: a test makes them all.
pub(super) fn all() -> Result<Vec<Case>> {
    let mut cases = head()?;
    cases.extend(dense()?);
    cases.extend(experts()?);
    cases.extend(wide()?);
    cases.extend(attention()?);
    cases.extend(long_and_fp8()?);
    cases.extend(whole()?);
    Ok(cases)
}

/// A config: fields that are not given have the values of a small model.
fn config(architecture: &str, fields: Value) -> Result<Config> {
    let mut config = json!({
        "architectures": [format!("{architecture}ForCausalLM")],
        // No multiple of a tile.
        "vocab_size": 500,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
    });
    if let (Value::Object(config), Value::Object(fields)) = (&mut config, fields) {
        config.extend(fields);
    }
    Ok(Config::from_json(config.to_string().as_bytes(), Path::new("selftest"))?)
}

fn case(
    name: &'static str,
    part: Part,
    form: Form,
    architecture: &str,
    fields: Value,
) -> Result<Case> {
    let (classes, bound, spread) = match part {
        Part::Head => (PRODUCTS, HEAD_BOUND, SPREAD_SMALL),
        Part::FeedForward => (PRODUCTS, FEED_FORWARD_BOUND, SPREAD_SMALL),
        Part::Attention => (ATTENTION, ATTENTION_BOUND, SPREAD),
        Part::All => (ATTENTION, ALL_BOUND, SPREAD_SMALL),
    };
    let recipe = Recipe { part, form, lm_head: Form::Bf16, spread };
    let config = config(architecture, fields)?;
    Ok(Case { name, config, recipe, classes, fp8_kv: false, bound })
}

const NF4_PLAIN: QuantConfig = QuantConfig { double_quant: false, ..NF4 };
const NF4_128: QuantConfig = QuantConfig { blocksize: 128, ..NF4 };
const FP4: QuantConfig = QuantConfig { quant_type: QuantType::Fp4, ..NF4 };
const FP4_PLAIN: QuantConfig = QuantConfig { double_quant: false, ..FP4 };

fn head() -> Result<Vec<Case>> {
    let mut nf4 = case("lm_head nf4", Part::Head, Form::Bf16, "Llama", json!({}))?;
    nf4.recipe.lm_head = Form::Packed(NF4);
    nf4.bound = HEAD4_BOUND;
    Ok(vec![
        case("embedding, norm, lm_head bf16", Part::Head, Form::Bf16, "Llama", json!({}))?,
        nf4,
    ])
}

/// Models whose logits tokens are drawn from: a vocabulary that one block reads, and one that takes three.
///
/// # Errors
/// None in practice: a test makes them all.
pub(super) fn draws() -> Result<Vec<Case>> {
    let make = |name, vocab_size: usize| {
        case(name, Part::Head, Form::Bf16, "Llama", json!({ "vocab_size": vocab_size }))
    };
    Ok(vec![make("draws from 500 tokens", 500)?, make("draws from 9001 tokens", 9001)?])
}

fn dense() -> Result<Vec<Case>> {
    let odd = json!({ "hidden_size": 72, "intermediate_size": 200, "head_dim": 18 });
    let forms = [
        ("dense feed-forward nf4 nested", Form::Packed(NF4), json!({})),
        ("dense feed-forward nf4 plain", Form::Packed(NF4_PLAIN), json!({})),
        ("dense feed-forward nf4 blocks of 128", Form::Packed(NF4_128), json!({})),
        ("dense feed-forward fp4 nested", Form::Packed(FP4), json!({})),
        ("dense feed-forward bf16", Form::Bf16, json!({})),
        ("dense feed-forward 72 wide", Form::Packed(NF4), odd),
    ];
    let cases = forms
        .into_iter()
        .map(|(name, form, fields)| case(name, Part::FeedForward, form, "Llama", fields));
    cases.collect()
}

fn experts() -> Result<Vec<Case>> {
    let mixtral = json!({ "num_local_experts": 8, "num_experts_per_tok": 2 });
    let odd = json!({
        "num_local_experts": 5, "num_experts_per_tok": 3,
        "hidden_size": 72, "intermediate_size": 104, "head_dim": 18,
    });
    let many = json!({
        "num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 192, "norm_topk_prob": false,
    });
    let part = Part::FeedForward;
    Ok(vec![
        case("experts nf4 nested", part, Form::Packed(NF4), "Mixtral", mixtral.clone())?,
        case("experts nf4 plain", part, Form::Packed(NF4_PLAIN), "Mixtral", mixtral.clone())?,
        case("experts fp4 plain", part, Form::Packed(FP4_PLAIN), "Mixtral", mixtral.clone())?,
        case("experts bf16", part, Form::Bf16, "Mixtral", mixtral)?,
        case("experts 72 wide, 3 of 5", part, Form::Packed(NF4), "Mixtral", odd)?,
        case("experts 8 of 64", part, Form::Packed(NF4), "Qwen3Moe", many)?,
    ])
}

/// The widths of Mixtral and Mistral 7B. With two experts of two each has all tokens, with two of four some.
fn wide() -> Result<Vec<Case>> {
    let make = |name, architecture, experts: usize| -> Result<Case> {
        let fields = json!({
            "hidden_size": 4096, "intermediate_size": 14_336,
            "num_local_experts": experts, "num_experts_per_tok": 2,
        });
        let mut case = case(name, Part::FeedForward, Form::Drawn, architecture, fields)?;
        case.classes = WIDE;
        Ok(case)
    };
    Ok(vec![
        make("dense feed-forward 4096 and 14336 wide", "Llama", 1)?,
        make("experts 4096 and 14336 wide, 2 of 2", "Mixtral", 2)?,
        make("experts 4096 and 14336 wide, 2 of 4", "Mixtral", 4)?,
    ])
}

fn heads(num_attention_heads: usize, num_key_value_heads: usize, head_dim: usize) -> Value {
    json!({
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "head_dim": head_dim,
    })
}

fn attention() -> Result<Vec<Case>> {
    let windowed = json!({ "sliding_window": 100, "num_attention_heads": 8 });
    let odd = json!({
        "hidden_size": 72, "intermediate_size": 104, "sliding_window": 50,
        "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 24,
    });
    let bias = json!({ "attention_bias": true, "num_attention_heads": 2 });
    let nf4 = Form::Packed(NF4);
    let part = Part::Attention;
    Ok(vec![
        case("attention 128, 4 heads a key", part, nf4, "Llama", heads(8, 2, 128))?,
        case("attention 128, 1 head a key", part, nf4, "Llama", heads(4, 4, 128))?,
        case("attention 128, 16 heads a key", part, nf4, "Llama", heads(16, 1, 128))?,
        case("attention 64, 7 heads a key, bias on q k v", part, nf4, "Qwen2", heads(14, 2, 64))?,
        case("attention 64, 16 heads a key", part, nf4, "Llama", heads(16, 1, 64))?,
        case("attention 64, 32 heads a key", part, nf4, "Llama", heads(32, 1, 64))?,
        case("attention 128, norms on heads", part, nf4, "Qwen3", heads(8, 2, 128))?,
        case("attention 128, window of 100", part, nf4, "Mistral", windowed)?,
        case("attention 24, window of 50, 72 wide", part, nf4, "Mistral", odd)?,
        case("attention 128, bias on all, mixed forms", part, Form::Mixed, "Llama", bias)?,
    ])
}

fn long_and_fp8() -> Result<Vec<Case>> {
    let nf4 = Form::Packed(NF4);
    let make = |name, fields, classes, fp8_kv| -> Result<Case> {
        let mut case = case(name, Part::Attention, nf4, "Llama", fields)?;
        case.classes = classes;
        case.fp8_kv = fp8_kv;
        if fp8_kv {
            case.bound = FP8_BOUND;
            case.recipe.spread = SPREAD_SMALL;
        }
        Ok(case)
    };
    Ok(vec![
        make("attention 128, long", heads(8, 2, 128), LONG, false)?,
        make("attention 64, long", heads(8, 2, 64), LONG, false)?,
        make("attention 128, fp8", heads(8, 2, 128), ATTENTION, true)?,
        make("attention 64, fp8", heads(14, 2, 64), ATTENTION, true)?,
        make("attention 24, fp8", heads(6, 3, 24), ATTENTION, true)?,
        make("attention 128, long, fp8", heads(8, 2, 128), LONG, true)?,
    ])
}

fn whole() -> Result<Vec<Case>> {
    let mixtral = json!({
        "num_hidden_layers": 2, "num_local_experts": 8, "num_experts_per_tok": 2,
        "num_attention_heads": 8, "num_key_value_heads": 2,
    });
    let llama = json!({ "num_hidden_layers": 2, "num_attention_heads": 8 });
    let nf4 = Form::Packed(NF4);
    Ok(vec![
        case("two layers of Mixtral", Part::All, nf4, "Mixtral", mixtral)?,
        case("two layers of Llama", Part::All, nf4, "Llama", llama)?,
    ])
}
