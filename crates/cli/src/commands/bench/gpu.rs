//! The benchmark on a GPU: many batches, contexts and prompts with one load, beside what the card can do at most.

use std::time::Instant;

use anyhow::Result;
use backend::{KV_BLOCK_SIZE, StepLimits};
use cuda::{Ceilings, Cuda, MemoryPlan};
use engine::{ModelRunner, Runner};
use model::{Config, ModelWeights};
use serde_json::{Value, json};

use super::batches::{Sequences, Steps, WARM_UP, tokens_of_one};
use super::report::{median, spread};
use super::{BenchArgs, Source};
use crate::gpu::{self, Gpu, LoadOptions};
use crate::memory::gb;
use crate::output::CliError;
use crate::{build, models, output, progress, random_weights};

/// Sequences that are decoded together.
const BATCHES: [usize; 7] = [1, 4, 8, 16, 32, 64, 128];
/// Tokens before the measured ones, for one sequence.
const CONTEXTS: [usize; 3] = [128, 4096, 16_384];
/// Tokens before the measured ones where batches are compared.
const BATCH_CONTEXT: usize = 128;
/// Lengths of prompts.
const PROMPTS: [usize; 3] = [512, 2048, 8192];
/// The context for which the memory of a single sequence is planned.
const PLANNED_CONTEXT: usize = 4096;

/// Measures and prints.
pub(super) fn run(args: &BenchArgs, gpu: &Gpu, source: &Source) -> Result<()> {
    let ceilings = cuda::ceilings(gpu.info.ordinal)
        .map_err(|error| CliError::Device(format!("cannot measure the card: {error}")))?;
    let config = source.config();
    let weights = weights(args, source)?;
    let sizes = Sizes::new(config, args.decode_tokens as usize, &args.batches());
    let planned = gpu::limits(PLANNED_CONTEXT, 1);
    let plan = gpu::plan(config, &weights, PLANNED_CONTEXT, planned, gpu.fp8_kv)?;
    let free = gpu.free_memory()?;
    let start = Instant::now();
    let options = LoadOptions {
        context: sizes.pool,
        limits: sizes.limits(),
        random_weights: matches!(source, Source::Shape { .. }).then_some(1),
    };
    let mut runner = gpu::load(gpu, config, weights, &options, |_| {})?;
    let (arena, _) = runner.backend_mut().memory();
    let load_seconds = start.elapsed().as_secs_f64();
    let used = free.saturating_sub(gpu.free_memory()?);
    let mut bench = Bench::new(runner, args);
    let measured = bench.measure(&sizes)?;
    // While the model is still there; what the driver holds by now: its context, the code of kernels, recorded steps.
    let outside = gpu.used_memory()?.saturating_sub(arena as u64);
    drop(bench);
    let report = Report { ceilings, plan, load_seconds, used, outside, measured };
    if args.json {
        return Ok(output::print_json(&report.json(source, gpu))?);
    }
    Ok(output::print(&report.table(source, gpu))?)
}

fn weights(args: &BenchArgs, source: &Source) -> Result<ModelWeights> {
    match source {
        Source::Shape { config, .. } => Ok(random_weights::shapes(config, args.lm_head)),
        Source::Model { checkpoint, .. } => {
            Ok(ModelWeights::load(checkpoint, &models::policy(&args.load), |_| {})?)
        }
    }
}

/// What is measured with a model, and the room it takes.
struct Sizes {
    batches: Vec<usize>,
    contexts: Vec<usize>,
    prompts: Vec<usize>,
    decode: usize,
    /// Tokens of the cache.
    pool: usize,
}

impl Sizes {
    /// `asked`: the batches, where others than [`BATCHES`] are wanted.
    fn new(config: &Config, decode: usize, asked: &[usize]) -> Self {
        let made_for = config.max_position_embeddings;
        let tokens = |context: usize| tokens_of_one(context, decode);
        let fits = |all: &[usize], more: usize| -> Vec<usize> {
            all.iter().copied().filter(|&n| n + more <= made_for).collect()
        };
        let contexts = fits(&CONTEXTS, WARM_UP + decode);
        let prompts = fits(&PROMPTS, 0);
        let asked = if asked.is_empty() { &BATCHES } else { asked };
        let batches = if contexts.is_empty() { Vec::new() } else { asked.to_vec() };
        let longest = contexts.last().map_or(0, |&context| tokens(context));
        let together = batches.iter().max().map_or(0, |&batch| batch * tokens(BATCH_CONTEXT));
        let prompt = prompts.last().copied().unwrap_or(0);
        let pool = longest.max(together).max(prompt).max(KV_BLOCK_SIZE);
        Sizes { batches, contexts, prompts, decode, pool }
    }

    fn limits(&self) -> StepLimits {
        let sequences = self.batches.iter().copied().max().unwrap_or(1);
        StepLimits { sequences, rows: sequences, ..gpu::limits(self.pool, 1) }
    }
}

