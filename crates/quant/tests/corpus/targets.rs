//! What the fuzzer does with its bytes. Shared by the fuzz targets and by the tests that run the committed corpus.

use std::sync::Arc;

use bytes::Bytes;
use quant::{
    Absmax, Dtype, Isa, PackedTensor, QuantConfig, QuantType, Values, dynamic_map, quantize,
    quantize_into_with,
};

/// Reads numbers off the front of the input, zeros once it is used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    fn float(&mut self) -> f32 {
        f32::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        self.0.split_off(..len.min(self.0.len())).unwrap_or(&[])
    }

    fn floats(&mut self, len: usize) -> Arc<[f32]> {
        (0..len.min(self.0.len())).map(|_| self.float()).collect()
    }

    fn quant_type(&mut self) -> QuantType {
        if self.byte().is_multiple_of(2) { QuantType::Nf4 } else { QuantType::Fp4 }
    }
}

/// Any tensor, sound or not: if it passes the checks, every range of it must dequantize to what `get` says, on every
/// instruction set.
pub(crate) fn dequantize(data: &[u8]) {
    let mut input = Input(data);
    let quant_type = input.quant_type();
    let log2 = input.byte() % 16;
    // Mostly a blocksize that exists, and mostly lengths that fit together.
    let blocksize = if log2 < 13 { 1 << log2 } else { input.number() };
    let len = input.number() % 10_000;
    let (start, end) = (input.number(), input.number());
    let num_blocks =
        if input.byte() == 0 { input.number() } else { len.div_ceil(blocksize.max(1)) };
    let absmax = if input.byte().is_multiple_of(2) {
        Absmax::Plain(input.floats(num_blocks))
    } else {
        let (first, blocksize) = (input.number(), input.number());
        let num_nested = (first + num_blocks).div_ceil(blocksize.max(1)).min(1000);
        let mut map = dynamic_map();
        Arc::make_mut(&mut map)[usize::from(input.byte())] = input.float();
        Absmax::Nested {
            offset: input.float(),
            nested_absmax: input.floats(num_nested),
            codes: Bytes::copy_from_slice(input.bytes(num_blocks)),
            map,
            blocksize,
            first,
        }
    };
    let mut packed = input.bytes(len.div_ceil(2)).to_vec();
    if input.byte() == 0 {
        packed.resize(len.div_ceil(2), 0x5a);
    }
    let tensor =
        PackedTensor { quant_type, blocksize, shape: vec![len], packed: packed.into(), absmax };
    if tensor.validate().is_err() {
        return;
    }
    let end = end % (len + 1);
    let range = start % (end + 1)..end;
    let expected: Vec<u32> = range.clone().map(|i| tensor.get(i).to_bits()).collect();
    for isa in Isa::available() {
        let mut out = vec![0.0; range.len()];
        tensor.dequantize_range_with(*isa, range.clone(), &mut out);
        assert!(out.iter().map(|value| value.to_bits()).eq(expected.iter().copied()), "{isa}");
    }
}

/// Any values of any type: quantizing fails exactly if one is not finite, gives the same on every instruction set, and
/// can be read again.
pub(crate) fn quantize_values(data: &[u8]) {
    let mut input = Input(data);
    let dtype = [Dtype::F32, Dtype::Bf16, Dtype::F16][usize::from(input.byte() % 3)];
    let config = QuantConfig {
        quant_type: input.quant_type(),
        blocksize: 1 << (input.byte() % 16),
        double_quant: input.byte().is_multiple_of(2),
    };
    // The rest of the input, over and over: full blocks from few bytes.
    let len = input.number() % 10_000;
    let rest = if input.0.is_empty() { &[0] } else { input.0 };
    let bytes: Vec<u8> = rest.iter().copied().cycle().take(len * dtype.size()).collect();
    let Ok(values) = Values::from_le_bytes(dtype, &bytes) else { panic!("whole values") };
    let sound = (32..=4096).contains(&config.blocksize) && values.iter().all(f32::is_finite);
    let quantized = quantize(values, &[len], config);
    assert_eq!(quantized.is_ok(), sound, "{quantized:?}");
    let Ok(tensor) = quantized else { return };
    assert!(tensor.validate().is_ok() || values.iter().any(|value| value.abs() > 1e38));
    assert_eq!(tensor.dequantize().len(), len);
    for isa in Isa::available() {
        let mut packed = vec![0; len.div_ceil(2)];
        let mut absmax = vec![0.0; len.div_ceil(config.blocksize)];
        let QuantConfig { quant_type, blocksize, .. } = config;
        let result =
            quantize_into_with(*isa, values, quant_type, blocksize, &mut packed, &mut absmax);
        assert!(result.is_ok() && packed == tensor.packed, "{isa}");
    }
}
