//! 4-bit tensors as bitsandbytes stores them: `P.weight` and its companions `P.weight.absmax`, `.quant_map`,
//! `.nested_absmax`, `.nested_quant_map` and `.quant_state.bitsandbytes__nf4` (or `__fp4`), a JSON in a tensor of bytes.

use std::ops::Range;
use std::sync::Arc;

use quant::{Absmax, NESTED_BLOCKSIZE, PackedTensor, QuantType};
use serde::Deserialize;

use crate::chat_template::python_float;
use crate::checkpoint::Tensor;
use crate::safetensors::Dtype;
use crate::{Checkpoint, ModelError, Result};

/// Longest JSON of a quant_state that is read; real ones take about 200 bytes.
const MAX_QUANT_STATE: usize = 4096;

/// Kernels of bitsandbytes use their built-in code, whatever `quant_map` says: a map that differs by more than rounding
/// was meant for something else.
const QUANT_MAP_TOLERANCE: f32 = 1e-6;

/// The JSON of a quant_state.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct QuantState {
    /// `nf4` or `fp4`.
    #[serde(deserialize_with = "quant_type")]
    pub quant_type: QuantType,
    /// Elements per scale.
    pub blocksize: usize,
    /// Type of the tensor before it was quantized, as `bfloat16`.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Scales per scale of scales; only with double quantization, like the two below.
    #[serde(default)]
    pub nested_blocksize: Option<usize>,
    /// Type of the scales before they were quantized: `float32`.
    #[serde(default)]
    pub nested_dtype: Option<String>,
    /// Mean of the scales, taken off before they were quantized.
    #[serde(default)]
    pub nested_offset: Option<f64>,
}

impl QuantState {
    /// Parses and checks the bytes of the tensor; the error is a phrase that lacks only the tensor's name.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_QUANT_STATE {
            return Err(format!("holds {} bytes, more than {MAX_QUANT_STATE}", bytes.len()));
        }
        let state: QuantState =
            serde_json::from_slice(bytes).map_err(|e| format!("is no quant_state: {e}"))?;
        quant::check_blocksize(state.blocksize).map_err(|e| e.to_string())?;
        let len = state.shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        if len.is_none_or(|len| len == 0 || len > isize::MAX as usize) {
            return Err(format!("has the impossible shape {:?}", state.shape));
        }
        if state.nested_blocksize.is_some_and(|size| !(1..=1 << 20).contains(&size)) {
            return Err("has a nested_blocksize out of range".to_owned());
        }
        Ok(state)
    }

    /// Writes the JSON in the order and spacing in which bitsandbytes writes it.
    pub(crate) fn to_json(packed: &PackedTensor, dtype: &str) -> String {
        let shape: Vec<String> = packed.shape.iter().map(usize::to_string).collect();
        let nested = match &packed.absmax {
            Absmax::Plain(_) => String::new(),
            Absmax::Nested { blocksize, offset, .. } => {
                // Python prints the f32 after widening it to a double.
                let offset = python_float(f64::from(*offset));
                format!(
                    ", \"nested_blocksize\": {blocksize}, \"nested_dtype\": \"float32\", \
                     \"nested_offset\": {offset}"
                )
            }
        };
        format!(
            "{{\"quant_type\": \"{}\", \"blocksize\": {}, \"dtype\": \"{dtype}\", \
             \"shape\": [{}]{nested}}}",
            packed.quant_type,
            packed.blocksize,
            shape.join(", ")
        )
    }
}

fn quant_type<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<QuantType, D::Error> {
    let name = String::deserialize(deserializer)?;
    QuantType::from_name(&name).ok_or_else(|| {
        serde::de::Error::custom(format!("quant_type `{name}` is neither nf4 nor fp4"))
    })
}

/// Names of the companions that a 4-bit tensor `name` may have.
pub(crate) fn companions(name: &str) -> [String; 6] {
    [
        format!("{name}.absmax"),
        format!("{name}.quant_map"),
        format!("{name}.nested_absmax"),
        format!("{name}.nested_quant_map"),
        quant_state_name(name, QuantType::Nf4),
        quant_state_name(name, QuantType::Fp4),
    ]
}

/// Name of the quant_state of tensor `name`.
pub(crate) fn quant_state_name(name: &str, quant_type: QuantType) -> String {
    format!("{name}.quant_state.bitsandbytes__{quant_type}")
}