/// Tokens per second, one for each repetition.
type Rates = Vec<f64>;

struct Decode {
    batch: usize,
    context: usize,
    rates: Rates,
    /// Experts that a step reads in each layer; `None` without a mixture.
    experts: Option<Vec<u32>>,
    logits_finite: bool,
}

struct Measured {
    decode: Vec<Decode>,
    prefill: Vec<(usize, Rates)>,
}

struct Bench {
    steps: Steps<Cuda>,
    repeat: usize,
}

impl Bench {
    fn new(runner: Runner<Cuda>, args: &BenchArgs) -> Self {
        Bench { steps: Steps::new(runner), repeat: args.repeat as usize }
    }

    fn measure(&mut self, sizes: &Sizes) -> Result<Measured> {
        let steps = sizes.batches.len() + sizes.contexts.len() + sizes.prompts.len();
        let bar = progress::count("measuring", steps as u64);
        let mut decode = Vec::new();
        for &batch in &sizes.batches {
            decode.push(self.decode(batch, BATCH_CONTEXT, sizes.decode)?);
            bar.inc(1);
        }
        for &context in sizes.contexts.iter().filter(|&&context| context != BATCH_CONTEXT) {
            decode.push(self.decode(1, context, sizes.decode)?);
            bar.inc(1);
        }
        let mut prefill = Vec::new();
        for &len in &sizes.prompts {
            prefill.push((len, self.prefill(len)?));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Measured { decode, prefill })
    }

    fn decode(&mut self, batch: usize, context: usize, len: usize) -> Result<Decode> {
        let mut sequences = self.steps.sequences(batch, context, len)?;
        let (mut rates, mut logits_finite) = (Rates::new(), true);
        let experts = self.experts(&sequences)?;
        for _ in 0..self.repeat {
            rates.push(self.steps.rate(&mut sequences, context, len)?);
            logits_finite &= self.steps.is_finite();
        }
        Ok(Decode { batch, context, rates, experts, logits_finite })
    }

    /// The experts that one more step would read, layer by layer.
    fn experts(&mut self, sequences: &Sequences) -> Result<Option<Vec<u32>>> {
        if self.steps.runner.config().moe.is_none() {
            return Ok(None);
        }
        self.steps.runner.backend_mut().watch_experts(true);
        self.steps.step(&mut sequences.clone())?;
        let experts = self.steps.runner.backend_mut().watched_experts();
        self.steps.runner.backend_mut().watch_experts(false);
        Ok(Some(experts))
    }

    fn prefill(&mut self, len: usize) -> Result<Rates> {
        let table: Vec<u32> = (0..len.div_ceil(KV_BLOCK_SIZE) as u32).collect();
        let chunk = self.steps.runner.limits().tokens;
        let mut rates = Rates::new();
        for repetition in 0..=self.repeat {
            let start = Instant::now();
            for first in (0..len).step_by(chunk) {
                let rows = chunk.min(len - first);
                let positions: Vec<u32> = (first as u32..(first + rows) as u32).collect();
                let last = [rows as u32 - 1];
                let wanted = if first + rows == len { &last[..] } else { &[] };
                self.steps.run(std::slice::from_ref(&table), &positions, rows, wanted)?;
            }
            // The first does not count.
            if repetition > 0 {
                rates.push(len as f64 / start.elapsed().as_secs_f64());
            }
        }
        Ok(rates)
    }
}

struct Report {
    ceilings: Ceilings,
    plan: MemoryPlan,
    load_seconds: f64,
    /// Bytes of the card that this process took.
    used: u64,
    /// Bytes in use on the card beside the arena: the driver's own, and other processes'.
    outside: u64,
    measured: Measured,
}

/// Bytes that a step of decoding reads, by part.
struct Traffic {
    /// Everything but experts and embeddings.
    dense: f64,
    /// One expert of one layer.
    expert: f64,
    /// Keys and values of one token.
    kv: f64,
}

impl Traffic {
    fn new(config: &Config, fp8_kv: bool) -> Self {
        let bits = 4.0 + 0.125 + 1.0 / 512.0;
        let (hidden, q, kv) = (config.hidden_size, config.q_size(), config.kv_size());
        let width = config.moe.map_or(config.intermediate_size, |moe| moe.moe_intermediate_size);
        let mlp = (3 * hidden * width) as f64 * bits / 8.0;
        let attention = (hidden * (2 * q + 2 * kv)) as f64 * bits / 8.0;
        let layers = config.num_hidden_layers as f64;
        let always = if config.moe.is_some() { 0.0 } else { mlp };
        let kv_bytes = if fp8_kv { 1.0 + 4.0 / config.head_dim as f64 } else { 2.0 };
        Traffic {
            dense: layers * (attention + always) + (2 * hidden * config.vocab_size) as f64,
            expert: mlp,
            kv: layers * 2.0 * kv as f64 * kv_bytes,
        }
    }

