//! How many bytes of weights a decoded token reads.

use backend::{Precision, Weight};
use model::{Config, ExpertWeights, LinearWeights, Mlp, ModelWeights};

/// Elements that share a scale where the CPU rounds a 16-bit `lm_head` to 8 bits.
const INT8_BLOCK: usize = 64;

/// Bytes of the weights that one token is computed with: of a mixture, the experts it goes to (which are all of one
/// size). Embeddings are a row, and not counted; nor are keys and values, which grow with the context.
pub(super) fn bytes_per_token(
    config: &Config,
    weights: &ModelWeights,
    precision: Precision,
) -> u64 {
    let active = config.moe.map_or(0, |moe| moe.num_experts_per_tok);
    let layers = weights.layers.iter().map(|layer| {
        let norms = [&layer.input_layernorm, &layer.post_attention_layernorm];
        let norms: usize = norms
            .into_iter()
            .chain(&layer.q_norm)
            .chain(&layer.k_norm)
            .map(Weight::num_bytes)
            .sum();
        let attention: usize =
            [&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj].map(linear).iter().sum();
        norms + attention + mlp(&layer.mlp, active)
    });
    let head = lm_head(weights.lm_head.as_ref().unwrap_or(&weights.embed_tokens), precision);
    (layers.sum::<usize>() + weights.norm.num_bytes() + head) as u64
}

fn mlp(mlp: &Mlp, active: usize) -> usize {
    match mlp {
        Mlp::Dense(mlp) => gated(mlp),
        Mlp::Moe { gate, experts } => {
            gate.num_bytes() + experts.iter().take(active).map(gated).sum::<usize>()
        }
    }
}

fn gated(mlp: &ExpertWeights) -> usize {
    [&mlp.gate_proj, &mlp.up_proj, &mlp.down_proj].map(linear).iter().sum()
}

fn linear(linear: &LinearWeights) -> usize {
    linear.weight.num_bytes() + linear.bias.as_ref().map_or(0, Weight::num_bytes)
}

/// A 16-bit head lies in memory as 8-bit integers, with an f16 scale for every block, where activations are 8-bit.
fn lm_head(weight: &Weight, precision: Precision) -> usize {
    let shape = weight.shape();
    match weight {
        Weight::Dense { .. }
            if precision == Precision::Int8 && shape[1].is_multiple_of(INT8_BLOCK) =>
        {
            let len = shape[0] * shape[1];
            len + 2 * len / INT8_BLOCK
        }
        weight => weight.num_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_weights::{self, LmHead};
    use crate::shapes::Shape;

    /// Of 24 layers of Qwen2.5-0.5B 357.9 million elements are in matrices, and 136.1 million in the tied head.
    #[test]
    fn a_dense_model_reads_all_but_its_embeddings() {
        let config = Shape::find("qwen2.5-0.5b").unwrap().config().unwrap();
        let weights = random_weights::generate(&config, LmHead::Bf16, |_| {});
        let f32 = bytes_per_token(&config, &weights, Precision::F32);
        assert!(
            (f32 as f64 / (357.9e6 * 4.127 / 8.0 + 136.1e6 * 2.0) - 1.0).abs() < 0.002,
            "{f32}"
        );
        let int8 = bytes_per_token(&config, &weights, Precision::Int8);
        assert_eq!(f32 - int8, 151_936 * 896 - 151_936 * 896 / 32);
    }
}
