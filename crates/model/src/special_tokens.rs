//! The tokens that `tokenizer_config.json` names: `bos_token`, `eos_token` …

use serde_json::{Map, Value};

use crate::files::Files;
use crate::{ModelError, Result};

const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The special tokens of a model, by the name of their use.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpecialTokens(Map<String, Value>);

impl SpecialTokens {
    /// Reads `tokenizer_config.json`, and `special_tokens_map.json` for what it lacks; both may be missing.
    pub(crate) fn load(files: &Files) -> Result<Self> {
        let mut tokens = SpecialTokens::default();
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            let Some(bytes) = files.read(file)? else { continue };
            let config: Map<String, Value> = serde_json::from_slice(&bytes)
                .map_err(|e| ModelError::malformed(&files.path(file), e.to_string()))?;
            tokens.add(&config);
        }
        Ok(tokens)
    }

    fn add(&mut self, config: &Map<String, Value>) {
        for name in NAMES {
            // A token is its text, or an object that holds it.
            let token = config.get(name).map(|value| value.get("content").unwrap_or(value));
            if let Some(Value::String(text)) = token
                && !self.0.contains_key(name)
            {
                self.0.insert(name.to_owned(), text.as_str().into());
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.0
    }
}
