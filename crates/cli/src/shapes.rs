//! Shapes of well-known models, so that a machine can be measured before anything is downloaded.

use std::path::Path;

use model::{Config, Result};

/// A named shape.
pub(crate) struct Shape {
    /// What `--shape` takes.
    pub(crate) name: &'static str,
    /// The fields of the model's public `config.json` that set its sizes.
    config: &'static str,
}

impl Shape {
    /// The shape of that name.
    pub(crate) fn find(name: &str) -> Option<&'static Shape> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// Its config.
    ///
    /// # Errors
    /// None in practice: a test parses all of them.
    pub(crate) fn config(&self) -> Result<Config> {
        Config::from_json(self.config.as_bytes(), Path::new(self.name))
    }
}

/// All shapes, by size.
pub(crate) const SHAPES: &[Shape] = &[
    Shape {
        name: "qwen2.5-0.5b",
        config: r#"{"architectures": ["Qwen2ForCausalLM"], "vocab_size": 151936, "hidden_size": 896,
            "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
            "tie_word_embeddings": true}"#,
    },
    Shape {
        name: "tinyllama-1.1b",
        config: r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 2048,
            "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}"#,
    },
    Shape {
        name: "llama-3.2-1b",
        config: r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 2048,
            "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}, "tie_word_embeddings": true}"#,
    },
    Shape {
        name: "llama-3.2-3b",
        config: r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 3072,
            "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8,
            "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}, "tie_word_embeddings": true}"#,
    },
    Shape {
        name: "mistral-7b",
        config: r#"{"architectures": ["MistralForCausalLM"], "vocab_size": 32768, "hidden_size": 4096,
            "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "sliding_window": null}"#,
    },
    Shape {
        name: "qwen2.5-7b",
        config: r#"{"architectures": ["Qwen2ForCausalLM"], "vocab_size": 152064, "hidden_size": 3584,
            "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}"#,
    },
    Shape {
        name: "llama-3.1-8b",
        config: r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 4096,
            "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}}"#,
    },
    Shape {
        name: "qwen3-8b",
        config: r#"{"architectures": ["Qwen3ForCausalLM"], "vocab_size": 151936, "hidden_size": 4096,
            "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}"#,
    },
    Shape {
        name: "qwen3-30b-a3b",
        config: r#"{"architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 151936, "hidden_size": 2048,
            "intermediate_size": 6144, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
            "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
            "norm_topk_prob": true, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}"#,
    },
    Shape {
        name: "mixtral-8x7b",
        config: r#"{"architectures": ["MixtralForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
            "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
            "rope_theta": 1000000.0, "sliding_window": null}"#,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_weights::{self, LmHead};

    #[test]
    fn every_config_is_valid_and_found_by_its_name() {
        for shape in SHAPES {
            shape.config().unwrap();
            assert_eq!(Shape::find(shape.name).unwrap().name, shape.name);
        }
        assert!(Shape::find("gpt-4").is_none());
    }

    /// Sizes that the models' makers publish, and for Mixtral the 24.48 GB that its NF4 artefact takes.
    #[test]
    fn weights_take_what_the_models_take() {
        let bytes = |name| {
            let config = Shape::find(name).unwrap().config().unwrap();
            random_weights::num_bytes(&config, LmHead::Bf16) as f64
        };
        assert!((bytes("mixtral-8x7b") / 24.48e9 - 1.0).abs() < 0.001, "{}", bytes("mixtral-8x7b"));
        // Billions of parameters in layers at 4.127 bits, and in embeddings and lm_head at 16: of 8.03 and 30.53.
        assert!(
            (bytes("llama-3.1-8b") / (6.98e9 * 4.127 / 8.0 + 1.05e9 * 2.0) - 1.0).abs() < 0.005
        );
        assert!(
            (bytes("qwen3-30b-a3b") / (29.91e9 * 4.127 / 8.0 + 0.622e9 * 2.0) - 1.0).abs() < 0.005
        );
    }
}
