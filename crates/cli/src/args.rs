//! The command line as it was typed. What it means is decided by [`crate::device`], [`crate::models`],
//! [`crate::generation`] and the commands.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use quant::{QuantConfig, QuantType};

use crate::build;
use crate::commands::{
    audit, bench, chat, completions, demo, doctor, extract, plan, prompt, pull, quantize, score,
    selftest, serve, worker,
};
use crate::output::{self, CliError};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: the system refused, or the result is not what it should be
  2  usage: the command line makes no sense
  3  bad input or model
  4  does not fit into memory, or the device cannot be used
  5  findings (of the commands that look for some)

MODEL is a directory, else ORG/NAME in --model-dir, else ORG/NAME in the Hugging Face cache,
or `demo`, the small model that this binary holds (`./demo` is a directory of that name).
`pull` alone downloads models; `plan --hub` and `audit URL` read parts of files.";

/// 4-bit language models from one binary: reads bitsandbytes' NF4 and FP4 checkpoints as they are.
#[derive(Debug, Parser)]
#[command(name = "halfbyte", after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read a sample document with the model in this binary: its type and fields, as JSON
    Demo(demo::DemoArgs),
    /// Answer one prompt
    Prompt(prompt::PromptArgs),
    /// Talk with a model
    Chat(chat::ChatArgs),
    /// Read documents: PDF, pictures, Office files, e-mail; as Markdown, tables, or fields that a model finds in them
    Extract(Box<extract::ExtractArgs>),
    /// Serve a model over HTTP: the OpenAI API and more
    Serve(Box<serve::ServeCommand>),
    /// Answer the jobs of a serverless platform
    Worker(Box<worker::WorkerArgs>),
    /// Write a 4-bit checkpoint from a 16-bit one
    Quantize(quantize::QuantizeArgs),
    /// Fetch a model from the Hugging Face hub, verified, to where the other commands find it
    Pull(pull::PullArgs),
    /// Say how probable a model finds a text, token by token
    Score(score::ScoreArgs),
    /// Measure the speed of this machine
    Bench(bench::BenchArgs),
    /// Say what memory a model takes, on which cards it fits, and how fast it can be
    Plan(plan::PlanArgs),
    /// Say which GPUs there are, and what keeps one from being used
    Doctor(doctor::DoctorArgs),
    /// Say what GPU code a Python stack holds, and whether it works on a card
    Audit(audit::AuditArgs),
    /// Compare every operation on a GPU with the CPU
    Selftest(selftest::SelftestArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Read documents for another process of this program, over standard input and output
    #[command(hide = true)]
    DocumentReader,
}

impl Command {
    /// Whether the result, and errors, go to stdout as JSON.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Command::Demo(args) => args.json,
            Command::Prompt(args) => args.json,
            Command::Extract(args) => args.json,
            Command::Serve(args) => args.serve.json,
            Command::Worker(args) => args.serve.json,
            Command::Quantize(args) => args.json,
            Command::Pull(args) => args.json,
            Command::Score(args) => args.json,
            Command::Bench(args) => args.json,
            Command::Plan(args) => args.json,
            Command::Doctor(args) => args.json,
            Command::Audit(args) => args.json,
            Command::Selftest(args) => args.json,
            Command::Chat(_) | Command::Completions(_) | Command::DocumentReader => false,
        }
    }
}

/// Parses the command line of this process.
pub(crate) fn parse() -> Result<Cli> {
    let command =
        Cli::command().version(env!("CARGO_PKG_VERSION")).long_version(build::long_version());
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        // The flags could not be read, but whoever wrote --json wants the error so.
        output::set_json(std::env::args_os().any(|arg| arg == "--json"));
        let plain = error.render().to_string();
        let colours = if error.use_stderr() {
            io::stderr().is_terminal()
        } else {
            io::stdout().is_terminal()
        };
        let text = if colours { error.render().ansi().to_string() } else { plain.clone() };
        if error.use_stderr() {
            // The paragraph before usage and tips.
            let lines = plain.lines().take_while(|line| !line.is_empty()).map(str::trim);
            let message = lines.collect::<Vec<_>>().join(" ").replacen("error: ", "", 1);
            CliError::Usage { message, text: Some(text) }.into()
        } else {
            CliError::Help(text).into()
        }
    })
}

