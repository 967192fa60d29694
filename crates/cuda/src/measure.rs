//! What the card can do at most: its rate of reading memory, and of tensor-core products.
#![allow(unsafe_code)] // launches on memory that is allocated here

use crate::CudaError;
use crate::driver::{Context, DeviceMemory, Event, Launch, Stream};
use crate::kernels::Kernels;
use crate::params;

/// Bytes that are read: many times what any cache holds.
const READ_BYTES: usize = 2 << 30;
/// Measurements of each; the best counts, for others on the card only slow it down.
const REPEAT: usize = 8;

/// Rates of a card, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Bytes per second that a kernel reads at most.
    pub read: f64,
    /// Operations per second of bf16 products on tensor cores, two for each multiply-add.
    pub tensor: f64,
}

/// Measures a card; takes 2 GiB of its memory meanwhile.
///
/// # Errors
/// Where the card cannot be used, or has not so much memory free.
pub fn ceilings(ordinal: u32) -> Result<Ceilings, CudaError> {
    let context = Context::new(ordinal)?;
    let meter = Meter { kernels: Kernels::new(&context)?, stream: Stream::new(&context)?, context };
    Ok(Ceilings { read: meter.read()?, tensor: meter.tensor()? })
}

struct Meter {
    context: Context,
    kernels: Kernels,
    stream: Stream,
}

impl Meter {
    fn read(&self) -> Result<f64, CudaError> {
        let memory = DeviceMemory::alloc(&self.context, READ_BYTES)?;
        let sink = DeviceMemory::alloc(&self.context, 256)?;
        let (ptr, count, sink_ptr) = (memory.ptr(), READ_BYTES as u64 / 16, sink.ptr());
        let seed = 1_u64;
        self.launch("fill_bytes", 4, 256, params![&ptr, &count, &seed])?;
        let best =
            self.best(|| self.launch("read_bandwidth", 4, 512, params![&ptr, &count, &sink_ptr]))?;
        Ok(READ_BYTES as f64 / best)
    }

    fn tensor(&self) -> Result<f64, CudaError> {
        let sink = DeviceMemory::alloc(&self.context, 4 << 20)?;
        let (sink, iterations) = (sink.ptr(), 20_000_u32);
        let multiprocessors = f64::from(self.context.info().multiprocessors);
        let mma = self.best(|| self.launch("mma_rate", 4, 256, params![&iterations, &sink]))?;
        // 4 blocks of 8 warps, 8 products of 4,096 operations each.
        let mma = multiprocessors * 32.0 * f64::from(iterations) * 8.0 * 4096.0 / mma;
        if self.kernels.choice().target().to_string() != "sm_90a" {
            return Ok(mma);
        }
        let wgmma = self.best(|| self.launch("wgmma_rate", 1, 256, params![&iterations, &sink]))?;
        Ok(mma.max(multiprocessors * 2.0 * f64::from(iterations) * 4.0 * 524_288.0 / wgmma))
    }

    fn launch(
        &self,
        name: &str,
        blocks_per_multiprocessor: u32,
        threads: u32,
        params: &mut [*mut std::ffi::c_void],
    ) -> Result<(), CudaError> {
        let launch = Launch {
            grid: [self.context.info().multiprocessors * blocks_per_multiprocessor, 1, 1],
            block: [threads, 1, 1],
            shared: 0,
            dependent: false,
            cluster: None,
        };
        // SAFETY: the parameters are those of measure.cu's kernels, on memory that the caller holds.
        unsafe { self.stream.launch(&self.kernels.get("measure", name)?.function, launch, params) }
    }

    /// The shortest time of some runs, in seconds.
    fn best(&self, run: impl Fn() -> Result<(), CudaError>) -> Result<f64, CudaError> {
        let (start, end) = (Event::new(&self.context)?, Event::new(&self.context)?);
        let mut best = f64::INFINITY;
        for _ in 0..REPEAT {
            start.record(&self.stream)?;
            run()?;
            end.record(&self.stream)?;
            end.synchronize()?;
            best = best.min(f64::from(start.elapsed_ms(&end)?) / 1e3);
        }
        Ok(best)
    }
}
