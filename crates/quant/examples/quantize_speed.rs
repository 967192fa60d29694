//! Times both directions on one core, over a tensor of Mixtral 8x7B's size, and prints a line of JSON per measurement.
//!
//! ```text
//! cargo run --release -p halfbyte-quant --example quantize_speed [ROWS COLUMNS]
//! ```
//!
//! Time is that which the thread spent on a processor (the wall clock's where the system does not tell), so that other
//! work on the machine disturbs the figures less. GB/s count the 16-bit side of the tensor: the bytes that quantizing reads, and the bytes that the same number of
//! values takes when dequantizing, so that the figures compare with each other and with those of
//! `fixtures/quant/bench_bitsandbytes.py`.

use std::time::Instant;

use quant::{
    Absmax, Dtype, Isa, PackedTensor, QuantConfig, QuantError, Values, quantize_into_with,
};

const REPEATS: usize = 5;

fn main() -> Result<(), QuantError> {
    let mut dims = std::env::args().skip(1).filter_map(|dim| dim.parse().ok());
    let shape = [dims.next().unwrap_or(4096), dims.next().unwrap_or(14336)];
    let weights = bf16_weights(shape[0] * shape[1]);
    let values = Values::from_le_bytes(Dtype::Bf16, &weights)?;
    for isa in Isa::available() {
        for double_quant in [false, true] {
            measure(*isa, values, shape, QuantConfig { double_quant, ..QuantConfig::default() })?;
        }
    }
    Ok(())
}

fn measure(
    isa: Isa,
    values: Values<'_>,
    shape: [usize; 2],
    config: QuantConfig,
) -> Result<(), QuantError> {
    let QuantConfig { quant_type, blocksize, double_quant } = config;
    let mut packed = vec![0; values.len().div_ceil(2)];
    let mut absmax = vec![0.0; values.len().div_ceil(blocksize)];
    let mut scales = Absmax::Plain([].into());
    let quantize_s = fastest(|| {
        quantize_into_with(isa, values, quant_type, blocksize, &mut packed, &mut absmax)?;
        scales = match double_quant {
            true => Absmax::nested(&absmax)?,
            false => Absmax::Plain(absmax.as_slice().into()),
        };
        Ok(())
    })?;
    let tensor = PackedTensor {
        quant_type,
        blocksize,
        shape: shape.to_vec(),
        packed: packed.into(),
        absmax: scales,
    };
    let mut out = vec![0.0; tensor.len()];
    let dequantize_s = fastest(|| {
        tensor.dequantize_range_with(isa, 0..out.len(), &mut out);
        Ok(())
    })?;
    // Into an output that stays in the first-level cache, a row of the tensor at a time: what a kernel sees.
    let mut row = vec![0.0; shape[1].min(4096)];
    let dequantize_rows_s = fastest(|| {
        for start in (0..tensor.len()).step_by(row.len()) {
            let end = (start + row.len()).min(tensor.len());
            tensor.dequantize_range_with(isa, start..end, &mut row[..end - start]);
        }
        Ok(())
    })?;
    let gb = 2.0 * values.len() as f64 / 1e9;
    println!(
        "{{\"isa\": \"{isa}\", \"shape\": {shape:?}, \"quant_type\": \"{quant_type}\", \
         \"blocksize\": {blocksize}, \"double_quant\": {double_quant}, \
         \"quantize_gb_per_s\": {:.2}, \"dequantize_gb_per_s\": {:.2}, \
         \"dequantize_cached_gb_per_s\": {:.2}}}",
        gb / quantize_s,
        gb / dequantize_s,
        gb / dequantize_rows_s,
    );
    Ok(())
}

/// Seconds of the fastest of a few runs, after one that warms up.
fn fastest(mut run: impl FnMut() -> Result<(), QuantError>) -> Result<f64, QuantError> {
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let (wall, processor) = (Instant::now(), processor_seconds());
        run()?;
        let wall_s = wall.elapsed().as_secs_f64();
        best = best.min(processor.zip(processor_seconds()).map_or(wall_s, |(from, to)| to - from));
    }
    Ok(best)
}

/// Seconds this thread has been running, from Linux.
fn processor_seconds() -> Option<f64> {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

/// About normal weights (the sum of twelve uniform ones) of deviation 0.02, cut to bf16.
fn bf16_weights(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut normal = move || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
    (0..len).flat_map(|_| (((0.02 * normal()).to_bits() >> 16) as u16).to_le_bytes()).collect()
}