    fn of(&self, decode: &Decode) -> f64 {
        let experts: f64 = decode.experts.iter().flatten().map(|&n| f64::from(n)).sum();
        let kv = decode.batch as f64 * decode.context as f64 * self.kv;
        self.dense + experts * self.expert + kv
    }
}

impl Decode {
    /// Bytes read per second, of the card's rate.
    fn share(&self, traffic: &Traffic, read: f64) -> f64 {
        traffic.of(self) * median(&self.rates) / self.batch as f64 / read
    }

    fn mean_experts(&self) -> Option<f64> {
        let experts = self.experts.as_ref().filter(|experts| !experts.is_empty())?;
        Some(experts.iter().map(|&n| f64::from(n)).sum::<f64>() / experts.len() as f64)
    }
}

/// Operations of a prompt's products: two for each weight that a token meets.
fn operations_per_token(config: &Config) -> f64 {
    let (hidden, q, kv) = (config.hidden_size, config.q_size(), config.kv_size());
    let width = config.moe.map_or(config.intermediate_size, |moe| {
        moe.moe_intermediate_size * moe.num_experts_per_tok
    });
    2.0 * (config.num_hidden_layers * (hidden * (2 * q + 2 * kv) + 3 * hidden * width)) as f64
}

impl Report {
    fn json(&self, source: &Source, gpu: &Gpu) -> Value {
        let traffic = Traffic::new(source.config(), gpu.fp8_kv);
        let operations = operations_per_token(source.config());
        let decode = self.measured.decode.iter().map(|decode| {
            json!({
                "batch": decode.batch,
                "context": decode.context,
                "tokens_per_second": decode.rates,
                "tokens_per_second_median": median(&decode.rates),
                "bytes_per_step": traffic.of(decode),
                "bandwidth_share": decode.share(&traffic, self.ceilings.read),
                "distinct_experts_per_layer": decode.mean_experts(),
                "logits_finite": decode.logits_finite,
            })
        });
        let prefill = self.measured.prefill.iter().map(|(len, rates)| {
            json!({
                "tokens": len,
                "tokens_per_second": rates,
                "tokens_per_second_median": median(rates),
                "tensor_share": median(rates) * operations / self.ceilings.tensor,
            })
        });
        json!({
            "model": source.name(),
            "device": gpu.describe(),
            "read_bytes_per_second": self.ceilings.read,
            "tensor_operations_per_second": self.ceilings.tensor,
            "load_seconds": self.load_seconds,
            "memory_used_bytes": self.used,
            "memory_outside_arena_bytes": self.outside,
            "plan_batch_1_context_4096": {
                "weights": self.plan.weights.total(),
                "keys_and_values": self.plan.keys_and_values,
                "workspace": self.plan.workspace,
                "total": self.plan.total(),
            },
            "decode": decode.collect::<Vec<_>>(),
            "prefill": prefill.collect::<Vec<_>>(),
            "build": build::name(),
        })
    }

    fn table(&self, source: &Source, gpu: &Gpu) -> String {
        let Report { ceilings, plan, .. } = self;
        let mut table = format!(
            "model             {}\n\
             card              {}: reads {:.2} TB/s, {:.0} TFLOP/s of bf16 products\n\
             load              {:.2} s\n\
             memory            {} in use, {} of the driver's or others' beside; one sequence of {PLANNED_CONTEXT} tokens takes {}: weights {}, keys and values {}, \
             workspace {}\n\n\
             decode   batch  context      tok/s  spread         of bandwidth  experts a layer\n",
            source.name(),
            gpu.describe(),
            ceilings.read / 1e12,
            ceilings.tensor / 1e12,
            self.load_seconds,
            gb(self.used),
            gb(self.outside),
            gb(plan.total() as u64),
            gb(plan.weights.total() as u64),
            gb(plan.keys_and_values as u64),
            gb(plan.workspace as u64),
        );
        let traffic = Traffic::new(source.config(), gpu.fp8_kv);
        for decode in &self.measured.decode {
            table.push_str(&format!(
                "        {:>6}  {:>7}  {:>9.1}  {:<13}  {:>11.0} %  {}{}\n",
                decode.batch,
                decode.context,
                median(&decode.rates),
                spread(&decode.rates),
                100.0 * decode.share(&traffic, ceilings.read),
                decode.mean_experts().map_or_else(|| "-".to_owned(), |n| format!("{n:.2}")),
                if decode.logits_finite { "" } else { "  logits not finite" },
            ));
        }
        let operations = operations_per_token(source.config());
        table.push_str("\nprefill          tokens      tok/s  spread         of tensor rate\n");
        for (len, rates) in &self.measured.prefill {
            table.push_str(&format!(
                "                {len:>7}  {:>9.0}  {:<13}  {:>12.0} %\n",
                median(rates),
                spread(rates),
                100.0 * median(rates) * operations / ceilings.tensor,
            ));
        }
        table
    }
}
