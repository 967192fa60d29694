//! A checkpoint on the hub, of which the headers alone are read.

use std::env;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use fetch::{Client, FetchError, Limits, Token};
use futures_util::{StreamExt, TryStreamExt, stream};
use model::Checkpoint;
use model::checkpoint::{INDEX, SINGLE, shard_names};
use model::safetensors::header_len;

use crate::output::CliError;

/// Where repositories are, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// Largest config and index that are read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
const INDEX_BYTES_MAX: u64 = 32 << 20;
/// What is read of a file at first: most headers end within it.
const FIRST_BYTES: u64 = 128 << 10;
/// Most bytes of all headers together, and most files.
const HEADERS_BYTES_MAX: u64 = 256 << 20;
const SHARDS_MAX: usize = 2048;
/// Files that are asked for at a time.
const AT_ONCE: usize = 8;

/// A repository, at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// `https://huggingface.co`.
    endpoint: String,
    /// `ORG/NAME`.
    name: String,
    revision: String,
}

impl Repository {
    /// `ORG/NAME` at `endpoint`, or a URL as the browser shows it; `revision` wins over that of the URL.
    pub(crate) fn parse(
        text: &str,
        endpoint: &str,
        revision: Option<&str>,
    ) -> Result<Self, String> {
        let endpoint = endpoint.trim_end_matches('/');
        let (endpoint, path) = match text.split_once("://") {
            None => (endpoint.to_owned(), text),
            Some((scheme, rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                (format!("{scheme}://{host}"), path)
            }
        };
        let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        let (name, from_url) = match parts[..] {
            [org, name] => ([org, name], None),
            [org, name, "tree" | "resolve" | "blob", revision] => ([org, name], Some(revision)),
            _ => return Err(format!("`{text}` is no repository; give ORG/NAME, or its URL")),
        };
        let revision = revision.or(from_url).unwrap_or("main");
        let is_plain = |part: &str| {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_name)
        };
        if !name.iter().all(|part| is_plain(part)) || !revision.split('/').all(is_plain) {
            return Err(format!(
                "`{text}` at `{revision}` is no name of a repository and a revision"
            ));
        }
        Ok(Repository { endpoint, name: name.join("/"), revision: revision.to_owned() })
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        let host = self.endpoint.split("://").last().unwrap_or_default();
        let Repository { name, revision, .. } = self;
        if revision == "main" {
            format!("{host}/{name}")
        } else {
            format!("{host}/{name}@{revision}")
        }
    }

    fn url(&self, file: &str) -> String {
        // The one character of a revision that a path does not hold as it is.
        let revision = self.revision.replace('/', "%2F");
        format!("{}/{}/resolve/{revision}/{file}", self.endpoint, self.name)
    }
}

/// Opens a checkpoint of the hub by its headers.
///
/// # Errors
/// Bad input where the repository is at fault, failure where the way to it is.
pub(crate) fn open(text: &str, revision: Option<&str>) -> Result<Checkpoint> {
    if env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_true(&value)) {
        let message = "HF_HUB_OFFLINE is set: nothing is read from the hub; unset it, or fetch the model first";
        return Err(CliError::usage(message).into());
    }
    let endpoint = env::var("HF_ENDPOINT").ok().filter(|value| !value.is_empty());
    let endpoint = endpoint.unwrap_or_else(|| ENDPOINT.to_owned());
    let repository = Repository::parse(text, &endpoint, revision)
        .map_err(|message| CliError::bad_input("model", message))?;
    let token = token(|name| env::var(name).ok().filter(|value| !value.is_empty()))?;
    let has_token = token.is_some();
    let explain = |error: FetchError| explain(&error, has_token);
    let client = Client::new(&endpoint, token, Limits::default()).map_err(explain)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed(format!("cannot wait for the network: {e}")))?;
    let Headers { files, shards } =
        runtime.block_on(headers(&client, &repository)).map_err(explain)?;
    Ok(Checkpoint::from_headers(&repository.name(), files, shards)?)
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

