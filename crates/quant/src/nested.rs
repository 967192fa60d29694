//! Double quantization: the scales of the blocks, quantized to 8 bits in blocks of their own.

use std::sync::{Arc, LazyLock};

use crate::quantize::ABSMAX_MIN;
use crate::{Absmax, NESTED_BLOCKSIZE, QuantError};

/// The signed dynamic 8-bit map that bitsandbytes quantizes scales with, ascending.
///
/// An exponent of zero to six decades below one is followed by a fraction that gets the more bits, the larger the
/// exponent: decade `i` of 0..=6 has the `2^i` midpoints of `0.1…1` cut into equal parts, times `10^(i - 6)`, with
/// either sign. Zero and one fill up the 256 (Dettmers, "8-Bit Approximations for Parallelism in Deep Learning", 2015).
pub fn dynamic_map() -> Arc<[f32; 256]> {
    static MAP: LazyLock<Arc<[f32; 256]>> = LazyLock::new(|| {
        let mut map = vec![0.0, 1.0];
        for (i, power) in [1e-6f32, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0].into_iter().enumerate() {
            let num_parts = 1 << i;
            for part in 0..num_parts {
                let mean = (boundary(part, num_parts) + boundary(part + 1, num_parts)) / 2.0;
                map.extend([power * mean, -power * mean]);
            }
        }
        map.sort_by(f32::total_cmp);
        Arc::new(std::array::from_fn(|i| map[i]))
    });
    MAP.clone()
}

/// Where part `i` of `num_parts` equal parts of `0.1…1` begins, counted from the nearer end in `f32` with fused
/// multiply-adds, as PyTorch's `linspace` does on any machine that has them (elsewhere its last bits differ).
fn boundary(i: usize, num_parts: usize) -> f32 {
    let step = (1.0f32 - 0.1) / num_parts as f32;
    if i < num_parts.div_ceil(2) {
        step.mul_add(i as f32, 0.1)
    } else {
        (-step).mul_add((num_parts - i) as f32, 1.0)
    }
}

impl Absmax {
    /// Quantizes scales to 8 bits, in blocks of [`NESTED_BLOCKSIZE`], after taking off their mean.
    ///
    /// bitsandbytes adds the scales up in `f32`, in an order that depends on the machine; here the mean is the exact one,
    /// rounded. It can differ in the last bits, and with it an 8-bit code by one.
    ///
    /// # Errors
    /// [`QuantError::Scale`] when a scale is not finite.
    pub fn nested(absmax: &[f32]) -> Result<Absmax, QuantError> {
        if let Some(index) = absmax.iter().position(|scale| !scale.is_finite()) {
            return Err(QuantError::Scale { what: "absmax", index, value: absmax[index] });
        }
        let sum: f64 = absmax.iter().map(|scale| f64::from(*scale)).sum();
        let offset = (sum / absmax.len().max(1) as f64) as f32;
        let map = dynamic_map();
        let midpoints = midpoints(&map);
        let mut codes = Vec::with_capacity(absmax.len());
        let mut nested_absmax = Vec::with_capacity(absmax.len().div_ceil(NESTED_BLOCKSIZE));
        for block in absmax.chunks(NESTED_BLOCKSIZE) {
            nested_absmax.push(quantize_block(block, offset, &midpoints, &mut codes));
        }
        Ok(Absmax::Nested {
            codes: codes.into(),
            map,
            nested_absmax: nested_absmax.into(),
            blocksize: NESTED_BLOCKSIZE,
            offset,
            first: 0,
        })
    }
}

/// Quantizes `block - offset` and returns its scale. As with 4-bit codes, a full block is scaled by the reciprocal, the
/// incomplete last one by a division.
fn quantize_block(block: &[f32], offset: f32, midpoints: &[f32; 256], codes: &mut Vec<u8>) -> f32 {
    let magnitudes = block.iter().map(|scale| (scale - offset).abs().to_bits());
    let absmax = f32::from_bits(magnitudes.max().unwrap_or(0));
    let clamped = absmax.max(ABSMAX_MIN);
    if block.len() == NESTED_BLOCKSIZE {
        let reciprocal = 1.0 / clamped;
        codes.extend(block.iter().map(|scale| code_of(midpoints, (scale - offset) * reciprocal)));
        absmax
    } else {
        codes.extend(block.iter().map(|scale| code_of(midpoints, (scale - offset) / clamped)));
        clamped
    }
}

/// The midpoints of neighbours in the map, in `f32` as bitsandbytes computes them, and infinity after the last.
fn midpoints(map: &[f32; 256]) -> [f32; 256] {
    let mut midpoints = [f32::INFINITY; 256];
    for (midpoint, pair) in midpoints.iter_mut().zip(map.windows(2)) {
        *midpoint = (pair[0] + pair[1]) / 2.0;
    }
    midpoints
}

/// Number of midpoints strictly below `scaled`, by a binary search without branches: they would be unpredictable.
fn code_of(midpoints: &[f32; 256], scaled: f32) -> u8 {
    let mut code = 0;
    for bit in (0..8).rev() {
        let step = 1 << bit;
        let above = scaled > midpoints[(code + (step - 1)) & 255];
        code += step * usize::from(above);
    }
    code as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_its_landmarks() {
        let map = dynamic_map();
        assert!(map.is_sorted_by(|a, b| a < b));
        assert_eq!((map[127], map[255], map[0]), (0.0, 1.0, -0.99296875));
    }

    #[test]
    fn a_code_counts_the_midpoints_below() {
        let map = dynamic_map();
        let midpoints = midpoints(&map);
        for (i, value) in map.iter().enumerate() {
            assert_eq!(usize::from(code_of(&midpoints, *value)), i);
        }
        for (i, midpoint) in midpoints[..255].iter().enumerate() {
            assert_eq!(usize::from(code_of(&midpoints, *midpoint)), i);
            assert_eq!(usize::from(code_of(&midpoints, midpoint.next_up())), i + 1);
        }
        // A product with a reciprocal can come out a little above one.
        assert_eq!(code_of(&midpoints, 1.0f32.next_up()), 255);
        assert_eq!(code_of(&midpoints, -1.0f32.next_up()), 0);
    }

    #[test]
    fn no_scales_have_no_mean() {
        let Absmax::Nested { offset, codes, nested_absmax, .. } = Absmax::nested(&[]).unwrap()
        else {
            panic!("not nested");
        };
        assert_eq!((offset, codes.len(), nested_absmax.len()), (0.0, 0, 0));
    }
}
