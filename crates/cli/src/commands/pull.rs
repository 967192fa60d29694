//! `halfbyte pull REPO`: a model from the Hugging Face hub, verified, to where the other commands find it.

mod report;

use std::env;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use hub::{Access, Choice, Options, Patience, Place, Plan, Progress, Repository};
use model::locate::Places;

use crate::args::PlaceArgs;
use crate::headers::refused;
use crate::output::{self, CliError};
use report::Watch;

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
Fetched is what a model needs: config, tokenizer, chat template, generation config, safetensors and their index. The other \
commands, and Hugging Face's tools, find it in the Hugging Face cache (HF_HUB_CACHE, else HF_HOME/hub, else \
~/.cache/huggingface/hub); with --model-dir plain files lie in DIR/ORG/NAME. Files get their names once their digests are right and \
they are on disk. Run the same command again to continue after a failure or a kill; nothing that is here comes twice, whoever \
fetched it. A second process waits for the first.

HF_ENDPOINT (mirrors), HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, HTTPS_PROXY and NO_PROXY are respected. The token goes to the \
endpoint alone.

Exit codes: 0 done, 1 failed (network, disk full, wrong bytes), 2 usage, 3 no such repository, no access, or nothing in it to read.")]
pub(crate) struct PullArgs {
    /// ORG/NAME, ORG/NAME@REVISION, or the URL of a repository
    #[arg(value_name = "REPO")]
    repository: String,
    /// Branch, tag or commit [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// File that holds the token [default: HF_TOKEN, else HF_TOKEN_PATH, else where Hugging Face's tools keep it]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Fetch these files in place of what a model needs, as '*.json'; may be repeated
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave these files out; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Say what would be fetched, and whether there is room
    #[arg(long)]
    dry_run: bool,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Fetches, and reports.
pub(crate) fn run(args: &PullArgs) -> Result<()> {
    let var = |name: &str| env::var(name).ok();
    let access = Access::from_env(var, args.token_file.as_deref()).map_err(refused)?;
    let revision = args.revision.as_deref();
    let repository = Repository::parse(&args.repository, &access.endpoint, revision);
    let repository = repository.map_err(refused)?;
    let choice = Choice::new(&args.include, &args.exclude).map_err(refused)?;
    let place = place(args)?;
    let patience = Patience::default();
    let start = Instant::now();
    let plan = Plan::new(&access, &repository, &choice, &patience).map_err(refused)?;
    if let Some(line) = report::left_out(&plan) {
        output::note(&line);
    }
    let watch = Watch::new(&plan);
    if args.dry_run {
        let inventory = plan.inventory(&place, &|event| watch.tell(event)).map_err(refused)?;
        return report::dry_run(&plan, &inventory, args.json);
    }
    let options = Options { jobs: args.jobs.into(), patience };
    let progress = Progress::default();
    let report = watch.over(&progress, || {
        plan.pull(&access, &place, &options, &progress, &|event| watch.tell(event))
    });
    report::done(&plan, &report.map_err(refused)?, start.elapsed().as_secs_f64(), args.json)
}

fn place(args: &PullArgs) -> Result<Place> {
    let places = Places::from_env(args.places.model_dir.clone());
    let place = places.model_dir.map(Place::Plain).or(places.hub_cache.map(Place::Cache));
    place.ok_or_else(|| {
        CliError::usage(
            "there is no HOME, and so no cache; name a place with --model-dir or HF_HUB_CACHE",
        )
        .into()
    })
}
