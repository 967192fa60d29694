//! Brings weights to the device: from the mapped file through page-locked memory, in parallel, into tiles.
//!
//! Each worker has a stream and a few slots, a slot being a piece of page-locked memory and a piece of device memory. It
//! fills a slot, lets the stream copy it and turn it into tiles, and meanwhile fills the next. The device's pieces lie at
//! the end of the arena, where activations and the cache will be.
#![allow(unsafe_code)] // copies to and kernels on addresses that the arena gave

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use half::f16;
use quant::{Dtype, PackedTensor};

use crate::codes::Nibbles;
use crate::driver::{Context, Event, Pinned, Stream};
use crate::kernels::Kernels;
use crate::layout::Place;
use crate::{CudaError, params};

/// Bytes of a slot: enough that a copy outweighs its start.
const SLOT_BYTES: usize = 4 << 20;
/// Slots of a worker: one is filled while others are on their way.
const SLOTS: usize = 2;
/// Most workers: each copies some GB/s, the bus takes about 55.
const WORKERS_MAX: usize = 12;
/// Tasks that wait for a worker.
const QUEUE: usize = 64;
/// Threads of a block of the loading kernels, and blocks: they stride over their work.
const BLOCK: u32 = 256;
const GRID: u32 = 264;

/// Bytes of device memory that loading needs beside the weights.
pub(crate) fn staging_bytes() -> usize {
    workers() * SLOTS * SLOT_BYTES
}

fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX)
}

/// Steps that one worker runs in order.
pub(crate) type Task = Vec<Step>;

/// One array of a weight and what becomes of it.
#[derive(Debug)]
pub(crate) enum Step {
    /// Bytes as they are.
    Copy { from: Bytes, to: u64 },
    /// 4-bit codes of a tensor into tiles.
    Codes { tensor: PackedTensor, tiles: Tiles },
    /// Its 8-bit scales.
    NestedScales { codes: Bytes, tiles: Tiles },
    /// Its scales in f32, one for every 64 elements.
    PlainScales { tensor: PackedTensor, tiles: Tiles },
    /// Numbers into tiles of f16.
    Dense { source: Numbers, tiles: Tiles },
    /// Random bytes, a multiple of 16.
    RandomBytes { to: u64, len: usize, seed: u64 },
    /// Random normal numbers in f16.
    RandomF16 { to: u64, len: usize, std: f32, seed: u64 },
}

/// Where a matrix `[n, k]` goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiles {
    pub(crate) to: u64,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) k_padded: usize,
    pub(crate) place: Place,
}

/// A matrix that is kept in f16.
#[derive(Debug, Clone)]
pub(crate) enum Numbers {
    Dense(Dtype, Bytes),
    /// A 4-bit tensor that 4-bit tiles cannot hold.
    Packed(PackedTensor),
}

impl Numbers {
    /// Type of what [`Numbers::write`] writes.
    fn dtype(&self) -> Dtype {
        match self {
            Numbers::Dense(dtype, _) => *dtype,
            Numbers::Packed(_) => Dtype::F16,
        }
    }

    /// Writes a range of elements.
    fn write(&self, range: Range<usize>, out: &mut [u8]) {
        match self {
            Numbers::Dense(dtype, bytes) => {
                out.copy_from_slice(&bytes[range.start * dtype.size()..range.end * dtype.size()]);
            }
            Numbers::Packed(tensor) => {
                let mut values = vec![0.0; range.len()];
                tensor.dequantize_range(range, &mut values);
                // What is out of range is infinite here, and the greatest number in the tiles.
                for (out, value) in out.chunks_exact_mut(2).zip(values) {
                    out.copy_from_slice(&f16::from_f32(value).to_le_bytes());
                }
            }
        }
    }
}

/// The workers, and the way to them.
#[derive(Debug)]
pub(crate) struct Loader {
    state: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    sender: SyncSender<Task>,
    workers: Vec<JoinHandle<Result<(), CudaError>>>,
}

impl Loader {
    /// Starts the workers. `staging` is the address of [`staging_bytes`] of device memory.
    pub(crate) fn start(
        context: &Context,
        kernels: &Arc<Kernels>,
        staging: u64,
    ) -> Result<Self, CudaError> {
        let (sender, receiver) = sync_channel(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut handles = Vec::new();
        for index in 0..workers() {
            let start = staging + (index * SLOTS * SLOT_BYTES) as u64;
            let (context, kernels) = (context.clone(), kernels.clone());
            let receiver = receiver.clone();
            let work = move || Worker::new(&context, &kernels, start)?.run(&receiver);
            let handle = thread::Builder::new().name(format!("load-{index}")).spawn(work);
            handles.push(handle.map_err(|e| CudaError::argument("starting a thread", e))?);
        }
        Ok(Loader { state: Mutex::new(Some(Running { sender, workers: handles })) })
    }

    /// Hands a task to the workers; waits while too many are waiting.
    pub(crate) fn submit(&self, task: Task) -> Result<(), CudaError> {
        let sender = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.as_ref().map(|running| running.sender.clone())
        };
        match sender.map(|sender| sender.send(task)) {
            Some(Ok(())) => Ok(()),
            // No worker is left: the reason comes from `finish`.
            Some(Err(_)) => self.finish(),
            None => Err(CudaError::argument("loading a weight", "loading has been finished")),
        }
    }

