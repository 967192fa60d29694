//! `halfbyte serve MODEL`.

use std::env;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Error, Result};
use clap::{Args, ValueEnum};
use engine::{Engine, EngineConfig, EngineError};
use serde_json::json;
use server::{
    BindError, Collector, Companion, Config, Documents, Host, JobsConfig, KeyError, Keys, Limits,
    Loading, LogFormat, ServeError, Served, Server, Stages,
};

use crate::args::{ByteSize, ContextArgs, DeviceArgs, LoadArgs, PlaceArgs, PrecisionArgs};
use crate::commands::extract::{rules, workers};
use crate::commands::prompt::read_file;
use crate::jobs::JobsArgs;
use crate::memory::gb;
use crate::models::{self, TextSide};
use crate::output::{self, CliError};
use crate::pool::{Pool, PoolArgs};
use crate::{build, device};

/// Where keys stand in the environment.
const KEYS: &str = "HALFBYTE_API_KEYS";

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
The server listens at once: /health says that it lives, /ready how far the model is, and 200 once it answers. \
/openapi.json describes everything; / is a page for people. Nothing is downloaded.

SIGTERM and SIGINT end it gracefully: new requests get 503, answers in progress have --drain-seconds to end; what is \
not done then ends with an error event. A second signal ends it at once.

API keys come from --api-key-file (one on each line) and from HALFBYTE_API_KEYS (separated by commas); a request \
carries one as `authorization: Bearer KEY`. An address that other machines reach is refused without a key.

The log goes to stderr, a line for each request, without prompts, answers and keys; HALFBYTE_LOG sets its level \
(`debug`, or `info,server=debug`).

Jobs (POST /v1/jobs) are on disk before they are accepted, and are answered also where the process ends meanwhile; --jobs \
says where. With a PostgreSQL, servers of the same model share them. callback_url is told of a job's end, signed by the \
Standard Webhooks convention with the secret of HALFBYTE_WEBHOOK_SECRET or --webhook-secret-file.

Exit codes: 0 ended by a signal, 1 failed (the port is taken, or a fault of ours), 2 usage, 3 bad input or model, 4 \
does not fit, or the device is unusable or failed.")]
pub(crate) struct ServeCommand {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    #[command(flatten)]
    jobs: JobsArgs,
}

/// What a server is asked for, whatever is beside it.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// A directory, ORG/NAME, or `demo`
    model: String,
    /// Address to listen on: an IP address, or localhost
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: Host,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// Name that requests give; may be repeated, the first is the one in answers [default: MODEL]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    served_model_name: Vec<String>,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    pool: PoolArgs,
    /// Most requests that wait for their first step; more get 429
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_waiting: u32,
    /// Compute every prompt from its beginning, also where another began alike
    #[arg(long)]
    no_prefix_cache: bool,
    #[command(flatten)]
    access: AccessArgs,
    /// Folder of more stages for /prompt, each a folder with stage.toml, prompt.jinja and schema.json
    #[arg(long, value_name = "DIR")]
    stages: Option<PathBuf>,
    /// Largest document of /extract and /process
    #[arg(long, value_name = "BYTES", default_value = "25MB")]
    max_document: ByteSize,
    /// Most pages of a document
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_document_pages: u32,
    /// Let /extract and /process get documents from the `document_url` of a request: https, public addresses alone
    #[arg(long)]
    allow_urls: bool,
    /// File of more rules by which /extract checks fields, in TOML; may be repeated
    #[arg(long, value_name = "FILE")]
    rules: Vec<PathBuf>,
    /// Form of the log
    #[arg(long, value_enum, default_value_t = LogChoice::Text)]
    log_format: LogChoice,
    /// Send a span for each request to an OpenTelemetry collector, OTLP over HTTP, as http://127.0.0.1:4318
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<Collector>,
    /// Print where it listens, and later what was loaded, as JSON lines on stdout
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
}

/// Who may ask, and how much.
#[derive(Debug, Args)]
struct AccessArgs {
    /// File of API keys, one on each line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Let everybody ask who reaches the address
    #[arg(long)]
    insecure_no_auth: bool,
    /// Origin of web pages that may ask, as `https://example.org`, or `*`; may be repeated
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    cors_origin: Vec<String>,
    /// Seconds that answers may take to end after SIGTERM
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=86400))]
    drain_seconds: u32,
    /// Seconds that a request may take, from its arrival to the end of its answer; then it ends with an error (504, or an
    /// error event) [default: no bound]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86400))]
    request_timeout: Option<u32>,
    /// Most tokens of an answer: who asks for more gets 400, who does not say gets so many at most [default: what the
    /// context leaves]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens_limit: Option<u32>,
    /// Largest body of a request
    #[arg(long, value_name = "BYTES", default_value = "4MiB")]
    max_body: ByteSize,
    /// Most open connections
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
}

