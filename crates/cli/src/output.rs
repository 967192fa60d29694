//! What leaves the program: text on stdout, one-line errors on stderr, and exit codes.
//!
//! Exit codes are chosen here and nowhere else.

use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Error, Result};
use backend::BackendError;
use engine::EngineError;
use model::{ErrorKind, ModelError};
use serde_json::{Value, json};

/// Errors of the command line itself; those of the libraries pass through as they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line makes no sense. `text` is what clap prints, where clap found it.
    #[error("{message}")]
    Usage { message: String, text: Option<String> },
    /// `--help` or `--version` was asked for.
    #[error("{0}")]
    Help(String),
    /// What was given cannot be used.
    #[error("{message}")]
    BadInput { message: String, param: &'static str },
    /// The model and its cache exceed the memory.
    #[error("{0}")]
    DoesNotFit(String),
    /// The device that was asked for cannot be used.
    #[error("{0}")]
    Device(String),
    /// A file or stream cannot be written.
    #[error("cannot write {what}: {source}")]
    Write { what: String, source: io::Error },
    /// Something was looked for and found; how much.
    #[error("{0}")]
    Findings(String),
    /// What was planned does not fit; by how much stands in the report.
    #[error("{0}")]
    Exceeds(String),
    /// What was compared is not the same; the first of it.
    #[error("{0}")]
    Differs(String),
    /// The work was done but did not come out right.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// A usage error that clap could not see.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        CliError::Usage { message: message.into(), text: None }
    }

    /// An unusable value of `param`.
    pub(crate) fn bad_input(param: &'static str, message: impl Into<String>) -> Self {
        CliError::BadInput { message: message.into(), param }
    }
}

/// What an error means to whoever called: its exit code, and the fields of its JSON form.
struct Verdict {
    exit_code: u8,
    r#type: &'static str,
    code: &'static str,
    param: Option<&'static str>,
}

impl Verdict {
    const fn new(exit_code: u8, code: &'static str, param: Option<&'static str>) -> Self {
        let r#type = match exit_code {
            2 | 3 => "invalid_request_error",
            4 => "resource_error",
            _ => "server_error",
        };
        Verdict { exit_code, r#type, code, param }
    }

    /// The one place where errors get their exit code.
    fn of(error: &Error) -> Self {
        if let Some(error) = error.downcast_ref::<CliError>() {
            return Self::of_cli(error);
        }
        if let Some(error) = error.downcast_ref::<ModelError>() {
            return Self::of_model(error);
        }
        if error.is::<extract::ExtractError>() {
            return Self::new(3, "bad_document", Some("file"));
        }
        if let Some(error) = error.downcast_ref::<EngineError>() {
            return Self::of_engine(error);
        }
        match error.downcast_ref::<BackendError>() {
            Some(error) => Self::of_backend(error),
            None => Self::new(1, "failed", None),
        }
    }

    fn of_backend(error: &BackendError) -> Self {
        match error {
            BackendError::Memory { .. } => Self::new(4, "does_not_fit", None),
            BackendError::Threads { .. } => Self::new(4, "device_unusable", Some("threads")),
            BackendError::Device(_) => Self::new(4, "device_unusable", Some("device")),
            BackendError::Shape { .. } => Self::new(3, "bad_model", Some("model")),
            _ => Self::new(1, "failed", None),
        }
    }

    fn of_cli(error: &CliError) -> Self {
        match error {
            CliError::Help(_) => Self::new(0, "help", None),
            CliError::Usage { .. } => Self::new(2, "usage", None),
            CliError::BadInput { param, .. } => Self::new(3, "bad_input", Some(param)),
            CliError::DoesNotFit(_) | CliError::Exceeds(_) => Self::new(4, "does_not_fit", None),
            CliError::Device(_) => Self::new(4, "device_unusable", Some("device")),
            // Whoever read us has seen enough: `| head` is no failure.
            CliError::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => {
                Self::new(0, "closed", None)
            }
            CliError::Write { .. } => Self::new(1, "write_failed", None),
            CliError::Failed(_) => Self::new(1, "failed", None),
            CliError::Differs(_) => Self::new(1, "differs", None),
            CliError::Findings(_) => Self::new(5, "findings", None),
        }
    }

