//! `halfbyte demo`: the model in this binary reads an accounting document.

pub(super) mod task;
mod evaluate;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use engine::{Engine, EngineError, Request, SamplingParams};
use extract::Format;
use serde_json::{Value, json};

use crate::args::{ContextArgs, DeviceArgs, LoadArgs, PlaceArgs, PrecisionArgs};
use crate::commands::extract::{document, require_text};
use crate::generation::{self, Answer};
use crate::models::{self, TextSide};
use crate::output::{self, CliError};
use crate::{build, device, embedded};

/// Lines of a document that are shown; of a longer one the rest is counted.
const SHOWN_LINES: usize = 32;

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
The model (10-25 million weights) is a demonstration: it knows invoices, receipts, reminders, bank lines and their \
like, and little else. demo/README.md says how often it is right.

Exit codes: 0 done, 1 the answer is not the JSON object that was asked for, 2 usage, 3 bad input, 4 does not fit or \
device unusable.")]
pub(crate) struct DemoArgs {
    /// Read this document in place of the sample: a text, or whatever `extract` reads
    #[arg(long, value_name = "DOC", conflicts_with = "evaluate")]
    file: Option<PathBuf>,
    /// Whose books the document is for
    #[arg(long, value_name = "NAME", default_value = embedded::OUR_BUSINESS)]
    our_business: String,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Read all documents of a JSON Lines file, {text, our_business, expected} each, and count what is right
    #[arg(long, value_name = "SPLIT.jsonl")]
    evaluate: Option<PathBuf>,
    /// Another model for the same task
    #[arg(long, value_name = "MODEL", default_value = embedded::NAME)]
    model: String,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
}

/// Reads.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let documents = match &args.evaluate {
        Some(split) => Some(evaluate::read_split(split)?),
        None => None,
    };
    let (name, text) = match &args.file {
        Some(file) => (file.display().to_string(), read_document(file)?),
        None => ("the sample".to_owned(), embedded::SAMPLE.to_owned()),
    };
    if text.trim().is_empty() {
        // A model asked to read nothing would make something up.
        return Err(
            CliError::bad_input("file", "the document is empty; there is nothing to read").into()
        );
    }
    let mut reader = Reader::open(args)?;
    if let Some(documents) = documents {
        return evaluate::run(&mut reader, &documents, args.json);
    }
    if !args.json {
        output::print(&excerpt(&name, &args.our_business, &text))?;
    }
    let answer = reader.read(&args.our_business, &text)?;
    let fields = task::parse(&answer.completion)?;
    if !args.json {
        output::print(&format!("{:#}\n", Value::from(fields)))?;
        output::note(&answer.summary());
        return Ok(());
    }
    Ok(output::print_json(&json!({
        "document": name,
        "our_business": args.our_business,
        "fields": fields,
        "finish_reason": answer.completion.finish_reason.name(),
        "usage": answer.usage_json(),
        "timings": answer.timings_json(reader.load_seconds),
        "model": reader.model,
        "device": reader.device,
        "build": build::name(),
    }))?)
}

/// The text of a document. One that is text comes as it is, with its columns.
fn read_document(file: &Path) -> Result<String> {
    let cannot =
        |error| CliError::bad_input("file", format!("cannot read {}: {error}", file.display()));
    if fs::metadata(file).map_err(cannot)?.len() == 0 {
        return Ok(String::new());
    }
    let document = document(file)?;
    if matches!(document.format, Format::Text | Format::Markdown)
        && let Ok(text) = fs::read_to_string(file)
    {
        return Ok(text);
    }
    require_text(file, &document)?;
    Ok(document.text())
}

/// A model that reads documents.
struct Reader {
    side: TextSide,
    engine: Engine,
    model: String,
    device: String,
    load_seconds: f64,
}

impl Reader {
    fn open(args: &DemoArgs) -> Result<Self> {
        let start = Instant::now();
        let checkpoint = models::open(&args.model, &args.places)?;
        let side = TextSide::load(&checkpoint)?;
        let opened = device::open(&args.device, args.precision.precision)?;
        let device = opened.describe();
        let asked = ContextArgs { context: None };
        let ready = models::ready(&checkpoint, &args.load, &asked, opened, 1)?;
        let engine = ready.load()?.engine(&side);
        let load_seconds = start.elapsed().as_secs_f64();
        Ok(Reader { side, engine, model: args.model.clone(), device, load_seconds })
    }

    fn read(&mut self, our_business: &str, text: &str) -> Result<Answer> {
        let message = json!({ "role": "user", "content": task::message(our_business, text) });
        let request = Request {
            prompt: self.side.encode_chat(&[message])?,
            max_tokens: task::ANSWER_TOKENS_MAX,
            sampling: SamplingParams::default(),
            eos_token_id: self.side.generation.eos_token_id.clone(),
            ..Request::default()
        };
        let (tokens, context) = (request.prompt.len(), self.engine.context());
        if tokens + task::ANSWER_TOKENS_MAX > context {
            let context = context - task::ANSWER_TOKENS_MAX;
            return Err(EngineError::TooLong { tokens, context }.into());
        }
        generation::answer(&mut self.engine, request, |_| Ok(()))
    }
}

fn excerpt(name: &str, our_business: &str, text: &str) -> String {
    let lines: Vec<&str> = text.trim_matches('\n').lines().collect();
    let mut shown = format!("{name}, for the books of {our_business}:\n\n");
    for line in lines.iter().take(SHOWN_LINES) {
        shown.push_str(&format!("  | {line}\n"));
    }
    if lines.len() > SHOWN_LINES {
        shown.push_str(&format!("  … {} more lines\n", lines.len() - SHOWN_LINES));
    }
    shown.push('\n');
    shown
}
