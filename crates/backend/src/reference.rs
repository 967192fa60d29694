//! Every operation in its plainest form, in `f64`: slow, and what the backends are tested against.

use quant::Values;

use crate::{AttentionParams, Draw, Weight};

/// Values of a weight, row-major.
///
/// # Panics
/// If the weight's bytes do not fit its shape.
pub fn values(weight: &Weight) -> Vec<f64> {
    match weight {
        Weight::Packed(tensor) => (0..tensor.len()).map(|i| f64::from(tensor.get(i))).collect(),
        Weight::Dense { dtype, bytes, .. } => {
            let values = Values::from_le_bytes(*dtype, bytes).expect("bytes fit the type");
            values.iter().map(f64::from).collect()
        }
    }
}

/// `x [m, k]` times `weight [n, k]` transposed, plus `bias [n]`: `[m, n]`.
pub fn linear(x: &[f64], weight: &[f64], k: usize, bias: Option<&[f64]>) -> Vec<f64> {
    x.chunks_exact(k)
        .flat_map(|x| {
            weight
                .chunks_exact(k)
                .enumerate()
                .map(move |(n, w)| dot(x, w) + bias.map_or(0.0, |bias| bias[n]))
        })
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `x / sqrt(mean(x^2) + eps) * weight`, for rows as long as `weight`.
pub fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    x.chunks_exact(weight.len())
        .flat_map(|x| {
            let scale = (dot(x, x) / x.len() as f64 + eps).sqrt().recip();
            x.iter().zip(weight).map(move |(x, w)| x * scale * w)
        })
        .collect()
}

