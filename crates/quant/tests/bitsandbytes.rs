//! Agreement with bitsandbytes 0.50.2, on what `fixtures/quant/make.py` recorded of it.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use quant::{
    Absmax, Dtype, Isa, NESTED_BLOCKSIZE, PackedTensor, QuantConfig, QuantType, Values,
    dynamic_map, quantize, quantize_into_with,
};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

static FIXTURE: &[u8] = include_bytes!("../../../fixtures/quant/quant.safetensors");

/// One input and what bitsandbytes made of it.
struct Case {
    /// `case.variant`.
    name: String,
    values: Values<'static>,
    config: QuantConfig,
    expected: PackedTensor,
    dequantized: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let (_, metadata) = SafeTensors::read_metadata(FIXTURE).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    let names = file.names();
    let names =
        names.iter().filter_map(|name| name.strip_suffix(".packed")).collect::<BTreeSet<_>>();
    assert!(names.len() > 100, "{} cases", names.len());
    names
        .into_iter()
        .map(|name| case(&file, name, |case| metadata[case].parse().unwrap()))
        .collect()
}

fn case(file: &SafeTensors<'static>, name: &str, blocksize: impl Fn(&str) -> usize) -> Case {
    let (case, variant) = name.split_once('.').unwrap();
    let tensor = |suffix: &str| file.tensor(&format!("{name}.{suffix}")).unwrap();
    let input = file.tensor(&format!("{case}.values")).unwrap();
    let dtype = match input.dtype() {
        safetensors::Dtype::F32 => Dtype::F32,
        safetensors::Dtype::BF16 => Dtype::Bf16,
        safetensors::Dtype::F16 => Dtype::F16,
        other => panic!("{name}: {other:?}"),
    };
    let (quant_type, double_quant) = match variant.strip_suffix("-dq") {
        Some(quant_type) => (quant_type, true),
        None => (variant, false),
    };
    let quant_type = QuantType::from_name(quant_type).unwrap();
    let config = QuantConfig { quant_type, blocksize: blocksize(case), double_quant };
    let absmax = if double_quant {
        Absmax::Nested {
            codes: Bytes::from_static(tensor("absmax").data()),
            map: Arc::new(floats(&file.tensor("map.nested").unwrap()).try_into().unwrap()),
            nested_absmax: floats(&tensor("nested_absmax")).into(),
            blocksize: NESTED_BLOCKSIZE,
            offset: floats(&tensor("offset"))[0],
            first: 0,
        }
    } else {
        Absmax::Plain(floats(&tensor("absmax")).into())
    };
    let expected = PackedTensor {
        quant_type,
        blocksize: config.blocksize,
        shape: input.shape().to_vec(),
        packed: Bytes::from_static(tensor("packed").data()),
        absmax,
    };
    Case {
        name: name.to_owned(),
        values: Values::from_le_bytes(dtype, input.data()).unwrap(),
        config,
        expected,
        dequantized: floats(&tensor("dequantized")),
    }
}

fn floats(tensor: &TensorView<'_>) -> Vec<f32> {
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[track_caller]
fn assert_same_bits(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.to_bits(), expected.to_bits(), "{name}[{i}]: {found} is not {expected}");
    }
}

#[test]
fn codes_and_the_nested_map_have_the_same_bits() {
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    for quant_type in QuantType::ALL {
        let expected = floats(&file.tensor(&format!("map.{quant_type}")).unwrap());
        assert_same_bits(quant_type.name(), quant_type.code(), &expected);
    }
    assert_same_bits("nested", &dynamic_map()[..], &floats(&file.tensor("map.nested").unwrap()));
}

#[test]
fn dequantizes_to_the_same_bits() {
    for case in cases() {
        case.expected.validate().unwrap();
        let mut out = vec![f32::NAN; case.expected.len()];
        for &isa in Isa::available() {
            case.expected.dequantize_range_with(isa, 0..out.len(), &mut out);
            assert_same_bits(&format!("{} on {isa}", case.name), &out, &case.dequantized);
        }
        let one_by_one = (0..out.len()).map(|i| case.expected.get(i)).collect::<Vec<_>>();
        assert_same_bits(&case.name, &one_by_one, &case.dequantized);
    }
}

#[test]
fn quantizes_to_the_same_codes_and_scales() {
    for case in cases().into_iter().filter(|case| !case.config.double_quant) {
        let Absmax::Plain(expected) = &case.expected.absmax else { panic!("{}", case.name) };
        let QuantConfig { quant_type, blocksize, .. } = case.config;
        for &isa in Isa::available() {
            let name = format!("{} on {isa}", case.name);
            let mut packed = vec![0; case.expected.packed.len()];
            let mut absmax = vec![f32::NAN; expected.len()];
            quantize_into_with(isa, case.values, quant_type, blocksize, &mut packed, &mut absmax)
                .unwrap();
            assert_eq!(packed, case.expected.packed, "{name}");
            assert_same_bits(&name, &absmax, expected);
        }
    }
}

/// The mean is summed in another order: each of the (fewer than 16) levels of a pairwise sum in `f32` rounds by up to
/// 2^-24, so the means agree within 1e-6 of their value. That moves a nested scale by as much, and an 8-bit code by one
/// at the most.
#[test]
fn double_quantizes_to_nearly_the_same_scales() {
    for case in cases().into_iter().filter(|case| case.config.double_quant) {
        let name = &case.name;
        let found = quantize(case.values, &case.expected.shape, case.config).unwrap();
        found.validate().unwrap();
        assert_eq!(found.packed, case.expected.packed, "{name}");
        let (found, expected) = (parts(&found.absmax), parts(&case.expected.absmax));
        let tolerance = 1e-6 * expected.offset.abs();
        assert!((found.offset - expected.offset).abs() <= tolerance, "{name}");
        assert_eq!(found.nested_absmax.len(), expected.nested_absmax.len(), "{name}");
        for (found, expected) in found.nested_absmax.iter().zip(expected.nested_absmax) {
            let tolerance = tolerance + 1e-6 * expected;
            assert!((found - expected).abs() <= tolerance, "{name}: {found} is not {expected}");
        }
        assert_eq!(found.codes.len(), expected.codes.len(), "{name}");
        for (found, expected) in found.codes.iter().zip(expected.codes) {
            assert!(found.abs_diff(*expected) <= 1, "{name}: code {found} is not {expected}");
        }
    }
}

struct Nested<'a> {
    codes: &'a [u8],
    nested_absmax: &'a [f32],
    offset: f32,
}

fn parts(absmax: &Absmax) -> Nested<'_> {
    match absmax {
        Absmax::Nested { codes, nested_absmax, offset, .. } => {
            Nested { codes, nested_absmax, offset: *offset }
        }
        Absmax::Plain(_) => panic!("the scales are not quantized"),
    }
}
