//! `halfbyte bench (MODEL [--start] | --shape NAME | --url URL)`.

mod batches;
mod gpu;
mod http;
mod report;
mod start;
mod traffic;

use std::time::Instant;

use anyhow::Result;
use backend::{Batch, Cpu, KV_BLOCK_SIZE, SequenceSpan, StepLimits};
use clap::Args;
use clap::builder::PossibleValuesParser;
use engine::{ModelRunner, Runner, argmax};
use model::{Config, ModelWeights, Transformer};

use crate::args::{DeviceArgs, LoadArgs, PlaceArgs, PrecisionArgs};
use crate::device::Device;
use crate::memory::{self, Needs};
use crate::output::CliError;
use crate::random_weights::{self, LmHead};
use crate::shapes::{SHAPES, Shape};
use crate::{bandwidth, device, models, progress};
use batches::{Steps, WARM_UP, tokens_of_one};
use report::{BatchRates, Report};

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
Prefill computes --prompt-tokens tokens of an empty context at once; decode then starts afresh and computes \
--decode-tokens tokens one by one, after --depth tokens. Each is measured --repeat times, after a run that does not \
count. With --batch, so many sequences are decoded together as well, each after --depth tokens: what a server can reach \
at most. On a GPU, decode is measured for batches of 1 to 128 (or those of --batch) and contexts up to 16384, prefill for \
prompts of 512, 2048 and 8192 tokens, beside the rates that the card reaches.

With --url a running server is measured: streams at once, each with --prompt-tokens random tokens and an answer of \
--decode-tokens; tokens per second, the time to the first token, and between tokens.

With --start a server of MODEL is started --repeat times: when it listens, begins to read weights, has them, is ready, and has \
answered with its first token, in milliseconds since its process was started. What follows `--` are options of `serve`.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad input or model, 4 does not fit or device unusable.")]
pub(crate) struct BenchArgs {
    /// A directory, ORG/NAME, or `demo`
    #[arg(required_unless_present_any = ["shape", "url"], conflicts_with = "shape")]
    model: Option<String>,
    /// Random NF4 weights in the shape of this model, in place of a model
    #[arg(long, value_name = "NAME",
        value_parser = PossibleValuesParser::new(SHAPES.iter().map(|shape| shape.name)))]
    shape: Option<String>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Tokens of the answer
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    decode_tokens: u32,
    /// Tokens before the answer
    #[arg(long, default_value_t = 0, value_name = "N")]
    depth: u32,
    /// Sequences that are decoded together; several numbers are measured in turn
    // As many as a step on a CPU holds.
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "url",
        value_parser = clap::value_parser!(u16).range(1..=512))]
    batch: Vec<u16>,
    /// Measurements
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Form of the random projection to the vocabulary
    #[arg(long, value_enum, default_value_t = LmHead::Bf16, requires = "shape")]
    lm_head: LmHead,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    http: http::HttpArgs,
    #[command(flatten)]
    start: start::StartArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
}

/// Measures.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if let Some(url) = &args.http.url {
        return http::run(args, url);
    }
    if args.start.start {
        return start::run(args);
    }
    let source = Source::open(args)?;
    let cpu = match device::open(&args.device, args.precision.precision)? {
        Device::Gpu(gpu) => return gpu::run(args, &gpu, &source),
        Device::Cpu(cpu) => cpu,
    };
    let mut report = Report::new(args, &source, &cpu);
    let (longest, pool) = (args.context(), args.pool());
    let made_for = source.config().max_position_embeddings;
    if longest > made_for {
        let message = format!(
            "{longest} tokens are to be computed, but the model was made for {made_for}; ask for fewer"
        );
        return Err(CliError::bad_input("prompt_tokens", message).into());
    }
    source.needs(args).check(pool, memory::available().unwrap_or(u64::MAX))?;
    let threads = cpu.threads();
    let before = bandwidth::measure(threads);
    let start = Instant::now();
    let weights = source.weights(args)?;
    report.bytes_per_token = traffic::bytes_per_token(source.config(), &weights, cpu.precision());
    let sequences = args.batches().into_iter().max().unwrap_or(1);
    let mut bench = Bench::new(source.config(), weights, cpu, pool, sequences)?;
    report.load_seconds = start.elapsed().as_secs_f64();
    let bar = progress::count("measuring", (2 + args.batch.len() as u64) * u64::from(args.repeat));
    // Once without counting: pages come in, threads start.
    bench.prefill(args.prompt_tokens.min(32) as usize)?;
    bench.decode(0, args.decode_tokens.min(4) as usize)?;
    for _ in 0..args.repeat {
        report.prefill.push(bench.prefill(args.prompt_tokens as usize)?);
        bar.inc(1);
        report.decode.push(bench.decode(args.depth as usize, args.decode_tokens as usize)?);
        bar.inc(1);
    }
    for batch in args.batches() {
        report.batches.push(bench.together(batch, args, || bar.inc(1))?);
    }
    bar.finish_and_clear();
    report.logits_finite = bench.logits_finite;
    // Others on the machine only ever slow a measurement down, so the better of two counts.
    let after = bandwidth::measure(threads);
    report.memory_bandwidth = before.into_iter().chain(after).max_by(f64::total_cmp);
    report.print(args.json)
}

impl BenchArgs {
    /// Tokens of the longest sequence.
    fn context(&self) -> usize {
        let warm_up = if self.batch.is_empty() { 0 } else { WARM_UP as u32 };
        let decoded = self.depth.saturating_add(self.decode_tokens).saturating_add(warm_up);
        self.prompt_tokens.max(decoded) as usize
    }

    fn batches(&self) -> Vec<usize> {
        self.batch.iter().map(|&batch| usize::from(batch)).collect()
    }

