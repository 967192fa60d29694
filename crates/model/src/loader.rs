//! From the tensors of a checkpoint to the weights of a model, layer by layer.

use std::collections::HashSet;
use std::path::Path;

use backend::Weight;
use quant::{Dtype, PackedTensor, QuantConfig, Values};

use crate::layout::{self, Param, Place};
use crate::pack::Packer;
use crate::weights::{LayerWeights, ModelWeights};
use crate::{Checkpoint, ModelError, QuantizePolicy, Result, bitsandbytes, safetensors};

/// Loads the weights of a checkpoint.
///
/// Weights that stay as they are share the mapped file, so a layer costs next to nothing until its bytes are read;
/// weights that are quantized while loading take their 4-bit size.
#[derive(Debug)]
pub struct WeightLoader<'a> {
    checkpoint: &'a Checkpoint,
    policy: &'a QuantizePolicy,
    used: HashSet<String>,
}

impl ModelWeights {
    /// Loads everything; `progress` is told the number of layers that are done after each.
    pub fn load(
        checkpoint: &Checkpoint,
        policy: &QuantizePolicy,
        mut progress: impl FnMut(usize),
    ) -> Result<Self> {
        policy.check_names(checkpoint)?;
        checkpoint.prefetch_small();
        let mut loader = WeightLoader::new(checkpoint, policy);
        let embed_tokens = loader.embed_tokens()?;
        let mut layers = Vec::with_capacity(checkpoint.config().num_hidden_layers);
        for index in 0..checkpoint.config().num_hidden_layers {
            layers.push(loader.layer(index)?);
            progress(index + 1);
        }
        Ok(ModelWeights { embed_tokens, layers, norm: loader.norm()?, lm_head: loader.lm_head()? })
    }
}

impl<'a> WeightLoader<'a> {
    /// A loader that has loaded nothing yet. The policy is for 16- and 32-bit checkpoints: in one that is quantized
    /// already, what its writer left unquantized stays so.
    pub fn new(checkpoint: &'a Checkpoint, policy: &'a QuantizePolicy) -> Self {
        WeightLoader { checkpoint, policy, used: HashSet::new() }
    }

    /// The embeddings.
    pub fn embed_tokens(&mut self) -> Result<Weight> {
        self.load(&layout::embed_tokens(self.checkpoint.config()))
    }

    /// Layer `index`.
    ///
    /// # Panics
    /// If the model has no such layer.
    pub fn layer(&mut self, index: usize) -> Result<LayerWeights> {
        layout::layer(self.checkpoint.config(), index).try_map(&mut |param| self.load(param))
    }

    /// The last norm.
    pub fn norm(&mut self) -> Result<Weight> {
        self.load(&layout::norm(self.checkpoint.config()))
    }

    /// The output matrix, unless it is tied to the embeddings.
    pub fn lm_head(&mut self) -> Result<Option<Weight>> {
        layout::lm_head(self.checkpoint.config()).map(|param| self.load(&param)).transpose()
    }

    /// Tensors of the checkpoint that nothing has asked for, as the `rotary_emb.inv_freq` of old ones; meaningful once
    /// everything is loaded.
    pub fn unused(&self) -> impl Iterator<Item = &'a str> {
        self.checkpoint.infos().map(|(name, _)| name).filter(|&name| !self.used.contains(name))
    }

    fn load(&mut self, param: &Param) -> Result<Weight> {
        let (place, file) = find(self.checkpoint, param)?;
        self.used.insert(place.tensor.clone());
        match bitsandbytes::read(self.checkpoint, &place.tensor)? {
            Some(packed) => {
                self.used.extend(bitsandbytes::companions(&place.tensor));
                check_shape(file, place, &packed.shape)?;
                check_linear(file, param, place)?;
                Ok(take_packed(param, place, packed))
            }
            None => self.dense(param, place),
        }
    }

    fn dense(&self, param: &Param, place: &Place) -> Result<Weight> {
        let tensor = self.checkpoint.tensor(&place.tensor)?;
        let dtype = dense_dtype(tensor.dtype, &tensor.file, &place.tensor)?;
        check_shape(&tensor.file, place, &tensor.shape)?;
        let size = dtype.size();
        let bytes = tensor.bytes.slice(place.first * size..(place.first + param.len()) * size);
        let shape = param.shape.clone();
        if let Some(config) = quantize_as(self.checkpoint, self.policy, param) {
            let values = Values::from_le_bytes(dtype, &bytes);
            let packed = values.and_then(|values| pack(values, &shape, config));
            let packed = packed.map_err(ModelError::quant(&tensor.file, &place.tensor))?;
            return Ok(Weight::Packed(packed));
        }
        Ok(Weight::Dense { dtype, shape, bytes })
    }
}

