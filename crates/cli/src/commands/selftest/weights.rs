//! Small models with random weights, in which one part does the work and the others are out of the way.

use anyhow::Result;
use backend::Weight;
use bytes::Bytes;
use model::{Config, ExpertWeights, LayerWeights, LinearWeights, Mlp, ModelWeights};
use quant::{Absmax, Dtype, PackedTensor, QuantConfig, QuantType, quantize};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The form of a model's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// 4 bits, quantized from random numbers.
    Packed(QuantConfig),
    /// NF4 with double quantization whose codes are drawn themselves: for matrices that would take long to quantize.
    Drawn,
    Bf16,
    /// Every matrix in another form than the one before it.
    Mixed,
}

/// NF4 in blocks of 64 with double quantization.
pub(super) const NF4: QuantConfig =
    QuantConfig { quant_type: QuantType::Nf4, blocksize: 64, double_quant: true };

/// What a model is for: the other parts of its layers add nothing to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Embedding, last norm and the projection to the vocabulary.
    Head,
    Attention,
    FeedForward,
    All,
}

/// How the weights of a model are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    pub(super) part: Part,
    pub(super) form: Form,
    pub(super) lm_head: Form,
    /// Root mean square of the scores of attention: the larger, the fewer keys a query looks at.
    pub(super) spread: f32,
}

/// Embeddings are small beside what a layer adds to them, so that an error there is not hidden.
const EMBEDDING: f32 = 1.0 / 64.0;

/// Makes the weights; the same `seed`, the same weights.
pub(super) fn make(config: &Config, recipe: Recipe, seed: u64) -> Result<ModelWeights> {
    let mut maker = Maker { rng: ChaCha8Rng::seed_from_u64(seed), recipe, made: 0 };
    let layers = (0..config.num_hidden_layers).map(|index| maker.layer(config, index));
    let layers = layers.collect::<Result<_>>()?;
    let vocabulary = [config.vocab_size, config.hidden_size];
    Ok(ModelWeights {
        embed_tokens: maker.embeddings(config),
        layers,
        norm: maker.norm(config.hidden_size, 1.0),
        lm_head: Some(maker.matrix(recipe.lm_head, vocabulary, 1.0, 0)?),
    })
}

struct Maker {
    rng: ChaCha8Rng,
    recipe: Recipe,
    /// Matrices so far.
    made: usize,
}

impl Maker {
    fn layer(&mut self, config: &Config, index: usize) -> Result<LayerWeights> {
        let Recipe { part, spread, .. } = self.recipe;
        let (hidden, q, kv) = (config.hidden_size, config.q_size(), config.kv_size());
        let has_norms = config.family.has_qk_norm();
        // Normed heads have that size whatever the projection gives.
        let (gain, norm_gain) = if has_norms { (1.0, spread) } else { (spread, 1.0) };
        let attends = matches!(part, Part::Attention | Part::All);
        let feeds = matches!(part, Part::FeedForward | Part::All);
        let bias = config.attention_bias;
        let fixed = self.fixed_columns(config);
        Ok(LayerWeights {
            input_layernorm: self.norm(hidden, 1.0),
            q_proj: self.linear([q, hidden], gain, bias, 0)?,
            k_proj: self.linear([kv, hidden], 1.0, bias, 0)?,
            v_proj: self.linear([kv, hidden], 1.0, bias, 0)?,
            o_proj: match attends {
                true => self.linear([hidden, q], 1.0, config.o_proj_bias, fixed)?,
                false => nothing([hidden, q]),
            },
            q_norm: has_norms.then(|| self.norm(config.head_dim, norm_gain)),
            k_norm: has_norms.then(|| self.norm(config.head_dim, 1.0)),
            post_attention_layernorm: self.norm(hidden, 1.0),
            mlp: match &config.moe {
                Some(moe) if config.layers[index].is_moe => {
                    let width = moe.moe_intermediate_size;
                    let experts =
                        (0..moe.num_experts).map(|_| self.gated(hidden, width, feeds, fixed));
                    let experts = experts.collect::<Result<_>>()?;
                    Mlp::Moe { gate: self.router(moe.num_experts, hidden), experts }
                }
                _ => Mlp::Dense(self.gated(hidden, config.intermediate_size, feeds, fixed)?),
            },
        })
    }

    fn gated(
        &mut self,
        hidden: usize,
        width: usize,
        feeds: bool,
        fixed: usize,
    ) -> Result<ExpertWeights> {
        Ok(ExpertWeights {
            gate_proj: self.linear([width, hidden], 1.0, false, 0)?,
            up_proj: self.linear([width, hidden], 1.0, false, 0)?,
            down_proj: match feeds {
                true => self.linear([hidden, width], 2.0, false, fixed)?,
                false => nothing([hidden, width]),
            },
        })
    }

    /// The first columns of the residual stream that no layer changes: where attention comes before a router, its
    /// rounding errors must not decide which experts a token takes.
    fn fixed_columns(&self, config: &Config) -> usize {
        match (self.recipe.part, &config.moe) {
            (Part::All, Some(moe)) => moe.num_experts,
            _ => 0,
        }
    }