    /// Waits until everything is on the device, and ends the workers.
    pub(crate) fn finish(&self) -> Result<(), CudaError> {
        let running = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { sender, workers }) = running else { return Ok(()) };
        drop(sender);
        let mut result = Ok(());
        for worker in workers {
            let ended = worker.join().unwrap_or_else(|_| {
                Err(CudaError::argument("loading weights", "a thread ended with a fault of ours"))
            });
            result = result.and(ended);
        }
        result
    }
}

/// One thread's stream and slots.
struct Worker<'a> {
    kernels: &'a Kernels,
    stream: Stream,
    slots: Vec<Slot>,
    next: usize,
}

struct Slot {
    pinned: Pinned,
    device: u64,
    /// What was last put in has left.
    free: Event,
}

impl<'a> Worker<'a> {
    fn new(context: &Context, kernels: &'a Kernels, staging: u64) -> Result<Self, CudaError> {
        let slot = |index: usize| {
            Ok(Slot {
                pinned: Pinned::alloc(context, SLOT_BYTES)?,
                device: staging + (index * SLOT_BYTES) as u64,
                free: Event::new(context)?,
            })
        };
        let slots = (0..SLOTS).map(slot).collect::<Result<_, CudaError>>()?;
        Ok(Worker { kernels, stream: Stream::new(context)?, slots, next: 0 })
    }

    fn run(mut self, tasks: &Mutex<Receiver<Task>>) -> Result<(), CudaError> {
        loop {
            let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(task) = task else { break };
            for step in task {
                self.step(&step)?;
            }
        }
        self.stream.synchronize()
    }

    fn step(&mut self, step: &Step) -> Result<(), CudaError> {
        match step {
            Step::Copy { from, to } => self.copy(from, *to),
            Step::Codes { tensor, tiles } => {
                self.by_rows(tiles, tiles.k / 2, &|worker, slot, rows| {
                    let bytes = rows.start * tiles.k / 2..rows.end * tiles.k / 2;
                    let device = worker.fill(slot, bytes.len(), |to| {
                        to.copy_from_slice(&tensor.packed[bytes]);
                    })?;
                    let nibbles = Nibbles::of(tensor.quant_type);
                    let (new_nibbles, zero) = (nibbles.of_codes(), u32::from(nibbles.zero));
                    worker.tile("tile_codes", tiles, &rows, |n, first_tile, kernel| {
                        let (k, k_padded, part) = tiles.numbers();
                        kernel.launch(params![
                            &device,
                            &n,
                            &k,
                            &new_nibbles,
                            &zero,
                            &tiles.to,
                            &first_tile,
                            &k_padded,
                            &part
                        ])
                    })
                })
            }
            Step::NestedScales { codes, tiles } => {
                let per_row = tiles.k / 64;
                self.by_rows(tiles, per_row, &|worker, slot, rows| {
                    let bytes = rows.start * per_row..rows.end * per_row;
                    let device =
                        worker.fill(slot, bytes.len(), |to| to.copy_from_slice(&codes[bytes]))?;
                    worker.tile("tile_scales_nested", tiles, &rows, |n, first_tile, kernel| {
                        let (_, k_padded, part) = tiles.numbers();
                        let per_row = per_row as u32;
                        kernel.launch(params![
                            &device,
                            &n,
                            &per_row,
                            &tiles.to,
                            &first_tile,
                            &k_padded,
                            &part
                        ])
                    })
                })
            }
            Step::PlainScales { tensor, tiles } => {
                let per_row = tiles.k / 64;
                self.by_rows(tiles, 4 * per_row, &|worker, slot, rows| {
                    let blocks = rows.start * per_row..rows.end * per_row;
                    let device = worker.fill(slot, 4 * blocks.len(), |to| {
                        for (to, block) in to.chunks_exact_mut(4).zip(blocks) {
                            let scale = tensor.absmax.get(block * 64 / tensor.blocksize);
                            to.copy_from_slice(&scale.to_le_bytes());
                        }
                    })?;
                    worker.tile("tile_scales_plain", tiles, &rows, |n, first_tile, kernel| {
                        let (_, k_padded, part) = tiles.numbers();
                        let per_row = per_row as u32;
                        kernel.launch(params![
                            &device,
                            &n,
                            &per_row,
                            &tiles.to,
                            &first_tile,
                            &k_padded,
                            &part
                        ])
                    })
                })
            }
            Step::Dense { source, tiles } => {
                let size = source.dtype().size();
                let name = match source.dtype() {
                    Dtype::Bf16 => "tile_f16_bf16",
                    Dtype::F16 => "tile_f16_f16",
                    Dtype::F32 => "tile_f16_f32",
                };
                self.by_rows(tiles, tiles.k * size, &|worker, slot, rows| {
                    let elements = rows.start * tiles.k..rows.end * tiles.k;
                    let device = worker
                        .fill(slot, elements.len() * size, |to| source.write(elements, to))?;
                    worker.tile(name, tiles, &rows, |n, first_tile, kernel| {
                        let (k, k_padded, part) = tiles.numbers();
                        kernel.launch(params![
                            &device,
                            &n,
                            &k,
                            &tiles.to,
                            &first_tile,
                            &k_padded,
                            &part
                        ])
                    })
                })
            }
            Step::RandomBytes { to, len, seed } => {
                let count = *len as u64 / 16;
                self.random("fill_bytes", |kernel| kernel.launch(params![to, &count, seed]))
            }
            Step::RandomF16 { to, len, std, seed } => {
                let pairs = *len as u64 / 2;
                self.random("fill_normal_f16", |kernel| {
                    kernel.launch(params![to, &pairs, std, seed])
                })
            }
        }
    }