/// The token that Hugging Face's own tools would send.
fn token(var: impl Fn(&str) -> Option<String>) -> Result<Option<Token>, CliError> {
    let unusable = |place: String| {
        CliError::bad_input("token", format!("{place} holds no token: one word is expected"))
    };
    if let Some(text) = var("HF_TOKEN") {
        let token = Token::new(&text);
        return token.map(Some).ok_or_else(|| unusable("HF_TOKEN".to_owned()));
    }
    let home = || var("HF_HOME").map(PathBuf::from);
    let cache = || var("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("huggingface"));
    let user = || var("HOME").map(|home| Path::new(&home).join(".cache/huggingface"));
    let beside = || home().or_else(cache).or_else(user).map(|home| home.join("token"));
    let Some(path) = var("HF_TOKEN_PATH").map(PathBuf::from).or_else(beside) else {
        return Ok(None);
    };
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(4096).read_to_string(&mut text));
    match read {
        Ok(_) => Token::new(&text).map(Some).ok_or_else(|| unusable(path.display().to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            Err(CliError::bad_input("token", message))
        }
    }
}

/// What makes a checkpoint without weights.
struct Headers {
    /// Config, and index if there is one.
    files: Vec<(String, Bytes)>,
    /// Name, beginning and length of each file of tensors.
    shards: Vec<(String, Bytes, u64)>,
}

async fn headers(client: &Client, repository: &Repository) -> Result<Headers, FetchError> {
    let config = client.get(&repository.url("config.json"), CONFIG_BYTES_MAX).await?;
    let mut files = vec![("config.json".to_owned(), config)];
    let beginning = |name: String| async move {
        let part = client.range(&repository.url(&name), 0..FIRST_BYTES).await?;
        Ok::<_, FetchError>((name, part.bytes, part.file_len))
    };
    let shards = match beginning(SINGLE.to_owned()).await {
        Ok(single) => vec![single],
        Err(FetchError::NotFound { .. }) => {
            let url = repository.url(INDEX);
            let index = client.get(&url, INDEX_BYTES_MAX).await?;
            let names = shard_names(&index, Path::new(INDEX)).map_err(|error| {
                FetchError::Answer { url: url.clone(), what: error.to_string() }
            })?;
            if names.len() > SHARDS_MAX {
                let what = format!("it names {} files, more than {SHARDS_MAX}", names.len());
                return Err(FetchError::Answer { url, what });
            }
            files.push((INDEX.to_owned(), index));
            stream::iter(names).map(beginning).buffered(AT_ONCE).try_collect().await?
        }
        Err(error) => return Err(error),
    };
    let shards = complete(client, repository, shards).await?;
    Ok(Headers { files, shards })
}

/// Reads the rest of headers that are longer than their first part.
async fn complete(
    client: &Client,
    repository: &Repository,
    shards: Vec<(String, Bytes, u64)>,
) -> Result<Vec<(String, Bytes, u64)>, FetchError> {
    let mut total = 0;
    let mut wanted = Vec::with_capacity(shards.len());
    for (name, start, file_len) in shards {
        let url = repository.url(&name);
        let len = header_len(&start, file_len, Path::new(&name))
            .map_err(|error| FetchError::Answer { url: url.clone(), what: error.to_string() })?;
        total += len as u64;
        if total > HEADERS_BYTES_MAX {
            return Err(FetchError::TooLarge { url, max: HEADERS_BYTES_MAX });
        }
        wanted.push((name, start, file_len, 8 + len as u64));
    }
    let rest = |(name, start, file_len, end): (String, Bytes, u64, u64)| async move {
        let have = start.len() as u64;
        if have >= end {
            return Ok((name, start, file_len));
        }
        let url = repository.url(&name);
        let part = client.range(&url, have..end).await?;
        if part.file_len != file_len {
            let what = "the file changed while it was read; try again".to_owned();
            return Err(FetchError::Answer { url, what });
        }
        let mut header = BytesMut::from(start);
        header.extend_from_slice(&part.bytes);
        Ok((name, header.freeze(), file_len))
    };
    stream::iter(wanted).map(rest).buffered(AT_ONCE).try_collect().await
}

fn explain(error: &FetchError, has_token: bool) -> anyhow::Error {
    let message = match error {
        FetchError::Denied { .. } if has_token => {
            format!("{error}: there is no such repository, or the token does not open it")
        }
        FetchError::Denied { .. } => format!(
            "{error}: there is no such repository, or it wants a token; set HF_TOKEN, or name a file in HF_TOKEN_PATH"
        ),
        FetchError::NotFound { url } if url.ends_with(INDEX) => {
            format!("{error}, nor {SINGLE}: only safetensors checkpoints are read")
        }
        error => error.to_string(),
    };
    match error {
        FetchError::Timeout { .. }
        | FetchError::Failed { .. }
        | FetchError::Cut { .. }
        | FetchError::Status { .. } => CliError::Failed(message).into(),
        _ => CliError::bad_input("model", message).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_by_name_and_by_url() {
        let url = |text: &str, revision: Option<&str>| {
            Repository::parse(text, ENDPOINT, revision).map(|repository| repository.url("f"))
        };
        let main = "https://huggingface.co/acme/tiny-1.5/resolve/main/f";
        assert_eq!(url("acme/tiny-1.5", None).unwrap(), main);
        assert_eq!(url("https://huggingface.co/acme/tiny-1.5/", None).unwrap(), main);
        assert_eq!(
            url("https://hub.example/acme/tiny/tree/v2", None).unwrap(),
            "https://hub.example/acme/tiny/resolve/v2/f"
        );
        assert_eq!(
            url("acme/tiny", Some("refs/pr/1")).unwrap(),
            "https://huggingface.co/acme/tiny/resolve/refs%2Fpr%2F1/f"
        );
        for bad in
            ["tiny", "a/b/c", "acme/..", "../tiny", "acme/ti ny", "acme/tiny?x", "https://h", ""]
        {
            assert!(url(bad, None).is_err(), "{bad}");
        }
        assert!(url("acme/tiny", Some("../../evil")).is_err());
        let named = |revision| Repository::parse("acme/tiny", ENDPOINT, revision).unwrap().name();
        assert_eq!(named(None), "huggingface.co/acme/tiny");
        assert_eq!(named(Some("v2")), "huggingface.co/acme/tiny@v2");
    }

    #[test]
    fn the_token_is_where_hugging_face_puts_it() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().display().to_string();
        let with = |set: &[(&str, &str)]| {
            token(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert!(with(&[("HF_TOKEN", "a")]).unwrap().is_some());
        assert!(with(&[("HF_TOKEN", "a b")]).is_err());
        assert!(with(&[("HF_HOME", &home)]).unwrap().is_none());
        std::fs::write(root.path().join("token"), "secret\n").unwrap();
        assert!(with(&[("HF_HOME", &home)]).unwrap().is_some());
        // A directory is no file to read.
        let error = with(&[("HF_TOKEN_PATH", &home)]).unwrap_err().to_string();
        assert!(error.starts_with("cannot read"), "{error}");
        assert!(with(&[]).unwrap().is_none());
    }
}
