//! Models on a GPU: the memory they take, and loading them.

use std::time::Instant;

use anyhow::Result;
use backend::{KV_BLOCK_SIZE, StepLimits};
use cuda::driver::{self, Context, DeviceInfo};
use cuda::images::{self, Target};
use cuda::{Cuda, MemoryPlan, Options, Planner};
use engine::Runner;
use model::{Config, ModelWeights, Transformer};

use crate::memory::gb;
use crate::output::{self, CliError};
use crate::progress;

/// Tokens of a prompt that a step computes at most.
const STEP_TOKENS: usize = 2048;

/// A GPU that can be used.
#[derive(Debug, Clone)]
pub(crate) struct Gpu {
    pub(crate) info: DeviceInfo,
    pub(crate) target: Target,
    pub(crate) fp8_kv: bool,
    /// Held from here on: to open a card takes a quarter of a second.
    context: Context,
}

impl Gpu {
    /// Finds a GPU and the kernels for it.
    ///
    /// # Errors
    /// [`CliError::Device`] with what stands in the way.
    pub(crate) fn open(ordinal: u32, fp8_kv: bool) -> Result<Self> {
        let unusable = |error: cuda::CudaError| {
            CliError::Device(format!("cuda:{ordinal} cannot be used: {error}"))
        };
        driver::probe().map_err(unusable)?;
        let devices = driver::devices().map_err(unusable)?;
        let count = devices.len() as u32;
        let info = devices
            .into_iter()
            .nth(ordinal as usize)
            .ok_or_else(|| unusable(cuda::CudaError::NoDevice { ordinal, count }))?;
        let choice = images::choose(info.compute_capability, false).map_err(unusable)?;
        let context = Context::new(ordinal).map_err(unusable)?;
        Ok(Gpu { info, target: choice.target(), fp8_kv, context })
    }

    /// The device in words: `cuda:0 (NVIDIA H200, sm_90a kernels)`.
    pub(crate) fn describe(&self) -> String {
        let kv = if self.fp8_kv { ", FP8 keys and values" } else { "" };
        format!("cuda:{} ({}, {} kernels{kv})", self.info.ordinal, self.info.name, self.target)
    }

    /// Bytes that the driver would give now.
    pub(crate) fn free_memory(&self) -> Result<u64> {
        Ok(self.memory()?.0)
    }

    /// Bytes of the card that are taken, by whomever.
    pub(crate) fn used_memory(&self) -> Result<u64> {
        let (free, total) = self.memory()?;
        Ok(total.saturating_sub(free))
    }

    /// Bytes that the driver would give now, and bytes of the card.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        Ok(self.context.mem_info().map_err(device_error)?)
    }
}

fn device_error(error: cuda::CudaError) -> CliError {
    CliError::Device(error.to_string())
}

/// How much a step holds, for one sequence of `context` tokens at a time, with the logits of `rows` of them.
pub(crate) fn limits(context: usize, rows: usize) -> StepLimits {
    StepLimits {
        tokens: STEP_TOKENS.min(context.next_multiple_of(KV_BLOCK_SIZE)),
        rows,
        sequences: 1,
    }
}

/// Bytes that the driver takes of a card beside what is planned, for its context, the code of kernels and recorded steps:
/// measured on an H200 (`memory_outside_arena_bytes` of `bench`, LOG.md), which has more multiprocessors than most cards.
pub(crate) const DRIVER_BYTES: u64 = 650_000_000;

/// Most bytes of keys and values that are planned at all: below, sums stay numbers.
const KV_BYTES_MAX: u128 = 1 << 50;

/// A model as a GPU would take it, of which nothing but the sizes is known. What `plan` says and what is allocated come
/// from here.
pub(crate) struct Footprint {
    /// Has counted the weights.
    planner: Planner,
    model: Transformer<Planner>,
}

impl Footprint {
    /// Counts the weights, which need not have bytes.
    ///
    /// # Errors
    /// If they do not fit each other.
    pub(crate) fn of(config: &Config, weights: &ModelWeights) -> Result<Self> {
        let any = StepLimits { tokens: 1, rows: 1, sequences: 1 };
        let planner = Planner::new(any, false);
        let model = Transformer::load(config, weights.clone(), &planner, |_| {})?;
        Ok(Footprint { planner, model })
    }

    /// What it takes with a cache of `context` tokens and steps within `limits`.
    ///
    /// # Errors
    /// If that is more than a petabyte.
    pub(crate) fn plan(
        &self,
        context: usize,
        limits: StepLimits,
        fp8_kv: bool,
    ) -> Result<MemoryPlan> {
        let config = self.model.config();
        let values = 2 * config.num_hidden_layers as u128 * config.kv_size() as u128;
        let bytes = values.saturating_mul(context as u128).saturating_mul(2);
        if bytes > KV_BYTES_MAX {
            let message = format!("keys and values of {context} tokens exceed every memory");
            return Err(CliError::DoesNotFit(message).into());
        }
        let planner = self.planner.with(limits, fp8_kv);
        self.model.workspace(&planner, limits.tokens)?;
        self.model.kv_cache(&planner, context)?;
        Ok(planner.plan())
    }

