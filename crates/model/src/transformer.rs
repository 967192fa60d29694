//! The forward pass: one list of parts for all families, over any backend.

use backend::{
    AttentionParams, Backend, BackendError, Batch, GatedMlp, KV_BLOCK_SIZE, Moe, Role, Rope, Weight,
};

use crate::rope::rope;
use crate::weights::{ExpertWeights, LayerWeights, LinearWeights, Mlp, ModelWeights};
use crate::{Config, MoeConfig};

/// A model whose weights a backend has taken.
pub struct Transformer<B: Backend> {
    config: Config,
    embed_tokens: B::Table,
    layers: Vec<Layer<B>>,
    norm: B::Vector,
    lm_head: B::Linear,
    rope: Rope,
}

struct Layer<B: Backend> {
    input_layernorm: B::Vector,
    q_proj: B::Linear,
    k_proj: B::Linear,
    v_proj: B::Linear,
    o_proj: B::Linear,
    q_norm: Option<B::Vector>,
    k_norm: Option<B::Vector>,
    attention: AttentionParams,
    post_attention_layernorm: B::Vector,
    mlp: FeedForward<B::Linear>,
}

enum FeedForward<L> {
    Dense(GatedMlp<L>),
    Moe(Moe<L>),
}

/// Activations of one step, kept from step to step.
pub struct Workspace<B: Backend> {
    hidden: B::Buffer,
    normed: B::Buffer,
    q: B::Buffer,
    k: B::Buffer,
    v: B::Buffer,
    attended: B::Buffer,
}

