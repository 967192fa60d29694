//! `halfbyte chat MODEL`.

mod input;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use engine::{Engine, EngineError, FinishReason, Request};
use serde_json::{Value, json};

use crate::args::{ContextArgs, DeviceArgs, LoadArgs, PlaceArgs, PrecisionArgs, SamplingArgs};
use crate::models::{self, TextSide};
use crate::output::{self, CliError};
use crate::{device, generation};
use input::Input;

const HELP: &str = "\
/reset  forget the talk so far
/exit   leave (as does Ctrl-D)
/help   this
A line that ends with \\ goes on in the next. Ctrl-C ends an answer.";

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
Lines are edited as in a shell; their history is kept in XDG_DATA_HOME/halfbyte/history. /help lists what can be said \
to the program. Without a terminal, each line of stdin is a turn.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad input or model, 4 does not fit or device unusable.")]
pub(crate) struct ChatArgs {
    /// A directory, ORG/NAME, or `demo`
    model: String,
    /// What to tell the model before
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
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

/// Talks until there is no more to read.
pub(crate) fn run(args: &ChatArgs) -> Result<()> {
    let checkpoint = models::open(&args.model, &args.places)?;
    let side = TextSide::load(&checkpoint)?;
    side.require_template()?;
    let request = Request {
        max_tokens: args.sampling.max_tokens,
        sampling: generation::sampling(&args.sampling, &side.generation)?,
        stop: args.sampling.stop.clone(),
        eos_token_id: side.generation.eos_token_id.clone(),
        ..Request::default()
    };
    let device = device::open(&args.device, args.precision.precision)?;
    let ready = models::ready(&checkpoint, &args.load, &args.context, device, 1)?;
    let engine = ready.load()?.engine(&side);
    let mut input = Input::open(history_path())?;
    if input.is_terminal() {
        output::note("/help for help");
    }
    let mut talk =
        Talk { side, request, engine, system: args.system.clone(), messages: Vec::new() };
    talk.reset();
    while let Some(line) = input.read()? {
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/help" => output::note(HELP),
            "/reset" => talk.reset(),
            command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                output::note(&format!("{command} is unknown; /help lists what there is"));
            }
            _ => talk.turn(&line)?,
        }
    }
    input.save();
    Ok(())
}

/// Where lines are remembered; `None` if there is no home.
fn history_path() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share")))?;
    Some(data.join("halfbyte/history"))
}

/// A talk and the model that takes part in it.
struct Talk {
    side: TextSide,
    request: Request,
    engine: Engine,
    system: Option<String>,
    messages: Vec<Value>,
}

impl Talk {
    fn reset(&mut self) {
        let system = self.system.iter().map(|text| json!({ "role": "system", "content": text }));
        self.messages = system.collect();
    }

    /// Says something and shows the answer. What cannot be said (too long, refused by the template) is taken back.
    fn turn(&mut self, text: &str) -> Result<()> {
        self.messages.push(json!({ "role": "user", "content": text }));
        let result = self.answer();
        let Err(error) = result else { return Ok(()) };
        self.messages.pop();
        match error.downcast_ref::<EngineError>() {
            Some(EngineError::TooLong { .. }) => {
                output::note(&format!("error: {error}, or /reset"));
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn answer(&mut self) -> Result<()> {
        self.request.prompt = self.side.encode_chat(&self.messages)?;
        let request = self.request.clone();
        let answer = generation::answer(&mut self.engine, request, generation::stream)?;
        output::print("\n")?;
        if answer.completion.finish_reason != FinishReason::Stop {
            output::note(&answer.summary());
        }
        self.messages.push(json!({ "role": "assistant", "content": answer.completion.text }));
        Ok(())
    }
}

/// An input that cannot be read.
fn unreadable(error: impl std::fmt::Display) -> CliError {
    CliError::bad_input("stdin", format!("cannot read a line: {error}"))
}
