//! `halfbyte score MODEL (--text F | --tokens IDS.json)`: how anyone compares this program with another.

mod logits;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use engine::{EngineError, ModelRunner, Score};
use model::{Checkpoint, Tokenizer};
use serde_json::json;

use crate::args::{ContextArgs, DeviceArgs, LoadArgs, PlaceArgs, PrecisionChoice};
use crate::commands::prompt::read_file;
use crate::output::{self, CliError};
use crate::{build, device, models, progress};
use logits::LogitsFile;

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
Always computed with 32-bit activations. A text gets the special tokens that tokenizer.json adds; ids are taken as they \
are, and need no tokenizer. The first token has no probability, for nothing comes before it.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad input or model, 4 does not fit or device unusable.")]
pub(crate) struct ScoreArgs {
    /// A directory, ORG/NAME, or `demo`
    model: String,
    /// Score the text of this file
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "tokens",
        conflicts_with = "tokens"
    )]
    text: Option<PathBuf>,
    /// Score these tokens: a file with a JSON array of ids
    #[arg(long, value_name = "IDS.json")]
    tokens: Option<PathBuf>,
    /// Write all logits to this file: tensor `logits`, f32 [tokens, vocab_size]
    #[arg(long, value_name = "OUT.safetensors")]
    logits: Option<PathBuf>,
    /// Compute at most so many tokens at a time; 1 takes the kernels that generate [default: as many as fit]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    step: Option<u32>,
    /// Print one JSON object instead of the summary
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Tokens that are scored at a time on a GPU, where room for their logits is made beforehand.
const STEP_ROWS: usize = 128;

/// Scores.
pub(crate) fn run(args: &ScoreArgs) -> Result<()> {
    let checkpoint = models::open(&args.model, &args.places)?;
    let tokens = read_tokens(args, &checkpoint)?;
    let asked = context(args, &checkpoint, tokens.len())?;
    let device = device::open(&args.device, PrecisionChoice::F32)?;
    let described = device.describe();
    let ready = models::ready(&checkpoint, &args.load, &asked, device, STEP_ROWS)?;
    let mut loaded = ready.load()?;
    let start = Instant::now();
    let score = score(&mut *loaded.runner, &tokens, args)?;
    let seconds = start.elapsed().as_secs_f64();
    let (perplexity, rate) = (score.perplexity(), tokens.len() as f64 / seconds);
    if args.json {
        return Ok(output::print_json(&json!({
            "model": args.model,
            "num_tokens": tokens.len(),
            "tokens": tokens,
            "logprobs": score.logprobs,
            "perplexity": perplexity,
            "logits": args.logits.as_ref().map(|path| path.display().to_string()),
            "device": described,
            "timings": {
                "load_seconds": loaded.load_seconds,
                "score_seconds": seconds,
                "tokens_per_second": rate,
            },
            "build": build::name(),
        }))?);
    }
    let perplexity = perplexity.map_or_else(|| "-".to_owned(), |p| format!("{p:.4}"));
    output::print(&format!("perplexity {perplexity} over {} tokens\n", tokens.len()))?;
    if let Some(path) = &args.logits {
        output::note(&format!("logits: {}", path.display()));
    }
    output::note(&format!("{rate:.1} tok/s"));
    Ok(())
}

fn read_tokens(args: &ScoreArgs, checkpoint: &Checkpoint) -> Result<Vec<u32>> {
    match (&args.tokens, &args.text) {
        (Some(file), _) => {
            let json = read_file("tokens", file)?;
            serde_json::from_str(&json).map_err(|e| {
                let message = format!("{}: is no JSON array of token ids: {e}", file.display());
                CliError::bad_input("tokens", message).into()
            })
        }
        (None, Some(file)) => {
            let text = read_file("text", file)?;
            Ok(Tokenizer::load(checkpoint.files())?.encode(&text)?)
        }
        (None, None) => Err(CliError::usage("give --text or --tokens").into()),
    }
}

/// Room for exactly these tokens, if the model was made for so many.
fn context(args: &ScoreArgs, checkpoint: &Checkpoint, tokens: usize) -> Result<ContextArgs> {
    let made_for = checkpoint.config().max_position_embeddings;
    let limit = args.context.context.map_or(made_for, |asked| made_for.min(asked as usize));
    if tokens > limit {
        return Err(EngineError::TooLong { tokens, context: limit }.into());
    }
    Ok(ContextArgs { context: u32::try_from(tokens.max(1)).ok() })
}

fn score(runner: &mut dyn ModelRunner, tokens: &[u32], args: &ScoreArgs) -> Result<Score> {
    let bar = progress::count("scoring", tokens.len() as u64);
    let vocab_size = runner.config().vocab_size;
    let step = args.step.map_or(usize::MAX, |step| step as usize);
    let mut file = match &args.logits {
        Some(path) => Some(LogitsFile::create(path, tokens.len(), vocab_size)?),
        None => None,
    };
    let score = engine::score(runner, tokens, step, |logits| -> Result<()> {
        bar.inc((logits.len() / vocab_size) as u64);
        match &mut file {
            Some(file) => Ok(file.write(logits)?),
            None => Ok(()),
        }
    })?;
    bar.finish_and_clear();
    if let Some(file) = file {
        file.finish()?;
    }
    Ok(score)
}
