//! Where jobs are stored, and who is told of them: what was typed, and what it means.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use jobs::Place;
use server::{JobsConfig, WebhookSecrets};

use crate::commands::prompt::read_file;
use crate::output::CliError;

/// Where the place, which may hold a password, and the secret stand in the environment.
const PLACE: &str = "HALFBYTE_JOBS";
const SECRET: &str = "HALFBYTE_WEBHOOK_SECRET";

/// What was typed of jobs.
#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    /// Where jobs are stored: a file, postgres://USER@HOST/DATABASE for servers that share them, or `off`; also
    /// HALFBYTE_JOBS, where others do not see its password [default: halfbyte/jobs.sqlite in $XDG_STATE_HOME, else in
    /// ~/.local/state]
    #[arg(long, value_name = "PLACE")]
    jobs: Option<String>,
    /// Most jobs that wait; more get 429
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    jobs_waiting: u32,
    /// Hours that a job is known after its end
    #[arg(long, value_name = "HOURS", default_value_t = 168, value_parser = clap::value_parser!(u32).range(1..=87_600))]
    jobs_retention: u32,
    /// How often a job is begun whose server ends before it does
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    jobs_attempts: u32,
    /// Seconds after which others take the jobs of a server that does not answer any more
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=3600))]
    jobs_lease: u32,
    /// File of secrets to sign callbacks with, whsec_…, one on each line; the first of several is the newest
    #[arg(long, value_name = "FILE")]
    webhook_secret_file: Option<PathBuf>,
    /// Let callbacks go to private networks and to this machine, and by plain HTTP
    #[arg(long)]
    allow_private_callbacks: bool,
}

impl JobsArgs {
    /// What it means.
    ///
    /// # Errors
    /// For an environment that makes no sense.
    pub(crate) fn config(self, model: &str) -> Result<JobsConfig> {
        let secrets = self.secrets()?;
        // Read here: what clap refuses, it shows.
        let typed = self.jobs.as_deref().map(str::parse::<Place>).transpose();
        let typed = typed.map_err(|error| CliError::usage(format!("--jobs: {error}")))?;
        let (place, is_default) = match (typed, from_environment()?) {
            (Some(place), _) | (None, Some(place)) => (place, false),
            (None, None) => (usual(), true),
        };
        Ok(JobsConfig {
            model: model.to_owned(),
            place,
            is_default,
            secrets,
            allow_private: self.allow_private_callbacks,
            queue: self.jobs_waiting.into(),
            retention: Duration::from_secs(u64::from(self.jobs_retention) * 3600),
            attempts: self.jobs_attempts,
            lease: Duration::from_secs(self.jobs_lease.into()),
            ..JobsConfig::default()
        })
    }

    fn secrets(&self) -> Result<WebhookSecrets> {
        let wrong =
            |at: String, why: String| CliError::bad_input("webhook_secret", format!("{at}: {why}"));
        if let Some(file) = &self.webhook_secret_file {
            let secrets = WebhookSecrets::parse(&read_file("webhook_secret_file", file)?);
            return Ok(
                secrets.map_err(|error| wrong(file.display().to_string(), error.to_string()))?
            );
        }
        let Some(value) = env::var_os(SECRET) else { return Ok(WebhookSecrets::default()) };
        let at = || SECRET.to_owned();
        let value = value.into_string().map_err(|_| wrong(at(), "is not UTF-8".to_owned()))?;
        Ok(WebhookSecrets::parse(&value).map_err(|error| wrong(at(), error.to_string()))?)
    }
}

fn from_environment() -> Result<Option<Place>> {
    let Some(value) = env::var_os(PLACE) else { return Ok(None) };
    let wrong = |why: String| CliError::bad_input("jobs", format!("{PLACE}: {why}"));
    let value = value.into_string().map_err(|_| wrong("is not UTF-8".to_owned()))?;
    Ok(Some(value.parse().map_err(|error: jobs::PlaceError| wrong(error.to_string()))?))
}

/// Where programs keep what they know, as the XDG base directories have it. Without a home there is none that would stay.
fn usual() -> Place {
    let folder =
        |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    state.map_or(Place::Off, |state| Place::File(state.join("halfbyte/jobs.sqlite")))
}
