//! `halfbyte selftest`: every operation on this machine's GPU, compared with the CPU in 32-bit floats.

mod weights;
mod cases;
mod compare;
mod greedy;
mod draws;
#[cfg(test)]
mod tests;

use std::time::Instant;

use anyhow::Result;
use backend::{Cpu, Precision, StepLimits};
use clap::Args;
use cuda::{Cuda, Options, driver};
use engine::Runner;
use model::{ModelWeights, QuantizePolicy, Transformer};
use serde_json::{Value, json};

use crate::args::DeviceChoice;
use crate::gpu::{self, Gpu};
use crate::models::TextSide;
use crate::output::{self, CliError};
use crate::{build, device, embedded};
use cases::{Case, STEP_ROWS};
use compare::{Comparison, Distance, Job};
use draws::Drawing;
use greedy::Parting;

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
Small models with random weights run on the GPU and on the CPU. An error is ||d|| / ||ref|| of the logits of a step, the \
largest of a line's steps; every operation has a bound for it, from the precision that it computes with. Tokens are drawn \
on the GPU, under masks too, and compared with those that its logits and the random numbers call for. Then the demo \
model continues some prompts on both, the likeliest token each time: they may part only where two tokens are as good as \
equally likely.

Exit codes: 0 all within their bounds, 1 something differs, 2 usage, 4 the GPU cannot be used.")]
pub(crate) struct SelftestArgs {
    /// Which GPU
    #[arg(long, default_value = "cuda", value_name = "cuda[:N]")]
    device: DeviceChoice,
    /// Prompts that the demo model continues by 200 tokens each
    #[arg(long, value_name = "N", default_value_t = 3)]
    prompts: u32,
    /// Decode so many steps more, and check that no memory is taken on the way
    #[arg(long, value_name = "N", default_value_t = 0)]
    steps: u32,
    /// Run only operations whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Compares.
///
/// # Errors
/// [`CliError::Differs`] with the first operation that is out of its bound; [`CliError::Device`] without a GPU.
pub(crate) fn run(args: &SelftestArgs) -> Result<()> {
    let ordinal = match args.device {
        DeviceChoice::Cuda(ordinal) => ordinal,
        DeviceChoice::Auto => 0,
        DeviceChoice::Cpu => {
            return Err(CliError::usage("--device: the CPU is what a GPU is compared with").into());
        }
    };
    let start = Instant::now();
    let gpu = Gpu::open(ordinal, false)?;
    let context = driver::Context::new(ordinal)
        .map_err(|error| CliError::Device(format!("cuda:{ordinal} cannot be used: {error}")))?;
    output::note(&format!("device: {}", gpu.describe()));
    let test = Selftest { args, gpu, threads: device::default_threads() };
    let mut report = Report { json: args.json, ..Report::default() };
    test.operations(&mut report)?;
    if !report.lost && args.prompts > 0 {
        test.texts(&mut report)?;
    }
    if !report.lost && args.steps > 0 {
        test.memory(&context, &mut report)?;
    }
    report.end(&test.gpu, start.elapsed().as_secs_f64())
}

struct Selftest<'a> {
    args: &'a SelftestArgs,
    gpu: Gpu,
    threads: usize,
}

