//! `halfbyte worker MODEL`.

use std::env;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use futures_util::FutureExt;
use serde_json::Value;
use server::{Companion, JobsConfig, Told};
use worker::{Local, Options, Place, Service};

use crate::commands::prompt::read_file;
use crate::commands::serve::{self, ServeArgs};
use crate::output::{self, CliError};

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
On RunPod's serverless platform, which says so in the environment (RUNPOD_WEBHOOK_GET_JOB and its like), the worker takes jobs \
once the model answers, as many as the engine has room for, and sends back what the server's own routes answer. Inputs: \
`{endpoint, data}`, `{openai_route, openai_input}`, `{route, body, method}`, `{prompt, …}` and `{messages, …}`, the last two with \
or without `sampling_params`; anything else is an error. `stream: true` sends pieces as they come.

Elsewhere it answers the platform's API on this machine: /run, /runsync, /status/ID and /stream/ID; with --test-input one \
job, whose result is printed. The server of `serve` runs beside it, for /health and /metrics.

SIGTERM: no more jobs are taken, those in progress have --drain-seconds to end. If the engine dies, its jobs fail explicitly, the \
platform is told that the worker is unfit, and the exit code is not 0.

Exit codes: 0 ended by a signal, or after --test-input or --refresh-worker, 1 failed, 2 usage, 3 bad input or model, 4 does not fit, \
or the device is unusable or failed.")]
pub(crate) struct WorkerArgs {
    /// Answer this job and end: JSON as `{\"input\": {…}}`, or @FILE
    #[arg(long, value_name = "JSON", alias = "test_input")]
    test_input: Option<String>,
    /// End after one job, and have the platform make the machine anew
    #[arg(long)]
    refresh_worker: bool,
    /// Seconds between two words that a job goes on; 0 for none
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=3600))]
    progress_seconds: u32,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// Works until a signal comes.
pub(crate) fn run(args: WorkerArgs) -> Result<()> {
    let WorkerArgs { test_input, refresh_worker, progress_seconds, serve } = args;
    let read = |name: &str| env::var(name).ok();
    let place = Place::read(read, new_id).map_err(|error| CliError::usage(error.to_string()))?;
    if let Some(input) = test_input {
        return test(serve, &input);
    }
    let Some(place) = place else { return on_this_machine(serve) };
    let progress = (progress_seconds > 0).then(|| Duration::from_secs(progress_seconds.into()));
    let options = Options { refresh: refresh_worker, progress };
    let at = place.clone();
    let companion = Companion::new(move |app, told| {
        let work = async move {
            if let Err(error) = worker::work(at, Service::of(&app), options, told).await {
                tracing::error!(error = %error, "the worker cannot work");
            }
        };
        work.boxed()
    });
    let result = serve::serve(Box::new(serve), JobsConfig::default(), Some(companion));
    if let Err(error) = &result {
        say_unfit(place, &format!("{error:#}"));
    }
    result
}

/// Answers the platform's API.
fn on_this_machine(serve: ServeArgs) -> Result<()> {
    output::note(
        "RUNPOD_WEBHOOK_GET_JOB is not set, so no platform is here: /run, /runsync, /status and /stream are answered on this \
         machine",
    );
    let companion = Companion::new(|_, mut told| {
        let wait = async move {
            let _ = told.wait_for(|told| *told != Told::Work).await;
        };
        wait.boxed()
    });
    let companion = companion
        .with_routes(|app| Local::new(Service::of(app), Place::here(new_id()), new_id).routes());
    serve::serve(Box::new(serve), JobsConfig::default(), Some(companion))
}

/// Answers one job, and prints what would be posted.
fn test(serve: ServeArgs, input: &str) -> Result<()> {
    let text = match input.strip_prefix('@') {
        Some(path) => read_file("test_input", Path::new(path))?,
        None => input.to_owned(),
    };
    let wrong = |why: &str| CliError::bad_input("test_input", format!("--test-input: {why}"));
    let mut job: Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    let input = job.get_mut("input").map(Value::take);
    let input = input.ok_or_else(|| wrong("an object with `input` is needed, as a job has it"))?;
    let posted = Arc::new(Mutex::new(Value::Null));
    let to = Arc::clone(&posted);
    let companion = Companion::new(move |app, _| {
        let one = async move {
            let answer = worker::run_one(&Service::of(&app), &Place::here(new_id()), input).await;
            *to.lock().unwrap_or_else(PoisonError::into_inner) = answer;
        };
        one.boxed()
    });
    serve::serve(Box::new(serve), JobsConfig::default(), Some(companion))?;
    let posted = posted.lock().unwrap_or_else(PoisonError::into_inner);
    output::print_json(&posted)?;
    match posted.get("output") {
        Some(_) => Ok(()),
        None => Err(CliError::Failed("the job failed".to_owned()).into()),
    }
}

/// Tells the platform that this worker cannot work, so that it is not kept alive, and paid.
fn say_unfit(place: Place, reason: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let said = match runtime {
        Ok(runtime) => {
            runtime.block_on(worker::unfit(place, "model", reason)).map_err(|e| e.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = said {
        tracing::error!(error, "the platform could not be told that this worker is unfit");
    }
}

/// A name that no other has.
fn new_id() -> String {
    format!("{:016x}{:016x}", server::random_seed(), server::random_seed())
}