/// A number of bytes: `8GB`, `512MiB`, `4194304`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let factor: Option<u64> = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => Some(1),
            "kb" => Some(1000),
            "mb" => Some(1_000_000),
            "gb" => Some(1_000_000_000),
            "kib" => Some(1 << 10),
            "mib" => Some(1 << 20),
            "gib" => Some(1 << 30),
            _ => None,
        };
        let bytes = number.parse().ok().zip(factor).and_then(|(n, f): (u64, u64)| n.checked_mul(f));
        bytes
            .filter(|bytes| *bytes > 0)
            .map(ByteSize)
            .ok_or_else(|| format!("`{text}` is not a number of bytes, as 8GB, 512MiB or 4194304"))
    }
}

/// Where models are looked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlaceArgs {
    /// Directory of models, as ORG/NAME
    #[arg(long, value_name = "DIR", env = "HALFBYTE_MODEL_DIR")]
    pub(crate) model_dir: Option<PathBuf>,
}

/// What a model runs on.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceArgs {
    /// Device: auto takes a GPU if there is one
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda[:N]")]
    pub(crate) device: DeviceChoice,
    /// Threads of the CPU [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Form of keys and values on a GPU
    #[arg(long, value_enum, default_value_t = KvChoice::Bf16)]
    pub(crate) kv: KvChoice,
}

/// A form of keys and values as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvChoice {
    /// 16 bits
    Bf16,
    /// 8 bits, with a scale for each token and head: half the memory
    Fp8,
}

/// A device as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// A GPU if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU.
    Cuda(u32),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("`{text}` is not auto, cpu, cuda or cuda:N");
        match text.split_once(':') {
            None if text == "auto" => Ok(DeviceChoice::Auto),
            None if text == "cpu" => Ok(DeviceChoice::Cpu),
            None if text == "cuda" => Ok(DeviceChoice::Cuda(0)),
            Some(("cuda", index)) => index.parse().map(DeviceChoice::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

/// How matrix products are computed on the CPU.
#[derive(Debug, Clone, Args)]
pub(crate) struct PrecisionArgs {
    /// Type of the activations in matrix products on the CPU
    #[arg(long, value_enum, default_value_t = PrecisionChoice::Int8)]
    pub(crate) precision: PrecisionChoice,
}

/// A precision as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionChoice {
    /// Rounded to 8 bits, a scale for every 64
    Int8,
    /// 32-bit floats throughout
    F32,
}

/// Room for tokens.
#[derive(Debug, Clone, Args)]
pub(crate) struct ContextArgs {
    /// Most tokens of prompt and answer [default: what the model was made for, at most 32768, and fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
}

/// How a 16-bit checkpoint is quantized while it is loaded.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Quantize a 16-bit checkpoint while loading it (see also the command `quantize`)
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) quantize: Option<TypeChoice>,
    #[command(flatten)]
    pub(crate) rules: RuleArgs,
}

/// Which modules are quantized.
#[derive(Debug, Clone, Args)]
pub(crate) struct RuleArgs {
    /// Module to leave unquantized, by name or its end, as `mlp.gate`; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) skip: Vec<String>,
    /// Module to quantize all the same, as `lm_head`; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) include: Vec<String>,
}

/// A 4-bit type as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TypeChoice {
    /// 16 levels at the quantiles of a normal distribution
    Nf4,
    /// 4-bit floats
    Fp4,
}

impl TypeChoice {
    /// The type in the library.
    pub(crate) fn quant_type(self) -> QuantType {
        match self {
            TypeChoice::Nf4 => QuantType::Nf4,
            TypeChoice::Fp4 => QuantType::Fp4,
        }
    }

    /// This type in blocks of 64 with double quantization.
    pub(crate) fn config(self) -> QuantConfig {
        QuantConfig { quant_type: self.quant_type(), ..QuantConfig::default() }
    }
}

/// How an answer is generated.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Most tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) max_tokens: usize,
    /// 0 takes the likeliest token each time [default: the model's generation_config.json, else 0]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Draw from this many of the likeliest tokens; 0 from all [default: the model's, else 0]
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<usize>,
    /// Draw from the likeliest tokens that together reach this probability [default: the model's, else 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Drop tokens less probable than this share of the likeliest [default: the model's, else 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Divide the logits of tokens that the answer has already [default: the model's, else 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtract from a logit for every time the answer has the token
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: f32,
    /// Subtract from the logits of tokens that the answer has already
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) presence_penalty: f32,
    /// Let the penalties count the prompt, too
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) penalize_prompt: bool,
    /// The same seed gives the same text [default: a new one each time, reported with --json]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Text that ends the answer; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}
