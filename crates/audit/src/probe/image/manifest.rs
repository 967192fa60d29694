//! Which layers an image has, in which order, and what its configuration sets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::source::{FileSource, Source};
use super::super::stream::{Packing, Plain, Stream, Unpacked, fill};
use super::super::tar::{Archive, Kind, plain};
use super::super::tree::is_inside;
use super::layers::Layer;
use super::packing_at;
use crate::error::{ProbeError, Result};
use crate::limits::Budget;

/// Manifests and configurations are not larger.
const JSON_MAX: u64 = 8 << 20;
const LAYERS_MAX: usize = 1_000;
/// Files of a packed archive that are kept while it is looked through: each, and all.
const TEXT_MAX: u64 = 256 << 10;
const TEXTS_MAX: u64 = 32 << 20;
/// Indexes that lead to each other, and links.
const DEPTH_MAX: usize = 4;

/// Layers, the lowest first.
#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) layers: Vec<Layer>,
    /// Where the variables stand.
    pub(super) config: String,
    pub(super) environment: Vec<String>,
}

/// `manifest.json` of `docker save`: an entry for each image.
#[derive(Debug, Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// An index or a manifest of the OCI layout: one has `manifests`, the other `layers`.
#[derive(Debug, Deserialize)]
struct Oci {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    config: Option<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct Config {
    config: Option<Inner>,
}

#[derive(Debug, Deserialize)]
struct Inner {
    #[serde(rename = "Env")]
    environment: Option<Vec<String>>,
}

/// Finds the layers.
///
/// # Errors
///
/// When it is no image and no root file system, or is damaged.
pub(super) fn open(path: &Path, budget: &Budget) -> Result<Image> {
    if path.is_dir() {
        return of_layout(&mut Folder { root: path.to_owned() }, budget);
    }
    let mut archive = index(path, budget)?;
    if archive.members.contains_key("manifest.json") {
        of_saved(&mut archive, budget)
    } else if archive.members.contains_key("index.json")
        && archive.members.contains_key("oci-layout")
    {
        of_layout(&mut archive, budget)
    } else {
        // The archive is itself the one layer there is.
        let layer = Layer {
            file: path.to_owned(),
            around: Packing::None,
            start: 0,
            len: archive.len,
            packing: archive.packing,
        };
        Ok(Image { layers: vec![layer], ..Image::default() })
    }
}

/// Where the files of an image lie.
trait Blobs {
    /// A file, as a layer that it may be.
    fn find(&self, name: &str) -> Result<Layer>;

    /// A small file that is at hand already.
    fn text(&self, _name: &str) -> Option<&[u8]> {
        None
    }
}

struct Folder {
    root: PathBuf,
}

impl Blobs for Folder {
    fn find(&self, name: &str) -> Result<Layer> {
        if !is_inside(name) {
            return Err(ProbeError::damaged(format!("`{name}` leads out of the image")));
        }
        let file = self.root.join(name).canonicalize()?;
        if !file.starts_with(self.root.canonicalize()?) {
            return Err(ProbeError::damaged(format!("`{name}` leads out of the image")));
        }
        let mut source = FileSource::open(&file)?;
        let (len, packing) = (source.len(), packing_at(&mut source, 0)?);
        Ok(Layer { file, around: Packing::None, start: 0, len, packing })
    }
}

/// The archive's members by name: where they lie, or where they lead.
struct Members {
    file: PathBuf,
    packing: Packing,
    len: u64,
    members: BTreeMap<String, Place>,
    /// Small files of a packed archive, to which the way is long.
    texts: BTreeMap<String, Vec<u8>>,
}

enum Place {
    At { start: u64, len: u64, packing: Packing },
    Link(String),
}

impl Blobs for Members {
    fn find(&self, name: &str) -> Result<Layer> {
        let missing = || ProbeError::damaged(format!("the archive has no `{name}`"));
        let mut name = plain(name).ok_or_else(missing)?;
        for _ in 0..DEPTH_MAX {
            match self.members.get(&name).ok_or_else(missing)? {
                Place::At { start, len, packing } => {
                    let (file, around) = (self.file.clone(), self.packing);
                    return Ok(Layer { file, around, start: *start, len: *len, packing: *packing });
                }
                // Old archives have a layer that two images share as a link to `../ID/layer.tar`.
                Place::Link(link) => {
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let target = link
                        .strip_prefix("../")
                        .map_or_else(|| format!("{folder}/{link}"), str::to_owned);
                    name = plain(&target).ok_or_else(missing)?;
                }
            }
        }
        Err(ProbeError::damaged(format!("`{name}` is a link without end")))
    }

