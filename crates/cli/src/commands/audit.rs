//! `halfbyte audit TARGET…`: what GPU code and which bounds a Python stack really holds.

mod remote;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use audit::{Assertions, AuditError, Driver, Fix, FixOutcome, Limits, Outcome, Query, Truth, gpus};
use clap::Args;
use quant::QuantConfig;
use serde_json::{Value, json};

use crate::args::PlaceArgs;
use crate::memory::Needs;
use crate::models;
use crate::output::{self, CliError};
use crate::random_weights::{self, LmHead};
use crate::shapes::Shape;

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
A TARGET is a virtual environment, a site-packages folder or a root file system; an image (`docker save`, the OCI layout) or an \
archive of a root file system, packed or not; a wheel, or the URL of one, of which only the parts that matter are read; a \
requirements.txt; a Dockerfile; a shared library; or a log. Several are judged together, as one stack. Nothing is imported or \
run, and no GPU is needed.

What is not at hand as a file is looked up among releases that were measured before; `--learn` measures a wheel.

Exit codes: 0 no findings, 2 usage, 3 bad input, 5 findings, or a claim that is false.")]
pub(crate) struct AuditArgs {
    /// What to audit
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<PathBuf>,
    /// The card to judge for: its name, as "RTX 5090", or a compute capability, as 12.0
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// NVIDIA's driver on the host, as 550.54, or the CUDA version that nvidia-smi shows, as 12.4
    #[arg(long, value_name = "VERSION")]
    driver: Option<String>,
    /// The version of Python [default: the environment's, else 3.11]
    #[arg(long, value_name = "3.X")]
    python: Option<String>,
    /// A variable in the program's environment: BNB_CUDA_VERSION=121
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Decide claims: a TOML file with a path into the JSON report, an operator and a value for each
    #[arg(long, value_name = "FILE")]
    assert: Option<PathBuf>,
    /// Let claims be about a model, too: `model.weights_bytes` is what its weights take in NF4. A shape that `bench` knows, as
    /// mixtral-8x7b, or a directory
    #[arg(long, value_name = "MODEL", requires = "assert")]
    model: Option<String>,
    /// Look for the smallest change of pins that makes the stack work, and print it as a diff
    #[arg(long, requires = "gpu", conflicts_with_all = ["assert", "libraries"])]
    fix: bool,
    /// Print the facts of each wheel, a line each, as they are kept of known releases
    #[arg(long, conflicts_with_all = ["gpu", "driver", "python", "env", "assert", "libraries", "fix"])]
    learn: bool,
    /// List every library with GPU code
    #[arg(long)]
    libraries: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// The one variable that decides anything; others are refused, not ignored.
const VARIABLE: &str = "BNB_CUDA_VERSION";

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((VARIABLE, value)) => Ok((VARIABLE.to_owned(), value.to_owned())),
        Some((name, _)) => Err(format!("{name} decides nothing here; {VARIABLE} does")),
        None => Err(format!("is not NAME=VALUE, as {VARIABLE}=121")),
    }
}

/// Audits, and reports.
pub(crate) fn run(args: &AuditArgs) -> Result<()> {
    if args.learn {
        return learn(&args.targets);
    }
    let usage = |what: String| CliError::usage(what);
    let (there, here): (Vec<PathBuf>, Vec<PathBuf>) =
        args.targets.iter().cloned().partition(|target| remote::is_url(target));
    let query = Query {
        gpu: args.gpu.as_deref().map(gpus::find).transpose().map_err(usage)?,
        driver: args.driver.as_deref().map(str::parse::<Driver>).transpose().map_err(usage)?,
        python: args.python.clone(),
        environment: args.env.clone(),
        packages: there.iter().map(|url| remote::read(url)).collect::<Result<_>>()?,
        limits: Limits::default(),
    };
    if args.fix {
        return report_fix(&audit::fix(&here, &query).map_err(bad_target)?, args.json);
    }
    let claims = args.assert.as_deref().map(read_claims).transpose()?;
    let report = audit::audit(&here, &query).map_err(bad_target)?;
    let mut value = serde_json::to_value(&report)?;
    if let Some(model) = &args.model {
        value["model"] = weights_of(model)?;
    }
    let outcomes = claims.map(|claims| claims.check(&value));
    match (&outcomes, args.json) {
        (Some(outcomes), true) => output::print_json(&json!({ "assertions": outcomes }))?,
        (Some(outcomes), false) => output::print(&outcomes_text(outcomes))?,
        (None, true) => output::print_json(&value)?,
        (None, false) => output::print(&report.text(args.libraries))?,
    }
    let (count, what) = match &outcomes {
        Some(outcomes) => {
            (outcomes.iter().filter(|outcome| outcome.truth == Truth::False).count(), "false claim")
        }
        None => (report.findings_count() + report.logs.len(), "finding"),
    };
    match count {
        0 => Ok(()),
        1 => Err(CliError::Findings(format!("1 {what}")).into()),
        n => Err(CliError::Findings(format!("{n} {what}s")).into()),
    }
}