    fn copy(&mut self, from: &Bytes, to: u64) -> Result<(), CudaError> {
        for (index, piece) in from.chunks(SLOT_BYTES).enumerate() {
            let slot = self.next_slot()?;
            let target = to + (index * SLOT_BYTES) as u64;
            self.slots[slot].pinned[..piece.len()].copy_from_slice(piece);
            // SAFETY: the slot is left alone until its event, which follows, has come.
            unsafe { self.stream.copy_to_device(target, &self.slots[slot].pinned[..piece.len()])? };
            self.slots[slot].free.record(&self.stream)?;
        }
        Ok(())
    }

    /// Calls `f` with a free slot and some rows, as many as a slot holds, until all are done.
    fn by_rows(
        &mut self,
        tiles: &Tiles,
        row_bytes: usize,
        f: &dyn Fn(&mut Self, usize, Range<usize>) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        // Whole tiles of either kind: a tile is written by one launch.
        let rows_max = SLOT_BYTES / row_bytes.max(1) / 16 * 16;
        if rows_max == 0 {
            let reason = format!("16 rows of {row_bytes} bytes do not fit into {SLOT_BYTES}");
            return Err(CudaError::argument("loading a matrix", reason));
        }
        for start in (0..tiles.n).step_by(rows_max) {
            let slot = self.next_slot()?;
            f(self, slot, start..tiles.n.min(start + rows_max))?;
            self.slots[slot].free.record(&self.stream)?;
        }
        Ok(())
    }

    fn next_slot(&mut self) -> Result<usize, CudaError> {
        let slot = self.next;
        self.next = (self.next + 1) % SLOTS;
        self.slots[slot].free.synchronize()?;
        Ok(slot)
    }

    /// Fills a slot and starts its copy; returns where it arrives.
    fn fill(
        &mut self,
        slot: usize,
        len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<u64, CudaError> {
        let Slot { pinned, device, .. } = &mut self.slots[slot];
        write(&mut pinned[..len]);
        // SAFETY: the slot is left alone until its event has come.
        unsafe { self.stream.copy_to_device(*device, &pinned[..len])? };
        Ok(*device)
    }

    /// Launches a tiling kernel on some rows: `f` gets their number and their first tile.
    fn tile(
        &self,
        name: &'static str,
        tiles: &Tiles,
        rows: &Range<usize>,
        f: impl FnOnce(u32, u32, Loading<'_>) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let first_tile = tiles.place.first_tile + rows.start / tiles.place.part.rows();
        f(rows.len() as u32, first_tile as u32, Loading { worker: self, file: "load", name })
    }

    fn random(
        &self,
        name: &'static str,
        f: impl FnOnce(Loading<'_>) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        f(Loading { worker: self, file: "measure", name })
    }
}

/// A kernel about to be launched on a worker's stream.
struct Loading<'a> {
    worker: &'a Worker<'a>,
    file: &'static str,
    name: &'static str,
}

impl Loading<'_> {
    fn launch(self, params: &mut [*mut std::ffi::c_void]) -> Result<(), CudaError> {
        let launch = crate::driver::Launch {
            grid: [GRID, 1, 1],
            block: [BLOCK, 1, 1],
            shared: 0,
            dependent: false,
            cluster: None,
        };
        let kernel = self.worker.kernels.get(self.file, self.name)?;
        // SAFETY: the parameters are those of the kernel's declaration in load.cu or measure.cu; addresses are of the
        // slot and of memory that the arena gave for the whole stack.
        unsafe { self.worker.stream.launch(&kernel.function, launch, params) }
    }
}

impl Tiles {
    /// Columns, columns in memory, and the part, as kernels take them.
    fn numbers(&self) -> (u32, u32, u32) {
        (self.k as u32, self.k_padded as u32, self.place.part.code())
    }
}
