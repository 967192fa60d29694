//! A checkpoint in the layout of Hugging Face: `config.json` and one safetensors file or several.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;

use crate::files::{self, Files};
use crate::safetensors::{self, Dtype, TensorInfo};
use crate::{Config, ModelError, Result};

/// The one file of a small checkpoint.
pub const SINGLE: &str = "model.safetensors";
/// What says which file holds which tensor.
pub const INDEX: &str = "model.safetensors.index.json";

/// Most bytes that the files of a checkpoint may claim to hold where they are not at hand: more than any model, and little enough
/// that sums and small multiples of it stay numbers.
const MAX_CLAIMED_BYTES: u64 = 1 << 45;

/// Tensors of which the system is told beforehand that they will be read.
const SMALL_BYTES: usize = 64 << 10;

/// An opened checkpoint: its config parsed, the headers of its tensors checked, its weights mapped but not read.
#[derive(Debug)]
pub struct Checkpoint {
    config: Config,
    files: Files,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
}

/// A tensor of a checkpoint; cheap to clone, the bytes are shared.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Little-endian elements, not necessarily aligned.
    pub bytes: Bytes,
    /// The file it lies in, for messages.
    pub file: PathBuf,
}

#[derive(Debug)]
struct Shard {
    file: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    info: TensorInfo,
}

impl Checkpoint {
    /// Opens the checkpoint in a directory.
    pub fn open(directory: &Path) -> Result<Self> {
        // A directory that cannot be read must not pass for one that lacks files.
        std::fs::read_dir(directory).map_err(ModelError::io("read", directory))?;
        Self::from_files(Files::Directory(directory.to_owned()))
    }

    /// Opens a checkpoint that lies in memory; `name` stands for its directory in messages.
    pub fn from_memory(
        name: &str,
        files: impl IntoIterator<Item = (String, Bytes)>,
    ) -> Result<Self> {
        Self::from_files(Files::Memory {
            name: name.to_owned(),
            files: files.into_iter().collect(),
        })
    }

    /// Opens a checkpoint whose headers alone are at hand: config and index in `files`, and of each safetensors file its
    /// name, its first bytes up to the end of the header at least, and the length that it claims. Such a checkpoint knows
    /// its tensors but has no bytes of them.
    pub fn from_headers(
        name: &str,
        files: impl IntoIterator<Item = (String, Bytes)>,
        headers: impl IntoIterator<Item = (String, Bytes, u64)>,
    ) -> Result<Self> {
        let files = Files::Memory { name: name.to_owned(), files: files.into_iter().collect() };
        let mut claimed = 0_u64;
        let mut shards = HashMap::new();
        for (name, start, len) in headers {
            claimed = claimed.saturating_add(len);
            if claimed > MAX_CLAIMED_BYTES {
                let message = format!("claims {len} bytes, which is more than any model has");
                return Err(ModelError::malformed(&files.path(&name), message));
            }
            shards.insert(name, (start, len));
        }
        Self::with_shards(files, |_, name| Ok(shards.get(name).cloned()))
    }

    fn from_files(files: Files) -> Result<Self> {
        Self::with_shards(files, |files, name| {
            Ok(files.map(name)?.map(|bytes| (bytes.clone(), bytes.len() as u64)))
        })
    }

    /// `shard` gives a safetensors file: its bytes, or the first of them, and its length.
    fn with_shards(
        files: Files,
        shard: impl Fn(&Files, &str) -> Result<Option<(Bytes, u64)>>,
    ) -> Result<Self> {
        let json = files.read("config.json")?.ok_or_else(|| ModelError::MissingFile {
            path: files.root().to_owned(),
            file: "config.json",
            hint: "name a directory that transformers' save_pretrained wrote",
        })?;
        let config = Config::from_json(&json, &files.path("config.json"))?;
        let mut checkpoint =
            Checkpoint { config, files, shards: Vec::new(), tensors: BTreeMap::new() };
        checkpoint.open_shards(shard)?;
        Ok(checkpoint)
    }

    fn open_shards(
        &mut self,
        shard: impl Fn(&Files, &str) -> Result<Option<(Bytes, u64)>>,
    ) -> Result<()> {
        if let Some((bytes, len)) = shard(&self.files, SINGLE)? {
            return self.add_shard(SINGLE, bytes, len);
        }
        let Some(json) = self.files.read(INDEX)? else {
            return Err(ModelError::MissingFile {
                path: self.files.root().to_owned(),
                file: SINGLE,
                hint: "only safetensors checkpoints are read (model.safetensors, or shards with \
                       model.safetensors.index.json)",
            });
        };
        let index = Index::parse(&json, &self.files.path(INDEX))?;
        for name in index.shards() {
            let (bytes, len) = shard(&self.files, name)?.ok_or_else(|| {
                ModelError::malformed(
                    &self.files.path(name),
                    format!("is listed in {INDEX} but is not there; fetch the checkpoint again"),
                )
            })?;
            self.add_shard(name, bytes, len)?;
        }
        self.check_index(&index)
    }

