//! The forward pass: one list of parts for all families, over any backend.

use backend::{
    Attention, AttentionParams, Backend, BackendError, Batch, Drawn, Draws, Dtype, GatedMlp,
    KV_BLOCK_SIZE, LinearWeight, Moe, Norm, Role, Storage, Weight,
};

use crate::rope::inv_freq;
use crate::weights::{ExpertWeights, LayerWeights, LinearWeights, Mlp, ModelWeights};
use crate::{Config, MoeConfig};

/// A model whose weights a backend has taken.
pub struct Transformer<B: Storage> {
    config: Config,
    embed_tokens: B::Table,
    layers: Vec<Layer<B>>,
    norm: Norm<B::Vector>,
    lm_head: B::Linear,
}

struct Layer<B: Storage> {
    input_layernorm: Norm<B::Vector>,
    qkv_proj: B::Linear,
    attention: Attention<B::Vector>,
    o_proj: B::Linear,
    post_attention_layernorm: Norm<B::Vector>,
    mlp: FeedForward<B>,
}

enum FeedForward<B: Storage> {
    Dense(B::Mlp),
    Moe(B::Moe),
}

/// Activations of one step, kept from step to step.
pub struct Workspace<B: Storage> {
    hidden: B::Buffer,
    qkv: B::Buffer,
    attended: B::Buffer,
}

impl<B: Storage> Transformer<B> {
    /// Hands the weights to the backend; `progress` is told the number of layers that are done after each.
    pub fn load(
        config: &Config,
        weights: ModelWeights,
        backend: &B,
        mut progress: impl FnMut(usize),
    ) -> Result<Self, BackendError> {
        let lm_head = weights.lm_head.unwrap_or_else(|| weights.embed_tokens.clone());
        let inv_freq = backend.load_vector(vector(&inv_freq(config)))?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for (index, weights) in weights.layers.into_iter().enumerate() {
            layers.push(Layer::load(config, index, weights, &inv_freq, backend)?);
            progress(index + 1);
        }
        let lm_head = vec![LinearWeight { weight: lm_head, bias: None }];
        let model = Transformer {
            config: config.clone(),
            embed_tokens: backend.load_table(weights.embed_tokens)?,
            layers,
            norm: load_norm(config, backend, weights.norm)?,
            lm_head: backend.load_linear(lm_head, Role::LmHead)?,
        };
        backend.finish_loading()?;
        Ok(model)
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
            qkv: backend.buffer(tokens_max, config.q_size() + 2 * config.kv_size())?,
            attended: backend.buffer(tokens_max, config.q_size())?,
        })
    }

    /// A cache for `tokens` tokens, rounded up to whole blocks.
    pub fn kv_cache(&self, backend: &B, tokens: usize) -> Result<B::KvCache, BackendError> {
        let params = attention_params(&self.config, None);
        backend.kv_cache(self.layers.len(), tokens.div_ceil(KV_BLOCK_SIZE), &params)
    }
}

impl<B: Backend> Transformer<B> {
    /// Runs the tokens of `batch` and leaves in `logits` those of `rows`: `[rows.len(), vocab_size]`. Workspace and cache
    /// must be the same in every step.
    ///
    /// # Errors
    /// Where the backend's device fails.
    pub fn step(
        &self,
        backend: &mut B,
        workspace: &mut Workspace<B>,
        cache: &mut B::KvCache,
        batch: &Batch<'_>,
        rows: &[u32],
        logits: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        backend.run(batch, rows, logits, |backend, logits| {
            self.forward(backend, workspace, cache, batch, rows, logits);
        })
    }

    /// The same, but `drawn` gets a token for each of `rows`, drawn as `choose` says, and `logits` only those of the rows
    /// `rows[kept[i]]`: `[kept.len(), vocab_size]`. See [`Backend::run_and_draw`].
    ///
    /// # Errors
    /// Where the backend's device fails.
    #[allow(clippy::too_many_arguments)] // those of `step` and three more
    pub fn step_and_draw(
        &self,
        backend: &mut B,
        workspace: &mut Workspace<B>,
        cache: &mut B::KvCache,
        batch: &Batch<'_>,
        rows: &[u32],
        kept: &[u32],
        choose: &mut (dyn FnMut(&mut Draws) + Send),
        drawn: &mut Vec<Drawn>,
        logits: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        backend.run_and_draw(batch, rows, kept, choose, drawn, logits, |backend, logits| {
            self.forward(backend, workspace, cache, batch, rows, logits);
        })
    }