    /// Where the residual stream is exact (a layer whose attention adds nothing) any router will do: its scores are
    /// computed in `f32`. Else expert `i` reads nothing but column `i`, which no layer changes.
    fn router(&mut self, experts: usize, hidden: usize) -> Weight {
        if self.recipe.part != Part::All {
            let values = self.numbers(experts * hidden, 1.0 / (hidden as f32).sqrt());
            return dense([experts, hidden].into(), &values);
        }
        let one = |i: usize| f32::from(u8::from(i / hidden == i % hidden));
        let values: Vec<f32> = (0..experts * hidden).map(one).collect();
        dense([experts, hidden].into(), &values)
    }

    /// Small numbers; in the fixed columns an order of the experts, another for the next token.
    fn embeddings(&mut self, config: &Config) -> Weight {
        let (rows, hidden, fixed) =
            (config.vocab_size, config.hidden_size, self.fixed_columns(config));
        let mut values = self.numbers(rows * hidden, EMBEDDING);
        for (token, row) in values.chunks_exact_mut(hidden).enumerate() {
            for (expert, value) in row[..fixed].iter_mut().enumerate() {
                *value = ((expert + token) % fixed + 1) as f32 * EMBEDDING;
            }
        }
        dense([rows, hidden].into(), &values)
    }

    /// Between a half and one and a half, times `gain`.
    fn norm(&mut self, len: usize, gain: f32) -> Weight {
        let values = self.numbers(len, 0.5 / 3.0_f32.sqrt());
        dense(vec![len], &values.iter().map(|v| (v + 1.0) * gain).collect::<Vec<_>>())
    }

    fn linear(
        &mut self,
        shape: [usize; 2],
        gain: f32,
        bias: bool,
        fixed: usize,
    ) -> Result<LinearWeights> {
        let weight = self.matrix(self.recipe.form, shape, gain, fixed)?;
        let bias = bias.then(|| dense(vec![shape[0]], &self.numbers(shape[0], 0.5 * gain)));
        Ok(LinearWeights { weight, bias })
    }

    /// Entries of about `gain / sqrt(k)`; the first `fixed` rows are zeros.
    fn matrix(
        &mut self,
        form: Form,
        [n, k]: [usize; 2],
        gain: f32,
        fixed: usize,
    ) -> Result<Weight> {
        self.made += 1;
        let size = gain / (k as f32).sqrt();
        let config = match (form, self.made % 3) {
            (Form::Drawn, _) => return Ok(Weight::Packed(self.drawn([n, k], size)?)),
            (Form::Packed(config), _) => Some(config),
            (Form::Mixed, 0) => Some(NF4),
            (Form::Mixed, 1) => Some(QuantConfig { double_quant: false, ..NF4 }),
            (Form::Bf16 | Form::Mixed, _) => None,
        };
        let mut values = self.numbers(n * k, size);
        values[..fixed * k].fill(0.0);
        Ok(match config {
            Some(config) => Weight::Packed(quantize(&values, &[n, k], config)?),
            None => dense(vec![n, k], &values),
        })
    }

    /// Any codes, under scales that differ. Uniform codes of NF4 have a root mean square of 0.55.
    fn drawn(&mut self, [n, k]: [usize; 2], size: f32) -> Result<PackedTensor> {
        let mut packed = vec![0; n * k / 2];
        self.rng.fill_bytes(&mut packed);
        let absmax: Vec<f32> = self.numbers(n * k / 64, 0.25).iter().map(|v| v + 1.0).collect();
        let absmax: Vec<f32> = absmax.iter().map(|v| v * size / 0.55).collect();
        Ok(PackedTensor {
            quant_type: QuantType::Nf4,
            blocksize: 64,
            shape: vec![n, k],
            packed: packed.into(),
            absmax: Absmax::nested(&absmax)?,
        })
    }

    /// Uniform, of mean 0 and root mean square `size`.
    fn numbers(&mut self, len: usize, size: f32) -> Vec<f32> {
        let scale = size * 3.0_f32.sqrt() / (1u32 << 31) as f32;
        (0..len).map(|_| self.rng.next_u32().cast_signed() as f32 * scale).collect()
    }
}

/// The upper halves of the numbers: bf16.
fn dense(shape: Vec<usize>, values: &[f32]) -> Weight {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| {
            let [_, _, low, high] = value.to_le_bytes();
            [low, high]
        })
        .collect();
    Weight::Dense { dtype: Dtype::Bf16, shape, bytes: bytes.into() }
}

/// A projection that gives zeros.
fn nothing([n, k]: [usize; 2]) -> LinearWeights {
    let bytes = Bytes::from(vec![0; 2 * n * k]);
    let weight = Weight::Dense { dtype: Dtype::Bf16, shape: vec![n, k], bytes };
    LinearWeights { weight, bias: None }
}