    fn add_shard(&mut self, name: &str, bytes: Bytes, len: u64) -> Result<()> {
        let file = self.files.path(name);
        let tensors = safetensors::parse_header(&bytes, len, &file)?;
        let shard = self.shards.len();
        for (name, info) in tensors {
            if let Some(other) = self.tensors.get(&name) {
                let other = self.shards[other.shard].file.display();
                return Err(ModelError::tensor(&file, &name, format!("is in {other} too")));
            }
            self.tensors.insert(name, Entry { shard, info });
        }
        self.shards.push(Shard { file, bytes });
        Ok(())
    }

    /// Every tensor of the index must be where the index says.
    fn check_index(&self, index: &Index) -> Result<()> {
        for (name, shard) in &index.weight_map {
            let file = self.files.path(shard);
            let found = self.tensors.get(name).map(|entry| &self.shards[entry.shard].file);
            if found != Some(&file) {
                return Err(ModelError::tensor(
                    &file,
                    name,
                    format!("is listed there by {INDEX} but is not in it"),
                ));
            }
        }
        Ok(())
    }

    /// The parsed `config.json`.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The files, for the tokenizer and the like.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Names and headers of all tensors, in the order of their names.
    pub fn infos(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), &entry.info))
    }

    /// The header of a tensor, and the file it lies in; `None` if there is none of that name.
    pub fn info(&self, name: &str) -> Option<(&TensorInfo, &Path)> {
        let entry = self.tensors.get(name)?;
        Some((&entry.info, &self.shards[entry.shard].file))
    }

    /// A tensor, without copying it.
    ///
    /// # Errors
    /// If there is none of that name, or the checkpoint was opened by [`Checkpoint::from_headers`].
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let Some(Entry { shard, info }) = self.tensors.get(name) else {
            return Err(self.missing(name));
        };
        let Shard { file, bytes } = &self.shards[*shard];
        if info.bytes.end > bytes.len() {
            let message = "of this file the header alone is at hand";
            return Err(ModelError::tensor(file, name, message));
        }
        Ok(Tensor {
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: bytes.slice(info.bytes.clone()),
            file: file.clone(),
        })
    }

    /// Lets the system begin to read every small tensor. A checkpoint in 4 bits has thousands that are read one by one before
    /// the plan stands, each of which would wait for the disk alone.
    pub(crate) fn prefetch_small(&self) {
        for Entry { shard, info } in self.tensors.values() {
            let bytes = self.shards[*shard].bytes.get(info.bytes.clone());
            if let Some(bytes) = bytes.filter(|bytes| bytes.len() <= SMALL_BYTES) {
                files::will_need(bytes);
            }
        }
    }

    pub(crate) fn missing(&self, name: &str) -> ModelError {
        let (path, name) = (self.files.root().to_owned(), name.to_owned());
        let near = self.near(&name);
        ModelError::MissingTensor { path, name, near }
    }

    /// Up to three names that share the longest dotted prefix with `name`.
    fn near(&self, name: &str) -> String {
        let mut prefix = name;
        while let Some(dot) = prefix.rfind('.') {
            prefix = &prefix[..dot];
            let from = self.tensors.range(format!("{prefix}.")..);
            let near: Vec<&str> = from
                .map(|(name, _)| name.as_str())
                .take_while(|found| found.starts_with(prefix))
                .take(3)
                .collect();
            if !near.is_empty() {
                return format!("near it: {}", near.join(", "));
            }
        }
        "no name there is like it".to_owned()
    }
}

/// The safetensors files that the index `json` names; `file` stands for it in messages.
///
/// # Errors
/// If it is no index, names none, or names what is no plain name of a safetensors file.
pub fn shard_names(json: &[u8], file: &Path) -> Result<Vec<String>> {
    Ok(Index::parse(json, file)?.shards().into_iter().map(str::to_owned).collect())
}

/// `model.safetensors.index.json`.
#[derive(Debug, Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Index {
    fn parse(json: &[u8], file: &Path) -> Result<Self> {
        let index: Index = serde_json::from_slice(json)
            .map_err(|e| ModelError::malformed(file, format!("not an index of shards: {e}")))?;
        let is_plain = |name: &str| {
            name.ends_with(".safetensors") && !name.contains(['/', '\\']) && !name.starts_with('.')
        };
        match index.weight_map.values().find(|name| !is_plain(name)) {
            Some(name) => {
                Err(ModelError::malformed(file, format!("`{name}` is no name of a shard")))
            }
            None if index.weight_map.is_empty() => {
                Err(ModelError::malformed(file, "lists no tensor"))
            }
            None => Ok(index),
        }
    }

    fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}
