//! Quantizing one tensor on all threads, whole or piece by piece.

use quant::{Absmax, PackedTensor, QuantConfig, QuantError, Values};
use rayon::prelude::*;

/// Elements that one thread quantizes at a time: a multiple of every blocksize, and small enough to share work evenly.
const PIECE: usize = 1 << 16;

/// A tensor that is being quantized.
pub(crate) struct Packer {
    config: QuantConfig,
    shape: Vec<usize>,
    packed: Vec<u8>,
    absmax: Vec<f32>,
    /// Elements taken so far.
    taken: usize,
}

impl Packer {
    /// Makes room for a tensor of `shape`, whose elements must be countable.
    pub(crate) fn new(shape: &[usize], config: QuantConfig) -> Result<Self, QuantError> {
        quant::check_blocksize(config.blocksize)?;
        let len: usize = shape.iter().product();
        Ok(Packer {
            config,
            shape: shape.to_vec(),
            packed: vec![0; len.div_ceil(2)],
            absmax: vec![0.0; len.div_ceil(config.blocksize)],
            taken: 0,
        })
    }

    /// Quantizes the next elements. All but the last call must bring a multiple of the blocksize.
    pub(crate) fn push(&mut self, values: Values<'_>) -> Result<(), QuantError> {
        let QuantConfig { quant_type, blocksize, .. } = self.config;
        let (first, len) = (self.taken, values.len());
        let packed = &mut self.packed[first / 2..(first + len).div_ceil(2)];
        let absmax = &mut self.absmax[first / blocksize..(first + len).div_ceil(blocksize)];
        let pieces = packed.par_chunks_mut(PIECE / 2).zip(absmax.par_chunks_mut(PIECE / blocksize));
        pieces.enumerate().try_for_each(|(i, (packed, absmax))| {
            let (_, rest) = values.split_at(i * PIECE);
            let (piece, _) = rest.split_at(rest.len().min(PIECE));
            quant::quantize_into(piece, quant_type, blocksize, packed, absmax)
                .map_err(|e| shift(e, first + i * PIECE))
        })?;
        self.taken += len;
        Ok(())
    }

    /// The finished tensor, once every element has been pushed.
    pub(crate) fn finish(self) -> Result<PackedTensor, QuantError> {
        let len = self.shape.iter().product();
        if self.taken != len {
            return Err(QuantError::Length { what: "values", found: self.taken, expected: len });
        }
        let absmax = if self.config.double_quant {
            Absmax::nested(&self.absmax)?
        } else {
            Absmax::Plain(self.absmax.into())
        };
        Ok(PackedTensor {
            quant_type: self.config.quant_type,
            blocksize: self.config.blocksize,
            shape: self.shape,
            packed: self.packed.into(),
            absmax,
        })
    }
}

/// Counts the index of an error from the start of the tensor.
fn shift(error: QuantError, first: usize) -> QuantError {
    match error {
        QuantError::NotFinite { index, value } => {
            QuantError::NotFinite { index: first + index, value }
        }
        other => other,
    }
}
