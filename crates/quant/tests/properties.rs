//! What must hold for any tensor.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use proptest::collection::vec;
use proptest::prelude::*;
use quant::{
    Absmax, Dtype, Isa, PackedTensor, QuantConfig, QuantError, QuantType, Values, dynamic_map,
    quantize, quantize_into, quantize_into_with,
};

fn quant_type() -> impl Strategy<Value = QuantType> {
    prop_oneof![Just(QuantType::Nf4), Just(QuantType::Fp4)]
}

fn config() -> impl Strategy<Value = QuantConfig> {
    (quant_type(), 5u32..=12, any::<bool>()).prop_map(|(quant_type, log2, double_quant)| {
        QuantConfig { quant_type, blocksize: 1 << log2, double_quant }
    })
}

/// Weights of very different sizes, zeros and subnormal numbers among them. (Close to the largest number, the sum of a
/// mean and a difference from it can round to infinity, here as in bitsandbytes.)
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let weight = prop_oneof![
        6 => -1.0f32..1.0,
        1 => Just(0.0),
        1 => -1e-37f32..1e-37,
        1 => any::<f32>().prop_filter("too large", |x| x.abs() < 1e38),
    ];
    prop_oneof![vec(-0.1f32..0.1, 0..3000), vec(weight, 0..3000)]
}

/// Half the largest gap between neighbours: no value scaled to [-1, 1] is further from a code.
fn half_gap(values: &[f32]) -> f32 {
    let mut values = values.to_vec();
    values.sort_by(f32::total_cmp);
    values.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f32::max) / 2.0
}

