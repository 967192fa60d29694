//! From logits to a token: the arithmetic, which a device may do by itself.

/// How a token is drawn: of those that the mask allows, by temperature, then `min_p`, `top_k` and `top_p`.
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
    /// Which of the masks of [`Draws`] the token has to be in; `None`: any token may be drawn.
    pub mask: Option<u32>,
}

impl Draw {
    /// The most probable token.
    pub const GREEDY: Draw =
        Draw { uniform: 0.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, mask: None };
}

/// How the tokens of a step are drawn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draws {
    /// One for each row, in order.
    pub draws: Vec<Draw>,
    /// `[masks][vocab_size.div_ceil(32)]`: where bit `i` of word `w` is set, token `32 w + i` may be drawn. Bits beyond the
    /// vocabulary mean nothing. Rows may share a mask.
    pub masks: Vec<u32>,
}

impl Draws {
    /// No draws, with the room of earlier ones.
    pub fn clear(&mut self) {
        self.draws.clear();
        self.masks.clear();
    }

    /// Panics unless there is a draw for each of `rows`, at most `masks_max` masks, and each that is named: a fault of the
    /// caller, never of user input.
    pub fn assert_valid(&self, rows: usize, vocab_size: usize, masks_max: usize) {
        assert_eq!(self.draws.len(), rows, "a draw for each row");
        let words = mask_words(vocab_size);
        assert!(self.masks.len().is_multiple_of(words), "a mask is {words} words long");
        let masks = self.masks.len() / words;
        assert!(masks <= masks_max, "{masks} masks, of at most {masks_max}");
        let named = self.draws.iter().filter_map(|draw| draw.mask);
        assert!(named.max().is_none_or(|last| (last as usize) < masks), "a mask that is not there");
    }
}

/// Words of a mask.
pub const fn mask_words(vocab_size: usize) -> usize {
    vocab_size.div_ceil(u32::BITS as usize)
}

/// A token that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its id; 0 where none was left to draw.
    pub token: u32,
    /// Its log-probability under the model, before mask and temperature; minus infinity where there was none to draw.
    pub logprob: f32,
    /// Whether all logits of the row, masked or not, were numbers below infinity, and one at least above minus infinity.
    pub is_finite: bool,
    /// Whether there was a token to draw: one that the mask allows, with a logit above minus infinity.
    pub allowed: bool,
}

/// Draws a token on the host; `masks` are those of [`Draws`]. From a row that is not finite the most probable one.
///
/// # Panics
/// If the draw names a mask that is not there.
pub fn draw(logits: &[f32], how: &Draw, masks: &[u32]) -> Drawn {
    let words = mask_words(logits.len());
    let tokens = (0u32..).zip(logits.iter().copied());
    match how.mask.map(|mask| &masks[mask as usize * words..][..words]) {
        None => draw_of(tokens, logits, how),
        Some(mask) => {
            let allows = |token: u32| mask[(token / 32) as usize] >> (token % 32) & 1 == 1;
            draw_of(tokens.filter(|&(token, _)| allows(token)), logits, how)
        }
    }
}

/// Draws one of `tokens`, (id, logit) in the order of ids, of a row that has all of `logits`.
fn draw_of(tokens: impl Iterator<Item = (u32, f32)> + Clone, logits: &[f32], how: &Draw) -> Drawn {
    let all_numbers = !logits.iter().any(|&logit| logit.is_nan() || logit == f32::INFINITY);
    let is_finite = all_numbers && logits.iter().any(|&logit| logit > f32::NEG_INFINITY);
    let Some((best, max)) = largest(tokens.clone()) else {
        return Drawn { token: 0, logprob: f32::NEG_INFINITY, is_finite, allowed: false };
    };
    let token = if how.temperature == 0.0 || !is_finite { best } else { choose(tokens, max, how) };
    let logprob = logits[token as usize] - log_sum_exp(logits);
    Drawn { token, logprob, is_finite, allowed: true }
}

/// Draws one of `tokens`, the largest of whose logits is `max`.
fn choose(tokens: impl Iterator<Item = (u32, f32)>, max: f32, how: &Draw) -> u32 {
    // exp((logit - max) / temperature) is the probability relative to the most probable token's.
    let threshold =
        if how.min_p > 0.0 { how.min_p.ln() * how.temperature + max } else { f32::NEG_INFINITY };
    let weight = |logit: f32| ((logit - max) / how.temperature).exp();
    let mut candidates: Vec<(u32, f32)> = tokens
        .filter(|&(_, logit)| logit >= threshold)
        .map(|(token, logit)| (token, weight(logit)))
        .collect();
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
    largest((0u32..).zip(logits.iter().copied())).map_or(0, |(token, _)| token)
}

