//! What is sampled where a request leaves it open.

use model::GenerationConfig;

use crate::{ParamError, SamplingParams};

/// Sampling as it was asked for; `None` where it was left open.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SamplingFields {
    /// See [`SamplingParams`], as all others.
    pub temperature: Option<f32>,
    /// 0 keeps all.
    pub top_k: Option<usize>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// Within 0 to 1.
    pub min_p: Option<f32>,
    /// Above 0; 1 does nothing.
    pub repetition_penalty: Option<f32>,
    /// 0 does nothing.
    pub frequency_penalty: Option<f32>,
    /// 0 does nothing.
    pub presence_penalty: Option<f32>,
    /// Whether the penalties count the prompt as well.
    pub penalize_prompt: Option<bool>,
    /// The same seed gives the same text.
    pub seed: Option<u64>,
}

impl SamplingFields {
    /// What was asked for, else what the model's makers recommend, else the likeliest token each time. `seed` gives one
    /// where none was asked for.
    ///
    /// # Errors
    /// For a parameter out of its range.
    pub fn resolve(
        &self,
        model: &GenerationConfig,
        seed: impl FnOnce() -> u64,
    ) -> Result<SamplingParams, ParamError> {
        // Without `do_sample` the recommended temperature is not in use, as transformers has it.
        let recommended = match model.do_sample {
            Some(true) => model.temperature.unwrap_or(1.0),
            _ => 0.0,
        };
        let top_k = self.top_k.or(model.top_k.map(|k| k as usize));
        let repetition_penalty = self.repetition_penalty.or(model.repetition_penalty);
        let params = SamplingParams {
            temperature: self.temperature.unwrap_or(recommended),
            top_k: top_k.unwrap_or(0),
            top_p: self.top_p.or(model.top_p).unwrap_or(1.0),
            min_p: self.min_p.or(model.min_p).unwrap_or(0.0),
            repetition_penalty: repetition_penalty.unwrap_or(1.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            penalize_prompt: self.penalize_prompt.unwrap_or(false),
            seed: self.seed.unwrap_or_else(seed),
        };
        params.validate()?;
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &SamplingFields, model: &GenerationConfig) -> SamplingParams {
        fields.resolve(model, || 11).unwrap()
    }

    #[test]
    fn what_was_asked_for_wins_over_what_the_model_recommends() {
        let model = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_p: Some(0.9),
            top_k: Some(40),
            ..GenerationConfig::default()
        };
        let params = check(&SamplingFields::default(), &model);
        let figures = (params.temperature, params.top_p, params.top_k, params.seed);
        assert_eq!(figures, (0.6, 0.9, 40, 11));
        let asked = SamplingFields {
            temperature: Some(0.0),
            top_p: Some(0.5),
            top_k: Some(0),
            seed: Some(7),
            ..SamplingFields::default()
        };
        let params = check(&asked, &model);
        let figures = (params.temperature, params.top_p, params.top_k, params.seed);
        assert_eq!(figures, (0.0, 0.5, 0, 7));
    }

    #[test]
    fn a_model_that_does_not_sample_is_greedy() {
        let model = GenerationConfig { temperature: Some(0.6), ..GenerationConfig::default() };
        assert_eq!(check(&SamplingFields::default(), &model).temperature, 0.0);
        let model = GenerationConfig { do_sample: Some(true), ..model };
        assert_eq!(check(&SamplingFields::default(), &model).temperature, 0.6);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let asked = SamplingFields { top_p: Some(0.0), ..SamplingFields::default() };
        let error = asked.resolve(&GenerationConfig::default(), || 0).unwrap_err();
        assert_eq!(error.name, "top_p");
    }
}
