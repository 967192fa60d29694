//! `config.json`: what a model is made of.

mod check;
mod quantization;
mod raw;

use std::path::Path;

use quant::Dtype;

use crate::{ModelError, Result};

pub use quantization::QuantizationConfig;
pub(crate) use raw::OneOrMany;

/// The families of models that run here. Each is a list of the same parts with small differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Mistral with a mixture of experts in every layer.
    Mixtral,
    /// Llama with a sliding window.
    Mistral,
    /// Llama 1 to 3.x and what shares its shape (TinyLlama …).
    Llama,
    /// Biases on q, k and v.
    Qwen2,
    /// Norms on the heads of q and k.
    Qwen3,
    /// Qwen3 with a mixture of experts in some or all layers.
    Qwen3Moe,
}

/// A model's `config.json`, checked, with defaults filled in as transformers 4.57 fills them.
///
/// Fields have the names that Hugging Face gives them; sizes are in elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which family it is.
    pub family: Family,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of a dense MLP.
    pub intermediate_size: usize,
    /// Number of layers; also the length of [`Config::layers`].
    pub num_hidden_layers: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values; divides [`Config::num_attention_heads`].
    pub num_key_value_heads: usize,
    /// Elements of one head; even. Not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Tokens the model was made for.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Base wavelength of the rotary embedding.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Whether `lm_head` is `embed_tokens`.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub attention_bias: bool,
    /// Whether o has a bias.
    pub o_proj_bias: bool,
    /// Whether the projections of a dense MLP have biases.
    pub mlp_bias: bool,
    /// What differs from layer to layer.
    pub layers: Vec<LayerConfig>,
    /// The mixture of experts, if any layer has one.
    pub moe: Option<MoeConfig>,
    /// Token that begins every text, if the config names one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; may be empty.
    pub eos_token_id: Vec<u32>,
    /// Type the unquantized weights were saved in, if the config says.
    pub dtype: Option<Dtype>,
    /// How the checkpoint is quantized, if it is.
    pub quantization_config: Option<QuantizationConfig>,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Token `i` sees token `j` only if `i - j < sliding_window`; at least 1.
    pub sliding_window: Option<usize>,
    /// Whether the layer has a mixture of experts in place of a dense MLP.
    pub is_moe: bool,
}

/// The mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoeConfig {
    /// Number of experts (`num_local_experts` of Mixtral).
    pub num_experts: usize,
    /// Experts that every token goes to.
    pub num_experts_per_tok: usize,
    /// Inner width of one expert.
    pub moe_intermediate_size: usize,
    /// Whether the chosen experts' probabilities are scaled to a sum of 1.
    pub norm_topk_prob: bool,
}

/// How the rotary frequencies `theta^(-2i/head_dim)` are stretched to longer contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor, at least 1.
        factor: f64,
    },
    /// Llama 3.1: wavelengths above `original_max_position_embeddings / low_freq_factor` are divided by `factor`,
    /// those below `original_max_position_embeddings / high_freq_factor` kept, those between interpolated.
    Llama3 {
        /// Divisor of the low frequencies, at least 1.
        factor: f64,
        /// Sets the longest wavelength that is interpolated; positive.
        low_freq_factor: f64,
        /// Sets the shortest wavelength that is interpolated; above `low_freq_factor`.
        high_freq_factor: f64,
        /// Tokens the model was first trained on.
        original_max_position_embeddings: usize,
    },
}

impl Config {
    /// Parses and checks the bytes of a `config.json`; `file` is named in errors.
    pub fn from_json(bytes: &[u8], file: &Path) -> Result<Self> {
        check::config(bytes, file)
    }

    /// Rows of `q_proj`: `num_attention_heads * head_dim`.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Rows of `k_proj` and of `v_proj`: `num_key_value_heads * head_dim`.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

impl Family {
    /// The name in `architectures`, as `MixtralForCausalLM`.
    pub const fn architecture(self) -> &'static str {
        match self {
            Family::Mixtral => "MixtralForCausalLM",
            Family::Mistral => "MistralForCausalLM",
            Family::Llama => "LlamaForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::Qwen3Moe => "Qwen3MoeForCausalLM",
        }
    }

    /// The name in `model_type`, as `mixtral`.
    pub const fn model_type(self) -> &'static str {
        match self {
            Family::Mixtral => "mixtral",
            Family::Mistral => "mistral",
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Qwen3Moe => "qwen3_moe",
        }
    }

    /// Whether q and k are normalized head by head before the rotary embedding.
    pub const fn has_qk_norm(self) -> bool {
        matches!(self, Family::Qwen3 | Family::Qwen3Moe)
    }

    /// All families.
    pub const ALL: [Family; 6] = [
        Family::Mixtral,
        Family::Mistral,
        Family::Llama,
        Family::Qwen2,
        Family::Qwen3,
        Family::Qwen3Moe,
    ];

    fn find(architecture: Option<&str>, model_type: Option<&str>, file: &Path) -> Result<Self> {
        let known = |family: &Family| match (architecture, model_type) {
            (Some(name), _) => family.architecture() == name,
            (None, Some(name)) => family.model_type() == name,
            (None, None) => false,
        };
        Family::ALL.into_iter().find(known).ok_or_else(|| ModelError::Unsupported {
            file: file.to_owned(),
            what: "architecture",
            found: architecture.or(model_type).unwrap_or("(none given)").to_owned(),
            supported: "MixtralForCausalLM, MistralForCausalLM, LlamaForCausalLM, \
                        Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM",
        })
    }
}