/// Reads the 4-bit tensor `name`, checked; `None` if the tensor is not a 4-bit one.
pub(crate) fn read(checkpoint: &Checkpoint, name: &str) -> Result<Option<PackedTensor>> {
    let states = [QuantType::Nf4, QuantType::Fp4].map(|kind| quant_state_name(name, kind));
    let Some(state_name) = states.iter().find(|name| checkpoint.info(name).is_some()) else {
        return Ok(None);
    };
    Reader { checkpoint, name }.read(state_name).map(Some)
}

/// The 4-bit tensor `name` of the given shape as its headers show it, without bytes; `None` if it is not a 4-bit one. Its
/// blocksize follows from how many scales there are: of the sizes that fit, the one that bitsandbytes takes unless told.
pub(crate) fn outline(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &[usize],
) -> Result<Option<PackedTensor>> {
    let has_state = |kind: &QuantType| checkpoint.info(&quant_state_name(name, *kind)).is_some();
    let Some(quant_type) = [QuantType::Nf4, QuantType::Fp4].into_iter().find(has_state) else {
        return Ok(None);
    };
    let info = |name: &str| checkpoint.info(name).ok_or_else(|| checkpoint.missing(name));
    let count = |name: &str| -> Result<usize> { Ok(info(name)?.0.shape.iter().product()) };
    let len: usize = shape.iter().product();
    let (weight, file) = info(name)?;
    let (found, needed) = (weight.bytes.len(), len.div_ceil(2));
    if found < needed || found - needed >= weight.dtype.size() {
        let message = format!("holds {found} bytes of codes, but {shape:?} needs {needed}");
        return Err(ModelError::tensor(file, name, message));
    }
    let absmax_name = format!("{name}.absmax");
    let (absmax, file) = info(&absmax_name)?;
    let num_blocks = count(&absmax_name)?;
    let wrong = || {
        let message = format!("holds {num_blocks} scales, which fit no blocksize of {shape:?}");
        ModelError::tensor(file, &absmax_name, message)
    };
    let blocksizes = [64, 32, 128, 256, 512, 1024, 2048, 4096];
    let blocksize = blocksizes.into_iter().find(|size| len.div_ceil(*size) == num_blocks);
    let absmax = match absmax.dtype {
        Dtype::F32 => Absmax::Plain([].into()),
        Dtype::U8 => {
            let num_nested = count(&format!("{name}.nested_absmax"))?;
            let fits = |size: &usize| num_blocks.div_ceil(*size) == num_nested;
            let blocksize = Some(NESTED_BLOCKSIZE).filter(fits);
            Absmax::Nested {
                codes: bytes::Bytes::new(),
                map: quant::dynamic_map(),
                nested_absmax: [].into(),
                blocksize: blocksize.unwrap_or_else(|| num_blocks.div_ceil(num_nested.max(1))),
                offset: 0.0,
                first: 0,
            }
        }
        _ => return Err(wrong()),
    };
    Ok(Some(PackedTensor {
        quant_type,
        blocksize: blocksize.ok_or_else(wrong)?,
        shape: shape.to_vec(),
        packed: bytes::Bytes::new(),
        absmax,
    }))
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    name: &'a str,
}