/// Rotates heads of `2 * inv_freq.len()` elements; row `i` of `x` stands at `positions[i]`.
pub fn rope(x: &mut [f64], positions: &[u32], inv_freq: &[f32]) {
    let cols = x.len() / positions.len();
    let half = inv_freq.len();
    for (row, &position) in x.chunks_exact_mut(cols).zip(positions) {
        for head in row.chunks_exact_mut(2 * half) {
            for i in 0..half {
                // The angle is rounded to f32, as in the implementations that models were trained with.
                let (sin, cos) = f64::from(position as f32 * inv_freq[i]).sin_cos();
                let (a, b) = (head[i], head[i + half]);
                (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }
}

/// Causal attention of the last `q.len()` rows of one sequence to all its keys and values.
///
/// `q [rows, heads * head_dim]`, `k` and `v` `[context, key heads * head_dim]`.
pub fn attention(q: &[f64], k: &[f64], v: &[f64], params: &AttentionParams) -> Vec<f64> {
    let (d, heads, key_heads) =
        (params.head_dim, params.num_attention_heads, params.num_key_value_heads);
    let rows = q.len() / (heads * d);
    let context = k.len() / (key_heads * d);
    let mut out = Vec::with_capacity(q.len());
    for row in 0..rows {
        let position = context - rows + row;
        let first = params.sliding_window.map_or(0, |w| (position + 1).saturating_sub(w));
        for head in 0..heads {
            let key_head = head / (heads / key_heads);
            let q = &q[(row * heads + head) * d..][..d];
            let at = |x: &'_ [f64], j: usize| x[(j * key_heads + key_head) * d..][..d].to_vec();
            let mut p: Vec<f64> =
                (first..=position).map(|j| dot(q, &at(k, j)) * f64::from(params.scale)).collect();
            softmax(&mut p);
            let mut sum = vec![0.0; d];
            for (p, j) in p.iter().zip(first..) {
                sum.iter_mut().zip(at(v, j)).for_each(|(s, v)| *s += p * v);
            }
            out.extend(sum);
        }
    }
    out
}

/// Softmax in place.
pub fn softmax(x: &mut [f64]) {
    let max = x.iter().fold(f64::NEG_INFINITY, |max, &v| max.max(v));
    x.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: f64 = x.iter().sum();
    x.iter_mut().for_each(|v| *v /= sum);
}

/// `down(silu(gate(x)) * up(x))` for one row; weights as `linear` takes them.
pub fn gated_mlp(x: &[f64], gate: &[f64], up: &[f64], down: &[f64]) -> Vec<f64> {
    let gate = linear(x, gate, x.len(), None);
    let up = linear(x, up, x.len(), None);
    let h: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
    linear(&h, down, h.len(), None)
}

/// Experts and their weights for one row of router scores: the `top_k` most probable, ties to the lower index.
pub fn route(scores: &[f64], top_k: usize, norm_topk_prob: bool) -> Vec<(usize, f64)> {
    let mut p = scores.to_vec();
    softmax(&mut p);
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    order.truncate(top_k);
    let sum: f64 = order.iter().map(|&e| p[e]).sum();
    order.into_iter().map(|e| (e, if norm_topk_prob { p[e] / sum } else { p[e] })).collect()
}

/// The tokens that a draw may give, each with its probability, in the order in which `uniform` meets them: that of ids, or
/// from the most probable on (ties: the lower id first) where `top_k` or `top_p` cut. `masks` as in [`crate::Draws`].
pub fn distribution(logits: &[f32], how: &Draw, masks: &[u32]) -> Vec<(u32, f64)> {
    cut_distribution(logits, how, masks, 0.0)
}

/// How far `uniform` lies from where `token` is drawn: 0 within, infinite if it never is. Where a token is the last within
/// `top_p` or `min_p`, or the first beyond, by a millionth, either will do.
pub fn draw_distance(logits: &[f32], how: &Draw, masks: &[u32], token: u32) -> f64 {
    let distance = |slack| {
        let mut start = 0.0;
        for (candidate, p) in cut_distribution(logits, how, masks, slack) {
            if candidate == token {
                return (start - how.uniform).max(how.uniform - start - p).max(0.0);
            }
            start += p;
        }
        f64::INFINITY
    };
    let exact = distance(0.0);
    if exact == 0.0 { 0.0 } else { exact.min(distance(1e-6)).min(distance(-1e-6)) }
}

/// [`distribution`] with cuts that keep relatively so much more.
fn cut_distribution(logits: &[f32], how: &Draw, masks: &[u32], slack: f64) -> Vec<(u32, f64)> {
    let allowed = |token: usize| match how.mask {
        None => true,
        Some(mask) => {
            let first = mask as usize * logits.len().div_ceil(32);
            masks[first + token / 32] & (1 << (token % 32)) != 0
        }
    };
    let tokens = (0..logits.len()).filter(|&token| allowed(token));
    let mut tokens: Vec<(u32, f64)> =
        tokens.map(|token| (token as u32, f64::from(logits[token]))).collect();
    let max = tokens.iter().fold(f64::NEG_INFINITY, |max, &(_, logit)| max.max(logit));
    tokens.retain(|&(_, logit)| logit > f64::NEG_INFINITY);
    if how.temperature == 0.0 {
        tokens.retain(|&(_, logit)| logit == max);
        tokens.truncate(1);
    }
    let temperature = if how.temperature == 0.0 { 1.0 } else { f64::from(how.temperature) };
    tokens.iter_mut().for_each(|(_, weight)| *weight = ((*weight - max) / temperature).exp());
    tokens.retain(|&(_, weight)| weight >= f64::from(how.min_p) * (1.0 - slack));
    if how.top_k > 0 || how.top_p < 1.0 {
        tokens.sort_by(|a, b| b.1.total_cmp(&a.1));
        tokens.truncate(if how.top_k > 0 { how.top_k as usize } else { tokens.len() });
        let total: f64 = tokens.iter().map(|&(_, weight)| weight).sum();
        let enough = f64::from(how.top_p) * (1.0 + slack) * total;
        let mut sum = 0.0;
        let reaches = |&(_, weight): &(u32, f64)| {
            sum += weight;
            sum >= enough
        };
        let end = tokens.iter().position(reaches).map_or(tokens.len(), |last| last + 1);
        tokens.truncate(end);
    }
    let total: f64 = tokens.iter().map(|&(_, weight)| weight).sum();
    tokens.iter_mut().for_each(|(_, weight)| *weight /= total);
    tokens
}