/// A form of the log as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogChoice {
    /// Lines for people
    Text,
    /// A JSON object on each line
    Json,
}

fn origin(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_origin = rest.is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@*".contains(&b))
    });
    if text == "*" || is_origin {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no origin, as https://example.org (without a path), nor *"))
}

/// Serves until a signal comes.
pub(crate) fn run(command: ServeCommand) -> Result<()> {
    let ServeCommand { serve: args, jobs } = command;
    let jobs = jobs.config(args.name())?;
    serve(Box::new(args), jobs, None)
}

/// The same, with a companion.
pub(super) fn serve(
    args: Box<ServeArgs>,
    jobs: JobsConfig,
    companion: Option<Companion>,
) -> Result<()> {
    let keys = args.access.keys()?;
    let stages = Stages::load(args.stages.as_deref());
    let stages = stages.map_err(|e| CliError::bad_input("stages", e.to_string()))?;
    let format = match args.log_format {
        LogChoice::Text => LogFormat::Text,
        LogChoice::Json => LogFormat::Json,
    };
    let filter = env::var("HALFBYTE_LOG").unwrap_or_default();
    server::log(format, &filter).map_err(|e| CliError::usage(format!("HALFBYTE_LOG: {e}")))?;
    output::set_log();
    let config = Config {
        build: build::name(),
        keys,
        allow_no_key: args.access.insecure_no_auth,
        is_loopback: args.host.is_loopback(),
        cors_origins: args.access.cors_origin.clone(),
        drain: Duration::from_secs(args.access.drain_seconds.into()),
        stages: Arc::new(stages),
        collector: args.otlp_endpoint.clone(),
        documents: args.documents()?,
        jobs,
        limits: Limits {
            body_bytes: usize::try_from(args.access.max_body.0).unwrap_or(usize::MAX),
            connections: args.access.max_connections as usize,
            request_time: args.access.request_timeout.map(|n| Duration::from_secs(n.into())),
            ..Limits::default()
        },
    };
    let server = Server::bind(args.host, args.port, config).map_err(unbound)?;
    let url = server.url();
    output::note(&format!(
        "listening on {url}; loading {}, /ready says when it answers",
        args.model
    ));
    if args.json {
        output::print_json(&json!({
            "event": "listening", "url": url, "model": args.name(), "build": build::name(),
            "pid": std::process::id(),
        }))?;
    }
    server.run(move |loading| load(&args, loading, &url), companion).map_err(ended)
}

impl AccessArgs {
    fn keys(&self) -> Result<Keys> {
        let mut keys = Keys::default();
        if let Some(file) = &self.api_key_file {
            let parsed = Keys::parse(&read_file("api_key_file", file)?);
            let wrong = |e| CliError::bad_input("api_key_file", format!("{}: {e}", file.display()));
            keys = keys.and(parsed.map_err(wrong)?);
        }
        // A variable that is set but empty is a mistake: nobody sets one to have no keys.
        if let Some(value) = env::var_os(KEYS) {
            let wrong = |e: String| CliError::bad_input("api_keys", format!("{KEYS}: {e}"));
            let value = value.into_string().map_err(|_| wrong("is not UTF-8".to_owned()))?;
            let parsed = Keys::parse(&value.replace(',', "\n"));
            keys = keys.and(parsed.map_err(|e| wrong(in_variable(&e)))?);
        }
        Ok(keys)
    }
}

impl ServeArgs {
    fn documents(&self) -> Result<Documents> {
        let defaults = Documents::new(rules(&self.rules)?);
        let limits = extract::Limits {
            bytes_max: usize::try_from(self.max_document.0).unwrap_or(usize::MAX),
            pages_max: self.max_document_pages as usize,
            ..defaults.limits
        };
        let workers = Some(Arc::new(workers(defaults.at_once)?));
        Ok(Documents { limits, workers, allow_urls: self.allow_urls, ..defaults })
    }

    /// The name in answers.
    fn name(&self) -> &str {
        self.served_model_name.first().unwrap_or(&self.model)
    }
}

