//! The weights of a model by their part in it, whatever layout the checkpoint has them in.

use backend::Weight;

/// All weights of a model.
#[derive(Debug, Clone)]
pub struct ModelWeights {
    /// `[vocab_size, hidden_size]`; never packed.
    pub embed_tokens: Weight,
    /// One entry a layer, in order.
    pub layers: Vec<LayerWeights>,
    /// The last norm, `[hidden_size]`.
    pub norm: Weight,
    /// `[vocab_size, hidden_size]`; `None` when `embed_tokens` serves (`tie_word_embeddings`).
    pub lm_head: Option<Weight>,
}

/// The weights of one layer. Norms are dense vectors; projections may be packed.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// `[hidden_size]`.
    pub input_layernorm: Weight,
    /// `[num_attention_heads * head_dim, hidden_size]`.
    pub q_proj: LinearWeights,
    /// `[num_key_value_heads * head_dim, hidden_size]`.
    pub k_proj: LinearWeights,
    /// `[num_key_value_heads * head_dim, hidden_size]`.
    pub v_proj: LinearWeights,
    /// `[hidden_size, num_attention_heads * head_dim]`.
    pub o_proj: LinearWeights,
    /// `[head_dim]`, of the Qwen3 families.
    pub q_norm: Option<Weight>,
    /// `[head_dim]`, of the Qwen3 families.
    pub k_norm: Option<Weight>,
    /// `[hidden_size]`.
    pub post_attention_layernorm: Weight,
    /// What follows attention.
    pub mlp: Mlp,
}

/// `y = x @ weight.T + bias`.
#[derive(Debug, Clone)]
pub struct LinearWeights {
    /// `[out_features, in_features]`.
    pub weight: Weight,
    /// `[out_features]`, dense.
    pub bias: Option<Weight>,
}

/// What follows attention in a layer.
#[derive(Debug, Clone)]
pub enum Mlp {
    /// One gated MLP, `intermediate_size` wide.
    Dense(ExpertWeights),
    /// A mixture of them, `moe_intermediate_size` wide.
    Moe {
        /// The router, `[num_experts, hidden_size]`; may be packed.
        gate: Weight,
        /// `num_experts` of them.
        experts: Vec<ExpertWeights>,
    },
}

/// A gated MLP, `down_proj(silu(gate_proj(x)) * up_proj(x))`: a whole dense one, or one expert.
#[derive(Debug, Clone)]
pub struct ExpertWeights {
    /// `[width, hidden_size]` (`w1` of Mixtral).
    pub gate_proj: LinearWeights,
    /// `[width, hidden_size]` (`w3` of Mixtral).
    pub up_proj: LinearWeights,
    /// `[hidden_size, width]` (`w2` of Mixtral).
    pub down_proj: LinearWeights,
}
