//! `quantization_config`: how a checkpoint was quantized.

use std::path::Path;

use quant::QuantType;
use serde::Deserialize;

use crate::{ModelError, Result};

/// A bitsandbytes 4-bit `quantization_config`.
///
/// It says what the writer meant; how each tensor is really stored is read from the tensor itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// `bnb_4bit_quant_type`.
    pub quant_type: QuantType,
    /// `bnb_4bit_use_double_quant`.
    pub use_double_quant: bool,
    /// `llm_int8_skip_modules`: modules left unquantized.
    pub skip_modules: Vec<String>,
}

/// The object as it lies in the file. The defaults are those of transformers' `BitsAndBytesConfig`.
#[derive(Debug, Deserialize)]
pub(super) struct Raw {
    quant_method: Option<String>,
    load_in_4bit: Option<bool>,
    load_in_8bit: Option<bool>,
    bnb_4bit_quant_type: Option<String>,
    bnb_4bit_use_double_quant: Option<bool>,
    llm_int8_skip_modules: Option<Vec<String>>,
}

impl Raw {
    pub(super) fn check(self, file: &Path) -> Result<QuantizationConfig> {
        let unsupported = |found: &str| ModelError::Unsupported {
            file: file.to_owned(),
            what: "quantization",
            found: found.to_owned(),
            supported: "bitsandbytes with load_in_4bit and bnb_4bit_quant_type nf4 or fp4",
        };
        match self.quant_method.as_deref() {
            None | Some("bitsandbytes" | "bitsandbytes_4bit") => {}
            Some(other) => return Err(unsupported(other)),
        }
        if self.load_in_8bit == Some(true) {
            return Err(unsupported("load_in_8bit"));
        }
        if self.load_in_4bit != Some(true) {
            return Err(unsupported("without load_in_4bit"));
        }
        let name = self.bnb_4bit_quant_type.as_deref().unwrap_or("fp4");
        Ok(QuantizationConfig {
            quant_type: QuantType::from_name(name).ok_or_else(|| unsupported(name))?,
            use_double_quant: self.bnb_4bit_use_double_quant.unwrap_or(false),
            skip_modules: self.llm_int8_skip_modules.unwrap_or_default(),
        })
    }
}
