//! The backend: one card, its arena, its kernels and the model's memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ::backend::{
    AttentionParams, BackendError, GatedMlp, KV_BLOCK_SIZE, LinearWeight, Moe, Role, StepLimits,
    Storage, Weight,
};

use crate::CudaError;
use crate::arena::{Arena, MemoryPlan};
use crate::buffer::{self, Buffer, Form};
use crate::draws::Drawing;
use crate::driver::{Context, DeviceInfo, GraphExec, Pinned, Stream};
use crate::images::Target;
use crate::kernels::Kernels;
use crate::kv::KvLayout;
use crate::layout::{check_routes, expert_stacks, linear_stacks};
use crate::loader::{Loader, STAGING_BYTES};
use crate::matrix::{
    Codes, Experts, Linear, LinearStack, Matrices, MoeLayer, expert_weights, floats, is_empty,
};
use crate::scratch::{Scratch, Wants};
use crate::step::{Shape, Step};

impl From<CudaError> for BackendError {
    fn from(error: CudaError) -> Self {
        BackendError::Device(error.to_string())
    }
}

/// What a card is opened with.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Which card.
    pub ordinal: u32,
    /// How much a step may hold.
    pub limits: StepLimits,
    /// Keys and values in 8 bits instead of 16.
    pub fp8_kv: bool,
    /// Fill weights that come without bytes with random ones, for measuring: the seed.
    pub random_weights: Option<u64>,
}

/// A card.
pub struct Cuda {
    pub(crate) options: Options,
    pub(crate) kernels: Arc<Kernels>,
    /// Before the arena, into which its threads write until it is dropped.
    loader: Loader,
    pub(crate) stream: Stream,
    pub(crate) arena: Arena,
    codes: Codes,
    /// What operations will need, gathered while the model is loaded.
    wants: Mutex<Wants>,
    pub(crate) scratch: OnceLock<Scratch>,
    pub(crate) attention: OnceLock<AttentionScratch>,
    /// The step that is running, or that ran last.
    pub(crate) step: Step,
    /// Recorded steps; `None` for a shape that was seen once.
    pub(crate) graphs: HashMap<Shape, Option<GraphExec>>,
    /// The first failure of a step's operations.
    pub(crate) failure: Option<CudaError>,
    /// Where the next kernel's launch may overlap the one before it.
    pub(crate) overlap: bool,
    /// Whether a step was handed over and not waited for: one that failed, or whose caller did.
    pub(crate) in_flight: bool,
    /// Page-locked memory: a step's description on its way there, its logits on their way back.
    pub(crate) host_step: Option<Pinned>,
    pub(crate) host_logits: Option<Pinned>,
    pub(crate) drawing: Option<Drawing>,
    /// Experts with tokens in each mixture of the last step, where they are watched.
    pub(crate) watched: Option<Vec<u32>>,
}

/// What attention needs beside the cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionScratch {
    pub(crate) layout: KvLayout,
    /// Rotated queries.
    pub(crate) q: u64,
    pub(crate) parts: u64,
    pub(crate) states: u64,
    pub(crate) arrived: u64,
    /// What describes a step.
    pub(crate) step: u64,
}

/// Keys and values on the device.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) layout: KvLayout,
    pub(crate) blocks: u64,
    pub(crate) scales: u64,
}

/// The embedding table, in page-locked memory of the host: a token reads one row.
#[derive(Debug)]
pub struct Table {
    pub(crate) address: u64,
    pub(crate) cols: usize,
    _memory: Pinned,
}

/// A vector of f32 on the device.
#[derive(Debug, Clone, Copy)]
pub struct Vector {
    pub(crate) address: u64,
}

