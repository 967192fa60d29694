//! `halfbyte bench MODEL --start`: how long a server takes from its start to its first token, and with what.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::BenchArgs;
use super::http::stream::Client;
use super::report::median;
use crate::memory::gb;
use crate::output::{self, CliError};
use crate::{build, embedded, models, progress, storage};

/// Longest wait for a server to be ready.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between two questions whether it is.
const POLL: Duration = Duration::from_millis(1);

/// What is started.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Measure how long a server of MODEL takes from its start to its first token
    #[arg(long, requires = "model", conflicts_with = "batch")]
    pub(super) start: bool,
    /// With --start: drop the model from the page cache before each start
    #[arg(long, requires = "start")]
    evict: bool,
    /// With --start: options of `serve`
    #[arg(last = true, requires = "start", value_name = "OPTION")]
    serve: Vec<OsString>,
}

/// What happens at a start, in order.
const STAGES: [&str; 5] = ["listening", "reading", "loaded", "ready", "first_token"];

/// One start.
struct Start {
    /// Bytes of the model that were in the page cache before.
    cached: Option<u64>,
    /// Milliseconds from the start of the process to each of [`STAGES`].
    stages: [f64; STAGES.len()],
    /// What lies on the device then.
    weights_bytes: u64,
}

/// Measures.
pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let model = args.model.as_deref().unwrap_or_default();
    let files = files(args, model)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed(format!("cannot wait for the network: {e}")))?;
    let bar = progress::count("starts", args.repeat.into());
    let mut starts = Vec::new();
    for _ in 0..args.repeat {
        if args.start.evict {
            for (file, _) in &files {
                storage::evict(file).map_err(|error| {
                    CliError::Failed(format!(
                        "cannot drop {} from the page cache: {error}",
                        file.display()
                    ))
                })?;
            }
        }
        let cached: Option<Vec<u64>> =
            files.iter().map(|(file, _)| storage::cached(file)).collect();
        starts.push(runtime.block_on(one(
            args,
            model,
            cached.map(|cached| cached.iter().sum()),
        ))?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let bytes = files.iter().map(|(_, len)| len).sum();
    if args.json {
        Ok(output::print_json(&report(args, model, bytes, &starts))?)
    } else {
        Ok(output::print(&table(args, model, bytes, &starts))?)
    }
}

/// The files of the model, and their lengths; none of the one in the binary.
fn files(args: &BenchArgs, model: &str) -> Result<Vec<(PathBuf, u64)>> {
    if model == embedded::NAME && !std::path::Path::new(model).exists() {
        if args.start.evict {
            let message = format!(
                "`{model}` lies in the program itself, which cannot be dropped from the page cache"
            );
            return Err(CliError::usage(message).into());
        }
        return Ok(Vec::new());
    }
    let checkpoint = models::open(model, &args.places)?;
    Ok(storage::files(checkpoint.files().root()))
}

/// A server that ends with the measurement.
struct Server {
    child: Child,
    /// What it says to people, as it comes: a pipe that nobody reads fills up.
    said: Option<JoinHandle<String>>,
}

impl Server {
    /// Starts it; what it says to programs comes with the time at which it does.
    fn start(
        mut command: Command,
        start: Instant,
    ) -> Result<(Server, Receiver<(Duration, Value)>)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn();
        let mut child =
            child.map_err(|e| CliError::Failed(format!("cannot start a server: {e}")))?;
        let said = child.stderr.take().map(|mut stderr| {
            thread::spawn(move || {
                let mut said = Vec::new();
                let _ = stderr.read_to_end(&mut said);
                String::from_utf8_lossy(&said).into_owned()
            })
        });
        let (sender, events) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let at = start.elapsed();
                    if sender.send((at, serde_json::from_str(&line).unwrap_or_default())).is_err() {
                        return;
                    }
                }
            });
        }
        Ok((Server { child, said }, events))
    }

    /// Why it has ended, in its own words.
    fn last_words(&mut self) -> String {
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        let says_why = said.lines().rfind(|line| line.contains("rror"));
        says_why.or(said.lines().last()).unwrap_or("without a word").to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn one(args: &BenchArgs, model: &str, cached: Option<u64>) -> Result<Start> {
    let failed = |what: String| CliError::Failed(what);
    let program = std::env::current_exe().map_err(|e| failed(format!("where am I? {e}")))?;
    let mut command = Command::new(program);
    command.args(["serve", model, "--json", "--port", "0"]).args(&args.start.serve);
    if let Some(directory) = &args.places.model_dir {
        command.arg("--model-dir").arg(directory);
    }
    let start = Instant::now();
    let (mut server, events) = Server::start(command, start)?;
    let (listening, event) = next(&events, &mut server, "listening")?;
    let client = Client::new(event["url"].as_str().unwrap_or_default())?;
    let (reading, event) = next(&events, &mut server, "reading")?;
    let weights_bytes = event["weights_bytes"].as_u64().unwrap_or(0);
    let (loaded, event) = next(&events, &mut server, "loaded")?;
    while !client.is_ready().await {
        if start.elapsed() > PATIENCE {
            return Err(failed("the server is loaded but not ready".to_owned()).into());
        }
        tokio::time::sleep(POLL).await;
    }
    let ready = start.elapsed();
    let body = json!({ "model": event["model"], "prompt": "The", "max_tokens": 1, "stream": true,
        "stream_options": { "include_usage": true } });
    let answer = client.complete(&body).await?;
    let first = ready + Duration::from_secs_f64(answer.first());
    let stages = [listening, reading, loaded, ready, first];
    Ok(Start { cached, stages: stages.map(|at| at.as_secs_f64() * 1e3), weights_bytes })
}

/// The event of this name, which is the next but for those that are of no interest.
fn next(
    events: &Receiver<(Duration, Value)>,
    server: &mut Server,
    name: &str,
) -> Result<(Duration, Value)> {
    loop {
        match events.recv_timeout(PATIENCE) {
            Ok((at, event)) if event["event"] == name => return Ok((at, event)),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {
                let message = format!("the server was not {name} within {} s", PATIENCE.as_secs());
                return Err(CliError::Failed(message).into());
            }
            Err(RecvTimeoutError::Disconnected) => {
                let message = format!("the server ended: {}", server.last_words());
                return Err(CliError::Failed(message).into());
            }
        }
    }
}

fn report(args: &BenchArgs, model: &str, bytes: u64, starts: &[Start]) -> Value {
    let stages = |start: &Start| -> Value {
        STAGES.iter().zip(start.stages).map(|(name, at)| ((*name).to_owned(), json!(at))).collect()
    };
    let runs: Vec<Value> = starts
        .iter()
        .map(|start| json!({ "cached_bytes": start.cached, "milliseconds": stages(start) }))
        .collect();
    json!({
        "build": build::name(), "model": model, "bytes": bytes, "evicted": args.start.evict, "starts": runs,
        "weights_bytes": starts.first().map(|start| start.weights_bytes),
        "median_milliseconds": medians(starts).into_iter().map(|(name, at)| (name.to_owned(), json!(at))).collect::<Value>(),
        "reading_bytes_per_second": rate(starts),
    })
}

fn medians(starts: &[Start]) -> Vec<(&'static str, f64)> {
    let of =
        |stage: usize| median(&starts.iter().map(|start| start.stages[stage]).collect::<Vec<_>>());
    STAGES.iter().enumerate().map(|(stage, name)| (*name, of(stage))).collect()
}

/// Bytes a second from the first of the weights to the last, in the middle of all starts.
fn rate(starts: &[Start]) -> f64 {
    let rate =
        |start: &Start| start.weights_bytes as f64 / (start.stages[2] - start.stages[1]) * 1e3;
    median(&starts.iter().map(rate).collect::<Vec<_>>())
}

fn table(args: &BenchArgs, model: &str, bytes: u64, starts: &[Start]) -> String {
    let cached = match starts.iter().filter_map(|start| start.cached).max() {
        _ if bytes == 0 => "in the program".to_owned(),
        Some(cached) => format!("at most {} of {} in the page cache", gb(cached), gb(bytes)),
        None => format!("{}; the system does not say how much is in the page cache", gb(bytes)),
    };
    let evicted = if args.start.evict { ", dropped from it before each start" } else { "" };
    let mut text = format!(
        "{model}: {cached}{evicted}\nms since the start     median      least       most\n"
    );
    for (stage, (name, middle)) in medians(starts).into_iter().enumerate() {
        let all = || starts.iter().map(|start| start.stages[stage]);
        let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
        text +=
            &format!("{:<19} {middle:>10.1} {least:>10.1} {most:>10.1}\n", name.replace('_', " "));
    }
    text + &format!("weights: {}/s\n", gb(rate(starts) as u64))
}
