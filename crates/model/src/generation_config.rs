//! `generation_config.json`: the sampling that a model's makers recommend.

use std::path::Path;

use serde::Deserialize;

use crate::config::OneOrMany;
use crate::files::Files;
use crate::{Config, ModelError, Result};

/// What `generation_config.json` recommends; `None` where it says nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationConfig {
    /// Tokens that end an answer; `config.json`'s if the file names none.
    pub eos_token_id: Vec<u32>,
    /// Whether to sample at all, or always take the likeliest token.
    pub do_sample: Option<bool>,
    /// At least 0.
    pub temperature: Option<f32>,
    /// Number of likeliest tokens to choose from; 0 for all.
    pub top_k: Option<u32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// Within 0…1.
    pub min_p: Option<f32>,
    /// Above 0; 1 for none.
    pub repetition_penalty: Option<f32>,
}

#[derive(Debug, Deserialize)]
struct Raw {
    eos_token_id: Option<OneOrMany>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// The file of a model, or, if it has none, what `config.json` says.
    pub fn load(files: &Files, config: &Config) -> Result<Self> {
        const NAME: &str = "generation_config.json";
        let mut generation = match files.read(NAME)? {
            Some(json) => Self::from_json(&json, &files.path(NAME))?,
            None => Self::default(),
        };
        if generation.eos_token_id.is_empty() {
            generation.eos_token_id.clone_from(&config.eos_token_id);
        }
        Ok(generation)
    }

    /// Parses and checks the bytes of the file; `file` is named in errors.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let raw: Raw = serde_json::from_slice(json)
            .map_err(|e| ModelError::malformed(file, format!("not a generation config: {e}")))?;
        let within = |name: &str, value: Option<f32>, max: f32| match value {
            Some(value) if !(0.0..=max).contains(&value) => {
                Err(ModelError::malformed(file, format!("{name} {value} is not within 0…{max}")))
            }
            value => Ok(value),
        };
        let generation = GenerationConfig {
            eos_token_id: raw.eos_token_id.map_or_else(Vec::new, OneOrMany::into_vec),
            do_sample: raw.do_sample,
            temperature: within("temperature", raw.temperature, 100.0)?,
            top_k: raw.top_k,
            top_p: within("top_p", raw.top_p, 1.0)?,
            min_p: within("min_p", raw.min_p, 1.0)?,
            repetition_penalty: within("repetition_penalty", raw.repetition_penalty, 100.0)?,
        };
        for (name, value) in
            [("top_p", generation.top_p), ("repetition_penalty", generation.repetition_penalty)]
        {
            if value == Some(0.0) {
                return Err(ModelError::malformed(file, format!("{name} is 0, not above it")));
            }
        }
        Ok(generation)
    }
}