impl Reader<'_> {
    fn read(&self, state_name: &str) -> Result<PackedTensor> {
        let tensor = self.checkpoint.tensor(state_name)?;
        let wrong = |message| ModelError::tensor(&tensor.file, state_name, message);
        let state = QuantState::parse(&tensor.bytes).map_err(wrong)?;
        if !state_name.ends_with(state.quant_type.name()) {
            return Err(wrong(format!("says quant_type {} inside", state.quant_type)));
        }
        self.check_quant_map(state.quant_type)?;
        let weight = self.checkpoint.tensor(self.name)?;
        let packed = PackedTensor {
            quant_type: state.quant_type,
            blocksize: state.blocksize,
            packed: self.codes(&weight, state.shape.iter().product())?,
            absmax: self.absmax(&state)?,
            shape: state.shape,
        };
        packed.validate().map_err(ModelError::quant(&weight.file, self.name))?;
        Ok(packed)
    }

    /// The codes, whatever `bnb_4bit_quant_storage` they are dressed as; a wide storage type may pad the end.
    fn codes(&self, weight: &Tensor, len: usize) -> Result<bytes::Bytes> {
        let needed = len.div_ceil(2);
        let found = weight.bytes.len();
        if found < needed || found - needed >= weight.dtype.size().max(1) {
            return Err(ModelError::tensor(
                &weight.file,
                self.name,
                format!("holds {found} bytes of codes, but its quant_state needs {needed}"),
            ));
        }
        Ok(weight.bytes.slice(..needed))
    }

    fn absmax(&self, state: &QuantState) -> Result<Absmax> {
        let name = format!("{}.absmax", self.name);
        let absmax = self.checkpoint.tensor(&name)?;
        match (absmax.dtype, state.nested_offset, state.nested_blocksize) {
            (Dtype::F32, None, None) => Ok(Absmax::Plain(floats(&absmax.bytes).collect())),
            (Dtype::U8, Some(offset), Some(blocksize)) => Ok(Absmax::Nested {
                codes: absmax.bytes,
                map: self.nested_quant_map()?,
                nested_absmax: self.f32s("nested_absmax", None)?.into(),
                blocksize,
                offset: offset as f32,
                first: 0,
            }),
            (dtype, offset, _) => Err(ModelError::tensor(
                &absmax.file,
                &name,
                format!(
                    "is {dtype}, but its quant_state says {} double quantization",
                    if offset.is_some() { "with" } else { "without" }
                ),
            )),
        }
    }

    fn nested_quant_map(&self) -> Result<Arc<[f32; 256]>> {
        let values = self.f32s("nested_quant_map", Some(256))?;
        let mut map = [0.0; 256];
        map.copy_from_slice(&values);
        Ok(Arc::new(map))
    }

    fn check_quant_map(&self, quant_type: QuantType) -> Result<()> {
        let code = quant_type.code();
        let map = self.f32s("quant_map", Some(code.len()))?;
        let agrees = |(found, value): (&f32, &f32)| (found - value).abs() <= QUANT_MAP_TOLERANCE;
        if map.iter().zip(code).all(agrees) {
            return Ok(());
        }
        let name = format!("{}.quant_map", self.name);
        let tensor = self.checkpoint.tensor(&name)?;
        Err(ModelError::tensor(&tensor.file, &name, format!("is not the code of {quant_type}")))
    }

    /// The values of a companion, which must be F32 and have `len` elements if that is known.
    fn f32s(&self, companion: &str, len: Option<usize>) -> Result<Vec<f32>> {
        let name = format!("{}.{companion}", self.name);
        let tensor = self.checkpoint.tensor(&name)?;
        let wrong = |message| Err(ModelError::tensor(&tensor.file, &name, message));
        if tensor.dtype != Dtype::F32 {
            return wrong(format!("is {}, expected F32", tensor.dtype));
        }
        let found = tensor.bytes.len() / 4;
        match len {
            Some(len) if len != found => wrong(format!("holds {found} elements, expected {len}")),
            _ => Ok(floats(&tensor.bytes).collect()),
        }
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let (chunks, _) = bytes.as_chunks::<4>();
    chunks.iter().map(|chunk| f32::from_le_bytes(*chunk))
}

/// Elements `range` of a tensor as a 4-bit tensor of their own that shares its arrays; `None` if the range does not
/// begin at a block. It may end within one: the tail of that block is simply not looked at.
pub(crate) fn slice(
    packed: &PackedTensor,
    range: Range<usize>,
    shape: Vec<usize>,
) -> Option<PackedTensor> {
    if !range.start.is_multiple_of(packed.blocksize) {
        return None;
    }
    let blocks = range.start / packed.blocksize..range.end.div_ceil(packed.blocksize);
    let absmax = match &packed.absmax {
        Absmax::Plain(absmax) => Absmax::Plain(absmax[blocks].into()),
        Absmax::Nested { codes, map, nested_absmax, blocksize, offset, first } => Absmax::Nested {
            codes: codes.slice(blocks.clone()),
            map: Arc::clone(map),
            nested_absmax: Arc::clone(nested_absmax),
            blocksize: *blocksize,
            offset: *offset,
            first: first + blocks.start,
        },
    };
    Some(PackedTensor {
        quant_type: packed.quant_type,
        blocksize: packed.blocksize,
        shape,
        packed: packed.packed.slice(range.start / 2..range.end.div_ceil(2)),
        absmax,
    })
}