impl Cuda {
    /// Opens a card and takes the memory that `plan` counted.
    ///
    /// # Errors
    /// [`CudaError`], with what to do.
    pub fn new(options: Options, plan: &MemoryPlan) -> Result<Self, CudaError> {
        let context = Context::new(options.ordinal)?;
        let kernels = Arc::new(Kernels::new(&context)?);
        let (free, _) = context.mem_info()?;
        if plan.total() as u64 > free {
            return Err(CudaError::DoesNotFit { needed: plan.total() as u64, free });
        }
        let arena = Arena::new(&context, plan)?;
        let loader = Loader::start(&context, &kernels, arena.tail(STAGING_BYTES)?)?;
        let codes = Codes::load(&arena, &loader)?;
        Ok(Cuda {
            options,
            kernels,
            arena,
            stream: Stream::new(&context)?,
            loader,
            codes,
            wants: Mutex::default(),
            scratch: OnceLock::new(),
            attention: OnceLock::new(),
            step: Step::default(),
            graphs: HashMap::new(),
            failure: None,
            overlap: false,
            in_flight: false,
            host_step: None,
            host_logits: None,
            drawing: None,
            watched: None,
        })
    }

    /// The card.
    pub fn device(&self) -> &DeviceInfo {
        self.stream.context().info()
    }

    /// What its kernels are compiled for.
    pub fn target(&self) -> Target {
        self.kernels.choice().target()
    }

    /// Bytes of the arena, and how many of them are handed out.
    pub fn memory(&self) -> (usize, usize) {
        (self.arena.len(), self.arena.used())
    }

    /// Counts, in the steps that follow, the experts that each mixture reads. Such steps wait for every layer.
    pub fn watch_experts(&mut self, watch: bool) {
        self.watched = watch.then(Vec::new);
    }

    /// Experts with tokens in each mixture of the last step.
    pub fn watched_experts(&self) -> Vec<u32> {
        self.watched.clone().unwrap_or_default()
    }

    fn matrices(&self) -> Matrices<'_> {
        Matrices {
            arena: &self.arena,
            loader: &self.loader,
            codes: self.codes,
            seed: self.options.random_weights,
        }
    }

    /// Logits of a row.
    pub(crate) fn vocab(&self) -> usize {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner).vocab()
    }

    fn want(&self, f: impl FnOnce(&mut Wants)) {
        f(&mut self.wants.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn load_experts(
        &self,
        experts: &[GatedMlp<LinearWeight>],
        choices: usize,
    ) -> Result<Experts, BackendError> {
        let (gate_up, down) = expert_stacks(experts)?;
        self.want(|wants| wants.experts(&gate_up, &down, experts.len(), choices));
        let (gate_up_weights, down_weights) = expert_weights(experts);
        Ok(Experts {
            gate_up: self.matrices().load(&gate_up, &gate_up_weights)?,
            down: self.matrices().load(&down, &down_weights)?,
            count: experts.len(),
            hidden: gate_up.k,
            intermediate: down.k,
        })
    }

    /// The address of small values, as f32.
    fn load_floats(&self, weight: &Weight) -> Result<u64, CudaError> {
        let len: usize = weight.shape().iter().product();
        let random = self.options.random_weights.is_some() && is_empty(weight);
        // A router without bytes: any numbers of the size of `1 / sqrt(k)` that differ from layer to layer.
        let values = if random {
            random_floats(self.arena.used() as u64, len, weight)
        } else {
            weight.to_f32()
        };
        floats(&self.arena, &self.loader, &values)
    }
}

/// Numbers in `[-1, 1) * 1.7 / sqrt(k)`, whose variance is `1 / k`.
fn random_floats(seed: u64, len: usize, weight: &Weight) -> Vec<f32> {
    let k = weight.shape().last().copied().unwrap_or(1) as f32;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next() * (3.0 / k).sqrt()).collect()
}

impl Storage for Cuda {
    type Buffer = Buffer;
    type Linear = Linear;
    type Mlp = Experts;
    type Moe = MoeLayer;
    type Vector = Vector;
    type Table = Table;
    type KvCache = KvCache;