    /// Bytes of keys and values in a block of the cache, all layers together.
    pub(crate) fn block_bytes(&self, fp8_kv: bool) -> Result<u64> {
        let plan =
            |blocks: usize| self.plan(blocks * KV_BLOCK_SIZE, limits(KV_BLOCK_SIZE, 1), fp8_kv);
        // The difference of two, for what is rounded up is in both.
        Ok((plan(2)?.keys_and_values - plan(1)?.keys_and_values) as u64)
    }

    /// The longest context of one sequence that `free` bytes have room for: `wanted`, else whole blocks, 0 if there is none.
    pub(crate) fn context_that_fits(
        &self,
        wanted: usize,
        rows: usize,
        fp8_kv: bool,
        free: u64,
    ) -> Result<usize> {
        let fits = |context: usize| -> Result<bool> {
            Ok(self.plan(context, limits(context, rows), fp8_kv)?.total() as u64 <= free)
        };
        if fits(wanted)? {
            return Ok(wanted);
        }
        // Keys and values grow by the block; what a step needs stops growing early.
        let blocks = largest(wanted / KV_BLOCK_SIZE, |blocks| fits(blocks * KV_BLOCK_SIZE))?;
        Ok(blocks * KV_BLOCK_SIZE)
    }
}

/// What a model takes on a GPU.
///
/// # Errors
/// If its weights do not fit each other.
pub(crate) fn plan(
    config: &Config,
    weights: &ModelWeights,
    context: usize,
    limits: StepLimits,
    fp8_kv: bool,
) -> Result<MemoryPlan> {
    Footprint::of(config, weights)?.plan(context, limits, fp8_kv)
}

/// The largest number up to `most` that fits, where all below one that fits do: 0 if none does.
pub(crate) fn largest(most: usize, mut fits: impl FnMut(usize) -> Result<bool>) -> Result<usize> {
    let (mut low, mut high) = (0, most + 1);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if fits(middle)? { low = middle } else { high = middle }
    }
    Ok(low)
}

/// The longest context up to `wanted` that fits into `free` bytes; an error with the arithmetic where none does.
pub(crate) fn context_that_fits(
    config: &Config,
    weights: &ModelWeights,
    wanted: usize,
    asked: bool,
    rows: usize,
    gpu: &Gpu,
) -> Result<usize> {
    let free = gpu.free_memory()?;
    let footprint = Footprint::of(config, weights)?;
    let context = footprint.context_that_fits(wanted, rows, gpu.fp8_kv, free)?;
    if context == wanted {
        return Ok(wanted);
    }
    if asked || context == 0 {
        let hint = match context {
            0 => "take a smaller model, or a GPU with more memory".to_owned(),
            tokens => format!("--context {tokens} would fit"),
        };
        let message = format!("{} are free on cuda:{}; {hint}", gb(free), gpu.info.ordinal);
        let whole = footprint.plan(wanted, limits(wanted, rows), gpu.fp8_kv)?;
        return Err(CliError::DoesNotFit(format!("{}, but {message}", sum(&whole, wanted))).into());
    }
    output::note(&format!("context: {context} tokens, which is what fits into the GPU's memory"));
    Ok(context)
}

/// The plan as a sum.
pub(crate) fn sum(plan: &MemoryPlan, context: usize) -> String {
    format!(
        "weights {} + keys and values {} ({context} tokens) + workspace {} = {}",
        gb(plan.weights.total() as u64),
        gb(plan.keys_and_values as u64),
        gb(plan.workspace as u64),
        gb(plan.total() as u64),
    )
}

/// What a model is loaded with.
pub(crate) struct LoadOptions {
    pub(crate) context: usize,
    pub(crate) limits: StepLimits,
    pub(crate) random_weights: Option<u64>,
}

/// Brings a model to the GPU.
pub(crate) fn load(
    gpu: &Gpu,
    config: &Config,
    weights: ModelWeights,
    options: &LoadOptions,
    mut on_layer: impl FnMut(usize),
) -> Result<Runner<Cuda>> {
    let LoadOptions { context, limits, random_weights } = *options;
    let plan = plan(config, &weights, context, limits, gpu.fp8_kv)?;
    output::note(&format!("memory: {}", sum(&plan, context)));
    let start = Instant::now();
    let bar = progress::count("loading", config.num_hidden_layers as u64);
    let options = Options { ordinal: gpu.info.ordinal, limits, fp8_kv: gpu.fp8_kv, random_weights };
    let cuda = Cuda::new(options, &plan).map_err(device_error)?;
    let prepared = start.elapsed().as_secs_f64();
    let model = Transformer::load(config, weights, &cuda, |done| {
        bar.set_position(done as u64);
        on_layer(done);
    })?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    output::note(&format!(
        "loaded: {} in {seconds:.2} s, of which {prepared:.2} s for memory and kernels; {}/s",
        gb(plan.weights.total() as u64),
        gb((plan.weights.total() as f64 / (seconds - prepared)) as u64)
    ));
    Ok(Runner::new(cuda, model, context, limits)?)
}
