//! How fast this machine reads memory: the bound on decoding.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Bytes that are read in one pass: far more than any cache holds.
const BYTES: usize = 512 << 20;

/// Passes; the fastest counts, for others on the machine only ever slow one down.
const PASSES: usize = 5;

/// Bytes that this process can read per second with so many threads; `None` if the memory for it is not to be had.
pub(crate) fn measure(threads: usize) -> Option<f64> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok()?;
    let mut data: Vec<u64> = Vec::new();
    data.try_reserve_exact(BYTES / 8).ok()?;
    // Written, so that the pages are there and not all the same one.
    data.resize(BYTES / 8, 1);
    let piece = data.len().div_ceil(threads);
    let pass = || {
        let start = Instant::now();
        let sum = pool.install(|| data.par_chunks(piece).map(sum).reduce(|| 0, u64::wrapping_add));
        black_box(sum);
        start.elapsed().as_secs_f64()
    };
    let fastest = (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
    Some(BYTES as f64 / fastest)
}

/// Sixteen sums side by side, so that loads and not additions set the pace.
fn sum(data: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    for chunk in data.chunks_exact(16) {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*value);
        }
    }
    sums.iter().fold(0, |total, sum| total.wrapping_add(*sum))
}
