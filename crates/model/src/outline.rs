//! The weights of a checkpoint without their bytes, from headers alone: enough to know the memory that they take.

use backend::Weight;
use bytes::Bytes;
use quant::{Absmax, Dtype, NESTED_BLOCKSIZE, PackedTensor, QuantConfig};

use crate::layout::{self, Param, Place};
use crate::loader::{check_linear, check_shape, dense_dtype, find, quantize_as};
use crate::weights::ModelWeights;
use crate::{Checkpoint, QuantizePolicy, Result, bitsandbytes};

impl ModelWeights {
    /// The weights that [`ModelWeights::load`] would give, in the same forms and shapes, but empty.
    ///
    /// # Errors
    /// Those of loading, as far as headers show them.
    pub fn outline(checkpoint: &Checkpoint, policy: &QuantizePolicy) -> Result<Self> {
        policy.check_names(checkpoint)?;
        let config = checkpoint.config();
        let outline = |param: &Param| outline(checkpoint, policy, param);
        let layer = |index| layout::layer(config, index).try_map(&mut |param| outline(param));
        Ok(ModelWeights {
            embed_tokens: outline(&layout::embed_tokens(config))?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            norm: outline(&layout::norm(config))?,
            lm_head: layout::lm_head(config).map(|param| outline(&param)).transpose()?,
        })
    }
}

fn outline(checkpoint: &Checkpoint, policy: &QuantizePolicy, param: &Param) -> Result<Weight> {
    let (place, file) = find(checkpoint, param)?;
    if let Some(packed) = bitsandbytes::outline(checkpoint, &place.tensor, &place.shape)? {
        check_linear(file, param, place)?;
        return Ok(part(param, place, packed));
    }
    let (info, _) =
        checkpoint.info(&place.tensor).ok_or_else(|| checkpoint.missing(&param.name))?;
    let dtype = dense_dtype(info.dtype, file, &place.tensor)?;
    check_shape(file, place, &info.shape)?;
    let shape = param.shape.clone();
    Ok(match quantize_as(checkpoint, policy, param) {
        Some(config) => Weight::Packed(packed(shape, config)),
        None => Weight::Dense { dtype, shape, bytes: Bytes::new() },
    })
}

/// A parameter's part of a 4-bit tensor; one that begins within a block is unpacked while it is loaded.
fn part(param: &Param, place: &Place, packed: PackedTensor) -> Weight {
    let shape = param.shape.clone();
    if packed.len() == param.len() || place.first.is_multiple_of(packed.blocksize) {
        return Weight::Packed(PackedTensor { shape, ..packed });
    }
    Weight::Dense { dtype: Dtype::F32, shape, bytes: Bytes::new() }
}

/// What quantizing gives.
fn packed(shape: Vec<usize>, config: QuantConfig) -> PackedTensor {
    let absmax = if config.double_quant {
        Absmax::Nested {
            codes: Bytes::new(),
            map: quant::dynamic_map(),
            nested_absmax: [].into(),
            blocksize: NESTED_BLOCKSIZE,
            offset: 0.0,
            first: 0,
        }
    } else {
        Absmax::Plain([].into())
    };
    let QuantConfig { quant_type, blocksize, .. } = config;
    PackedTensor { quant_type, blocksize, shape, packed: Bytes::new(), absmax }
}
