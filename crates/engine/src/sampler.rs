//! From logits to a token.

use std::borrow::Cow;

use backend::Draw;
#[cfg(test)]
use backend::log_sum_exp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How tokens are chosen.
///
/// The order is: penalties on the logits, temperature, `min_p`, `top_k`, `top_p`, then one draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most probable token and ignores what follows.
    pub temperature: f32,
    /// Keeps the `top_k` most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most probable tokens whose probabilities first reach `top_p`; in (0, 1].
    pub top_p: f32,
    /// Drops tokens less probable than `min_p` times the most probable one; in [0, 1].
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that have occurred; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted for every time a token has occurred.
    pub frequency_penalty: f32,
    /// Subtracted once from tokens that have occurred.
    pub presence_penalty: f32,
    /// Whether the penalties count the prompt as well. They do not by default: copied amounts and names must not cost.
    pub penalize_prompt: bool,
    /// Seed of the draws: the same seed gives the same text.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalize_prompt: false,
            seed: 0,
        }
    }
}

/// A sampling parameter out of its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {value}, but must be {range}")]
pub struct ParamError {
    /// The parameter.
    pub name: &'static str,
    /// Its value.
    pub value: f32,
    /// The range, in words.
    pub range: &'static str,
}

impl SamplingParams {
    /// Checks every range.
    ///
    /// # Errors
    /// Names the first parameter that is out of range or not a number.
    pub fn validate(&self) -> Result<(), ParamError> {
        let within = |name, value: f32, ok: bool, range| {
            if ok { Ok(()) } else { Err(ParamError { name, value, range }) }
        };
        let Self { temperature: t, top_p, min_p, repetition_penalty: r, .. } = *self;
        let (f, p) = (self.frequency_penalty, self.presence_penalty);
        within("temperature", t, (0.0..=100.0).contains(&t), "within 0 to 100")?;
        within("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, at most 1")?;
        within("min_p", min_p, (0.0..=1.0).contains(&min_p), "within 0 to 1")?;
        within("repetition_penalty", r, r > 0.0 && r <= 100.0, "above 0, at most 100")?;
        within("frequency_penalty", f, (-100.0..=100.0).contains(&f), "within -100 to 100")?;
        within("presence_penalty", p, (-100.0..=100.0).contains(&p), "within -100 to 100")
    }
}

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    params: SamplingParams,
    rng: ChaCha8Rng,
    /// How often each token has occurred: (token, count), few enough to search.
    occurred: std::collections::HashMap<u32, u32>,
}

impl Sampler {
    /// A sampler at the beginning of a sequence.
    pub(crate) fn new(params: SamplingParams, prompt: &[u32]) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(params.seed);
        let mut sampler = Sampler { params, rng, occurred: std::collections::HashMap::new() };
        if sampler.params.penalize_prompt {
            prompt.iter().for_each(|&token| sampler.count(token));
        }
        sampler
    }

    /// Enters a token that was taken.
    pub(crate) fn count(&mut self, token: u32) {
        if self.has_penalties() {
            *self.occurred.entry(token).or_default() += 1;
        }
    }

    /// Chooses the next token on its own: what an engine does in parts.
    #[cfg(test)]
    pub(crate) fn sample(&mut self, logits: &[f32]) -> (u32, f32) {
        let penalized = self.penalized(logits);
        let token = backend::draw(&penalized, &self.next_draw(), &[]).token;
        self.count(token);
        (token, logits[token as usize] - log_sum_exp(logits))
    }

    /// Whether a token depends on more than the model's logits.
    pub(crate) fn has_penalties(&self) -> bool {
        let p = &self.params;
        p.repetition_penalty != 1.0 || p.frequency_penalty != 0.0 || p.presence_penalty != 0.0
    }

    /// Logits after the penalties.
    pub(crate) fn penalized<'a>(&self, logits: &'a [f32]) -> Cow<'a, [f32]> {
        let mut logits = Cow::Borrowed(logits);
        if self.has_penalties() {
            self.penalize(logits.to_mut());
        }
        logits
    }

    fn penalize(&self, logits: &mut [f32]) {
        let p = &self.params;
        for (&token, &count) in &self.occurred {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit = if *logit > 0.0 {
                *logit / p.repetition_penalty
            } else {
                *logit * p.repetition_penalty
            };
            *logit -= p.frequency_penalty * count as f32 + p.presence_penalty;
        }
    }

    #[cfg(test)]
    fn choose(&mut self, logits: &[f32]) -> u32 {
        backend::draw(logits, &self.next_draw(), &[]).token
    }

    /// How the next token is drawn. Chance is asked only where it decides.
    pub(crate) fn next_draw(&mut self) -> Draw {
        let p = &self.params;
        if p.temperature == 0.0 {
            return Draw::GREEDY;
        }
        // 53 random bits: uniform in [0, 1).
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let top_k = u32::try_from(p.top_k).unwrap_or(u32::MAX);
        Draw {
            uniform,
            temperature: p.temperature,
            top_k,
            top_p: p.top_p,
            min_p: p.min_p,
            mask: None,
        }
    }
}

