//! `halfbyte quantize SRC DST`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{ArgAction, Args};
use indicatif::ProgressBar;
use model::locate::Places;
use model::quantize::{QuantizeOptions, QuantizeReport};
use quant::QuantConfig;
use serde_json::json;

use crate::args::{PlaceArgs, RuleArgs, TypeChoice};
use crate::memory::gb;
use crate::output::{self, CliError};
use crate::{build, device, progress};

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
DST is built in DST.partial and renamed when it is whole and on disk; run the same command again to continue after a \
kill. transformers with bitsandbytes loads it, too. SHA256SUMS in it lists the checksums. SRC is only read.

Exit codes: 0 done, 1 failed (disk full, not writable), 2 usage, 3 bad input or model.")]
pub(crate) struct QuantizeArgs {
    /// The 16-bit checkpoint: a directory, or ORG/NAME
    src: String,
    /// The new directory
    dst: PathBuf,
    /// The 4-bit type
    #[arg(long = "type", value_enum, default_value_t = TypeChoice::Nf4, value_name = "TYPE")]
    quant_type: TypeChoice,
    /// Elements that share a scale: 32, 64, 128, 256, 512, 1024, 2048 or 4096
    #[arg(long, default_value_t = 64, value_name = "N")]
    blocksize: usize,
    /// Quantize the scales, too: 4.127 bits a weight in place of 4.5
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    double_quant: bool,
    /// Most bytes of one file
    #[arg(long, default_value_t = 5_000_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_shard_bytes: u64,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print one JSON object instead of the summary
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Writes the checkpoint.
pub(crate) fn run(args: &QuantizeArgs) -> Result<()> {
    quant::check_blocksize(args.blocksize)
        .map_err(|e| CliError::usage(format!("--blocksize: {e}")))?;
    let src = Places::from_env(args.places.model_dir.clone()).find(&args.src)?;
    let options = QuantizeOptions {
        quant: QuantConfig {
            quant_type: args.quant_type.quant_type(),
            blocksize: args.blocksize,
            double_quant: args.double_quant,
        },
        skip: args.rules.skip.clone(),
        include: args.rules.include.clone(),
        max_shard_bytes: args.max_shard_bytes,
    };
    let threads = args.threads.map_or_else(device::default_threads, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool =
        pool.map_err(|e| CliError::Device(format!("cannot start {threads} threads: {e}")))?;
    let bar = progress::bytes("quantizing", 0);
    let start = Instant::now();
    let result = pool.install(|| {
        model::quantize::quantize(&src, &args.dst, &options, |progress| {
            advance(&bar, progress.bytes_done, progress.bytes_total);
        })
    });
    bar.finish_and_clear();
    report(args, &result?, start.elapsed().as_secs_f64())
}

/// What an earlier run finished is no work of this one: the rate counts from there.
fn advance(bar: &ProgressBar, done: u64, total: u64) {
    if bar.length() != Some(total) {
        bar.set_length(total);
    }
    bar.set_position(done);
}

fn report(args: &QuantizeArgs, report: &QuantizeReport, seconds: f64) -> Result<()> {
    let dst = args.dst.display().to_string();
    if args.json {
        return Ok(output::print_json(&json!({
            "destination": dst,
            "tensors_quantized": report.tensors_quantized,
            "tensors_kept": report.tensors_kept,
            "tensors_dropped": report.tensors_dropped,
            "source_bytes": report.source_bytes,
            "written_bytes": report.written_bytes,
            "shards": report.shards,
            "shards_resumed": report.shards_resumed,
            "seconds": seconds,
            "build": build::name(),
        }))?);
    }
    for name in &report.tensors_dropped {
        output::note(&format!("left out, for it is no part of the model: {name}"));
    }
    if report.shards_resumed > 0 {
        output::note(&format!(
            "continued after {} of {} files",
            report.shards_resumed, report.shards
        ));
    }
    Ok(output::print(&format!(
        "{dst}: {} tensors quantized, {} kept; {} -> {} ({:.1} %) in {seconds:.1} s\n",
        report.tensors_quantized,
        report.tensors_kept,
        gb(report.source_bytes),
        gb(report.written_bytes),
        100.0 * report.written_bytes as f64 / report.source_bytes.max(1) as f64,
    ))?)
}
