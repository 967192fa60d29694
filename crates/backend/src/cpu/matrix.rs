//! A matrix resident in memory, in the form its role and precision ask for.

use half::f16;
use quant::{Dtype, PackedTensor, QuantType};

use super::Precision;
use super::kernels::BLOCK;
use crate::{BackendError, Role, Weight};

/// A weight `[n, k]` and its optional bias.
#[derive(Debug)]
pub struct Matrix {
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) data: Data,
    pub(crate) bias: Option<Vec<f32>>,
}

#[derive(Debug)]
pub(crate) enum Data {
    /// 4-bit codes; with `int8` set, for products with int8 activations.
    Packed { tensor: PackedTensor, int8: Option<Int8Form> },
    /// Plain numbers of the checkpoint.
    Dense { dtype: Dtype, bytes: bytes::Bytes },
    /// Rounded to 8 bits while loading, a scale for every [`BLOCK`] elements; codes in split order.
    Int8 { codes: Vec<i8>, scales: RowScales },
}

/// What a packed matrix needs for products with int8 activations: element `= table[code] * scale`.
#[derive(Debug)]
pub(crate) struct Int8Form {
    /// The code in 8-bit integers.
    pub(crate) table: [i8; 16],
    /// The scales, the step of the table included.
    pub(crate) scales: RowScales,
    /// Elements that share a scale: [`BLOCK`], or half of it.
    pub(crate) scale_block: usize,
}

impl Int8Form {
    fn new(tensor: &PackedTensor, k: usize) -> Self {
        let (table, step) = int8_code(tensor.quant_type);
        let mut absmax = vec![0.0; tensor.absmax.len()];
        tensor.absmax.dequantize_range(0, &mut absmax);
        let scale_block = tensor.blocksize.min(BLOCK);
        let scale = |i: usize| absmax[i * scale_block / tensor.blocksize] * step;
        let scales: Vec<f32> = (0..tensor.len() / scale_block).map(scale).collect();
        Int8Form { table, scales: RowScales::new(&scales, k / scale_block), scale_block }
    }
}

/// Scales of a matrix as half-precision numbers relative to the largest of their row.
///
/// Rounding them costs at most 2^-11 of a scale, and, where a scale is below 2^-14 of the row's largest, 2^-25 of that:
/// far less than the activations lose. Decoding doubly quantized scales in the inner loop took a fifth of its time.
#[derive(Debug)]
pub(crate) struct RowScales {
    /// `[n][per_row]`.
    relative: Vec<f16>,
    /// The largest of each row, `[n]`; NaN where a scale is not finite, so that it shows in the products.
    largest: Vec<f32>,
    per_row: usize,
}

impl RowScales {
    fn new(scales: &[f32], per_row: usize) -> Self {
        let mut relative = Vec::with_capacity(scales.len());
        let mut largest = Vec::with_capacity(scales.len() / per_row);
        for row in scales.chunks_exact(per_row) {
            let finite = row.iter().all(|v| v.is_finite());
            let max = row.iter().fold(f32::MIN_POSITIVE, |max, v| max.max(v.abs()));
            largest.push(if finite { max } else { f32::NAN });
            relative.extend(row.iter().map(|scale| f16::from_f32(scale / max)));
        }
        RowScales { relative, largest, per_row }
    }

    /// The scales of a row, to be multiplied by [`RowScales::unit`].
    pub(crate) fn row(&self, row: usize) -> &[f16] {
        &self.relative[row * self.per_row..(row + 1) * self.per_row]
    }

    /// What the scales of a row are relative to.
    pub(crate) fn unit(&self, row: usize) -> f32 {
        self.largest[row]
    }

    /// Scale `i` of the matrix.
    fn get(&self, i: usize) -> f32 {
        self.relative[i].to_f32() * self.largest[i / self.per_row]
    }
}

/// The integers that come closest to a code, and their step. The step is not 1/127: with 1/112.03 the NF4 values fall
/// nearer to integers (RMS error 0.0017 of `absmax` instead of 0.0022), and all of FP4's but the smallest are exact at
/// 1/120.
pub(crate) fn int8_code(quant_type: QuantType) -> ([i8; 16], f32) {
    let inverse_step: f32 = match quant_type {
        QuantType::Nf4 => 112.03,
        QuantType::Fp4 => 120.0,
    };
    (quant_type.code().map(|value| (value * inverse_step).round() as i8), 1.0 / inverse_step)
}