/// The `count` most probable tokens and their log-probabilities, the best first; `normalizer` is the logits' `log_sum_exp`.
pub(crate) fn top_logprobs(logits: &[f32], normalizer: f32, count: usize) -> Vec<(u32, f32)> {
    if count == 0 {
        return Vec::new();
    }
    let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().map(|l| l - normalizer)).collect();
    let count = count.min(all.len());
    let best_first = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < all.len() {
        all.select_nth_unstable_by(count, best_first);
        all.truncate(count);
    }
    all.sort_unstable_by(best_first);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::argmax;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 0.0, -1.0];

    fn frequencies(params: SamplingParams, draws: usize) -> [f64; 5] {
        let mut sampler = Sampler::new(params, &[]);
        let mut counts = [0; 5];
        for _ in 0..draws {
            counts[sampler.choose(&LOGITS) as usize] += 1;
        }
        counts.map(|count| f64::from(count) / draws as f64)
    }

    fn softmax(temperature: f64) -> [f64; 5] {
        let weights = LOGITS.map(|l| (f64::from(l) / temperature).exp());
        let sum: f64 = weights.iter().sum();
        weights.map(|w| w / sum)
    }

    /// Five standard deviations of a frequency over n draws.
    fn assert_close(found: [f64; 5], expected: [f64; 5], draws: usize) {
        for (f, e) in found.into_iter().zip(expected) {
            assert!(
                (f - e).abs() <= 5.0 * (e * (1.0 - e) / draws as f64).sqrt(),
                "{found:?} and {expected:?}"
            );
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(frequencies(SamplingParams::default(), 10), [0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(argmax(&[2.0, 2.0]), 0);
        assert_eq!(argmax(&[f32::NAN, 1.0]), 1);
    }

    #[test]
    fn draws_follow_the_softmax() {
        for temperature in [0.5, 1.0, 2.0] {
            let params = SamplingParams { temperature, ..Default::default() };
            assert_close(frequencies(params, 20_000), softmax(f64::from(temperature)), 20_000);
        }
    }

    #[test]
    fn filters_leave_the_most_probable() {
        let with = |top_k, top_p, min_p| {
            let params =
                SamplingParams { temperature: 1.0, top_k, top_p, min_p, ..Default::default() };
            frequencies(params, 20_000).map(|f| f > 0.0)
        };
        let p = softmax(1.0);
        assert_eq!(with(2, 1.0, 0.0), [false, true, true, false, false]);
        assert_eq!(with(0, p[1] as f32 - 0.01, 0.0), [false, true, false, false, false]);
        assert_eq!(with(0, p[1] as f32 + 0.01, 0.0), [false, true, true, false, false]);
        // exp(-1) = 0.37 and exp(-2) = 0.14 relative to the best.
        assert_eq!(with(0, 1.0, 0.3), [false, true, true, false, false]);
        assert_eq!(with(0, 1.0, 0.1), [true, true, true, false, false]);
    }

    #[test]
    fn penalties_count_generated_tokens_and_the_prompt_only_if_asked() {
        let next = |params: SamplingParams, prompt: &[u32], steps: usize| {
            let mut sampler = Sampler::new(params, prompt);
            (0..steps).map(|_| sampler.sample(&LOGITS).0).collect::<Vec<_>>()
        };
        let repetition = SamplingParams { repetition_penalty: 2.0, ..Default::default() };
        assert_eq!(next(repetition.clone(), &[1], 2), [1, 2]);
        assert_eq!(next(SamplingParams { penalize_prompt: true, ..repetition }, &[1], 1), [2]);
        let presence = SamplingParams { presence_penalty: 1.5, ..Default::default() };
        assert_eq!(next(presence, &[], 4), [1, 2, 1, 1]);
        let frequency = SamplingParams { frequency_penalty: 1.5, ..Default::default() };
        assert_eq!(next(frequency, &[], 4), [1, 2, 1, 0]);
    }

    #[test]
    fn logprobs_are_the_models_own() {
        let params = SamplingParams {
            temperature: 0.7,
            presence_penalty: 1.0,
            seed: 3,
            ..Default::default()
        };
        let mut sampler = Sampler::new(params, &[]);
        for _ in 0..20 {
            let (token, logprob) = sampler.sample(&LOGITS);
            assert!((f64::from(logprob) - softmax(1.0)[token as usize].ln()).abs() < 1e-6);
        }
        let top = top_logprobs(&LOGITS, log_sum_exp(&LOGITS), 2);
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_seed_is_a_text() {
        let text = |seed| {
            let mut sampler =
                Sampler::new(SamplingParams { temperature: 1.0, seed, ..Default::default() }, &[]);
            (0..50).map(|_| sampler.sample(&LOGITS).0).collect::<Vec<_>>()
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn ranges_are_checked() {
        let bad = SamplingParams { top_p: f32::NAN, ..Default::default() };
        assert_eq!(bad.validate().unwrap_err().name, "top_p");
        assert!(SamplingParams { temperature: -1.0, ..Default::default() }.validate().is_err());
        assert!(SamplingParams::default().validate().is_ok());
    }
}
