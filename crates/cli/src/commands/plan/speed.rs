//! How fast decoding can be: no faster than a step's bytes come out of the card's memory.

use cuda::MemoryPlan;
use model::Config;

/// What an H200 reached of the bound below, by sequences at once: decode of mixtral-8x7b after 128 tokens in LOG.md, over the
/// bound at the card's 4.8 TB/s.
const MEASURED: [(u16, f64); 7] =
    [(1, 0.564), (4, 0.630), (8, 0.549), (16, 0.487), (32, 0.448), (64, 0.399), (128, 0.345)];

/// What was measured there, for messages.
pub(super) const MEASURED_WITH: &str = "mixtral-8x7b on an H200";

/// Bytes that a step of decoding reads.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    /// Weights that every step reads.
    pub(super) shared: f64,
    /// Weights of all experts.
    pub(super) experts: f64,
    /// Experts of a token, and how many there are, in a layer; none without a mixture.
    pub(super) choice: Option<(usize, usize)>,
    /// Keys and values of a token in one layer.
    kv_per_layer: f64,
    /// How far back each layer looks.
    windows: Vec<usize>,
}

impl Traffic {
    /// Of a model with these weights on the device, and keys and values of so many bytes a token.
    pub(super) fn new(config: &Config, plan: &MemoryPlan, kv_per_token: u64) -> Self {
        let experts = plan.weights.in_experts as f64;
        let windows = config.layers.iter().map(|layer| layer.sliding_window.unwrap_or(usize::MAX));
        Traffic {
            shared: plan.weights.total() as f64 - experts,
            experts,
            choice: config.moe.map(|moe| (moe.num_experts_per_tok, moe.num_experts)),
            kv_per_layer: kv_per_token as f64 / config.num_hidden_layers as f64,
            windows: windows.collect(),
        }
    }

    /// Experts of a layer that a step of so many sequences touches, if tokens choose evenly and each for itself: 5.5 of
    /// Mixtral's 8 for 4 sequences, 7.2 for 8, where 5.1-5.6 and 7.3-7.4 were counted.
    pub(super) fn touched(&self, sequences: u16) -> f64 {
        self.choice.map_or(0.0, |(chosen, experts)| {
            let spared = 1.0 - chosen as f64 / experts as f64;
            experts as f64 * (1.0 - spared.powi(i32::from(sequences)))
        })
    }

    /// Weights that a step of so many sequences reads.
    pub(super) fn weights(&self, sequences: u16) -> f64 {
        let share =
            self.choice.map_or(0.0, |(_, experts)| self.touched(sequences) / experts as f64);
        self.shared + self.experts * share
    }

    /// All that a step reads where each sequence has `context` tokens.
    pub(super) fn step(&self, sequences: u16, context: usize) -> f64 {
        let seen: f64 = self.windows.iter().map(|&window| context.min(window) as f64).sum();
        self.weights(sequences) + f64::from(sequences) * seen * self.kv_per_layer
    }

    /// Tokens per second of all sequences together, at most.
    pub(super) fn bound(&self, bandwidth: f64, sequences: u16, context: usize) -> f64 {
        f64::from(sequences) * bandwidth / self.step(sequences, context)
    }
}

/// The share of the bound that an H200 reached with so many sequences, between two measurements in proportion; `None`
/// beyond them.
pub(super) fn measured_share(sequences: u16) -> Option<f64> {
    let after = MEASURED.iter().position(|(measured, _)| *measured >= sequences)?;
    let (high, high_share) = MEASURED[after];
    let (low, low_share) = MEASURED[after.saturating_sub(1)];
    if high == low {
        return Some(high_share);
    }
    let along = f64::from(sequences - low) / f64::from(high - low);
    Some(low_share + along * (high_share - low_share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cards::Card;
    use crate::gpu::{Footprint, limits};
    use crate::random_weights::{self, LmHead};
    use crate::shapes::Shape;

    fn mixtral() -> Traffic {
        let config = Shape::find("mixtral-8x7b").unwrap().config().unwrap();
        let weights = random_weights::outline(&config, LmHead::Bf16);
        let footprint = Footprint::of(&config, &weights).unwrap();
        let plan = footprint.plan(128, limits(128, 1), false).unwrap();
        Traffic::new(&config, &plan, 131_072)
    }

    /// 6.51 GB of quantized weights and 0.26 of lm_head a token, as counted by hand.
    #[test]
    fn a_token_of_mixtral_reads_two_experts() {
        let traffic = mixtral();
        assert!((traffic.weights(1) / 6.77e9 - 1.0).abs() < 0.005, "{}", traffic.weights(1));
        assert_eq!(traffic.step(1, 1000) - traffic.weights(1), 131_072_000.0);
        assert!((5.4..5.6).contains(&traffic.touched(4)));
        let bound = traffic.bound(1008e9, 1, 0);
        assert!((148.0..150.0).contains(&bound), "the documents say 149: {bound}");
    }

    /// The shares are what follows from the medians in LOG.md.
    #[test]
    fn shares_are_the_measured_rates_over_the_bound() {
        let traffic = mixtral();
        let bandwidth = Card::find("H200").unwrap().bandwidth;
        let rates = [398.0, 714.0, 956.0, 1541.0, 2779.0, 4843.0, 8022.0];
        for ((sequences, share), rate) in MEASURED.into_iter().zip(rates) {
            let derived = rate / traffic.bound(bandwidth, sequences, 128);
            assert!((derived - share).abs() < 0.001, "{sequences}: {derived}");
            assert_eq!(measured_share(sequences), Some(share));
        }
        assert_eq!(measured_share(6), Some((0.630 + 0.549) / 2.0));
        assert_eq!(measured_share(129), None);
    }
}
