//! Random weights of a given shape: as fast and as large as real ones, and as meaningless as they are random.

use backend::Weight;
use bytes::Bytes;
use model::{Config, ExpertWeights, LayerWeights, LinearWeights, Mlp, ModelWeights};
use quant::{Absmax, Dtype, NESTED_BLOCKSIZE, PackedTensor, QuantConfig, dynamic_map};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use crate::memory::packed_bytes;

/// Bytes that one task fills.
const PIECE: usize = 1 << 20;

/// Form of the projection to the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LmHead {
    /// 16 bits, as bitsandbytes leaves it
    Bf16,
    /// 4 bits like the rest
    Nf4,
}

/// Weights of a model with this config: NF4 in blocks of 64 with double quantization, embeddings bf16, norms 1.
///
/// `progress` is told the number of layers that are done.
pub(crate) fn generate(
    config: &Config,
    lm_head: LmHead,
    progress: impl FnMut(usize),
) -> ModelWeights {
    let mut seed = 0;
    let mut make = |part: Part, shape: &[usize]| {
        seed += 1;
        part.random(shape, seed)
    };
    assemble(config, lm_head, &mut make, progress)
}

/// Weights of the same shapes that a GPU makes up by itself: matrices without bytes.
pub(crate) fn shapes(config: &Config, lm_head: LmHead) -> ModelWeights {
    let mut make = |part: Part, shape: &[usize]| match part {
        Part::Norm => part.random(shape, 0),
        _ => part.shape(shape),
    };
    let mut weights = assemble(config, lm_head, &mut make, |_| {});
    // The table is read by the host, and a tied head is it.
    let vocabulary = [config.vocab_size, config.hidden_size];
    weights.embed_tokens = Part::Dense.random(&vocabulary, 1);
    weights
}

/// The same without a single byte: what it takes to plan.
pub(crate) fn outline(config: &Config, lm_head: LmHead) -> ModelWeights {
    assemble(config, lm_head, &mut |part: Part, shape: &[usize]| part.shape(shape), |_| {})
}

/// Bytes that [`generate`] would take.
pub(crate) fn num_bytes(config: &Config, lm_head: LmHead) -> u64 {
    let mut bytes = 0;
    let mut count = |part: Part, shape: &[usize]| {
        bytes += part.num_bytes(shape);
        Weight::Dense { dtype: Dtype::Bf16, shape: shape.to_vec(), bytes: Bytes::new() }
    };
    assemble(config, lm_head, &mut count, |_| {});
    bytes
}

/// What a weight is, as far as its random values go.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// A 4-bit matrix.
    Linear,
    /// A bf16 matrix, or a bias.
    Dense,
    /// All ones.
    Norm,
}

impl Part {
    fn num_bytes(self, shape: &[usize]) -> u64 {
        let len: usize = shape.iter().product();
        match self {
            Part::Linear => packed_bytes(len, QuantConfig::default()),
            Part::Dense | Part::Norm => 2 * len as u64,
        }
    }

    /// The weight without its bytes.
    fn shape(self, shape: &[usize]) -> Weight {
        let (len, columns) = (shape.iter().product(), shape.last().copied().unwrap_or(1));
        let Part::Linear = self else { return dense(shape, Bytes::new()) };
        let mut tensor = PackedTensor { packed: Bytes::new(), ..packed(shape, len, columns) };
        if let Absmax::Nested { codes, .. } = &mut tensor.absmax {
            *codes = Bytes::new();
        }
        Weight::Packed(tensor)
    }

    /// Matrices have entries of about `1 / sqrt(columns)`, so that activations keep their size from layer to layer.
    fn random(self, shape: &[usize], seed: u64) -> Weight {
        let len: usize = shape.iter().product();
        let columns = shape.last().copied().unwrap_or(1);
        match self {
            Part::Linear => Weight::Packed(random_packed(shape, len, columns, seed)),
            Part::Dense => dense(shape, random_bf16(len, columns, seed)),
            // 1 in bf16.
            Part::Norm => dense(shape, [0x80, 0x3f].repeat(len).into()),
        }
    }
}

fn dense(shape: &[usize], bytes: Bytes) -> Weight {
    Weight::Dense { dtype: Dtype::Bf16, shape: shape.to_vec(), bytes }
}

/// Uniformly random codes and scales.
fn random_packed(shape: &[usize], len: usize, columns: usize, seed: u64) -> PackedTensor {
    let mut tensor = packed(shape, len, columns);
    tensor.packed = random_bytes(len.div_ceil(2), 2 * seed);
    if let Absmax::Nested { codes, .. } = &mut tensor.absmax {
        *codes = random_bytes(len.div_ceil(tensor.blocksize), 2 * seed + 1);
    }
    tensor
}

/// A tensor whose codes are still to come. The values of uniformly random codes have a root mean square of 0.55, and a mean
/// that is not zero; scales of both signs take it away. Were it left, every layer would draw all tokens further into
/// one direction, until all went to the same experts.
fn packed(shape: &[usize], len: usize, columns: usize) -> PackedTensor {
    let QuantConfig { quant_type, blocksize, .. } = QuantConfig::default();
    let blocks = len.div_ceil(blocksize);
    let map = dynamic_map();
    let of_scales = (map.iter().map(|v| v * v).sum::<f32>() / map.len() as f32).sqrt();
    let nested = 1.0 / (0.55 * of_scales * (columns as f32).sqrt());
    PackedTensor {
        quant_type,
        blocksize,
        shape: shape.to_vec(),
        packed: Bytes::new(),
        absmax: Absmax::Nested {
            codes: Bytes::new(),
            map,
            nested_absmax: vec![nested; blocks.div_ceil(NESTED_BLOCKSIZE)].into(),
            blocksize: NESTED_BLOCKSIZE,
            offset: 0.0,
            first: 0,
        },
    }
}

