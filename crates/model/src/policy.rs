//! Which weights are quantized.

use quant::QuantConfig;

use crate::{Checkpoint, ModelError, Result, layout};

/// Whether, and which, 16-bit weights become 4-bit ones.
///
/// The rule is bitsandbytes': every linear layer (the router of a mixture included) but `lm_head`; embeddings and norms
/// are no linear layers. `skip` and `include` change it by module name, or by its end: `mlp.gate` stands for
/// `model.layers.0.mlp.gate` and all its likes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QuantizePolicy {
    /// The format; `None` keeps every weight as it is.
    pub quant: Option<QuantConfig>,
    /// Modules to leave alone.
    pub skip: Vec<String>,
    /// Modules to quantize all the same; wins over `skip` and over the rule for `lm_head`.
    pub include: Vec<String>,
}

impl QuantizePolicy {
    /// Keeps every weight as it is.
    pub fn keep() -> Self {
        Self::default()
    }

    /// Quantizes what bitsandbytes would.
    pub fn quantize(config: QuantConfig) -> Self {
        QuantizePolicy { quant: Some(config), ..Self::default() }
    }

    /// The format for the linear layer `module`, or `None` to leave it.
    pub fn for_linear(&self, module: &str) -> Option<QuantConfig> {
        let named = |list: &[String]| list.iter().any(|name| ends_with_module(module, name));
        let skipped = named(&self.skip) || module == "lm_head";
        self.quant.filter(|_| !skipped || named(&self.include))
    }

    /// Fails if `skip` or `include` names something that is no linear layer of the model: a slip of the pen would
    /// quantize what was to be left alone. `lm_head` may be skipped in a model whose embeddings stand in for it.
    pub(crate) fn check_names(&self, checkpoint: &Checkpoint) -> Result<()> {
        let skip = self.skip.iter().filter(|name| *name != "lm_head");
        let mut missing: Vec<_> = skip.chain(&self.include).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for param in layout::params(checkpoint.config()).iter().filter(|param| param.is_linear) {
            missing.retain(|name| !ends_with_module(param.module(), name));
        }
        match missing.first() {
            None => Ok(()),
            Some(name) => Err(ModelError::malformed(
                checkpoint.files().root(),
                format!(
                    "has no linear layer `{name}`, which was to be skipped or included; give the end of a module's \
                     name, as `mlp.gate`"
                ),
            )),
        }
    }
}

fn ends_with_module(module: &str, name: &str) -> bool {
    match module.strip_suffix(name) {
        _ if name.is_empty() => false,
        Some(rest) => rest.is_empty() || rest.ends_with('.'),
        None => false,
    }
}
