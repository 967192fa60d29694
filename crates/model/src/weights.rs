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
///
/// `W` is what stands for each weight: the weight itself, or its description before it is loaded.
#[derive(Debug, Clone)]
pub struct LayerWeights<W = Weight> {
    /// `[hidden_size]`.
    pub input_layernorm: W,
    /// `[num_attention_heads * head_dim, hidden_size]`.
    pub q_proj: LinearWeights<W>,
    /// `[num_key_value_heads * head_dim, hidden_size]`.
    pub k_proj: LinearWeights<W>,
    /// `[num_key_value_heads * head_dim, hidden_size]`.
    pub v_proj: LinearWeights<W>,
    /// `[hidden_size, num_attention_heads * head_dim]`.
    pub o_proj: LinearWeights<W>,
    /// `[head_dim]`, of the Qwen3 families.
    pub q_norm: Option<W>,
    /// `[head_dim]`, of the Qwen3 families.
    pub k_norm: Option<W>,
    /// `[hidden_size]`.
    pub post_attention_layernorm: W,
    /// What follows attention.
    pub mlp: Mlp<W>,
}

/// `y = x @ weight.T + bias`.
#[derive(Debug, Clone)]
pub struct LinearWeights<W = Weight> {
    /// `[out_features, in_features]`.
    pub weight: W,
    /// `[out_features]`, dense.
    pub bias: Option<W>,
}

/// What follows attention in a layer.
#[derive(Debug, Clone)]
pub enum Mlp<W = Weight> {
    /// One gated MLP, `intermediate_size` wide.
    Dense(ExpertWeights<W>),
    /// A mixture of them, `moe_intermediate_size` wide.
    Moe {
        /// The router, `[num_experts, hidden_size]`; may be packed.
        gate: W,
        /// `num_experts` of them.
        experts: Vec<ExpertWeights<W>>,
    },
}

/// A gated MLP, `down_proj(silu(gate_proj(x)) * up_proj(x))`: a whole dense one, or one expert.
#[derive(Debug, Clone)]
pub struct ExpertWeights<W = Weight> {
    /// `[width, hidden_size]` (`w1` of Mixtral).
    pub gate_proj: LinearWeights<W>,
    /// `[width, hidden_size]` (`w3` of Mixtral).
    pub up_proj: LinearWeights<W>,
    /// `[hidden_size, width]` (`w2` of Mixtral).
    pub down_proj: LinearWeights<W>,
}

impl<W> LayerWeights<W> {
    /// Turns every `W` into a `V`, in the order in which the layer uses them.
    pub(crate) fn try_map<V, E>(
        &self,
        f: &mut impl FnMut(&W) -> Result<V, E>,
    ) -> Result<LayerWeights<V>, E> {
        Ok(LayerWeights {
            input_layernorm: f(&self.input_layernorm)?,
            q_proj: self.q_proj.try_map(f)?,
            k_proj: self.k_proj.try_map(f)?,
            v_proj: self.v_proj.try_map(f)?,
            o_proj: self.o_proj.try_map(f)?,
            q_norm: self.q_norm.as_ref().map(&mut *f).transpose()?,
            k_norm: self.k_norm.as_ref().map(&mut *f).transpose()?,
            post_attention_layernorm: f(&self.post_attention_layernorm)?,
            mlp: self.mlp.try_map(f)?,
        })
    }
}

impl<W> Mlp<W> {
    fn try_map<V, E>(&self, f: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Mlp<V>, E> {
        Ok(match self {
            Mlp::Dense(mlp) => Mlp::Dense(mlp.try_map(f)?),
            Mlp::Moe { gate, experts } => Mlp::Moe {
                gate: f(gate)?,
                experts: experts
                    .iter()
                    .map(|expert| expert.try_map(f))
                    .collect::<Result<_, E>>()?,
            },
        })
    }
}

impl<W> ExpertWeights<W> {
    fn try_map<V, E>(&self, f: &mut impl FnMut(&W) -> Result<V, E>) -> Result<ExpertWeights<V>, E> {
        Ok(ExpertWeights {
            gate_proj: self.gate_proj.try_map(f)?,
            up_proj: self.up_proj.try_map(f)?,
            down_proj: self.down_proj.try_map(f)?,
        })
    }
}

impl<W> LinearWeights<W> {
    fn try_map<V, E>(&self, f: &mut impl FnMut(&W) -> Result<V, E>) -> Result<LinearWeights<V>, E> {
        Ok(LinearWeights {
            weight: f(&self.weight)?,
            bias: self.bias.as_ref().map(&mut *f).transpose()?,
        })
    }
}