impl Selftest<'_> {
    fn operations(&self, report: &mut Report) -> Result<()> {
        let only = self.args.only.as_deref().unwrap_or_default();
        let mut cases = cases::all()?;
        cases.retain(|case| case.name.contains(only));
        let mut drawing = cases::draws()?;
        drawing.retain(|case| case.name.contains(only));
        if cases.is_empty() && drawing.is_empty() {
            return Err(CliError::usage(format!("--only: no operation is named `{only}`")).into());
        }
        for case in &cases {
            let weights = weights::make(&case.config, case.recipe, 1)?;
            let device = match self.on_gpu(case.job(weights.clone())) {
                Ok(runner) => Box::new(runner),
                Err(error) => {
                    report.lose(case.name, "loading", &error)?;
                    return Ok(());
                }
            };
            let reference = on_cpu(case.job(weights), self.threads)?;
            let mut comparison = Comparison::new(case, device, Box::new(reference));
            for class in case.classes {
                match comparison.run(class) {
                    Ok(distance) => report.compared(case.name, class.name, distance, case.bound)?,
                    // What a failure leaves of a card is nothing to go on with.
                    Err(error) => {
                        report.lose(case.name, class.name, &error)?;
                        return Ok(());
                    }
                }
            }
        }
        drawing.iter().try_for_each(|case| self.draws(case, report))
    }

    /// Draws from a model's logits in all manners.
    fn draws(&self, case: &Case, report: &mut Report) -> Result<()> {
        if report.lost {
            return Ok(());
        }
        let device = match self.on_gpu(case.job(weights::make(&case.config, case.recipe, 1)?)) {
            Ok(runner) => Box::new(runner),
            Err(error) => return report.lose(case.name, "loading", &error),
        };
        let mut drawing = Drawing::new(device);
        for manner in draws::MANNERS {
            match drawing.run(manner) {
                Ok(distance) => {
                    report.compared(case.name, manner.name, distance, draws::BOUND)?;
                }
                Err(error) => return report.lose(case.name, manner.name, &error),
            }
        }
        let name = "logits of some rows";
        match drawing.keep() {
            Ok(distance) => report.compared(case.name, name, distance, 0.0),
            Err(error) => report.lose(case.name, name, &error),
        }
    }

    /// The demo model on a device.
    fn demo<R>(&self, load: impl FnOnce(Job<'_>) -> Result<R>) -> Result<R> {
        let checkpoint = embedded::checkpoint()?;
        let weights = ModelWeights::load(&checkpoint, &QuantizePolicy::default(), |_| {})?;
        let config = checkpoint.config();
        let context = config.max_position_embeddings;
        let limits = StepLimits { tokens: STEP_ROWS, rows: 1, sequences: 1 };
        load(Job { config, weights, context, limits, fp8_kv: false })
    }

    fn texts(&self, report: &mut Report) -> Result<()> {
        let side = TextSide::load(&embedded::checkpoint()?)?;
        let mut device = self.demo(|job| self.on_gpu(job))?;
        let mut reference = self.demo(|job| on_cpu(job, self.threads))?;
        let prompts = greedy::prompts(&side, self.args.prompts as usize)?;
        let mut partings = Vec::new();
        for (index, prompt) in prompts.iter().enumerate() {
            let texts = greedy::generate(&mut device, prompt)
                .and_then(|text| Ok((text, greedy::generate(&mut reference, prompt)?)));
            match texts {
                Ok((device, reference)) => {
                    partings.extend(Parting::find(index, &device, &reference));
                }
                Err(error) => {
                    report.lose("the demo model", "200 tokens", &error)?;
                    return Ok(());
                }
            }
        }
        report.parted(prompts.len(), &partings)
    }

    fn memory(&self, context: &driver::Context, report: &mut Report) -> Result<()> {
        let steps = self.args.steps as usize;
        match self.decode(context, steps) {
            Ok(memory) => report.decoded(&memory),
            Err(error) => report.lose("the demo model", "many steps", &error),
        }
    }

    fn decode(&self, context: &driver::Context, steps: usize) -> Result<Memory> {
        let mut runner = self.demo(|job| self.on_gpu(job))?;
        greedy::warm_up(&mut runner)?;
        let used = |runner: &mut Runner<Cuda>| -> Result<(u64, usize)> {
            Ok((context.mem_info()?.0, runner.backend_mut().memory().1))
        };
        let before = used(&mut runner)?;
        let start = Instant::now();
        let finite = greedy::decode(&mut runner, steps)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Memory { steps, before, after: used(&mut runner)?, finite, seconds })
    }

    fn on_gpu(&self, job: Job<'_>) -> Result<Runner<Cuda>> {
        let Job { config, weights, context, limits, fp8_kv } = job;
        let plan = gpu::plan(config, &weights, context, limits, fp8_kv)?;
        let options =
            Options { ordinal: self.gpu.info.ordinal, limits, fp8_kv, random_weights: None };
        let cuda = Cuda::new(options, &plan)?;
        let model = Transformer::load(config, weights, &cuda, |_| {})?;
        Ok(Runner::new(cuda, model, context, limits)?)
    }
}

fn on_cpu(job: Job<'_>, threads: usize) -> Result<Runner<Cpu>> {
    let Job { config, weights, context, limits, .. } = job;
    let cpu = Cpu::new(threads, Precision::F32)?;
    let model = Transformer::load(config, weights, &cpu, |_| {})?;
    Ok(Runner::new(cpu, model, context, limits)?)
}