    fn text(&self, name: &str) -> Option<&[u8]> {
        self.texts.get(name).map(Vec::as_slice)
    }
}

fn index(path: &Path, budget: &Budget) -> Result<Members> {
    let mut file = FileSource::open(path)?;
    let (packing, len) = (packing_at(&mut file, 0)?, file.len());
    let stream: Box<dyn Stream> = match packing {
        Packing::None => Box::new(Plain::new(file, budget)),
        packing => Box::new(Unpacked::new(Plain::new(file, budget), packing, budget)),
    };
    let mut archive = Archive::new(stream, budget.limits.entries_max);
    let (mut members, mut texts) = (BTreeMap::new(), BTreeMap::new());
    let mut room = TEXTS_MAX;
    while let Some(member) = archive.next()? {
        match member.kind {
            Kind::File => {
                let keep = packing != Packing::None && member.size <= TEXT_MAX.min(room);
                let mut head =
                    vec![0; if keep { member.size } else { member.size.min(4) } as usize];
                archive.fill_from(&member, &mut head)?;
                let place = Place::At {
                    start: member.offset,
                    len: member.size,
                    packing: Packing::of(&head),
                };
                if keep {
                    room -= member.size;
                    texts.insert(member.name.clone(), head);
                }
                members.insert(member.name, place);
            }
            Kind::SymbolicLink => drop(members.insert(member.name, Place::Link(member.link))),
            Kind::HardLink | Kind::Folder | Kind::Other => {}
        }
    }
    Ok(Members { file: path.to_owned(), packing, len, members, texts })
}

/// All of a small file.
fn json<T: DeserializeOwned>(blobs: &dyn Blobs, name: &str, budget: &Budget) -> Result<T> {
    let parse = |bytes: &[u8]| {
        serde_json::from_slice(bytes)
            .map_err(|error| ProbeError::damaged(format!("`{name}`: {error}")))
    };
    if let Some(text) = blobs.text(name) {
        return parse(text);
    }
    let place = blobs.find(name)?;
    if place.len > JSON_MAX {
        return Err(ProbeError::TooMuch {
            what: "bytes in a description of an image",
            max: JSON_MAX,
        });
    }
    let mut bytes = vec![0; place.len as usize];
    fill(&mut *place.outer(budget)?, &mut bytes)?;
    parse(&bytes)
}

fn of_saved(archive: &mut Members, budget: &Budget) -> Result<Image> {
    let images: Vec<Saved> = json(archive, "manifest.json", budget)?;
    let [image] = &images[..] else {
        let count = images.len();
        let what = format!("holds {count} images; save the one that is to be audited");
        return Err(ProbeError::Unsupported(what));
    };
    finish(archive, &image.layers, Some(image.config.clone()), budget)
}

fn of_layout(blobs: &mut dyn Blobs, budget: &Budget) -> Result<Image> {
    let mut found: Oci = json(blobs, "index.json", budget)?;
    for _ in 0..DEPTH_MAX {
        if found.manifests.is_empty() {
            let layers: Vec<String> = found.layers.iter().map(blob).collect::<Result<_>>()?;
            let config = found.config.as_ref().map(blob).transpose()?;
            return finish(blobs, &layers, config, budget);
        }
        // Attestations stand beside images, as those of an unknown platform.
        let fits = |it: &&Descriptor| {
            it.platform.as_ref().is_none_or(|at| at.os == "linux" && at.architecture == "amd64")
        };
        let fitting: Vec<&Descriptor> = found.manifests.iter().filter(fits).collect();
        let next = match (&fitting[..], &found.manifests[..]) {
            ([one], _) => *one,
            ([], [one]) => one,
            (several, _) => {
                let what = format!("holds {} images for linux/amd64; give one", several.len());
                return Err(ProbeError::Unsupported(what));
            }
        };
        found = json(blobs, &blob(next)?, budget)?;
    }
    Err(ProbeError::damaged("indexes of the image lead to each other"))
}

/// `sha256:HEX` lies at `blobs/sha256/HEX`.
fn blob(descriptor: &Descriptor) -> Result<String> {
    let digest = &descriptor.digest;
    let (kind, hex) = digest.split_once(':').unwrap_or_default();
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if plain(kind) && plain(hex) {
        Ok(format!("blobs/{kind}/{hex}"))
    } else {
        Err(ProbeError::damaged(format!("`{digest}` is no digest")))
    }
}

fn finish(
    blobs: &dyn Blobs,
    names: &[String],
    config: Option<String>,
    budget: &Budget,
) -> Result<Image> {
    if names.len() > LAYERS_MAX {
        return Err(ProbeError::TooMuch { what: "layers", max: LAYERS_MAX as u64 });
    }
    let layers = names.iter().map(|name| blobs.find(name)).collect::<Result<Vec<Layer>>>()?;
    let config = config.unwrap_or_default();
    let environment = if config.is_empty() {
        None
    } else {
        json::<Config>(blobs, &config, budget)?.config.and_then(|inner| inner.environment)
    };
    Ok(Image { layers, config, environment: environment.unwrap_or_default() })
}