/// What is wrong with keys that are separated by commas.
fn in_variable(error: &KeyError) -> String {
    match error {
        KeyError::Empty => "there is no key in it; separate keys by commas, or unset it".to_owned(),
        KeyError::Malformed { line } => {
            error.to_string().replace(&format!("line {line}"), &format!("entry {line}"))
        }
        KeyError::TooMany => error.to_string(),
    }
}

fn unbound(error: BindError) -> Error {
    match error {
        BindError::NoKey { .. } => CliError::usage(format!(
            "{error} (--api-key-file FILE, or {KEYS}), or let everybody in (--insecure-no-auth)"
        ))
        .into(),
        BindError::Jobs(_) => CliError::bad_input("jobs", error.to_string()).into(),
        BindError::Io { .. } => CliError::Failed(error.to_string()).into(),
    }
}

/// Why the server ended, in the terms of the program.
fn ended(error: ServeError<Error>) -> Error {
    match error {
        ServeError::Load(error) => error,
        ServeError::Engine(EngineError::Backend(error)) => error.into(),
        ServeError::Panic(what) => CliError::Failed(format!(
            "internal error, please report it with this line: {what} ({})",
            build::name()
        ))
        .into(),
        other => CliError::Failed(other.to_string()).into(),
    }
}

/// Loads the model and makes an engine of it.
fn load(args: &ServeArgs, loading: &Loading, url: &str) -> Result<(Served, Engine)> {
    // A card takes as long to open as a model's files.
    let (read, opened) = thread::scope(|scope| {
        let opened = scope.spawn(|| device::open(&args.device, args.precision.precision));
        let read = models::open(&args.model, &args.places)
            .and_then(|checkpoint| TextSide::load(&checkpoint).map(|text| (checkpoint, text)));
        (read, opened.join())
    });
    let (checkpoint, TextSide { tokenizer, generation, template }) = read?;
    let device = opened.unwrap_or_else(|panic| resume_unwind(panic))?;
    let described = device.describe();
    let (ready, pool) =
        models::ready_to_share(&checkpoint, &args.load, &args.context, &args.pool, device)?;
    if args.json {
        output::print_json(
            &json!({ "event": "reading", "weights_bytes": pool.plan.weights_bytes }),
        )?;
    }
    let runner = ready.load_runner(|done, total| loading.progress.layers(done, total))?;
    let vocab_size = checkpoint.config().vocab_size;
    let vocabulary = engine::vocabulary(&tokenizer, vocab_size, &generation.eos_token_id)?;
    let config = EngineConfig {
        context: pool.context,
        max_num_seqs: pool.limits.sequences,
        max_num_batched_tokens: pool.limits.tokens,
        max_waiting: args.max_waiting as usize,
        prefix_cache: !args.no_prefix_cache,
    };
    let engine = Engine::new(runner, Arc::clone(&tokenizer), config);
    report(args, &pool, &described, url, template.is_some())?;
    let served = Served {
        name: args.name().to_owned(),
        aliases: args.served_model_name.iter().skip(1).cloned().collect(),
        tokenizer,
        template,
        generation,
        vocabulary: Arc::new(vocabulary),
        context: pool.context,
        max_tokens_limit: args.access.max_tokens_limit.map(|tokens| tokens as usize),
        device: described,
        plan: pool.plan,
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        engine: loading.engine.clone(),
    };
    Ok((served, engine))
}

/// Says what lies in memory, and how to ask.
fn report(
    args: &ServeArgs,
    pool: &Pool,
    device: &str,
    url: &str,
    has_template: bool,
) -> Result<()> {
    let Pool { context, tokens, plan, .. } = pool;
    output::note(&format!(
        "serving {} on {device}: weights {}, keys and values {} ({tokens} tokens), workspace {}; requests of up to \
         {context} tokens",
        args.name(),
        gb(plan.weights_bytes),
        gb(plan.kv_bytes),
        gb(plan.workspace_bytes),
    ));
    let model = args.name();
    let (path, body) = if has_template {
        let messages = json!([{ "role": "user", "content": "Hello" }]);
        let body = json!({ "model": model, "messages": messages, "max_tokens": 32 });
        ("/v1/chat/completions", body)
    } else {
        let body = json!({ "model": model, "prompt": "Hello", "max_tokens": 32 });
        ("/v1/completions", body)
    };
    output::note(&format!("ask: curl {url}{path} -H 'content-type: application/json' -d '{body}'"));
    if args.json {
        output::print_json(&json!({
            "event": "loaded", "url": url, "model": model, "device": device, "context": context, "plan": plan,
        }))?;
    }
    Ok(())
}