/// Memory before and after many steps: bytes that the driver would give, and bytes of the arena that are in use.
struct Memory {
    steps: usize,
    before: (u64, usize),
    after: (u64, usize),
    finite: bool,
    seconds: f64,
}

/// What came out, told as it comes.
#[derive(Default)]
struct Report {
    json: bool,
    operations: Vec<Value>,
    texts: Option<Value>,
    memory: Option<Value>,
    first_difference: Option<String>,
    /// Whether the card failed, so that nothing more can be compared.
    lost: bool,
    count: usize,
    differ: usize,
}

impl Report {
    fn say(&mut self, holds: bool, what: &str, line: &str) -> Result<()> {
        self.count += 1;
        if !holds {
            self.differ += 1;
            self.first_difference.get_or_insert_with(|| what.to_owned());
        }
        if self.json {
            return Ok(());
        }
        let verdict = if holds { "ok     " } else { "DIFFERS" };
        Ok(output::print(&format!("{verdict} {line}\n"))?)
    }

    fn compared(&mut self, name: &str, class: &str, distance: Distance, bound: f64) -> Result<()> {
        let holds = distance.holds(bound);
        self.operations.push(json!({
            "operation": name,
            "shape": class,
            // JSON has no infinity.
            "error": Some(distance.whole).filter(|error| error.is_finite()),
            "error_of_worst_row": Some(distance.row).filter(|error| error.is_finite()),
            "bound": bound,
            "holds": holds,
        }));
        let what = format!("{name}: {class}");
        let Distance { whole, row } = distance;
        self.say(
            holds,
            &what,
            &format!("{what:<70} {whole:8.1e} (a row {row:7.1e}) of {bound:7.1e}"),
        )
    }

    /// Notes that a device failed.
    fn lose(&mut self, name: &str, class: &str, error: &anyhow::Error) -> Result<()> {
        let what = format!("{name}: {class}");
        self.operations.push(json!({
            "operation": name, "shape": class, "failed": error.to_string(), "holds": false,
        }));
        self.lost = true;
        self.say(false, &what, &format!("{what}: {error}"))
    }

    fn parted(&mut self, prompts: usize, partings: &[Parting]) -> Result<()> {
        let holds = partings.iter().all(Parting::is_a_tie);
        let same = prompts - partings.len();
        self.texts = Some(json!({
            "prompts": prompts,
            "tokens": greedy::TOKENS,
            "same": same,
            "partings": partings.iter().map(Parting::json).collect::<Vec<_>>(),
            "holds": holds,
        }));
        let what = format!("the demo model: {} tokens of {prompts} prompts", greedy::TOKENS);
        let lines: String = partings.iter().map(Parting::line).collect();
        let line = format!("{what:<70} {same} the same\n{lines}");
        self.say(holds, &what, line.trim_end())
    }

    fn decoded(&mut self, memory: &Memory) -> Result<()> {
        let Memory { steps, before, after, finite, seconds } = memory;
        let holds = before.1 == after.1 && after.0 >= before.0 && *finite;
        self.memory = Some(json!({
            "steps": steps,
            "seconds": seconds,
            "free_bytes_before": before.0,
            "free_bytes_after": after.0,
            "arena_bytes_before": before.1,
            "arena_bytes_after": after.1,
            "logits_finite": finite,
            "holds": holds,
        }));
        let what = format!("the demo model: {steps} steps");
        let line = format!(
            "{what:<70} free memory {} -> {}, of the arena {} -> {} bytes, logits {}",
            before.0,
            after.0,
            before.1,
            after.1,
            if *finite { "finite" } else { "not finite" }
        );
        self.say(holds, &what, &line)
    }

    fn end(self, gpu: &Gpu, seconds: f64) -> Result<()> {
        let Report { count, differ, first_difference, .. } = self;
        if self.json {
            output::print_json(&json!({
                "device": gpu.describe(),
                "operations": self.operations,
                "texts": self.texts,
                "memory": self.memory,
                "first_difference": first_difference,
                "seconds": seconds,
                "build": build::name(),
            }))?;
        } else {
            let right = count - differ;
            output::print(&format!("{right} of {count} hold, in {seconds:.1} s\n"))?;
        }
        match first_difference {
            None => Ok(()),
            Some(first) => {
                Err(CliError::Differs(format!("the first that differs is {first}")).into())
            }
        }
    }
}
