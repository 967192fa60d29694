//! What goes into the artefact, and into which shard, known before a weight is read.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use quant::{Dtype, QuantConfig};
use sha2::{Digest, Sha256};

use super::QuantizeReport;
use crate::layout::{self, Param};
use crate::loader;
use crate::{Checkpoint, ModelError, QuantizePolicy, Result};

/// The artefact to be written.
#[derive(Debug)]
pub(super) struct Plan {
    pub shards: Vec<ShardPlan>,
    /// Linear layers that stay as they are.
    pub kept_modules: Vec<String>,
    /// Type of the weights of the source.
    pub dtype: Dtype,
    dropped: Vec<String>,
    max_shard_bytes: u64,
}

/// The parameters of one safetensors file.
#[derive(Debug, Default)]
pub(super) struct ShardPlan {
    pub items: Vec<Item>,
}

/// One parameter: where it lies in the source, and what becomes of it.
#[derive(Debug)]
pub(super) struct Item {
    /// Its name in transformers 4.
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    /// The file of the source.
    pub file: PathBuf,
    /// Its bytes there.
    pub bytes: Range<usize>,
    /// The format it is quantized to; `None` to copy it.
    pub quant: Option<QuantConfig>,
}

impl Plan {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        policy: &QuantizePolicy,
        max_shard_bytes: u64,
    ) -> Result<Self> {
        let mut used = HashSet::new();
        let mut kept_modules = Vec::new();
        let mut shards = vec![ShardPlan::default()];
        let mut shard_bytes = 0;
        policy.check_names(checkpoint)?;
        for param in layout::params(checkpoint.config()) {
            used.insert(loader::find(checkpoint, &param)?.0.tensor.clone());
            let item = Item::new(checkpoint, policy, &param)?;
            if param.is_linear && item.quant.is_none() {
                kept_modules.push(param.module().to_owned());
            }
            shard_bytes += item.size();
            if shard_bytes > max_shard_bytes && shards.last().is_some_and(|s| !s.items.is_empty()) {
                shards.push(ShardPlan::default());
                shard_bytes = item.size();
            }
            if let Some(shard) = shards.last_mut() {
                shard.items.push(item);
            }
        }
        let unused = checkpoint.infos().map(|(name, _)| name).filter(|&name| !used.contains(name));
        Ok(Plan {
            dropped: unused.map(str::to_owned).collect(),
            dtype: largest_dtype(&shards),
            shards,
            kept_modules,
            max_shard_bytes,
        })
    }

    /// File name of shard `index`.
    pub(super) fn shard_name(&self, index: usize) -> String {
        match self.shards.len() {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", index + 1),
        }
    }

    /// Bytes of the source that are read.
    pub(super) fn source_bytes(&self) -> u64 {
        self.shards.iter().map(ShardPlan::source_bytes).sum()
    }

    pub(super) fn report(&self, written_bytes: u64, shards_resumed: usize) -> QuantizeReport {
        let items = || self.shards.iter().flat_map(|shard| &shard.items);
        let tensors_quantized = items().filter(|item| item.quant.is_some()).count();
        QuantizeReport {
            tensors_quantized,
            tensors_kept: items().count() - tensors_quantized,
            tensors_dropped: self.dropped.clone(),
            source_bytes: self.source_bytes(),
            written_bytes,
            shards: self.shards.len(),
            shards_resumed,
        }
    }

    /// Changes with anything that the shards depend on: the plan itself, and size and time of change of the files it
    /// reads. Shards that were written under another fingerprint are not used.
    pub(super) fn fingerprint(&self, src: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(format!("halfbyte quantize 1 {}\n", self.max_shard_bytes));
        let mut files = HashSet::new();
        for item in self.shards.iter().flat_map(|shard| &shard.items) {
            hash.update(format!("{item:?}\n"));
            if files.insert(&item.file) {
                hash.update(file_identity(&item.file)?);
            }
        }
        hash.update(file_identity(&src.join("config.json"))?);
        Ok(super::partial::hex(&hash.finalize()))
    }
}

fn file_identity(path: &Path) -> Result<String> {
    let metadata = fs::metadata(path).map_err(ModelError::io("read", path))?;
    let modified = metadata.modified().map_err(ModelError::io("read", path))?;
    let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{} {} {}\n", path.display(), metadata.len(), modified.as_nanos()))
}

/// The type of the largest weight.
fn largest_dtype(shards: &[ShardPlan]) -> Dtype {
    let items = shards.iter().flat_map(|shard| &shard.items);
    let largest = items.max_by_key(|item| item.bytes.len());
    largest.map_or(Dtype::Bf16, |item| item.dtype)
}

impl ShardPlan {
    /// Bytes of the source that its parameters take.
    pub(super) fn source_bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes.len() as u64).sum()
    }
}

impl Item {
    fn new(checkpoint: &Checkpoint, policy: &QuantizePolicy, param: &Param) -> Result<Self> {
        let (place, file) = loader::find(checkpoint, param)?;
        let tensor = checkpoint.tensor(&place.tensor)?;
        let dtype = loader::dense_dtype(tensor.dtype, &tensor.file, &place.tensor)?;
        loader::check_shape(file, place, &tensor.shape)?;
        let start = checkpoint.info(&place.tensor).map_or(0, |(info, _)| info.bytes.start)
            + place.first * dtype.size();
        let quant = policy.for_linear(param.module());
        Ok(Item {
            name: param.name.clone(),
            shape: param.shape.clone(),
            dtype,
            file: file.to_owned(),
            bytes: start..start + param.len() * dtype.size(),
            quant: quant.filter(|_| param.is_linear),
        })
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// About the bytes it takes in the artefact.
    fn size(&self) -> u64 {
        let bytes = match self.quant {
            None => self.bytes.len(),
            Some(quant) => {
                let scale = if quant.double_quant { 1 } else { 4 };
                // The maps and the quant_state take a little more than a kilobyte.
                self.len() / 2 + self.len() / quant.blocksize * scale + 2048
            }
        };
        bytes as u64
    }
}
