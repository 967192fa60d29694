//! `halfbyte prompt MODEL TEXT`.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use engine::{EngineError, GeneratedToken, Request};
use model::Tokenizer;
use serde_json::{Value, json};

use crate::args::{ContextArgs, DeviceArgs, LoadArgs, PlaceArgs, PrecisionArgs, SamplingArgs};
use crate::generation::{self, Answer};
use crate::models::{self, TextSide};
use crate::output::{self, CliError};
use crate::{build, device};

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
Where a sampling flag is not given, the model's generation_config.json decides; where that is silent, the likeliest \
token is taken each time. The answer goes to stdout as it comes, a line of figures to stderr. Ctrl-C ends the answer.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad input or model, 4 does not fit or device unusable.")]
pub(crate) struct PromptArgs {
    /// A directory, ORG/NAME, or `demo`
    model: String,
    /// What to say; `-`, or nothing, reads it from stdin
    text: Option<String>,
    /// Read what to say from a file
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// What to tell the model before
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the text as it is, without the chat template
    #[arg(long)]
    raw: bool,
    /// Print one JSON object instead of the text
    #[arg(long)]
    pub(crate) json: bool,
    /// With --json: report each token's log-probability and this many alternatives
    #[arg(long, value_name = "N", requires = "json", value_parser = clap::value_parser!(u8).range(..=20))]
    logprobs: Option<u8>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
}

/// Answers.
pub(crate) fn run(args: &PromptArgs) -> Result<()> {
    let text = read_text(args)?;
    let checkpoint = models::open(&args.model, &args.places)?;
    let side = TextSide::load(&checkpoint)?;
    let request = Request {
        prompt: encode(args, &side, text)?,
        max_tokens: args.sampling.max_tokens,
        sampling: generation::sampling(&args.sampling, &side.generation)?,
        stop: args.sampling.stop.clone(),
        eos_token_id: side.generation.eos_token_id.clone(),
        top_logprobs: args.logprobs.map_or(0, usize::from),
        ..Request::default()
    };
    let device = device::open(&args.device, args.precision.precision)?;
    let described = device.describe();
    let ready = models::ready(&checkpoint, &args.load, &args.context, device, 1)?;
    let context = ready.context;
    // Before the weights are read: a long prompt should not wait for its refusal.
    if request.prompt.len() >= context {
        return Err(EngineError::TooLong { tokens: request.prompt.len(), context }.into());
    }
    let loaded = ready.load()?;
    let load_seconds = loaded.load_seconds;
    let mut engine = loaded.engine(&side);
    if !args.json {
        let answer = generation::answer(&mut engine, request, generation::stream)?;
        if !answer.completion.text.ends_with('\n') {
            output::print("\n")?;
        }
        output::note(&answer.summary());
        return Ok(());
    }
    let parameters = server::effective(&request);
    let answer = generation::answer(&mut engine, request, |_| Ok(()))?;
    let mut report = json!({
        "text": answer.completion.text,
        "finish_reason": answer.completion.finish_reason.name(),
        "usage": answer.usage_json(),
        "parameters": parameters,
        "timings": answer.timings_json(load_seconds),
        "model": args.model,
        "device": described,
        "build": build::name(),
    });
    if args.logprobs.is_some() {
        report["logprobs"] = logprobs_json(&answer, &side.tokenizer)?;
    }
    Ok(output::print_json(&report)?)
}

fn read_text(args: &PromptArgs) -> Result<String> {
    match (&args.file, args.text.as_deref()) {
        (Some(file), _) => read_file("file", file),
        (None, None | Some("-")) => {
            let mut text = String::new();
            let read = io::stdin().lock().read_to_string(&mut text);
            read.map_err(|e| {
                CliError::bad_input("text", format!("cannot read the text from stdin: {e}"))
            })?;
            Ok(text)
        }
        (None, Some(text)) => Ok(text.to_owned()),
    }
}

/// Reads a text that `param` names.
pub(crate) fn read_file(param: &'static str, file: &Path) -> Result<String> {
    let bytes = fs::read(file)
        .map_err(|e| CliError::bad_input(param, format!("cannot read {}: {e}", file.display())))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        CliError::bad_input(
            param,
            format!("{}: is not UTF-8 at byte {at}; give a text", file.display()),
        )
        .into()
    })
}

fn encode(args: &PromptArgs, side: &TextSide, text: String) -> Result<Vec<u32>> {
    if args.raw {
        return Ok(side.tokenizer.encode(&text)?);
    }
    if text.is_empty() {
        return Err(CliError::bad_input("text", "the text is empty; say something").into());
    }
    let system = args.system.iter().map(|content| json!({ "role": "system", "content": content }));
    let messages: Vec<Value> = system.chain([json!({ "role": "user", "content": text })]).collect();
    side.encode_chat(&messages)
}

/// The tokens of the answer, as the OpenAI API lists them, with their ids.
fn logprobs_json(answer: &Answer, tokenizer: &Tokenizer) -> Result<Value> {
    let entry = |id: u32, logprob: f32| -> Result<Value> {
        let token = tokenizer.decode(&[id], false)?;
        Ok(json!({ "token": token, "id": id, "logprob": logprob }))
    };
    let content = |token: &GeneratedToken| -> Result<Value> {
        let top: Result<Vec<Value>> =
            token.top_logprobs.iter().map(|&(id, logprob)| entry(id, logprob)).collect();
        let mut value = entry(token.token, token.logprob)?;
        value["top_logprobs"] = top?.into();
        Ok(value)
    };
    let content: Result<Vec<Value>> = answer.tokens.iter().map(content).collect();
    Ok(json!({ "content": content? }))
}