impl Matrix {
    /// Takes a matrix. With [`Precision::Int8`] the projection to the vocabulary is rounded to 8 bits here, if it was
    /// not quantized: it is the one large matrix that bitsandbytes leaves at 16 bits.
    pub(crate) fn load(
        weight: Weight,
        bias: Option<Weight>,
        role: Role,
        precision: Precision,
    ) -> Result<Self, BackendError> {
        let &[n, k] = weight.shape() else {
            return Err(BackendError::Shape {
                found: weight.shape().to_vec(),
                expected: "a matrix",
            });
        };
        let bias = bias.map(load_vector).transpose()?;
        if let Some(bias) = bias.as_ref().filter(|bias| bias.len() != n) {
            return Err(BackendError::Shape {
                found: vec![bias.len()],
                expected: "a bias of n elements",
            });
        }
        let int8 = precision == Precision::Int8 && role != Role::Router && k.is_multiple_of(BLOCK);
        let data = match weight {
            Weight::Packed(tensor) => {
                let int8 = int8.then(|| Int8Form::new(&tensor, k));
                Data::Packed { tensor, int8 }
            }
            Weight::Dense { dtype, bytes, .. } if int8 && role == Role::LmHead => {
                round_to_int8(dtype, &bytes, k)
            }
            Weight::Dense { dtype, bytes, .. } => Data::Dense { dtype, bytes },
        };
        Ok(Matrix { n, k, data, bias })
    }

    /// Whether products with this matrix take int8 activations.
    pub(crate) fn is_int8(&self) -> bool {
        matches!(self.data, Data::Packed { int8: Some(_), .. } | Data::Int8 { .. })
    }

    /// Bytes of one row, for sharing out work.
    pub(crate) fn row_bytes(&self) -> usize {
        match &self.data {
            Data::Packed { .. } => self.k / 2,
            Data::Dense { dtype, .. } => self.k * dtype.size(),
            Data::Int8 { .. } => self.k,
        }
    }

    /// Row `row` in `f32`, exactly.
    pub(crate) fn row_f32(&self, row: usize, out: &mut [f32]) {
        let range = row * self.k..(row + 1) * self.k;
        match &self.data {
            Data::Packed { tensor, .. } => tensor.dequantize_range(range, out),
            Data::Dense { dtype, bytes } => {
                let size = dtype.size();
                to_f32(*dtype, &bytes[range.start * size..range.end * size], out);
            }
            Data::Int8 { codes, scales } => {
                let first = range.start / BLOCK;
                let blocks = codes[range].chunks_exact(BLOCK).zip(out.chunks_exact_mut(BLOCK));
                for (i, (codes, out)) in blocks.enumerate() {
                    let scale = scales.get(first + i);
                    for i in 0..BLOCK / 2 {
                        out[2 * i] = f32::from(codes[i]) * scale;
                        out[2 * i + 1] = f32::from(codes[BLOCK / 2 + i]) * scale;
                    }
                }
            }
        }
    }

    /// The packed bytes of a row.
    pub(crate) fn packed_row(&self, row: usize) -> &[u8] {
        let Data::Packed { tensor, .. } = &self.data else { unreachable!("not a packed matrix") };
        &tensor.packed[row * self.k / 2..(row + 1) * self.k / 2]
    }
}

/// A vector of any type as `f32`.
pub(crate) fn load_vector(weight: Weight) -> Result<Vec<f32>, BackendError> {
    match (weight.shape(), &weight) {
        (&[n], Weight::Dense { dtype, bytes, .. }) => {
            let mut out = vec![0.0; n];
            to_f32(*dtype, bytes, &mut out);
            Ok(out)
        }
        (shape, _) => {
            Err(BackendError::Shape { found: shape.to_vec(), expected: "a plain vector" })
        }
    }
}

/// Converts little-endian numbers exactly.
pub(crate) fn to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::Bf16 => {
            for (out, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes([raw[0], raw[1]])) << 16);
            }
        }
        Dtype::F16 => {
            for (out, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = f16::from_le_bytes([raw[0], raw[1]]).to_f32();
            }
        }
        Dtype::F32 => {
            for (out, raw) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
            }
        }
    }
}

fn round_to_int8(dtype: Dtype, bytes: &[u8], k: usize) -> Data {
    let len = bytes.len() / dtype.size();
    let mut values = [0.0; BLOCK];
    let blocks = bytes.chunks_exact(BLOCK * dtype.size());
    let exact: Vec<f32> = blocks
        .clone()
        .map(|bytes| {
            to_f32(dtype, bytes, &mut values);
            // `max` passes over NaN; the sum of zeros does not.
            let absmax = values.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            absmax / 127.0 + values.iter().map(|v| v * 0.0).sum::<f32>()
        })
        .collect();
    let scales = RowScales::new(&exact, k / BLOCK);
    let mut codes = vec![0i8; len];
    for (block, (bytes, codes)) in blocks.zip(codes.chunks_exact_mut(BLOCK)).enumerate() {
        to_f32(dtype, bytes, &mut values);
        let scale = scales.get(block);
        // Rounding the scale down may lead past 127: the largest value is then off by as little.
        let code =
            |v: f32| if scale > 0.0 { (v / scale).round().clamp(-127.0, 127.0) as i8 } else { 0 };
        for i in 0..BLOCK / 2 {
            codes[i] = code(values[2 * i]);
            codes[BLOCK / 2 + i] = code(values[2 * i + 1]);
        }
    }
    Data::Int8 { codes, scales }
}