/// The format that an unquantized parameter gets while it is loaded.
pub(crate) fn quantize_as(
    checkpoint: &Checkpoint,
    policy: &QuantizePolicy,
    param: &Param,
) -> Option<QuantConfig> {
    let is_quantized = checkpoint.config().quantization_config.is_some();
    (param.is_linear && !is_quantized).then(|| policy.for_linear(param.module())).flatten()
}

/// The parameter's part of a 4-bit tensor.
fn take_packed(param: &Param, place: &Place, packed: PackedTensor) -> Weight {
    let shape = param.shape.clone();
    if packed.len() == param.len() {
        return Weight::Packed(PackedTensor { shape, ..packed });
    }
    let range = place.first..place.first + param.len();
    if let Some(slice) = bitsandbytes::slice(&packed, range.clone(), shape.clone()) {
        return Weight::Packed(slice);
    }
    // A slice that begins within a block has no scales of its own: it is unpacked, at eight times the size.
    let mut values = vec![0.0; range.len()];
    packed.dequantize_range(range, &mut values);
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Weight::Dense { dtype: Dtype::F32, shape, bytes: bytes.into() }
}

fn pack(
    values: Values<'_>,
    shape: &[usize],
    config: QuantConfig,
) -> Result<PackedTensor, quant::QuantError> {
    let mut packer = Packer::new(shape, config)?;
    packer.push(values)?;
    packer.finish()
}

/// The place where a parameter lies, and the file that holds it.
pub(crate) fn find<'p, 'c>(
    checkpoint: &'c Checkpoint,
    param: &'p Param,
) -> Result<(&'p Place, &'c Path)> {
    let mut places = param.places.iter();
    places
        .find_map(|place| Some((place, checkpoint.info(&place.tensor)?.1)))
        .ok_or_else(|| checkpoint.missing(&param.name))
}

/// The shape that a tensor has must be the one that the config asks for.
pub(crate) fn check_shape(file: &Path, place: &Place, found: &[usize]) -> Result<()> {
    if found == place.shape {
        return Ok(());
    }
    let message = format!("has shape {found:?}, but config.json asks for {:?}", place.shape);
    Err(ModelError::tensor(file, &place.tensor, message))
}

/// Linear layers alone may be quantized.
pub(crate) fn check_linear(file: &Path, param: &Param, place: &Place) -> Result<()> {
    if param.is_linear {
        return Ok(());
    }
    let message = "is quantized, but is no weight of a linear layer";
    Err(ModelError::tensor(file, &place.tensor, message))
}

/// The type of an unquantized tensor, which must be one that models are computed from.
pub(crate) fn dense_dtype(dtype: safetensors::Dtype, file: &Path, name: &str) -> Result<Dtype> {
    match dtype {
        safetensors::Dtype::BF16 => Ok(Dtype::Bf16),
        safetensors::Dtype::F16 => Ok(Dtype::F16),
        safetensors::Dtype::F32 => Ok(Dtype::F32),
        other => Err(ModelError::tensor(
            file,
            name,
            format!(
                "is {other} and has no quant_state beside it; expected BF16, F16, F32 or a \
                 bitsandbytes 4-bit tensor"
            ),
        )),
    }
}
