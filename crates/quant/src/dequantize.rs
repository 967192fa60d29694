//! 4-bit codes to values.

use std::ops::Range;

use crate::simd::{self, Isa};
use crate::{Absmax, PackedTensor};

/// Scales that are computed at a time: enough to amortise the call, few enough to stay in the first-level cache.
const SCALES_AT_ONCE: usize = 256;

impl PackedTensor {
    /// All values, in order: each is `code * absmax` in `f32`, the bits that [`PackedTensor::get`] gives.
    ///
    /// # Panics
    /// If the arrays are shorter than the shape asks for ([`PackedTensor::validate`] checks that they are not).
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.dequantize_range(0..out.len(), &mut out);
        out
    }

    /// The values of the elements `range` of the flat, row-major tensor; any start and end, odd ones as well.
    ///
    /// # Panics
    /// If `out` does not have the length of `range`, or `range` reaches past the end of the tensor.
    pub fn dequantize_range(&self, range: Range<usize>, out: &mut [f32]) {
        self.dequantize_range_with(Isa::best(), range, out);
    }

    /// [`PackedTensor::dequantize_range`] on a given instruction set, for tests and measurements.
    ///
    /// # Panics
    /// As [`PackedTensor::dequantize_range`].
    pub fn dequantize_range_with(&self, isa: Isa, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(range.len(), out.len(), "the output has the length of the range");
        assert!(range.end <= self.len(), "{range:?} is past the end of {} elements", self.len());
        let code = self.quant_type.code();
        let mut scales = [0.0; SCALES_AT_ONCE];
        let (mut start, mut out) = (range.start, out);
        while !out.is_empty() {
            // A run begins anywhere and ends where a block does, or with the range.
            let block = start / self.blocksize;
            let run_end = (block + SCALES_AT_ONCE).saturating_mul(self.blocksize).min(range.end);
            let scales = &mut scales[..run_end.div_ceil(self.blocksize) - block];
            self.absmax.dequantize_range(block, scales);
            let (run, rest) = out.split_at_mut(run_end - start);
            dequantize_run(isa, code, &self.packed, self.blocksize, scales, start, run);
            (start, out) = (run_end, rest);
        }
    }
}

/// Elements `start..` of `packed`; `scales[0]` is that of the block that `start` lies in.
fn dequantize_run(
    isa: Isa,
    code: &[f32; 16],
    packed: &[u8],
    blocksize: usize,
    scales: &[f32],
    start: usize,
    out: &mut [f32],
) {
    let (mut start, mut scales, mut out) = (start, scales, out);
    let begun = start % blocksize;
    if begun != 0 {
        let (head, rest) = out.split_at_mut(out.len().min(blocksize - begun));
        dequantize_part(isa, code, packed, scales[0], start, head);
        (start, scales, out) = (start + head.len(), &scales[1..], rest);
    }
    let num_full = out.len() / blocksize;
    let (full, tail) = out.split_at_mut(num_full * blocksize);
    let bytes = &packed[start / 2..][..full.len() / 2];
    simd::dequantize_blocks(isa, code, bytes, blocksize, &scales[..num_full], full);
    if !tail.is_empty() {
        dequantize_part(isa, code, packed, scales[num_full], start + full.len(), tail);
    }
}

/// Elements `start..` that lie in one block, without filling it.
fn dequantize_part(
    isa: Isa,
    code: &[f32; 16],
    packed: &[u8],
    scale: f32,
    start: usize,
    out: &mut [f32],
) {
    let value = |i: usize| {
        let byte = packed[i / 2];
        code[usize::from(if i.is_multiple_of(2) { byte >> 4 } else { byte & 0xf })] * scale
    };
    let (mut start, mut out) = (start, out);
    if !start.is_multiple_of(2) {
        out[0] = value(start);
        (start, out) = (start + 1, &mut out[1..]);
    }
    // What is left begins with a whole byte. The kernels take runs of 32 elements.
    let (whole, rest) = out.split_at_mut(out.len() / simd::RUN * simd::RUN);
    let bytes = &packed[start / 2..][..whole.len() / 2];
    if !whole.is_empty() {
        simd::dequantize_blocks(isa, code, bytes, whole.len(), &[scale], whole);
    }
    for (i, out) in rest.iter_mut().enumerate() {
        *out = value(start + whole.len() + i);
    }
}

impl Absmax {
    /// The scales of the blocks `first..first + out.len()`: the bits that [`Absmax::get`] gives.
    ///
    /// # Panics
    /// If the range reaches past [`Absmax::len`].
    pub fn dequantize_range(&self, first: usize, out: &mut [f32]) {
        match self {
            Absmax::Plain(absmax) => out.copy_from_slice(&absmax[first..][..out.len()]),
            Absmax::Nested { codes, map, nested_absmax, blocksize, offset, first: origin } => {
                let mut codes = &codes[first..][..out.len()];
                let (mut at, mut out) = (origin + first, out);
                while !out.is_empty() {
                    // One nested scale at a time.
                    let run = out.len().min(blocksize - at % blocksize);
                    let nested = nested_absmax[at / blocksize];
                    let (head, rest) = out.split_at_mut(run);
                    for (scale, code) in head.iter_mut().zip(codes) {
                        *scale = map[usize::from(*code)] * nested + offset;
                    }
                    (codes, at, out) = (&codes[run..], at + run, rest);
                }
            }
        }
    }
}