impl<B: Backend> Transformer<B> {
    /// Hands the weights to the backend; `progress` is told the number of layers that are done after each.
    pub fn load(
        config: &Config,
        weights: ModelWeights,
        backend: &B,
        mut progress: impl FnMut(usize),
    ) -> Result<Self, BackendError> {
        let lm_head = weights.lm_head.unwrap_or_else(|| weights.embed_tokens.clone());
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for (index, weights) in weights.layers.into_iter().enumerate() {
            layers.push(Layer::load(config, index, weights, backend)?);
            progress(index + 1);
        }
        Ok(Transformer {
            config: config.clone(),
            embed_tokens: backend.load_table(weights.embed_tokens)?,
            layers,
            norm: backend.load_vector(weights.norm)?,
            lm_head: backend.load_linear(lm_head, None, Role::LmHead)?,
            rope: rope(config),
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Activations for steps of up to `tokens_max` tokens.
    pub fn workspace(&self, backend: &B, tokens_max: usize) -> Result<Workspace<B>, BackendError> {
        let config = &self.config;
        Ok(Workspace {
            hidden: backend.buffer(tokens_max, config.hidden_size)?,
            normed: backend.buffer(tokens_max, config.hidden_size)?,
            q: backend.buffer(tokens_max, config.q_size())?,
            k: backend.buffer(tokens_max, config.kv_size())?,
            v: backend.buffer(tokens_max, config.kv_size())?,
            attended: backend.buffer(tokens_max, config.q_size())?,
        })
    }

    /// A cache for `tokens` tokens, rounded up to whole blocks.
    pub fn kv_cache(&self, backend: &B, tokens: usize) -> Result<B::KvCache, BackendError> {
        let params = attention_params(&self.config, None);
        backend.kv_cache(self.layers.len(), tokens.div_ceil(KV_BLOCK_SIZE), &params)
    }

    /// Runs the tokens of `batch` and leaves in `logits` those of `rows`: `[rows.len(), vocab_size]`.
    pub fn step(
        &self,
        backend: &mut B,
        workspace: &mut Workspace<B>,
        cache: &mut B::KvCache,
        batch: &Batch<'_>,
        rows: &[u32],
        logits: &mut Vec<f32>,
    ) where
        B::KvCache: Send,
    {
        backend.run(|backend| {
            backend.embed(&self.embed_tokens, batch.tokens, &mut workspace.hidden);
            for (index, layer) in self.layers.iter().enumerate() {
                layer.attend(self, backend, workspace, cache, index, batch);
                layer.feed_forward(&self.config, backend, workspace);
            }
            let eps = self.config.rms_norm_eps;
            backend.rms_norm(&workspace.hidden, &self.norm, eps, &mut workspace.normed);
            backend.logits(&workspace.normed, rows, &self.lm_head, logits);
        });
    }
}

impl<B: Backend> Layer<B> {
    fn load(
        config: &Config,
        index: usize,
        weights: LayerWeights,
        backend: &B,
    ) -> Result<Self, BackendError> {
        let vector = |weight: Option<Weight>| weight.map(|w| backend.load_vector(w)).transpose();
        Ok(Layer {
            input_layernorm: backend.load_vector(weights.input_layernorm)?,
            q_proj: load_linear(backend, weights.q_proj)?,
            k_proj: load_linear(backend, weights.k_proj)?,
            v_proj: load_linear(backend, weights.v_proj)?,
            o_proj: load_linear(backend, weights.o_proj)?,
            q_norm: vector(weights.q_norm)?,
            k_norm: vector(weights.k_norm)?,
            attention: attention_params(config, config.layers[index].sliding_window),
            post_attention_layernorm: backend.load_vector(weights.post_attention_layernorm)?,
            mlp: FeedForward::load(config.moe.as_ref(), weights.mlp, backend)?,
        })
    }

    /// `hidden += o_proj(attention(norm(hidden)))`.
    fn attend(
        &self,
        model: &Transformer<B>,
        backend: &mut B,
        workspace: &mut Workspace<B>,
        cache: &mut B::KvCache,
        index: usize,
        batch: &Batch<'_>,
    ) {
        let eps = model.config.rms_norm_eps;
        let Workspace { hidden, normed, q, k, v, attended } = workspace;
        backend.rms_norm(hidden, &self.input_layernorm, eps, normed);
        backend.linear(normed, &[&self.q_proj, &self.k_proj, &self.v_proj], &mut [q, k, v]);
        let with_eps = |norm: &Option<B::Vector>| norm.is_some().then_some(eps);
        let q_norm = self.q_norm.as_ref().zip(with_eps(&self.q_norm));
        let k_norm = self.k_norm.as_ref().zip(with_eps(&self.k_norm));
        backend.rope(q, batch.positions, q_norm, &model.rope);
        backend.rope(k, batch.positions, k_norm, &model.rope);
        backend.attention(q, k, v, cache, index, batch, &self.attention, attended);
        backend.linear_add(attended, &self.o_proj, hidden);
    }

    /// `hidden += mlp(norm(hidden))`.
    fn feed_forward(&self, config: &Config, backend: &mut B, workspace: &mut Workspace<B>) {
        let Workspace { hidden, normed, .. } = workspace;
        backend.rms_norm(hidden, &self.post_attention_layernorm, config.rms_norm_eps, normed);
        match &self.mlp {
            FeedForward::Dense(mlp) => backend.gated_mlp(normed, mlp, hidden),
            FeedForward::Moe(moe) => backend.moe(normed, moe, hidden),
        }
    }
}

impl<L> FeedForward<L> {
    fn load<B: Backend<Linear = L>>(
        config: Option<&MoeConfig>,
        weights: Mlp,
        backend: &B,
    ) -> Result<Self, BackendError> {
        Ok(match weights {
            Mlp::Dense(mlp) => FeedForward::Dense(load_mlp(backend, mlp)?),
            Mlp::Moe { gate, experts } => FeedForward::Moe(Moe {
                gate: backend.load_linear(gate, None, Role::Router)?,
                experts: experts
                    .into_iter()
                    .map(|e| load_mlp(backend, e))
                    .collect::<Result<_, _>>()?,
                num_experts_per_tok: config.map_or(1, |moe| moe.num_experts_per_tok),
                norm_topk_prob: config.is_some_and(|moe| moe.norm_topk_prob),
            }),
        })
    }
}

fn load_mlp<B: Backend>(
    backend: &B,
    mlp: ExpertWeights,
) -> Result<GatedMlp<B::Linear>, BackendError> {
    Ok(GatedMlp {
        gate_proj: load_linear(backend, mlp.gate_proj)?,
        up_proj: load_linear(backend, mlp.up_proj)?,
        down_proj: load_linear(backend, mlp.down_proj)?,
    })
}

fn load_linear<B: Backend>(backend: &B, linear: LinearWeights) -> Result<B::Linear, BackendError> {
    backend.load_linear(linear.weight, linear.bias, Role::Projection)
}

fn attention_params(config: &Config, sliding_window: Option<usize>) -> AttentionParams {
    AttentionParams {
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        scale: 1.0 / (config.head_dim as f32).sqrt(),
        sliding_window,
    }
}
