//! What a repository holds at a commit, as the hub lists it.

use std::collections::HashSet;

use fetch::FetchError;
use serde::Deserialize;

use crate::patience::Patience;
use crate::wire::Wire;
use crate::{Access, HubError, Repository};

/// Largest answers, and most pages and files, that are read.
const REVISION_BYTES_MAX: u64 = 32 << 20;
const PAGE_BYTES_MAX: u64 = 32 << 20;
const PAGES_MAX: usize = 1000;
const ENTRIES_MAX: usize = 100_000;
/// Longest path: that of common file systems.
const PATH_MAX: usize = 1024;

/// The digest that the hub vouches for, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Digest {
    /// Of the content, for what lies in large-file storage.
    Sha256(String),
    /// git's name of the content, for the rest.
    GitBlob(String),
}

impl Digest {
    /// The digits; the name of the blob in the cache.
    pub fn id(&self) -> &str {
        let (Digest::Sha256(id) | Digest::GitBlob(id)) = self;
        id
    }

    /// What messages call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Digest::Sha256(_) => "sha256",
            Digest::GitBlob(_) => "git blob id",
        }
    }
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Within the repository; plain names between slashes.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Of its content.
    pub digest: Digest,
}

/// All files of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision is, as 40 hexadecimal digits.
    pub commit: String,
    /// In order of their paths.
    pub entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Item {
    r#type: String,
    path: String,
    oid: String,
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Listing {
    /// Asks the hub.
    ///
    /// # Errors
    /// If the hub refuses or does not answer, or lists what cannot be.
    pub fn fetch(
        access: &Access,
        repository: &Repository,
        patience: &Patience,
    ) -> Result<Self, HubError> {
        let wire = Wire::new(access, patience)?;
        let ask = |url: &str, max: u64| {
            let page = patience.ask(url, || wire.page(url, max));
            page.map_err(|error| explain(error, repository, access.token.is_some()))
        };
        let url = repository.url_of_revision();
        let (json, _) = ask(&url, REVISION_BYTES_MAX)?;
        let Revision { sha: commit } = parse(&url, &json)?;
        if !is_hex(&commit, 40) {
            return Err(wrong(&url, format!("`{commit:.64}` is no commit")));
        }
        let first = repository.url_of_tree(&commit);
        let (mut url, mut entries) = (first.clone(), Vec::new());
        for _ in 0..PAGES_MAX {
            let (json, next) = ask(&url, PAGE_BYTES_MAX)?;
            let items: Vec<Item> = parse(&url, &json)?;
            for item in items.into_iter().filter(|item| item.r#type == "file") {
                entries.push(entry(&url, item)?);
            }
            if entries.len() > ENTRIES_MAX {
                return Err(wrong(&url, format!("it lists more than {ENTRIES_MAX} files")));
            }
            let Some(query) = next else {
                return sorted(&first, entries).map(|entries| Listing { commit, entries });
            };
            let path = first.split('?').next().unwrap_or_default();
            url = format!("{path}?{query}");
        }
        Err(wrong(&first, format!("it has more than {PAGES_MAX} pages")))
    }
}

fn sorted(url: &str, mut entries: Vec<Entry>) -> Result<Vec<Entry>, HubError> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut seen = HashSet::new();
    match entries.iter().find(|entry| !seen.insert(entry.path.as_str())) {
        Some(twice) => Err(wrong(url, format!("it lists `{}` twice", twice.path))),
        None => Ok(entries),
    }
}

fn entry(url: &str, item: Item) -> Result<Entry, HubError> {
    let Item { path, oid, size, lfs, .. } = item;
    if !is_plain(&path) {
        return Err(wrong(
            url,
            format!("`{:.200}` is no path within a repository", path.escape_debug()),
        ));
    }
    let (digest, size) = match lfs {
        Some(lfs) => (Digest::Sha256(lfs.oid), lfs.size),
        None => (Digest::GitBlob(oid), size),
    };
    let digits = if matches!(digest, Digest::Sha256(_)) { 64 } else { 40 };
    if !is_hex(digest.id(), digits) {
        return Err(wrong(url, format!("`{path}` has no {} of {digits} digits", digest.kind())));
    }
    // No file system holds more, and sums of them stay numbers.
    if size > 1 << 46 {
        return Err(wrong(url, format!("`{path}` claims {size} bytes")));
    }
    Ok(Entry { path, size, digest })
}

/// Whether a path stays within the directory that it is put into, and says so plainly.
fn is_plain(path: &str) -> bool {
    let is_name = |part: &str| {
        !["", ".", ".."].contains(&part)
            && part.len() <= 255
            && !part.chars().any(|c| c.is_control() || c == '\\')
    };
    path.len() <= PATH_MAX && path.split('/').all(is_name)
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn parse<'a, T: Deserialize<'a>>(url: &str, json: &'a [u8]) -> Result<T, HubError> {
    serde_json::from_slice(json).map_err(|error| wrong(url, error.to_string()))
}

fn wrong(url: &str, what: String) -> HubError {
    HubError::Answer { url: url.to_owned(), what }
}

/// What a refusal means, and what to do.
pub(crate) fn explain(error: HubError, repository: &Repository, has_token: bool) -> HubError {
    let HubError::Fetch(refusal) = &error else { return error };
    let (name, page) = (repository.name(), repository.page());
    let message = match refusal {
        FetchError::Denied { code: Some(code), .. } if code == "GatedRepo" && has_token => {
            format!(
                "{name} is gated, and the token does not open it: accept its conditions at {page}"
            )
        }
        FetchError::Denied { code: Some(code), .. } if code == "GatedRepo" => format!(
            "{name} is gated: accept its conditions at {page}, then set HF_TOKEN or name a file in --token-file"
        ),
        FetchError::Denied { .. } if has_token => {
            format!("{refusal}: there is no such repository, or the token does not open it")
        }
        FetchError::Denied { .. } => format!(
            "{refusal}: there is no such repository, or it wants a token; set HF_TOKEN, or name a file in --token-file"
        ),
        FetchError::NotFound { code: Some(code), .. } if code == "RevisionNotFound" => {
            format!("{name}: the repository has no such branch, tag or commit")
        }
        FetchError::NotFound { .. } => format!("{refusal}: is there such a repository at {page}?"),
        _ => return error,
    };
    HubError::Refused(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_digests_are_checked() {
        let check = |path: &str, oid: &str, lfs: Option<&str>| {
            let lfs = lfs.map(|oid| Lfs { oid: oid.to_owned(), size: 7 });
            let r#type = "file".to_owned();
            entry("U", Item { r#type, path: path.to_owned(), oid: oid.to_owned(), size: 5, lfs })
        };
        let (blob, sha) = ("a".repeat(40), "b".repeat(64));
        assert_eq!(check("a/b.json", &blob, None).unwrap().digest, Digest::GitBlob(blob.clone()));
        let large = check("x", &blob, Some(&sha)).unwrap();
        assert_eq!((large.size, large.digest), (7, Digest::Sha256(sha)));
        for path in ["../x", "/x", "a//b", "a/./b", "", "a\\b", "a\nb", &"x".repeat(300)] {
            assert!(check(path, &blob, None).is_err(), "{path}");
        }
        assert!(check("x", "../../etc", None).is_err());
        assert!(check("x", &blob, Some(&blob)).is_err());
    }
}
