//! A checkpoint on the hub, of which the headers alone are read.

use std::env;
use std::path::Path;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use fetch::{Client, FetchError, Limits};
use futures_util::{StreamExt, TryStreamExt, stream};
use hub::{Access, HubError, Repository};
use model::Checkpoint;
use model::checkpoint::{INDEX, SINGLE, shard_names};
use model::safetensors::header_len;

use crate::output::CliError;

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

/// Opens a checkpoint of the hub by its headers.
///
/// # Errors
/// Bad input where the repository is at fault, failure where the way to it is.
pub(crate) fn open(text: &str, revision: Option<&str>) -> Result<Checkpoint> {
    let access = Access::from_env(|name| env::var(name).ok(), None).map_err(refused)?;
    let repository = Repository::parse(text, &access.endpoint, revision).map_err(refused)?;
    let Access { endpoint, token } = access;
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

/// What an error of the hub's means to the shell.
pub(crate) fn refused(error: HubError) -> anyhow::Error {
    let message = error.to_string();
    match error {
        HubError::Offline => CliError::usage(message).into(),
        HubError::Token(_) => CliError::bad_input("token", message).into(),
        error if error.is_bad_input() => CliError::bad_input("model", message).into(),
        _ => CliError::Failed(message).into(),
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
        FetchError::NotFound { url, .. } if url.ends_with(INDEX) => {
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
