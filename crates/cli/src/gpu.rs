//! Models on a GPU: the memory they take, and loading them.

use std::time::Instant;

use anyhow::Result;
use backend::{KV_BLOCK_SIZE, StepLimits};
use cuda::driver::{self, DeviceInfo};
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
        Ok(Gpu { info, target: choice.target(), fp8_kv })
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
        let context = driver::Context::new(self.info.ordinal).map_err(device_error)?;
        Ok(context.mem_info().map_err(device_error)?)
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
    let planner = Planner::new(limits, fp8_kv);
    let model = Transformer::load(config, weights.clone(), &planner, |_| {})?;
    model.workspace(&planner, limits.tokens)?;
    model.kv_cache(&planner, context)?;
    Ok(planner.plan())
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
    let total = |context| -> Result<MemoryPlan> {
        plan(config, weights, context, limits(context, rows), gpu.fp8_kv)
    };
    let whole = total(wanted)?;
    if whole.total() as u64 <= free {
        return Ok(wanted);
    }
    // Keys and values grow by the block; what a step needs stops growing early.
    let fits = |blocks: usize| {
        Ok::<_, anyhow::Error>(total(blocks * KV_BLOCK_SIZE)?.total() as u64 <= free)
    };
    let (mut low, mut high) = (0, wanted.div_ceil(KV_BLOCK_SIZE));
    while high - low > 1 {
        let middle = low.midpoint(high);
        if fits(middle)? { low = middle } else { high = middle }
    }
    let context = low * KV_BLOCK_SIZE;
    if asked || context == 0 {
        let hint = match context {
            0 => "take a smaller model, or a GPU with more memory".to_owned(),
            tokens => format!("--context {tokens} would fit"),
        };
        let message = format!("{} are free on cuda:{}; {hint}", gb(free), gpu.info.ordinal);
        return Err(CliError::DoesNotFit(format!("{}, but {message}", sum(&whole, wanted))).into());
    }
    output::note(&format!("context: {context} tokens, which is what fits into the GPU's memory"));
    Ok(context)
}

/// The plan as a sum.
pub(crate) fn sum(plan: &MemoryPlan, context: usize) -> String {
    format!(
        "weights {} + keys and values {} ({context} tokens) + workspace {} = {}",
        gb(plan.weights as u64),
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
    let model = Transformer::load(config, weights, &cuda, |done| {
        bar.set_position(done as u64);
        on_layer(done);
    })?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    output::note(&format!(
        "loaded: {} in {seconds:.2} s, {}/s",
        gb(plan.weights as u64),
        gb((plan.weights as f64 / seconds) as u64)
    ));
    Ok(Runner::new(cuda, model, context, limits)?)
}