/// The token with the largest logit, the first of equals; `None` if no logit is above minus infinity.
fn largest(tokens: impl Iterator<Item = (u32, f32)>) -> Option<(u32, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in tokens {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    (best.1 > f32::NEG_INFINITY).then_some(best)
}

/// `ln(sum(exp(logits)))`, what turns a logit into a log-probability.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &v| max.max(v));
    let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
    max + sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference;

    fn any_draw(num_masks: u32) -> impl Strategy<Value = Draw> {
        let temperature = prop_oneof![Just(0.0_f32), 0.05_f32..3.0];
        let top_p = prop_oneof![Just(1.0_f32), 0.01_f32..1.0];
        let min_p = prop_oneof![Just(0.0_f32), 0.001_f32..1.0];
        let mask = proptest::option::weighted(0.8, 0..num_masks);
        (0.0..1.0_f64, temperature, 0..20_u32, top_p, min_p, mask).prop_map(
            |(uniform, temperature, top_k, top_p, min_p, mask)| Draw {
                uniform,
                temperature,
                top_k: top_k.saturating_sub(5),
                top_p,
                min_p,
                mask,
            },
        )
    }

    /// Logits with many ties, and three masks over them: sparse, random, empty.
    fn rows() -> impl Strategy<Value = (Vec<f32>, Vec<u32>)> {
        proptest::collection::vec(-40..40_i32, 1..150).prop_flat_map(|eighths| {
            let logits: Vec<f32> = eighths.iter().map(|&v| v as f32 / 8.0).collect();
            let words = mask_words(logits.len());
            let word = || proptest::collection::vec(any::<u32>(), words);
            (word(), word(), word()).prop_map(move |(a, b, c)| {
                let sparse = a.iter().zip(&b).zip(&c).map(|((a, b), c)| a & b & c);
                // Only bits beyond the vocabulary, which mean nothing.
                let empty = (0..32 * words).map(|token| token >= logits.len()).collect::<Vec<_>>();
                let empty = empty
                    .chunks(32)
                    .map(|bits| bits.iter().rev().fold(0, |word, &bit| word << 1 | u32::from(bit)));
                (logits.clone(), sparse.chain(b.iter().copied()).chain(empty).collect())
            })
        })
    }

    proptest! {
        /// f32 weights are off by some 1e-6 at most, relatively, and so are their sums.
        #[test]
        fn draws_follow_the_reference_under_any_mask((logits, masks) in rows(), how in any_draw(3)) {
            let drawn = draw(&logits, &how, &masks);
            let possible = reference::distribution(&logits, &how, &masks);
            prop_assert_eq!(drawn.allowed, !possible.is_empty());
            prop_assert!(drawn.is_finite);
            if drawn.allowed {
                let distance = reference::draw_distance(&logits, &how, &masks, drawn.token);
                prop_assert!(distance < 1e-5, "{drawn:?} is off by {distance}: {possible:?}");
                let any = Draw { temperature: 1.0, ..Draw::GREEDY };
                let model = reference::distribution(&logits, &any, &[]);
                let logprob = model[drawn.token as usize].1.ln();
                prop_assert!((f64::from(drawn.logprob) - logprob).abs() < 1e-5);
            } else {
                prop_assert_eq!((drawn.token, drawn.logprob), (0, f32::NEG_INFINITY));
            }
        }
    }

    #[test]
    fn a_row_without_a_token_to_draw_says_so() {
        let random = Draw { temperature: 1.0, top_k: 2, ..Draw::GREEDY };
        let check = |logits: &[f32], mask: u32, is_finite: bool, allowed: bool| {
            for how in [Draw { mask: Some(0), ..Draw::GREEDY }, Draw { mask: Some(0), ..random }] {
                let drawn = draw(logits, &how, &[mask]);
                assert_eq!((drawn.is_finite, drawn.allowed), (is_finite, allowed), "{logits:?}");
            }
        };
        const NONE: f32 = f32::NEG_INFINITY;
        check(&[1.0, 2.0], 0b100, true, false);
        check(&[1.0, NONE], 0b10, true, false);
        check(&[1.0, NONE], 0b11, true, true);
        check(&[NONE, NONE], 0b11, false, false);
        // What the mask hides counts too: the model is broken.
        check(&[1.0, f32::NAN], 0b01, false, true);
        check(&[1.0, f32::INFINITY], 0b01, false, true);
        check(&[f32::NAN, 1.0], 0b01, false, false);
    }

    #[test]
    fn masked_draws_follow_the_softmax_of_what_is_left() {
        const DRAWS: usize = 20_000;
        let logits: Vec<f32> = (0..40).map(|i| (i % 7) as f32 / 2.0).collect();
        let masks = [0x0000_00fe, 0x0000_0081];
        let mut counts = [0_usize; 40];
        for i in 0..DRAWS {
            // The fractional parts of multiples of the golden ratio are spread evenly.
            let uniform = (i as f64 * 0.618_033_988_749_894_9).fract();
            let how = Draw { uniform, temperature: 1.0, mask: Some(0), ..Draw::GREEDY };
            counts[draw(&logits, &how, &masks).token as usize] += 1;
        }
        let bits = |token: u32| masks[token as usize / 32] >> (token % 32) & 1 == 1;
        let weight = |token: u32| f64::from(logits[token as usize]).exp();
        let total: f64 = (0..40).filter(|&t| bits(t)).map(weight).sum();
        for (token, &count) in (0..40).zip(&counts) {
            let p = if bits(token) { weight(token) / total } else { 0.0 };
            let (found, n) = (count as f64 / DRAWS as f64, DRAWS as f64);
            // Five standard deviations of a frequency over n draws.
            assert!((found - p).abs() <= 5.0 * (p * (1.0 - p) / n).sqrt(), "{token}: {found}, {p}");
        }
    }

    #[test]
    fn draws_are_checked() {
        let draws = |mask, words| Draws {
            draws: vec![Draw { mask, ..Draw::GREEDY }],
            masks: vec![0; words],
        };
        let is_valid =
            |draws: Draws| std::panic::catch_unwind(|| draws.assert_valid(1, 33, 2)).is_ok();
        assert!(is_valid(draws(None, 0)) && is_valid(draws(Some(1), 4)));
        assert!(!is_valid(draws(Some(1), 2)), "a mask that is not there");
        assert!(!is_valid(draws(Some(0), 3)), "half a mask");
        assert!(!is_valid(draws(Some(0), 6)), "more masks than there is room for");
        assert!(!is_valid(Draws::default()), "a row without a draw");
    }
}
