//! Writes a 4-bit checkpoint from a 16-bit one, as transformers with bitsandbytes would save it.
//!
//! The source is read piece by piece, never mapped, so that memory stays far below the size of the largest tensor. The
//! result is built in `DST.partial` and renamed when it is whole and on disk; finished shards are recorded with their
//! SHA-256, and a run that was killed continues after them.

mod plan;
mod shard;
mod partial;
mod metadata;

use std::fs;
use std::path::{Path, PathBuf};

use quant::QuantConfig;

use crate::{Checkpoint, ModelError, QuantizePolicy, Result};
use partial::Partial;
use plan::Plan;

/// What [`quantize`] writes.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeOptions {
    /// The format.
    pub quant: QuantConfig,
    /// Modules to leave alone, by name or by its end; see [`QuantizePolicy`].
    pub skip: Vec<String>,
    /// Modules to quantize all the same.
    pub include: Vec<String>,
    /// Shards hold at most this many bytes, unless a single tensor takes more.
    pub max_shard_bytes: u64,
}

impl Default for QuantizeOptions {
    /// NF4 in blocks of 64 with double quantization, in shards of 5 GB as transformers makes them.
    fn default() -> Self {
        QuantizeOptions {
            quant: QuantConfig::default(),
            skip: Vec::new(),
            include: Vec::new(),
            max_shard_bytes: 5_000_000_000,
        }
    }
}

/// How far [`quantize`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Bytes of the source that are dealt with.
    pub bytes_done: u64,
    /// Bytes of the source that there are to deal with.
    pub bytes_total: u64,
    /// The tensor at hand.
    pub tensor: &'a str,
}

/// What [`quantize`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizeReport {
    /// Weights that are 4-bit now.
    pub tensors_quantized: usize,
    /// Tensors that were copied as they are.
    pub tensors_kept: usize,
    /// Tensors of the source that belong to no part of the model and were left out.
    pub tensors_dropped: Vec<String>,
    /// Bytes of tensors read.
    pub source_bytes: u64,
    /// Bytes of the new safetensors files.
    pub written_bytes: u64,
    /// Number of safetensors files.
    pub shards: usize,
    /// How many of them an earlier run had finished.
    pub shards_resumed: usize,
}

/// Quantizes the checkpoint in the directory `src` into the new directory `dst`.
///
/// # Errors
/// Besides those of opening `src`: [`ModelError::Exists`] if `dst` is there, [`ModelError::Quant`] for a value that is NaN
/// or infinite, [`ModelError::Io`] when something cannot be read or written. Nothing is ever left under the name `dst`
/// but a whole checkpoint.
pub fn quantize(
    src: &Path,
    dst: &Path,
    options: &QuantizeOptions,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<QuantizeReport> {
    if fs::symlink_metadata(dst).is_ok() {
        return Err(ModelError::Exists(dst.to_owned()));
    }
    let checkpoint = Checkpoint::open(src)?;
    refuse_within(src, dst)?;
    refuse_quantized(&checkpoint, src)?;
    let policy = QuantizePolicy {
        quant: Some(options.quant),
        skip: options.skip.clone(),
        include: options.include.clone(),
    };
    let plan = Plan::new(&checkpoint, &policy, options.max_shard_bytes)?;
    let mut partial = Partial::open(dst, &plan.fingerprint(src)?)?;
    let result = write(src, &plan, &mut partial, &options.quant, &mut progress);
    if let Err(ModelError::Quant { .. } | ModelError::Tensor { .. }) = result {
        // The source must change before another try, so there is nothing to continue from.
        partial.discard();
    }
    let shards_resumed = result?;
    let written_bytes = partial.finish(dst)?;
    Ok(plan.report(written_bytes, shards_resumed))
}

/// Where [`quantize`] builds `dst` until it is whole.
pub fn partial_path(dst: &Path) -> PathBuf {
    partial::path(dst)
}

/// A destination within the source would change the directory that is read.
fn refuse_within(src: &Path, dst: &Path) -> Result<()> {
    let src = fs::canonicalize(src).map_err(ModelError::io("read", src))?;
    // One that is not there is for whoever creates `dst` to report.
    match fs::canonicalize(partial::parent(dst)) {
        Ok(parent) if parent.starts_with(&src) => Err(ModelError::malformed(
            dst,
            format!("lies within the source {}; name a destination outside it", src.display()),
        )),
        _ => Ok(()),
    }
}

fn refuse_quantized(checkpoint: &Checkpoint, src: &Path) -> Result<()> {
    let is_4bit = |name: &str| name.contains(".quant_state.bitsandbytes__");
    if checkpoint.config().quantization_config.is_some()
        || checkpoint.infos().any(|(name, _)| is_4bit(name))
    {
        return Err(ModelError::malformed(
            src,
            "is quantized already; give the 16-bit checkpoint it was made from",
        ));
    }
    Ok(())
}

/// Writes the shards that are not there yet, then the small files; gives the number of shards that were there.
fn write(
    src: &Path,
    plan: &Plan,
    partial: &mut Partial,
    quant: &QuantConfig,
    progress: &mut impl FnMut(Progress<'_>),
) -> Result<usize> {
    let mut bytes_done = 0;
    let mut resumed = 0;
    for (i, shard) in plan.shards.iter().enumerate() {
        let name = plan.shard_name(i);
        if partial.has_shard(&name)? {
            resumed += 1;
            bytes_done += shard.source_bytes();
            continue;
        }
        let written = shard::write(shard, &partial.join(&name), &mut |read, tensor| {
            bytes_done += read;
            progress(Progress { bytes_done, bytes_total: plan.source_bytes(), tensor });
        })?;
        partial.record_shard(&name, written)?;
    }
    metadata::write(src, plan, partial, quant)?;
    Ok(resumed)
}