/// Either sign, magnitudes from `1 / sqrt(columns)`, rounded to a power of two, to twice that.
fn random_bf16(len: usize, columns: usize, seed: u64) -> Bytes {
    let exponent = 127 - ((columns as f32).log2() / 2.0).round() as u16;
    let mut bytes = random_bytes(2 * len, 2 * seed).try_into_mut().unwrap_or_else(|b| b[..].into());
    bytes.par_chunks_mut(PIECE).for_each(|piece| {
        for raw in piece.chunks_exact_mut(2) {
            let bits = u16::from_le_bytes([raw[0], raw[1]]) & 0x807f | exponent << 7;
            raw.copy_from_slice(&bits.to_le_bytes());
        }
    });
    bytes.freeze()
}

fn random_bytes(len: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; len];
    bytes.par_chunks_mut(PIECE).enumerate().for_each(|(i, piece)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(i as u64);
        rng.fill_bytes(piece);
    });
    bytes.into()
}

fn assemble(
    config: &Config,
    lm_head: LmHead,
    make: &mut impl FnMut(Part, &[usize]) -> Weight,
    mut progress: impl FnMut(usize),
) -> ModelWeights {
    let hidden = config.hidden_size;
    let vocabulary = [config.vocab_size, hidden];
    let part = match lm_head {
        LmHead::Bf16 => Part::Dense,
        LmHead::Nf4 => Part::Linear,
    };
    // A head in another form than the embeddings is a matrix of its own even where the model ties them.
    let own_head = !config.tie_word_embeddings || lm_head == LmHead::Nf4;
    let embed_tokens = make(Part::Dense, &vocabulary);
    let layers = (0..config.num_hidden_layers).map(|index| {
        let layer = layer(config, index, make);
        progress(index + 1);
        layer
    });
    ModelWeights {
        embed_tokens,
        layers: layers.collect(),
        norm: make(Part::Norm, &[hidden]),
        lm_head: own_head.then(|| make(part, &vocabulary)),
    }
}

fn layer(
    config: &Config,
    index: usize,
    make: &mut impl FnMut(Part, &[usize]) -> Weight,
) -> LayerWeights {
    let (hidden, q, kv) = (config.hidden_size, config.q_size(), config.kv_size());
    LayerWeights {
        input_layernorm: make(Part::Norm, &[hidden]),
        q_proj: linear([q, hidden], config.attention_bias, make),
        k_proj: linear([kv, hidden], config.attention_bias, make),
        v_proj: linear([kv, hidden], config.attention_bias, make),
        o_proj: linear([hidden, q], config.o_proj_bias, make),
        q_norm: config.family.has_qk_norm().then(|| make(Part::Norm, &[config.head_dim])),
        k_norm: config.family.has_qk_norm().then(|| make(Part::Norm, &[config.head_dim])),
        post_attention_layernorm: make(Part::Norm, &[hidden]),
        mlp: match &config.moe {
            Some(moe) if config.layers[index].is_moe => Mlp::Moe {
                gate: make(Part::Linear, &[moe.num_experts, hidden]),
                experts: (0..moe.num_experts)
                    .map(|_| gated(hidden, moe.moe_intermediate_size, false, make))
                    .collect(),
            },
            _ => Mlp::Dense(gated(hidden, config.intermediate_size, config.mlp_bias, make)),
        },
    }
}

fn gated(
    hidden: usize,
    width: usize,
    bias: bool,
    make: &mut impl FnMut(Part, &[usize]) -> Weight,
) -> ExpertWeights {
    ExpertWeights {
        gate_proj: linear([width, hidden], bias, make),
        up_proj: linear([width, hidden], bias, make),
        down_proj: linear([hidden, width], bias, make),
    }
}

fn linear(
    shape: [usize; 2],
    bias: bool,
    make: &mut impl FnMut(Part, &[usize]) -> Weight,
) -> LinearWeights {
    LinearWeights {
        weight: make(Part::Linear, &shape),
        bias: bias.then(|| make(Part::Dense, &shape[..1])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_weights_are_valid_and_of_the_right_size() {
        let Weight::Packed(tensor) = Part::Linear.random(&[96, 1024], 1) else {
            panic!("not packed")
        };
        tensor.validate().unwrap();
        assert_eq!(tensor.num_bytes() as u64, Part::Linear.num_bytes(&[96, 1024]));
        let square: f64 = (0..tensor.len()).map(|i| f64::from(tensor.get(i)).powi(2)).sum();
        let rms = (square / tensor.len() as f64).sqrt();
        // Scales spread by a fifth about their mean: the root mean square stays within a tenth of 1/32.
        assert!((rms * 32.0 - 1.0).abs() < 0.1, "{rms}");
    }

    #[test]
    fn dense_weights_are_small_and_of_either_sign() {
        let bytes = random_bf16(10_000, 1024, 1);
        let values: Vec<f32> = bytes
            .chunks_exact(2)
            .map(|raw| f32::from_bits(u32::from(u16::from_le_bytes([raw[0], raw[1]])) << 16))
            .collect();
        assert!(values.iter().all(|v| (1.0 / 32.0..1.0 / 16.0).contains(&v.abs())));
        assert!(values.iter().any(|&v| v > 0.0) && values.iter().any(|&v| v < 0.0));
    }

    #[test]
    fn a_seed_gives_the_same_bytes_on_any_number_of_threads() {
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let len = 3 * PIECE + 17;
        assert_eq!(one.install(|| random_bytes(len, 5)), random_bytes(len, 5));
        assert_ne!(random_bytes(64, 5), random_bytes(64, 6));
    }
}
