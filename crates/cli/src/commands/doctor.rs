//! `halfbyte doctor [MODEL]`: what this machine is to this binary, what is wrong, and the one thing to do about it.
//!
//! `probe` looks, each probe in a process of its own with a deadline (`bounded`), and gives [`facts`]; `findings` judges them
//! and looks at nothing.

mod facts;
mod probe;
mod bounded;
mod findings;
mod text;
#[cfg(test)]
mod tests;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::args::PlaceArgs;
use crate::output::{self, CliError};
use findings::Severity;
use probe::Probe;

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
Looks at the driver, the GPUs, this machine's processors and memory, and, if a model is named, at where it lies, how fast it \
is read there and whether it fits. No GPU is needed. At most 256 MB of the model are read, for a second at most, past the \
page cache; nothing is written.

An error keeps a GPU, or the model, from being used; a warning is what makes them slow or will fail; a note is good to know. \
A machine without a GPU is no finding. Every look has a deadline: a driver or a network volume that hangs is a finding.

Exit codes: 0 no errors and no warnings, 1 failed, 2 usage, 5 errors or warnings.")]
pub(crate) struct DoctorArgs {
    /// A model that is to run here
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    #[command(flatten)]
    places: PlaceArgs,
    /// Seconds that each look may take
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Print one JSON object, with all facts
    #[arg(long)]
    pub(crate) json: bool,
    /// Look at one thing in this process, and print the facts
    #[arg(long, hide = true, value_enum)]
    probe: Option<Probe>,
    /// Bytes that are free on a GPU, as ORDINAL=BYTES; may be repeated
    #[arg(long, hide = true, value_parser = free)]
    free: Vec<(u32, u64)>,
}

fn free(text: &str) -> Result<(u32, u64), String> {
    let parsed = text
        .split_once('=')
        .and_then(|(ordinal, bytes)| Some((ordinal.parse().ok()?, bytes.parse().ok()?)));
    parsed.ok_or_else(|| format!("`{text}` is not ORDINAL=BYTES"))
}

/// Looks, and reports.
pub(crate) fn run(args: &DoctorArgs) -> Result<()> {
    if let Some(probe) = args.probe {
        return probe::run(probe, args);
    }
    let facts = probe::gather(args);
    let findings = findings::judge(&facts);
    if args.json {
        output::print_json(&json!({ "facts": facts, "findings": findings }))?;
    } else {
        output::print(&text::report(&facts, &findings))?;
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => Ok(()),
        (errors, warnings) => {
            let plural = |n: usize, what: &str| {
                if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
            };
            let what = format!("{}, {}", plural(errors, "error"), plural(warnings, "warning"));
            Err(CliError::Findings(what).into())
        }
    }
}