fn report_fix(fix: &Fix, json: bool) -> Result<()> {
    if json {
        output::print_json(&serde_json::to_value(fix)?)?;
    } else {
        output::print(&fix_text(fix))?;
    }
    match fix.outcome {
        FixOutcome::NothingToDo => Ok(()),
        FixOutcome::Fixed => Err(CliError::Findings("it takes a change".to_owned()).into()),
        FixOutcome::NoneExists => Err(CliError::Findings("no fix is known".to_owned()).into()),
    }
}

fn fix_text(fix: &Fix) -> String {
    let mut text = match fix.outcome {
        FixOutcome::NothingToDo => format!("nothing to do: {}\n", fix.because),
        FixOutcome::Fixed => format!("fix: {}\n", fix.because),
        FixOutcome::NoneExists => format!("none exists, because {}\n", fix.because),
    };
    for change in &fix.changes {
        let to = change.to.as_deref().unwrap_or("remove it");
        text += &format!(
            "{} -> {to} ({})\n  because {}\n",
            change.name, change.evidence, change.reason
        );
    }
    text += &fix.diff;
    if !fix.rollback.is_empty() {
        text += &format!("to undo it: {}\n", fix.rollback);
    }
    text
}

fn bad_target(error: AuditError) -> CliError {
    CliError::bad_input("target", error.to_string())
}

fn read_claims(path: &Path) -> Result<Assertions, CliError> {
    let wrong = |what: String| CliError::bad_input("assert", format!("{}: {what}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    Assertions::parse(&text).map_err(wrong)
}

fn outcomes_text(outcomes: &[Outcome]) -> String {
    let mut lines = Vec::new();
    for outcome in outcomes {
        let truth = match outcome.truth {
            Truth::True => "true",
            Truth::False => "false",
            Truth::Undecidable => "undecidable",
        };
        lines.push(format!("{truth}: {}", outcome.claim));
        lines.push(format!("  {} is {}", outcome.path, outcome.found));
        lines.extend(
            outcome.evidence.iter().map(|evidence| format!("  {}", evidence_line(evidence))),
        );
    }
    lines.join("\n") + "\n"
}

fn evidence_line(evidence: &Value) -> String {
    let text = |key: &str| evidence[key].as_str().unwrap_or_default().to_owned();
    let place = match (evidence["line"].as_u64(), evidence["offset"].as_u64()) {
        (Some(line), _) => format!(":{line}"),
        (None, Some(offset)) => format!("@{offset:#x}"),
        (None, None) => String::new(),
    };
    format!("{}{place}: {}", text("file"), text("value"))
}

/// What a model's weights take in NF4, from its sizes.
fn weights_of(model: &str) -> Result<Value> {
    let (file, bytes) = match Shape::find(model) {
        Some(shape) => {
            let config = shape.config()?;
            (format!("shape {model}"), random_weights::num_bytes(&config, LmHead::Bf16))
        }
        None => {
            let checkpoint = models::open(model, &PlaceArgs { model_dir: None })?;
            let needs = Needs::of_checkpoint(&checkpoint, Some(QuantConfig::default()));
            (checkpoint.files().root().display().to_string(), needs.weights)
        }
    };
    let what = format!(
        "{bytes} bytes: linear layers in NF4 with double quantization, the rest in 16 bits"
    );
    Ok(
        json!({ "name": model, "weights_bytes": bytes, "evidence": [{ "file": file, "value": what }] }),
    )
}

fn learn(wheels: &[PathBuf]) -> Result<()> {
    for wheel in wheels {
        let package = if remote::is_url(wheel) {
            remote::learn(wheel)?
        } else {
            audit::learn(wheel, Limits::default()).map_err(bad_target)?
        };
        output::print_json(&serde_json::to_value(&package)?)?;
    }
    Ok(())
}