    fn forward(
        &self,
        backend: &mut B,
        workspace: &mut Workspace<B>,
        cache: &mut B::KvCache,
        batch: &Batch<'_>,
        rows: &[u32],
        logits: &mut Vec<f32>,
    ) {
        let Workspace { hidden, qkv, attended } = workspace;
        backend.embed(&self.embed_tokens, batch.tokens, hidden);
        for (index, layer) in self.layers.iter().enumerate() {
            backend.linear(hidden, Some(&layer.input_layernorm), &layer.qkv_proj, qkv);
            backend.attention(qkv, &layer.attention, cache, index, batch, attended);
            backend.linear_add(attended, &layer.o_proj, hidden);
            let norm = &layer.post_attention_layernorm;
            match &layer.mlp {
                FeedForward::Dense(mlp) => backend.gated_mlp(hidden, norm, mlp),
                FeedForward::Moe(moe) => backend.moe(hidden, norm, moe),
            }
        }
        backend.logits(hidden, Some(&self.norm), rows, &self.lm_head, logits);
    }
}

impl<B: Storage> Layer<B> {
    fn load(
        config: &Config,
        index: usize,
        weights: LayerWeights,
        inv_freq: &B::Vector,
        backend: &B,
    ) -> Result<Self, BackendError> {
        let norm = |weight| load_norm(config, backend, weight);
        let qkv = [weights.q_proj, weights.k_proj, weights.v_proj].map(linear);
        Ok(Layer {
            input_layernorm: norm(weights.input_layernorm)?,
            qkv_proj: backend.load_linear(qkv.into(), Role::Projection)?,
            attention: Attention {
                params: attention_params(config, config.layers[index].sliding_window),
                q_norm: weights.q_norm.map(norm).transpose()?,
                k_norm: weights.k_norm.map(norm).transpose()?,
                inv_freq: inv_freq.clone(),
            },
            o_proj: backend.load_linear(vec![linear(weights.o_proj)], Role::Projection)?,
            post_attention_layernorm: norm(weights.post_attention_layernorm)?,
            mlp: FeedForward::load(config.moe.as_ref(), weights.mlp, backend)?,
        })
    }
}

impl<B: Storage> FeedForward<B> {
    fn load(config: Option<&MoeConfig>, weights: Mlp, backend: &B) -> Result<Self, BackendError> {
        Ok(match weights {
            Mlp::Dense(mlp) => FeedForward::Dense(backend.load_mlp(gated_mlp(mlp))?),
            Mlp::Moe { gate, experts } => FeedForward::Moe(backend.load_moe(Moe {
                gate: LinearWeight { weight: gate, bias: None },
                experts: experts.into_iter().map(gated_mlp).collect(),
                num_experts_per_tok: config.map_or(1, |moe| moe.num_experts_per_tok),
                norm_topk_prob: config.is_some_and(|moe| moe.norm_topk_prob),
            })?),
        })
    }
}

fn gated_mlp(expert: ExpertWeights) -> GatedMlp<LinearWeight> {
    GatedMlp {
        gate_proj: linear(expert.gate_proj),
        up_proj: linear(expert.up_proj),
        down_proj: linear(expert.down_proj),
    }
}

fn linear(linear: LinearWeights) -> LinearWeight {
    LinearWeight { weight: linear.weight, bias: linear.bias }
}

fn load_norm<B: Storage>(
    config: &Config,
    backend: &B,
    weight: Weight,
) -> Result<Norm<B::Vector>, BackendError> {
    Ok(Norm { weight: backend.load_vector(weight)?, eps: config.rms_norm_eps })
}

/// Numbers as a weight.
fn vector(values: &[f32]) -> Weight {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Weight::Dense { dtype: Dtype::F32, shape: vec![values.len()], bytes: bytes.into() }
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
