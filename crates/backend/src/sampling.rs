//! From logits to a token: the arithmetic, which a device may do by itself.

/// How a token is drawn: temperature, then `min_p`, `top_k` and `top_p`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Where in the distribution the token lies, in [0, 1): what chance decides.
    pub uniform: f64,
    /// Divides the logits; 0 takes the most probable token and ignores the rest.
    pub temperature: f32,
    /// Keeps the `top_k` most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the most probable tokens whose probabilities first reach `top_p`; in (0, 1].
    pub top_p: f32,
    /// Drops tokens less probable than `min_p` times the most probable one; in [0, 1].
    pub min_p: f32,
}

impl Draw {
    /// The most probable token.
    pub const GREEDY: Draw =
        Draw { uniform: 0.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
}

/// A token that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: u32,
    /// Its log-probability under the model, before temperature.
    pub logprob: f32,
    /// Whether all logits of the row were numbers, and one at least above minus infinity.
    pub is_finite: bool,
}

/// Draws a token on the host.
///
/// # Panics
/// If there are no logits.
pub fn draw(logits: &[f32], how: &Draw) -> Drawn {
    let token = if how.temperature == 0.0 { argmax(logits) } else { choose(logits, how) };
    Drawn {
        token,
        logprob: logits[token as usize] - log_sum_exp(logits),
        is_finite: logits.iter().all(|logit| logit.is_finite()),
    }
}

fn choose(logits: &[f32], how: &Draw) -> u32 {
    let max = logits[argmax(logits) as usize];
    // exp((logit - max) / temperature) is the probability relative to the most probable token's.
    let threshold =
        if how.min_p > 0.0 { how.min_p.ln() * how.temperature + max } else { f32::NEG_INFINITY };
    let kept = (0u32..).zip(logits).filter(|&(_, &logit)| logit >= threshold);
    let weight = |logit: f32| ((logit - max) / how.temperature).exp();
    let mut candidates: Vec<(u32, f32)> =
        kept.map(|(token, &logit)| (token, weight(logit))).collect();
    if how.top_k > 0 || how.top_p < 1.0 {
        keep_most_probable(&mut candidates, how.top_k as usize, how.top_p);
    }
    let total: f64 = candidates.iter().map(|&(_, weight)| f64::from(weight)).sum();
    let mut rest = how.uniform * total;
    for &(token, weight) in &candidates {
        rest -= f64::from(weight);
        if rest < 0.0 {
            return token;
        }
    }
    // Rounding left a remainder: the last token with any weight.
    candidates.iter().rev().find(|&&(_, weight)| weight > 0.0).map_or(0, |&(token, _)| token)
}

/// Sorts by weight (ties by id) and cuts after `top_k` tokens, then where `top_p` of the remaining weight is reached.
fn keep_most_probable(candidates: &mut Vec<(u32, f32)>, top_k: usize, top_p: f32) {
    let by_weight = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k - 1, by_weight);
        candidates.truncate(top_k);
    }
    candidates.sort_unstable_by(by_weight);
    let total: f64 = candidates.iter().map(|&(_, weight)| f64::from(weight)).sum();
    let mut sum = 0.0;
    let reaches = |&(_, weight): &(u32, f32)| {
        sum += f64::from(weight);
        sum >= f64::from(top_p) * total
    };
    let end = candidates.iter().position(reaches).map_or(candidates.len(), |last| last + 1);
    candidates.truncate(end);
}

/// The index of the largest value, the first of equals; 0 if all are NaN.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &logit) in (0u32..).zip(logits) {
        if logit > best.1 {
            best = (i, logit);
        }
    }
    best.0
}

/// `ln(sum(exp(logits)))`, what turns a logit into a log-probability.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &v| max.max(v));
    let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
    max + sum.ln() as f32
}
