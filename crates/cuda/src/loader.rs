//! Brings weights to the device: from the mapped file through page-locked memory, in parallel, into tiles.
//!
//! Each worker has a stream and a few slots, a slot being a piece of page-locked memory and a piece of device memory. It
//! fills a slot, lets the stream copy it and turn it into tiles, and meanwhile fills the next. The device's pieces lie at
//! the end of the arena, where activations and the cache will be.
#![allow(unsafe_code)] // copies to and kernels on addresses that the arena gave

use std::ffi::c_void;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use half::f16;
use quant::{Dtype, PackedTensor};

use crate::codes::Nibbles;
use crate::driver::{Context, Event, Launch, Pinned, Stream};
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

/// Bytes of device memory that loading needs beside the weights. A machine with few cores uses a part of them: a plan must not
/// depend on where it is made.
pub(crate) const STAGING_BYTES: usize = WORKERS_MAX * SLOTS * SLOT_BYTES;

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
    /// Starts the workers. `staging` is the address of [`STAGING_BYTES`] of device memory.
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

impl Drop for Loader {
    /// Where loading broke off, the workers must be done with the arena before it goes.
    fn drop(&mut self) {
        // The error that ended loading is on its way; another would have nobody to tell.
        let _ = self.finish();
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
            Step::Codes { tensor, tiles } => self.codes(tensor, tiles),
            Step::NestedScales { codes, tiles } => {
                let per_row = tiles.k / 64;
                let tiling = Tiling { kernel: "tile_scales_nested", width: per_row, nibbles: None };
                self.tile(tiles, &tiling, per_row, &|rows, to| {
                    to.copy_from_slice(&codes[rows.start * per_row..rows.end * per_row]);
                })
            }
            Step::PlainScales { tensor, tiles } => self.plain_scales(tensor, tiles),
            Step::Dense { source, tiles } => self.dense(source, tiles),
            Step::RandomBytes { to, len, seed } => {
                let count = *len as u64 / 16;
                self.launch("measure", "fill_bytes", params![to, &count, seed])
            }
            Step::RandomF16 { to, len, std, seed } => {
                let pairs = *len as u64 / 2;
                self.launch("measure", "fill_normal_f16", params![to, &pairs, std, seed])
            }
        }
    }

    fn codes(&mut self, tensor: &PackedTensor, tiles: &Tiles) -> Result<(), CudaError> {
        let nibbles = Nibbles::of(tensor.quant_type);
        let nibbles = Some((nibbles.of_codes(), u32::from(nibbles.zero)));
        let tiling = Tiling { kernel: "tile_codes", width: tiles.k, nibbles };
        let row = tiles.k / 2;
        self.tile(tiles, &tiling, row, &|rows, to| {
            to.copy_from_slice(&tensor.packed[rows.start * row..rows.end * row]);
        })
    }

    fn plain_scales(&mut self, tensor: &PackedTensor, tiles: &Tiles) -> Result<(), CudaError> {
        let per_row = tiles.k / 64;
        let tiling = Tiling { kernel: "tile_scales_plain", width: per_row, nibbles: None };
        self.tile(tiles, &tiling, 4 * per_row, &|rows, to| {
            let blocks = rows.start * per_row..rows.end * per_row;
            for (to, block) in to.chunks_exact_mut(4).zip(blocks) {
                let scale = tensor.absmax.get(block * 64 / tensor.blocksize);
                to.copy_from_slice(&scale.to_le_bytes());
            }
        })
    }

    fn dense(&mut self, source: &Numbers, tiles: &Tiles) -> Result<(), CudaError> {
        let kernel = match source.dtype() {
            Dtype::Bf16 => "tile_f16_bf16",
            Dtype::F16 => "tile_f16_f16",
            Dtype::F32 => "tile_f16_f32",
        };
        let tiling = Tiling { kernel, width: tiles.k, nibbles: None };
        self.tile(tiles, &tiling, tiles.k * source.dtype().size(), &|rows, to| {
            source.write(rows.start * tiles.k..rows.end * tiles.k, to);
        })
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

    /// Brings a matrix to its tiles, as many rows at a time as a slot holds: `write` writes those rows, `row_bytes` each,
    /// as the kernel reads them.
    fn tile(
        &mut self,
        tiles: &Tiles,
        tiling: &Tiling,
        row_bytes: usize,
        write: &dyn Fn(Range<usize>, &mut [u8]),
    ) -> Result<(), CudaError> {
        // Whole tiles of either kind: a tile is written by one launch.
        let rows_max = SLOT_BYTES / row_bytes.max(1) / 16 * 16;
        if rows_max == 0 {
            let reason = format!("16 rows of {row_bytes} bytes do not fit into {SLOT_BYTES}");
            return Err(CudaError::argument("loading a matrix", reason));
        }
        for start in (0..tiles.n).step_by(rows_max) {
            let rows = start..tiles.n.min(start + rows_max);
            let slot = self.next_slot()?;
            let Slot { pinned, device, .. } = &mut self.slots[slot];
            let staged = &mut pinned[..rows.len() * row_bytes];
            write(rows.clone(), staged);
            let device = *device;
            // SAFETY: the slot is left alone until its event has come.
            unsafe { self.stream.copy_to_device(device, staged)? };
            let first_tile = tiles.place.first_tile + start / tiles.place.part.rows();
            let (n, width, first_tile) =
                (rows.len() as u32, tiling.width as u32, first_tile as u32);
            let (k_padded, part) = (tiles.k_padded as u32, tiles.place.part.code());
            let params: &mut [*mut c_void] = match &tiling.nibbles {
                Some((new, zero)) => {
                    params![
                        &device,
                        &n,
                        &width,
                        new,
                        zero,
                        &tiles.to,
                        &first_tile,
                        &k_padded,
                        &part
                    ]
                }
                None => params![&device, &n, &width, &tiles.to, &first_tile, &k_padded, &part],
            };
            self.launch("load", tiling.kernel, params)?;
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

    fn launch(
        &self,
        file: &'static str,
        name: &str,
        params: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        let launch = Launch {
            grid: [GRID, 1, 1],
            block: [BLOCK, 1, 1],
            shared: 0,
            dependent: false,
            cluster: None,
        };
        let kernel = self.kernels.get(file, name)?;
        // SAFETY: the parameters are those of the kernel's declaration in load.cu or measure.cu; addresses are of the slot
        // and of memory that the arena gave for the whole stack.
        unsafe { self.stream.launch(&kernel.function, launch, params) }
    }
}

/// Which kernel brings rows to their tiles, and what it takes beside them.
struct Tiling {
    kernel: &'static str,
    /// Columns of the matrix, or scales of a row.
    width: usize,
    /// New nibbles of 4-bit codes, and that of zero.
    nibbles: Option<(u64, u32)>,
}