    fn of_model(error: &ModelError) -> Self {
        match (error, error.kind()) {
            (_, ErrorKind::Failed) => Self::new(1, "failed", None),
            (ModelError::NotFound { .. }, _) => Self::new(3, "model_not_found", Some("model")),
            (ModelError::Exists(_), _) => Self::new(3, "destination_exists", Some("dst")),
            (ModelError::Template(_), _) => Self::new(3, "bad_template", Some("messages")),
            _ => Self::new(3, "bad_model", Some("model")),
        }
    }

    fn of_engine(error: &EngineError) -> Self {
        match error {
            EngineError::Param(param) => Self::new(2, "usage", Some(param.name)),
            EngineError::TooLong { .. } => Self::new(3, "context_length_exceeded", Some("prompt")),
            EngineError::EmptyPrompt | EngineError::Token { .. } => {
                Self::new(3, "bad_input", Some("prompt"))
            }
            EngineError::Model(error) => Self::of_model(error),
            EngineError::Backend(error) => Self::of_backend(error),
            _ => Self::new(3, "bad_model", Some("model")),
        }
    }
}

static LOG: AtomicBool = AtomicBool::new(false);

/// From here on, what is said to people goes into the log.
pub(crate) fn set_log() {
    LOG.store(true, Ordering::Relaxed);
}

static JSON: AtomicBool = AtomicBool::new(false);

/// Whether errors are to be reported on stdout as JSON, too.
pub(crate) fn set_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// Runs the program and reports how it ended. A panic is a fault of ours; it too takes one line.
pub(crate) fn guard(program: impl FnOnce() -> Result<()> + panic::UnwindSafe) -> ExitCode {
    static PANIC: Mutex<String> = Mutex::new(String::new());
    panic::set_hook(Box::new(|info| {
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
    let result = panic::catch_unwind(program).unwrap_or_else(|_| {
        let what = one_line(&PANIC.lock().unwrap_or_else(PoisonError::into_inner));
        let build = crate::build::name();
        let message = format!("internal error, please report it with this line: {what} ({build})");
        Err(CliError::Failed(message).into())
    });
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    };
    server::flush_log();
    code
}

fn report(error: &Error) -> ExitCode {
    let verdict = Verdict::of(error);
    match error.downcast_ref::<CliError>() {
        Some(CliError::Help(text)) => {
            // Should stdout be closed, there is nobody to tell.
            let _ = print(text);
            return ExitCode::SUCCESS;
        }
        Some(CliError::Usage { text: Some(text), .. }) => note(text.trim_end()),
        // They stand in the report already.
        Some(CliError::Findings(what) | CliError::Differs(what) | CliError::Exceeds(what)) => {
            note(what);
            return ExitCode::from(verdict.exit_code);
        }
        _ if verdict.exit_code == 0 => return ExitCode::SUCCESS,
        _ if LOG.load(Ordering::Relaxed) => tracing::error!("{}", one_line(&error.to_string())),
        _ => note(&format!("error: {}", one_line(&error.to_string()))),
    }
    if JSON.load(Ordering::Relaxed) {
        let Verdict { r#type, code, param, .. } = verdict;
        let message = one_line(&error.to_string());
        let error = json!({ "message": message, "type": r#type, "param": param, "code": code });
        let _ = print_json(&json!({ "error": error }));
    }
    ExitCode::from(verdict.exit_code)
}

/// Writes to stdout at once.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|source| CliError::Write { what: "the output".to_owned(), source })
}

/// Writes a report to stdout, for programs.
pub(crate) fn print_json(value: &Value) -> Result<(), CliError> {
    print(&format!("{value}\n"))
}

/// Writes a line to stderr: what a person may want to know, no part of the result.
pub(crate) fn note(line: &str) {
    if LOG.load(Ordering::Relaxed) {
        tracing::info!("{line}");
        return;
    }
    // Should stderr be closed, there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