    /// Tokens of all sequences of the largest batch.
    fn pool(&self) -> usize {
        let one = tokens_of_one(self.depth as usize, self.decode_tokens as usize);
        self.batches().into_iter().map(|batch| batch * one).fold(self.context(), usize::max)
    }
}

/// Where the weights come from.
enum Source {
    Model { name: String, checkpoint: Box<model::Checkpoint> },
    Shape { name: &'static str, config: Box<Config> },
}

impl Source {
    fn open(args: &BenchArgs) -> Result<Self> {
        if let Some(name) = &args.model {
            let checkpoint = Box::new(models::open(name, &args.places)?);
            return Ok(Source::Model { name: name.clone(), checkpoint });
        }
        let shape = args.shape.as_deref().and_then(Shape::find);
        let shape = shape.ok_or_else(|| CliError::usage("give a MODEL or --shape"))?;
        Ok(Source::Shape { name: shape.name, config: Box::new(shape.config()?) })
    }

    fn name(&self) -> &str {
        match self {
            Source::Model { name, .. } => name,
            Source::Shape { name, .. } => name,
        }
    }

    fn config(&self) -> &Config {
        match self {
            Source::Model { checkpoint, .. } => checkpoint.config(),
            Source::Shape { config, .. } => config,
        }
    }

    fn needs(&self, args: &BenchArgs) -> Needs {
        match self {
            Source::Model { checkpoint, .. } => {
                Needs::of_checkpoint(checkpoint, models::policy(&args.load).quant)
            }
            Source::Shape { config, .. } => {
                Needs::new(config, random_weights::num_bytes(config, args.lm_head))
            }
        }
    }

    fn weights(&self, args: &BenchArgs) -> Result<ModelWeights> {
        let bar = progress::count("weights", self.config().num_hidden_layers as u64);
        let step = |done: usize| bar.set_position(done as u64);
        let weights = match self {
            Source::Model { checkpoint, .. } => {
                ModelWeights::load(checkpoint, &models::policy(&args.load), step)?
            }
            Source::Shape { config, .. } => random_weights::generate(config, args.lm_head, step),
        };
        bar.finish_and_clear();
        Ok(weights)
    }
}

/// A model that is measured: one sequence, whose tokens mean nothing, or several.
struct Bench {
    steps: Steps<Cpu>,
    block_table: Vec<u32>,
    logits_finite: bool,
}

impl Bench {
    fn new(
        config: &Config,
        weights: ModelWeights,
        cpu: Cpu,
        pool: usize,
        sequences: usize,
    ) -> Result<Self> {
        let model = Transformer::load(config, weights, &cpu, |_| {})?;
        let limits = StepLimits { sequences: sequences.max(Cpu::LIMITS.sequences), ..Cpu::LIMITS };
        let runner = Runner::new(cpu, model, pool, limits)?;
        let blocks = (runner.context() / KV_BLOCK_SIZE) as u32;
        Ok(Bench {
            steps: Steps::new(runner),
            block_table: (0..blocks).collect(),
            logits_finite: true,
        })
    }

    /// Decodes `batch` sequences together.
    fn together(
        &mut self,
        batch: usize,
        args: &BenchArgs,
        mut done: impl FnMut(),
    ) -> Result<BatchRates> {
        let (depth, len) = (args.depth as usize, args.decode_tokens as usize);
        let mut sequences = self.steps.sequences(batch, depth, len)?;
        let mut rates = Vec::new();
        for _ in 0..args.repeat {
            rates.push(self.steps.rate(&mut sequences, depth, len)?);
            self.logits_finite &= self.steps.is_finite();
            done();
        }
        Ok(BatchRates { batch, rates })
    }

    /// Tokens per second of computing `len` tokens of an empty context.
    fn prefill(&mut self, len: usize) -> Result<f64> {
        let start = Instant::now();
        self.fill(len, true)?;
        Ok(len as f64 / start.elapsed().as_secs_f64())
    }

    /// Tokens per second of computing `len` tokens one by one after `depth` others.
    fn decode(&mut self, depth: usize, len: usize) -> Result<f64> {
        self.fill(depth, false)?;
        let start = Instant::now();
        let mut token = self.pseudo_token(depth);
        for position in depth..depth + len {
            self.step(&[token], position, &[0])?;
            token = argmax(&self.steps.logits);
        }
        Ok(len as f64 / start.elapsed().as_secs_f64())
    }

    /// Computes `len` tokens, in tiles as a prompt is.
    fn fill(&mut self, len: usize, with_logits: bool) -> Result<()> {
        let tokens: Vec<u32> = (0..len).map(|i| self.pseudo_token(i)).collect();
        let limit = self.steps.runner.limits().tokens;
        for (tile, start) in tokens.chunks(limit).zip((0..).step_by(limit)) {
            let is_last = start + tile.len() == len;
            let rows = [tile.len() as u32 - 1];
            self.step(tile, start, if with_logits && is_last { &rows } else { &[] })?;
        }
        Ok(())
    }

    fn step(&mut self, tokens: &[u32], start: usize, rows: &[u32]) -> Result<()> {
        let positions: Vec<u32> = (start as u32..(start + tokens.len()) as u32).collect();
        let spans = [SequenceSpan { start: 0, len: tokens.len(), block_table: &self.block_table }];
        let batch = Batch { tokens, positions: &positions, sequences: &spans };
        let Steps { runner, logits, .. } = &mut self.steps;
        runner.step(&batch, rows, logits)?;
        self.logits_finite &= logits.iter().all(|logit| logit.is_finite());
        Ok(())
    }

    /// Some token: different ones, so that a mixture spreads over its experts.
    fn pseudo_token(&self, i: usize) -> u32 {
        let vocab_size = self.steps.runner.config().vocab_size as u64;
        ((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) % vocab_size) as u32
    }
}
