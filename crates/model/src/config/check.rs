//! From the raw fields of `config.json` to a checked [`Config`].

use std::path::Path;

use quant::Dtype;

use super::raw::{OneOrMany, Raw, RawRope};
use super::{Config, Family, LayerConfig, MoeConfig, RopeScaling};
use crate::{ModelError, Result};

// Largest values accepted: far above any model, far below what would overflow a product of three.
const MAX_WIDTH: usize = 1 << 20;
const MAX_VOCAB: usize = 1 << 24;
const MAX_HEADS: usize = 1 << 12;
const MAX_LAYERS: usize = 1 << 12;
const MAX_EXPERTS: usize = 1 << 12;
const MAX_POSITIONS: usize = 1 << 30;

pub(super) fn config(bytes: &[u8], file: &Path) -> Result<Config> {
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|e| ModelError::malformed(file, format!("not a model's config: {e}")))?;
    let architecture = raw.architectures.as_ref().and_then(|names| names.first());
    let architecture = architecture.map(String::as_str);
    let family = Family::find(architecture, raw.model_type.as_deref(), file)?;
    Checker { raw, family, file }.config()
}

struct Checker<'a> {
    raw: Raw,
    family: Family,
    file: &'a Path,
}

impl Checker<'_> {
    fn config(mut self) -> Result<Config> {
        self.check_what_is_fixed()?;
        let quantization_config = match self.raw.quantization_config.take() {
            Some(raw) => Some(raw.check(self.file)?),
            None => None,
        };
        let (raw, family) = (&self.raw, self.family);
        let hidden_size = self.size("hidden_size", raw.hidden_size, MAX_WIDTH)?;
        let heads = self.size("num_attention_heads", raw.num_attention_heads, MAX_HEADS)?;
        let num_hidden_layers =
            self.size("num_hidden_layers", raw.num_hidden_layers, MAX_LAYERS)?;
        let intermediate_size = self.size("intermediate_size", raw.intermediate_size, MAX_WIDTH)?;
        let max_position_embeddings = self.max_position_embeddings()?;
        let dtype = raw.dtype.as_deref().or(raw.torch_dtype.as_deref());
        Ok(Config {
            family,
            vocab_size: self.size("vocab_size", raw.vocab_size, MAX_VOCAB)?,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: self.num_key_value_heads(heads)?,
            head_dim: self.head_dim(hidden_size, heads)?,
            max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps()?,
            rope_theta: self.rope_theta()?,
            rope_scaling: self.rope_scaling(max_position_embeddings)?,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            attention_bias: family == Family::Qwen2 || self.attention_bias(),
            o_proj_bias: self.attention_bias(),
            mlp_bias: family == Family::Llama && raw.mlp_bias.unwrap_or(false),
            layers: self.layers(num_hidden_layers)?,
            moe: self.moe(intermediate_size)?,
            bos_token_id: raw.bos_token_id,
            eos_token_id: raw.eos_token_id.clone().map_or_else(Vec::new, OneOrMany::into_vec),
            dtype: dtype.and_then(dtype_from_name),
            quantization_config,
        })
    }

    /// Refuses what every family here has fixed.
    fn check_what_is_fixed(&self) -> Result<()> {
        match self.raw.hidden_act.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(self.unsupported("hidden_act", other, "silu")),
        }
        let partial = self.raw.rope().and_then(|rope| rope.partial_rotary_factor);
        match partial.or(self.raw.partial_rotary_factor) {
            None | Some(1.0) => Ok(()),
            Some(other) => {
                Err(self.unsupported("partial_rotary_factor", &other.to_string(), "1.0"))
            }
        }
    }

    /// Only Llama and Qwen3 let the config choose; transformers hands the same choice to q, k, v and o.
    fn attention_bias(&self) -> bool {
        matches!(self.family, Family::Llama | Family::Qwen3 | Family::Qwen3Moe)
            && self.raw.attention_bias.unwrap_or(false)
    }

    fn max_position_embeddings(&self) -> Result<usize> {
        let default = match self.family {
            Family::Llama => 2048,
            Family::Mistral | Family::Mixtral => 4096 * 32,
            Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe => 32768,
        };
        let positions = self.raw.max_position_embeddings.or(Some(default));
        self.size("max_position_embeddings", positions, MAX_POSITIONS)
    }

    fn num_key_value_heads(&self, num_attention_heads: usize) -> Result<usize> {
        let heads = self.raw.num_key_value_heads.or(Some(num_attention_heads));
        let heads = self.size("num_key_value_heads", heads, MAX_HEADS)?;
        if !num_attention_heads.is_multiple_of(heads) {
            return Err(self.malformed(format!(
                "num_key_value_heads {heads} does not divide \
                 num_attention_heads {num_attention_heads}"
            )));
        }
        Ok(heads)
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize> {
        let head_dim = match (self.raw.head_dim, self.family) {
            (Some(head_dim), _) => head_dim,
            (None, Family::Qwen3) => 128,
            (None, _) if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            (None, _) => {
                return Err(self.malformed(format!(
                    "num_attention_heads {heads} does not divide hidden_size {hidden_size}, \
                     and there is no head_dim"
                )));
            }
        };
        let head_dim = self.size("head_dim", Some(head_dim), MAX_HEADS)?;
        if head_dim.is_multiple_of(2) {
            Ok(head_dim)
        } else {
            Err(self
                .malformed(format!("head_dim {head_dim} is odd; the rotary embedding turns pairs")))
        }
    }

    fn rms_norm_eps(&self) -> Result<f32> {
        let default = if self.family == Family::Mixtral { 1e-5 } else { 1e-6 };
        let eps = self.raw.rms_norm_eps.unwrap_or(default);
        if (0.0..=1.0).contains(&eps) {
            Ok(eps as f32)
        } else {
            Err(self.malformed(format!("rms_norm_eps {eps} is not within 0…1")))
        }
    }

    fn rope_theta(&self) -> Result<f64> {
        let default = if self.family == Family::Mixtral { 1e6 } else { 1e4 };
        let theta = self.raw.rope().and_then(|rope| rope.rope_theta).or(self.raw.rope_theta);
        self.positive("rope_theta", Some(theta.unwrap_or(default)))
    }

    fn rope_scaling(&self, max_position_embeddings: usize) -> Result<RopeScaling> {
        let Some(rope) = self.raw.rope() else { return Ok(RopeScaling::Default) };
        match rope.rope_type.as_deref().or(rope.r#type.as_deref()).unwrap_or("default") {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear { factor: self.rope_factor(rope)? }),
            "llama3" => self.llama3(rope, max_position_embeddings),
            other => Err(self.unsupported("rope type", other, "default, linear, llama3")),
        }
    }

    fn llama3(&self, rope: &RawRope, max_position_embeddings: usize) -> Result<RopeScaling> {
        let low = self.positive("low_freq_factor", rope.low_freq_factor)?;
        let high = self.positive("high_freq_factor", rope.high_freq_factor)?;
        if low >= high {
            return Err(self
                .malformed(format!("low_freq_factor {low} is not below high_freq_factor {high}")));
        }
        let original = rope.original_max_position_embeddings.or(Some(max_position_embeddings));
        Ok(RopeScaling::Llama3 {
            factor: self.rope_factor(rope)?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: self.size(
                "original_max_position_embeddings",
                original,
                MAX_POSITIONS,
            )?,
        })
    }

    fn rope_factor(&self, rope: &RawRope) -> Result<f64> {
        let factor = self.positive("factor of the rope scaling", rope.factor)?;
        if factor >= 1.0 {
            Ok(factor)
        } else {
            Err(self.malformed(format!("factor of the rope scaling {factor} is below 1")))
        }
    }

    fn moe(&self, intermediate_size: usize) -> Result<Option<MoeConfig>> {
        let raw = &self.raw;
        let width = match self.family {
            Family::Mixtral => Some(intermediate_size),
            Family::Qwen3Moe => raw.moe_intermediate_size,
            _ => return Ok(None),
        };
        let num_experts = raw.num_local_experts.or(raw.num_experts);
        let num_experts = self.size("num_experts", num_experts, MAX_EXPERTS)?;
        Ok(Some(MoeConfig {
            num_experts,
            num_experts_per_tok: self.size(
                "num_experts_per_tok",
                raw.num_experts_per_tok,
                num_experts,
            )?,
            moe_intermediate_size: self.size("moe_intermediate_size", width, MAX_WIDTH)?,
            norm_topk_prob: self.family == Family::Mixtral || raw.norm_topk_prob.unwrap_or(false),
        }))
    }

    fn layers(&self, num_hidden_layers: usize) -> Result<Vec<LayerConfig>> {
        let sparse_step = self.raw.decoder_sparse_step.or(Some(1));
        let sparse_step = self.size("decoder_sparse_step", sparse_step, MAX_LAYERS)?;
        let mlp_only = self.raw.mlp_only_layers.as_deref().unwrap_or_default();
        let is_moe = |i: usize| match self.family {
            Family::Mixtral => true,
            Family::Qwen3Moe => !mlp_only.contains(&i) && (i + 1).is_multiple_of(sparse_step),
            _ => false,
        };
        let windows = self.sliding_windows(num_hidden_layers)?;
        let layers = windows.into_iter().enumerate();
        Ok(layers
            .map(|(i, sliding_window)| LayerConfig { sliding_window, is_moe: is_moe(i) })
            .collect())
    }

    /// Llama has no window; Mistral and Mixtral have one for all layers or none; the Qwens have one only where
    /// `use_sliding_window` says so, Qwen2 and Qwen3 in the layers that `layer_types` or `max_window_layers` name.
    fn sliding_windows(&self, num_layers: usize) -> Result<Vec<Option<usize>>> {
        let raw = &self.raw;
        let window = match self.family {
            Family::Llama => None,
            Family::Mixtral => raw.sliding_window.flatten(),
            Family::Mistral => raw.sliding_window.unwrap_or(Some(4096)),
            Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe => {
                let in_use = raw.use_sliding_window.unwrap_or(false);
                raw.sliding_window.unwrap_or(Some(4096)).filter(|_| in_use)
            }
        };
        if window == Some(0) {
            return Err(self.malformed("sliding_window is 0"));
        }
        if !matches!(self.family, Family::Qwen2 | Family::Qwen3) {
            return Ok(vec![window; num_layers]);
        }
        match &raw.layer_types {
            Some(types) => self.windows_of(types, window, num_layers),
            None => {
                let full_layers = raw.max_window_layers.unwrap_or(28);
                Ok((0..num_layers).map(|i| window.filter(|_| i >= full_layers)).collect())
            }
        }
    }

    fn windows_of(
        &self,
        layer_types: &[String],
        window: Option<usize>,
        num_layers: usize,
    ) -> Result<Vec<Option<usize>>> {
        if layer_types.len() != num_layers {
            return Err(self.malformed(format!(
                "layer_types has {} entries for {num_layers} layers",
                layer_types.len()
            )));
        }
        let window_of = |name: &String| match name.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" if window.is_none() => Err(self
                .malformed("layer_types has sliding_attention, but no sliding_window is in use")),
            "sliding_attention" => Ok(window),
            other => {
                Err(self.unsupported("layer type", other, "full_attention, sliding_attention"))
            }
        };
        layer_types.iter().map(window_of).collect()
    }

    fn size(&self, name: &str, value: Option<usize>, max: usize) -> Result<usize> {
        match value {
            Some(value) if (1..=max).contains(&value) => Ok(value),
            Some(value) => Err(self.malformed(format!("{name} {value} is not within 1…{max}"))),
            None => Err(self.malformed(format!("{name} is missing"))),
        }
    }

    fn positive(&self, name: &str, value: Option<f64>) -> Result<f64> {
        match value {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(value) => Err(self.malformed(format!("{name} {value} is not positive"))),
            None => Err(self.malformed(format!("{name} is missing"))),
        }
    }

    fn malformed(&self, message: impl Into<String>) -> ModelError {
        ModelError::malformed(self.file, message)
    }

    fn unsupported(&self, what: &'static str, found: &str, supported: &'static str) -> ModelError {
        let (file, found) = (self.file.to_owned(), found.to_owned());
        ModelError::Unsupported { file, what, found, supported }
    }
}

fn dtype_from_name(name: &str) -> Option<Dtype> {
    match name {
        "bfloat16" => Some(Dtype::Bf16),
        "float16" => Some(Dtype::F16),
        "float32" => Some(Dtype::F32),
        _ => None,
    }
}
