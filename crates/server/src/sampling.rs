//! Sampling as requests ask for it.

use std::hash::{BuildHasher, RandomState};

use engine::{Request, SamplingFields, SamplingParams};
use model::GenerationConfig;
use serde_json::{Value, json};

use crate::ApiError;

/// What a request asks for, else what the model's makers recommend; see [`SamplingFields::resolve`].
///
/// # Errors
/// 400 that names the parameter out of its range.
pub(crate) fn resolve(
    fields: &SamplingFields,
    model: &GenerationConfig,
) -> Result<SamplingParams, ApiError> {
    fields.resolve(model, random_seed).map_err(|error| ApiError::of_engine(&error.into()))
}

/// A seed for whoever gave none. 53 bits survive JSON everywhere.
pub fn random_seed() -> u64 {
    // The standard library's hasher is keyed by the system's random numbers.
    RandomState::new().hash_one(0) >> 11
}

/// The parameters in force, for answers and reports.
pub fn effective(request: &Request) -> Value {
    let p = &request.sampling;
    json!({
        "max_tokens": request.max_tokens,
        "temperature": number(p.temperature),
        "top_k": p.top_k,
        "top_p": number(p.top_p),
        "min_p": number(p.min_p),
        "repetition_penalty": number(p.repetition_penalty),
        "frequency_penalty": number(p.frequency_penalty),
        "presence_penalty": number(p.presence_penalty),
        "penalize_prompt": p.penalize_prompt,
        "seed": p.seed,
        "stop": request.stop,
    })
}

/// `0.1` as it was typed, not as the nearest `f32` reads in `f64`.
fn number(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_they_were_typed() {
        assert_eq!(json!(number(0.1)).to_string(), "0.1");
        assert_eq!(json!(number(1.0)).to_string(), "1.0");
    }

    #[test]
    fn seeds_differ_from_call_to_call() {
        assert_ne!(random_seed(), random_seed());
    }

    #[test]
    fn a_parameter_out_of_range_is_named() {
        let fields = SamplingFields { temperature: Some(-1.0), ..SamplingFields::default() };
        let error = resolve(&fields, &GenerationConfig::default()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("temperature"));
        assert_eq!(error.status, 400);
    }
}