proptest! {
    /// A value moves by at most half a gap of its block's true scale, plus what double quantization did to the scale
    /// (no code is larger than one). The rest is rounding: a handful of operations of relative error 2^-24, for which
    /// 2^-20 of the scale is plenty; and a block below the smallest scale, 1e-38, comes back as zeros or as tiny.
    #[test]
    fn a_round_trip_stays_within_half_a_gap(values in weights(), config in config()) {
        let tensor = quantize(&values, &[values.len()], config).unwrap();
        prop_assert!(tensor.validate().is_ok());
        let half_gap = half_gap(config.quant_type.code());
        let found = tensor.dequantize();
        let blocks = values.chunks(config.blocksize).zip(found.chunks(config.blocksize));
        for (block, (values, found)) in blocks.enumerate() {
            let absmax = values.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            let scale_error = (tensor.absmax.get(block) - absmax).abs();
            // Halves, because a bound near the largest number would overflow.
            let bound = absmax * (half_gap + 2f32.powi(-20)) / 2.0 + scale_error / 2.0 + 1e-38;
            for (x, y) in values.iter().zip(found) {
                prop_assert!((x / 2.0 - y / 2.0).abs() <= bound, "block {block}: {x} became {y}");
            }
        }
    }

    /// A scale moves by at most half a gap of the 8-bit map times the nested scale. What the map does not reach, from
    /// its minimum -0.993 down to -1, is as far away as its largest half gap.
    #[test]
    fn double_quantization_moves_a_scale_by_half_a_gap(scales in vec(0f32..10.0, 1..1500)) {
        let nested = Absmax::nested(&scales).unwrap();
        let Absmax::Nested { nested_absmax, offset, .. } = &nested else { unreachable!() };
        let half_gap = half_gap(&dynamic_map()[..]).max(1.0 + dynamic_map()[0]);
        for (i, scale) in scales.iter().enumerate() {
            let largest = nested_absmax[i / 256];
            let bound = largest * half_gap + 2f32.powi(-20) * (largest + offset) + 1e-38;
            let found = nested.get(i);
            prop_assert!((scale - found).abs() <= bound, "{scale} became {found}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_codes(
        bits in vec(any::<u32>(), 0..3000),
        dtype in prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16), Just(Dtype::F16)],
        config in config(),
    ) {
        // Any finite number: an exponent of ones becomes one of zeros.
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => bits.iter().flat_map(|b| finite(*b, 23, 0xff).to_le_bytes()).collect(),
            Dtype::Bf16 => bits.iter().flat_map(|b| (finite(*b, 7, 0xff) as u16).to_le_bytes()).collect(),
            Dtype::F16 => bits.iter().flat_map(|b| (finite(*b, 10, 0x1f) as u16).to_le_bytes()).collect(),
        };
        let values = Values::from_le_bytes(dtype, &bytes).unwrap();
        let quantized = |isa| {
            let mut packed = vec![0; values.len().div_ceil(2)];
            let mut absmax = vec![0.0; values.len().div_ceil(config.blocksize)];
            quantize_into_with(
                isa, values, config.quant_type, config.blocksize, &mut packed, &mut absmax,
            )
            .unwrap();
            (packed, absmax)
        };
        let (scalar, others) = Isa::available().split_first().unwrap();
        prop_assert_eq!(scalar.name(), "scalar");
        let expected = quantized(*scalar);
        for isa in others {
            prop_assert!(quantized(*isa) == expected, "{isa} differs from scalar");
        }
    }

    #[test]
    fn a_range_is_a_part_of_the_whole(tensor in tensor(), cut in any::<[prop::sample::Index; 2]>()) {
        prop_assert!(tensor.validate().is_ok());
        let [a, b] = cut.map(|cut| cut.index(tensor.len() + 1));
        let range = a.min(b)..a.max(b);
        let expected = range.clone().map(|i| tensor.get(i).to_bits()).collect::<Vec<_>>();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; range.len()];
            tensor.dequantize_range_with(*isa, range.clone(), &mut out);
            let found = out.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert!(found == expected, "{isa}, {range:?} of {}", tensor.len());
        }
    }

    #[test]
    fn pieces_make_up_the_whole(values in weights(), config in config(), piece in 1usize..20) {
        let QuantConfig { quant_type, blocksize, .. } = config;
        let whole = quantize(
            &values, &[values.len()], QuantConfig { double_quant: false, ..config },
        ).unwrap();
        let (mut packed, mut absmax) = (Vec::new(), Vec::new());
        for piece in values.chunks(piece * blocksize) {
            let mut piece_packed = vec![0; piece.len().div_ceil(2)];
            let mut piece_absmax = vec![0.0; piece.len().div_ceil(blocksize)];
            quantize_into(
                piece.into(), quant_type, blocksize, &mut piece_packed, &mut piece_absmax,
            )
            .unwrap();
            packed.extend(piece_packed);
            absmax.extend(piece_absmax);
        }
        prop_assert_eq!(packed, whole.packed);
        let Absmax::Plain(expected) = whole.absmax else { unreachable!() };
        prop_assert_eq!(&absmax[..], &expected[..]);
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_named(
        mut values in vec(-1f32..1.0, 1..3000),
        config in config(),
        at in any::<[prop::sample::Index; 2]>(),
        bad in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        let at = at.map(|at| at.index(values.len()));
        for index in at {
            values[index] = bad;
        }
        let index = at[0].min(at[1]);
        match quantize(&values, &[values.len()], config) {
            Err(QuantError::NotFinite { index: found, value }) => {
                prop_assert_eq!((found, value.to_bits()), (index, bad.to_bits()));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

/// The bits of a number with `mantissa` bits of it, finite: an exponent of all ones is cleared.
fn finite(bits: u32, mantissa: u32, exponent: u32) -> u32 {
    if bits >> mantissa & exponent == exponent { bits & !(exponent << mantissa) } else { bits }
}

/// Tensors as a checkpoint could hold them: of odd lengths, with any finite scale, slices of a larger tensor.
fn tensor() -> impl Strategy<Value = PackedTensor> {
    (quant_type(), 5u32..=12, 0usize..9000).prop_flat_map(|(quant_type, log2, len)| {
        let blocksize = 1usize << log2;
        (vec(any::<u8>(), len.div_ceil(2)), absmax(len.div_ceil(blocksize))).prop_map(
            move |(packed, absmax)| PackedTensor {
                quant_type,
                blocksize,
                shape: vec![len],
                packed: packed.into(),
                absmax,
            },
        )
    })
}

/// Any finite scale.
fn scale(value: f32) -> f32 {
    if value.is_finite() { value.abs() } else { 0.0 }
}

fn absmax(num_blocks: usize) -> impl Strategy<Value = Absmax> {
    let plain = vec(any::<f32>().prop_map(scale), num_blocks)
        .prop_map(|absmax| Absmax::Plain(absmax.into()));
    let nested =
        (vec(any::<u8>(), num_blocks), 0usize..1000, 1usize..300, any::<u64>(), -1f32..1.0);
    let nested = nested.prop_map(|(codes, first, blocksize, seed, offset)| {
        let nested_absmax = |i: usize| (seed.rotate_left(i as u32) as f32) * 1e-20;
        Absmax::Nested {
            nested_absmax: (0..(first + codes.len()).div_ceil(blocksize))
                .map(nested_absmax)
                .collect(),
            codes: codes.into(),
            map: dynamic_map(),
            blocksize,
            offset,
            first,
        }
    });
    prop_oneof![plain, nested]
}
