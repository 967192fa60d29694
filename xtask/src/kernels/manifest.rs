//! `manifest.json`: what the images were made of, for the build and for the next run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::resources::Kernel;
use super::sources::{Sources, hash};

const NAME: &str = "manifest.json";

/// All images.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub(super) compiler: String,
    /// Whether files or targets were left out: fine for whoever did so, no release.
    pub(super) partial: bool,
    /// Hashes of the sources by name.
    pub(super) sources: BTreeMap<String, String>,
    pub(super) images: Vec<Image>,
}

/// A compiled file.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) file: String,
    pub(super) target: String,
    /// Name of the file beside the manifest.
    pub(super) path: String,
    pub(super) sha256: String,
    pub(super) bytes: u64,
    /// The same, deflated: what the binary holds, in the file [`Image::packed_path`].
    pub(super) packed_sha256: String,
    pub(super) packed_bytes: u64,
    /// Hash of compiler, options and sources.
    pub(super) key: String,
    /// Machine code only.
    pub(super) kernels: Vec<Kernel>,
}

impl Manifest {
    pub(super) fn read(folder: &Path) -> Result<Manifest> {
        let text = fs::read(folder.join(NAME)).with_context(|| {
            format!("{}: run `cargo xtask kernels`", folder.join(NAME).display())
        })?;
        let value: Value = serde_json::from_slice(&text).context(NAME)?;
        Manifest::from_json(&value).context("manifest.json is of another version; remove it")
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(NAME);
        fs::write(&path, format!("{:#}\n", self.to_json()))
            .with_context(|| path.display().to_string())
    }

    /// That these images are of those sources.
    pub(super) fn check_sources(&self, sources: &Sources) -> Result<()> {
        if self.partial || self.sources != sources.hashes(sources.files()) {
            bail!(
                "the images in crates/cuda/images are not those of the sources; run `cargo xtask kernels`"
            );
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        let images: Vec<Value> = self.images.iter().map(Image::to_json).collect();
        json!({
            "compiler": self.compiler,
            "partial": self.partial,
            "sources": self.sources,
            "images": images,
        })
    }

    fn from_json(value: &Value) -> Option<Manifest> {
        let sources = value["sources"].as_object()?;
        let sources =
            sources.iter().map(|(name, hash)| Some((name.clone(), hash.as_str()?.to_owned())));
        Some(Manifest {
            compiler: value["compiler"].as_str()?.to_owned(),
            partial: value["partial"].as_bool()?,
            sources: sources.collect::<Option<_>>()?,
            images: value["images"]
                .as_array()?
                .iter()
                .map(Image::from_json)
                .collect::<Option<_>>()?,
        })
    }
}

impl Image {
    pub(super) fn packed_path(&self) -> String {
        format!("{}.z", self.path)
    }

    /// The record beside the image `path`, if both are whole: a run that was broken off is not lost.
    pub(super) fn read(folder: &Path, path: &str) -> Option<Image> {
        let record = fs::read(folder.join(format!("{path}.json"))).ok()?;
        let image = Image::from_json(&serde_json::from_slice(&record).ok()?)?;
        let is_file = |path: &str, sha256: &str| {
            fs::read(folder.join(path)).is_ok_and(|bytes| hash(&bytes) == sha256)
        };
        let is_whole = image.path == path
            && is_file(&image.path, &image.sha256)
            && is_file(&image.packed_path(), &image.packed_sha256);
        is_whole.then_some(image)
    }

    /// Writes the record beside the image.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}.json", self.path));
        fs::write(&path, self.to_json().to_string()).with_context(|| path.display().to_string())
    }

    fn to_json(&self) -> Value {
        let kernels: Vec<Value> = self.kernels.iter().map(Kernel::to_json).collect();
        json!({
            "file": self.file,
            "target": self.target,
            "path": self.path,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "packed_path": self.packed_path(),
            "packed_sha256": self.packed_sha256,
            "packed_bytes": self.packed_bytes,
            "key": self.key,
            "kernels": kernels,
        })
    }

    fn from_json(value: &Value) -> Option<Image> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Image {
            file: text("file")?,
            target: text("target")?,
            path: text("path")?,
            sha256: text("sha256")?,
            bytes: value["bytes"].as_u64()?,
            packed_sha256: text("packed_sha256")?,
            packed_bytes: value["packed_bytes"].as_u64()?,
            key: text("key")?,
            kernels: value["kernels"]
                .as_array()?
                .iter()
                .map(Kernel::from_json)
                .collect::<Option<_>>()?,
        })
    }
}