    fn load_linear(&self, linears: Vec<LinearWeight>, role: Role) -> Result<Linear, BackendError> {
        let mut stacks = Vec::new();
        let (mut start, mut k) = (0, 0);
        for (run, stack) in linear_stacks(&linears)? {
            let members = &linears[run];
            let n: usize = members.iter().map(|l| l.weight.shape()[0]).sum();
            self.want(|wants| wants.linear(&stack, n, role));
            let weights: Vec<&Weight> = members.iter().map(|l| &l.weight).collect();
            let matrix = self.matrices().load(&stack, &weights)?;
            let bias = self.matrices().bias(members, n)?;
            stacks.push(LinearStack { matrix, start, n, bias });
            (start, k) = (start + n, stack.k);
        }
        Ok(Linear { stacks, k, n: start })
    }

    fn load_mlp(&self, mlp: GatedMlp<LinearWeight>) -> Result<Experts, BackendError> {
        self.load_experts(&[mlp], 0)
    }

    fn load_moe(&self, moe: Moe<LinearWeight>) -> Result<MoeLayer, BackendError> {
        check_routes(moe.experts.len(), moe.num_experts_per_tok)?;
        Ok(MoeLayer {
            router: self.load_floats(&moe.gate.weight)?,
            experts: self.load_experts(&moe.experts, moe.num_experts_per_tok)?,
            choices: moe.num_experts_per_tok,
            norm_topk_prob: moe.norm_topk_prob,
        })
    }

    fn load_vector(&self, weight: Weight) -> Result<Vector, BackendError> {
        Ok(Vector { address: self.load_floats(&weight)? })
    }

    fn load_table(&self, weight: Weight) -> Result<Table, BackendError> {
        let (rows, cols) = crate::layout::matrix_shape(&weight)?;
        let mut memory = Pinned::alloc(self.stream.context(), 2 * rows * cols)?;
        crate::layout::write_bf16(&weight, &mut memory);
        Ok(Table { address: memory.device_ptr()?, cols, _memory: memory })
    }

    fn buffer(&self, rows_max: usize, cols: usize) -> Result<Buffer, BackendError> {
        let address = self.arena.take(buffer::num_bytes(rows_max, cols))?;
        Ok(Buffer { address, cols, rows_max, rows: 0, form: Form::Rows })
    }

    fn kv_cache(
        &self,
        num_layers: usize,
        num_blocks: usize,
        params: &AttentionParams,
    ) -> Result<KvCache, BackendError> {
        let layout = KvLayout::new(num_layers, num_blocks, params, self.options.fp8_kv);
        let [blocks, scales] = layout.pieces();
        let (blocks, scales) = (self.arena.take(blocks)?, self.arena.take(scales)?);
        let mut at = [0; 5];
        for (at, bytes) in at.iter_mut().zip(layout.workspace(&self.options.limits)) {
            *at = self.arena.take(bytes)?;
        }
        let [q, parts, states, arrived, step] = at;
        let scratch = AttentionScratch { layout, q, parts, states, arrived, step };
        let arrived_bytes = layout.workspace(&self.options.limits)[3];
        // SAFETY: the piece was taken above and nothing uses it yet.
        #[allow(unsafe_code)]
        unsafe {
            self.stream.memset(arrived, 0, arrived_bytes)?;
        }
        self.stream.synchronize()?;
        if self.attention.set(scratch).is_err() {
            return Err(CudaError::argument("making a cache", "this card has one already").into());
        }
        debug_assert_eq!(KV_BLOCK_SIZE, 16, "the kernels' KV_BLOCK");
        Ok(KvCache { layout, blocks, scales })
    }

    fn finish_loading(&self) -> Result<(), BackendError> {
        self.loader.finish()?;
        let wants = *self.wants.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = &self.options.limits;
        let start = self.arena.used();
        let scratch = Scratch::take(&self.arena, &wants, limits)?;
        let len = self.arena.used() - start;
        // What loading left there is no number for the kernels that read columns of padding.
        // SAFETY: the pieces were taken just now, one after the other, and nothing uses them yet.
        #[allow(unsafe_code)]
        unsafe {
            self.stream.memset(scratch.x_groups, 0, len)?;
        }
        self.stream.synchronize()?;
        let taken = self.scratch.set(scratch);
        debug_assert!(taken.is_ok(), "a model is loaded once");
        Ok(())
    }
}
