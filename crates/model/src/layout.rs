//! Which parameters a model has, what transformers 4 calls them, and where else they may lie.

use std::convert::Infallible;

use crate::weights::{ExpertWeights, LayerWeights, LinearWeights, Mlp};
use crate::{Config, Family, MoeConfig};

/// One parameter of a model.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    /// Its name in transformers 4, as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Whether it is the weight of a linear layer, which may be quantized.
    pub is_linear: bool,
    /// Where to look for it, in this order.
    pub places: Vec<Place>,
}

/// A tensor that may hold a parameter, whole or as a slice.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Name of the tensor.
    pub tensor: String,
    /// Its whole shape.
    pub shape: Vec<usize>,
    /// Flat index at which the parameter begins; it is contiguous.
    pub first: usize,
}

impl Param {
    fn new(name: String, shape: &[usize], is_linear: bool) -> Self {
        let place = Place { tensor: name.clone(), shape: shape.to_vec(), first: 0 };
        Param { name, shape: shape.to_vec(), is_linear, places: vec![place] }
    }

    fn vector(name: String, len: usize) -> Self {
        Param::new(name, &[len], false)
    }

    fn or_at(mut self, tensor: String, shape: &[usize], first: usize) -> Self {
        self.places.push(Place { tensor, shape: shape.to_vec(), first });
        self
    }

    /// Name of the module, as `model.layers.0.self_attn.q_proj`.
    pub(crate) fn module(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All parameters of a model, in the order in which they are used.
pub(crate) fn params(config: &Config) -> Vec<Param> {
    let mut params = vec![embed_tokens(config)];
    for index in 0..config.num_hidden_layers {
        let mut push = |param: &Param| {
            params.push(param.clone());
            Ok::<(), Infallible>(())
        };
        let Ok(_) = layer(config, index).try_map(&mut push);
    }
    params.push(norm(config));
    params.extend(lm_head(config));
    params
}

/// `[vocab_size, hidden_size]`.
pub(crate) fn embed_tokens(config: &Config) -> Param {
    let shape = [config.vocab_size, config.hidden_size];
    Param::new("model.embed_tokens.weight".to_owned(), &shape, false)
}

/// The last norm.
pub(crate) fn norm(config: &Config) -> Param {
    Param::vector("model.norm.weight".to_owned(), config.hidden_size)
}

/// `[vocab_size, hidden_size]`, unless it is tied to the embeddings.
pub(crate) fn lm_head(config: &Config) -> Option<Param> {
    let shape = [config.vocab_size, config.hidden_size];
    (!config.tie_word_embeddings).then(|| Param::new("lm_head.weight".to_owned(), &shape, true))
}

/// The parameters of layer `index`.
pub(crate) fn layer(config: &Config, index: usize) -> LayerWeights<Param> {
    let prefix = format!("model.layers.{index}");
    let hidden = config.hidden_size;
    let attention = |name: &str, shape: [usize; 2], bias: bool| {
        linear(format!("{prefix}.self_attn.{name}"), shape, bias)
    };
    let head_norm = |name: &str| {
        let norm = || Param::vector(format!("{prefix}.self_attn.{name}.weight"), config.head_dim);
        config.family.has_qk_norm().then(norm)
    };
    LayerWeights {
        input_layernorm: Param::vector(format!("{prefix}.input_layernorm.weight"), hidden),
        q_proj: attention("q_proj", [config.q_size(), hidden], config.attention_bias),
        k_proj: attention("k_proj", [config.kv_size(), hidden], config.attention_bias),
        v_proj: attention("v_proj", [config.kv_size(), hidden], config.attention_bias),
        o_proj: attention("o_proj", [hidden, config.q_size()], config.o_proj_bias),
        q_norm: head_norm("q_norm"),
        k_norm: head_norm("k_norm"),
        post_attention_layernorm: Param::vector(
            format!("{prefix}.post_attention_layernorm.weight"),
            hidden,
        ),
        mlp: match &config.moe {
            Some(moe) if config.layers[index].is_moe => mixture(config, moe, &prefix),
            _ => Mlp::Dense(dense(config, &prefix)),
        },
    }
}

fn linear(module: String, shape: [usize; 2], bias: bool) -> LinearWeights<Param> {
    LinearWeights {
        bias: bias.then(|| Param::vector(format!("{module}.bias"), shape[0])),
        weight: Param::new(format!("{module}.weight"), &shape, true),
    }
}

fn dense(config: &Config, prefix: &str) -> ExpertWeights<Param> {
    let (hidden, width) = (config.hidden_size, config.intermediate_size);
    let linear = |name: &str, shape| linear(format!("{prefix}.mlp.{name}"), shape, config.mlp_bias);
    ExpertWeights {
        gate_proj: linear("gate_proj", [width, hidden]),
        up_proj: linear("up_proj", [width, hidden]),
        down_proj: linear("down_proj", [hidden, width]),
    }
}

/// The mixture is `block_sparse_moe` in transformers 4's Mixtral, and `mlp` in transformers 5 and in Qwen.
fn mixture(config: &Config, moe: &MoeConfig, prefix: &str) -> Mlp<Param> {
    let mut blocks = [format!("{prefix}.block_sparse_moe"), format!("{prefix}.mlp")];
    if config.family != Family::Mixtral {
        blocks.reverse();
    }
    let shape = [moe.num_experts, config.hidden_size];
    let gate = Param::new(format!("{}.gate.weight", blocks[0]), &shape, true);
    Mlp::Moe {
        gate: gate.or_at(format!("{}.gate.weight", blocks[1]), &shape, 0),
        experts: (0..moe.num_experts).map(|e| expert(config, moe, &blocks, e)).collect(),
    }
}

fn expert(
    config: &Config,
    moe: &MoeConfig,
    blocks: &[String; 2],
    index: usize,
) -> ExpertWeights<Param> {
    let (hidden, width) = (config.hidden_size, moe.moe_intermediate_size);
    let is_mixtral = config.family == Family::Mixtral;
    // Names per projection; the fused tensor that may hold it; its rows there and the first of them, in one expert.
    let projection = |mixtral: &str, qwen: &str, shape: [usize; 2], fused: &str, rows, row| {
        let name = if is_mixtral { mixtral } else { qwen };
        let fused_shape = [moe.num_experts, rows, shape[1]];
        let first = (index * rows + row) * shape[1];
        let mut param =
            Param::new(format!("{}.experts.{index}.{name}.weight", blocks[0]), &shape, true);
        for block in blocks {
            let tensor = format!("{block}.experts.{fused}");
            param = param.or_at(tensor, &fused_shape, first);
        }
        LinearWeights { weight: param, bias: None }
    };
    ExpertWeights {
        gate_proj: projection("w1", "gate_proj", [width, hidden], "gate_up_proj", 2 * width, 0),
        up_proj: projection("w3", "up_proj", [width, hidden], "gate_up_proj", 2 * width, width),
        down_proj: projection("w2", "down_proj", [hidden, width], "down_proj", hidden, 0),
    }
}
