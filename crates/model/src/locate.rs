//! Where a model is, by the name that a command was given.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::{ModelError, Result};

/// The places where models are looked for, besides the path that was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// `--model-dir`: holds `ORG/NAME`.
    pub model_dir: Option<PathBuf>,
    /// The Hugging Face cache: holds `models--ORG--NAME`.
    pub hub_cache: Option<PathBuf>,
}

impl Places {
    /// `--model-dir`, and the cache as Hugging Face's tools find it: `HF_HUB_CACHE`, else `HF_HOME/hub`, else
    /// `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`.
    pub fn from_env(model_dir: Option<PathBuf>) -> Self {
        Places { model_dir, hub_cache: hub_cache(|name| env::var_os(name)) }
    }

    /// The directory of a model: `model` itself if it is an existing path, else `--model-dir/ORG/NAME`, else the newest
    /// snapshot in the Hugging Face cache. Nothing is downloaded.
    pub fn find(&self, model: &str) -> Result<PathBuf> {
        let path = Path::new(model);
        if path.is_dir() {
            return Ok(path.to_owned());
        }
        if path.exists() {
            return Err(ModelError::malformed(path, "is a file; name the directory it lies in"));
        }
        let mut searched = vec![path.to_owned()];
        if let Some((org, name)) = repository(model) {
            if let Some(model_dir) = &self.model_dir {
                searched.push(model_dir.join(org).join(name));
            }
            if let Some(hub_cache) = &self.hub_cache {
                let repository = hub_cache.join(format!("models--{org}--{name}"));
                searched.push(snapshot(&repository).unwrap_or(repository.join("snapshots")));
            }
        }
        let found = searched.iter().skip(1).find(|path| is_model(path));
        match found {
            Some(path) => Ok(path.clone()),
            None => Err(ModelError::NotFound { model: model.to_owned(), searched }),
        }
    }
}

fn hub_cache(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("HF_HUB_CACHE")
        .or_else(|| path("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| path("HOME").map(|home| home.join(".cache/huggingface/hub")))
}

/// `ORG/NAME`, if it is that: two plain names.
fn repository(model: &str) -> Option<(&str, &str)> {
    let (org, name) = model.split_once('/')?;
    let is_plain = |part: &str| {
        let mut components = Path::new(part).components();
        matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
    };
    (is_plain(org) && is_plain(name)).then_some((org, name))
}

/// The snapshot that `refs/main` names.
fn snapshot(repository: &Path) -> Option<PathBuf> {
    let revision = fs::read_to_string(repository.join("refs/main")).ok()?;
    let revision = revision.trim();
    let is_plain = !revision.is_empty() && revision.bytes().all(|b| b.is_ascii_alphanumeric());
    is_plain.then(|| repository.join("snapshots").join(revision))
}

fn is_model(directory: &Path) -> bool {
    directory.join("config.json").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_model(directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("config.json"), "{}").unwrap();
    }

    #[test]
    fn a_path_wins_then_model_dir_then_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let places = Places {
            model_dir: Some(root.path().join("models")),
            hub_cache: Some(root.path().join("hub")),
        };
        let error = places.find("acme/tiny").unwrap_err().to_string();
        assert!(error.contains("halfbyte pull acme/tiny"), "{error}");
        assert!(error.contains("models--acme--tiny"), "{error}");

        let snapshot = root.path().join("hub/models--acme--tiny/snapshots/abc123");
        put_model(&snapshot);
        let refs = root.path().join("hub/models--acme--tiny/refs");
        fs::create_dir_all(&refs).unwrap();
        fs::write(refs.join("main"), "abc123\n").unwrap();
        assert_eq!(places.find("acme/tiny").unwrap(), snapshot);

        let in_model_dir = root.path().join("models/acme/tiny");
        put_model(&in_model_dir);
        assert_eq!(places.find("acme/tiny").unwrap(), in_model_dir);

        let path = root.path().join("elsewhere");
        put_model(&path);
        assert_eq!(places.find(path.to_str().unwrap()).unwrap(), path);
    }

    #[test]
    fn names_cannot_leave_their_place() {
        let root = tempfile::tempdir().unwrap();
        put_model(&root.path().join("secret"));
        let places = Places { model_dir: Some(root.path().join("models")), hub_cache: None };
        for name in ["../secret", "a/../../secret", "a//b", "a/", ""] {
            assert!(places.find(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_is_no_model() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("model.safetensors");
        fs::write(&file, "").unwrap();
        let error = Places::default().find(file.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("name the directory"), "{error}");
    }

    #[test]
    fn the_cache_is_where_hugging_face_puts_it() {
        let with = |set: &[(&str, &str)]| {
            hub_cache(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]), Some("/c".into()));
        assert_eq!(with(&[("HF_HOME", "/h"), ("HOME", "/u")]), Some("/h/hub".into()));
        assert_eq!(with(&[("HOME", "/u")]), Some("/u/.cache/huggingface/hub".into()));
        assert_eq!(with(&[]), None);
    }
}
