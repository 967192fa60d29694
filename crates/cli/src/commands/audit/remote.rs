//! Wheels at a URL, read by ranges: the directory at their end first, then the members that are wanted.

use std::io;
use std::path::Path;

use anyhow::Result;
use audit::{Limits, Package, ReadAt};
use bytes::Bytes;
use fetch::{Client, FetchError};
use tokio::runtime::{Builder, Runtime};

use crate::output::CliError;

/// What is fetched where reading begins, and most of what is fetched ahead while it goes on.
const PIECE_MIN: u64 = 256 << 10;
const PIECE_MAX: u64 = 8 << 20;

/// A file on a server. A piece of it is held at a time.
struct RemoteFile {
    runtime: Runtime,
    client: Client,
    url: String,
    len: u64,
    /// What was fetched last, and where it begins.
    piece: Bytes,
    start: u64,
    /// How much is fetched next, if reading goes on behind the piece.
    ahead: u64,
}

impl RemoteFile {
    fn open(url: &str) -> Result<RemoteFile> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| CliError::Failed(format!("cannot wait for the network: {error}")))?;
        let unreachable = |error: FetchError| bad_target(error.to_string());
        let client = Client::new(url, None, fetch::Limits::default()).map_err(unreachable)?;
        let first = runtime.block_on(client.range(url, 0..PIECE_MIN)).map_err(unreachable)?;
        Ok(RemoteFile {
            runtime,
            client,
            url: url.to_owned(),
            len: first.file_len,
            piece: first.bytes,
            start: 0,
            ahead: PIECE_MIN,
        })
    }

    /// Fetches what begins at `offset`, which is not in the piece.
    fn fetch(&mut self, offset: u64) -> io::Result<()> {
        let goes_on = offset == self.start + self.piece.len() as u64;
        self.ahead = if goes_on { (2 * self.ahead).min(PIECE_MAX) } else { PIECE_MIN };
        let end = offset.saturating_add(self.ahead).min(self.len);
        let part = self.runtime.block_on(self.client.range(&self.url, offset..end));
        let part = part.map_err(io::Error::other)?;
        if part.file_len != self.len {
            return Err(io::Error::other("the file on the server has changed meanwhile"));
        }
        if part.bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.piece, self.start) = (part.bytes, offset);
        Ok(())
    }
}

impl ReadAt for RemoteFile {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let from = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
            match from.and_then(|from| self.piece.get(from..)).filter(|found| !found.is_empty()) {
                Some(found) => {
                    let take = found.len().min(buffer.len() - done);
                    buffer[done..done + take].copy_from_slice(&found[..take]);
                    done += take;
                }
                None if at >= self.len => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => self.fetch(at)?,
            }
        }
        Ok(())
    }
}

/// Whether a target lies elsewhere.
pub(super) fn is_url(target: &Path) -> bool {
    target.starts_with("https:") || target.starts_with("http:")
}

/// Reads a wheel at a URL. What an index gives behind `#sha256=` is taken as its hash: what was not read cannot be checked.
pub(super) fn read(target: &Path) -> Result<Package> {
    let target = target.to_str().ok_or_else(|| bad_target("a URL is ASCII".to_owned()))?;
    let (url, fragment) = target.split_once('#').unwrap_or((target, ""));
    let path = url.split('?').next().unwrap_or(url);
    let name = path.rsplit('/').next().unwrap_or(path);
    if !name.ends_with(".whl") {
        let message = format!("{url}: only wheels are read from URLs; fetch the file first");
        return Err(bad_target(message).into());
    }
    let mut file = RemoteFile::open(url)?;
    let package = audit::read_remote(name, &mut file, Limits::default());
    let mut package = package.map_err(|error| bad_target(error.to_string()))?;
    let hash = fragment.split('&').find_map(|pair| pair.strip_prefix("sha256="));
    package.sha256 = hash.filter(|hash| is_sha256(hash)).map(str::to_lowercase);
    url.clone_into(&mut package.origin);
    Ok(package)
}

/// The facts of a wheel at a URL, as they are kept of known releases: with its hash.
pub(super) fn learn(target: &Path) -> Result<Package> {
    let mut package = read(target)?;
    if package.sha256.is_none() {
        let message = format!(
            "{}: facts are kept with the hash of the whole file, of which parts are read: add #sha256=…, as an index gives it",
            target.display()
        );
        return Err(bad_target(message).into());
    }
    let name = package.origin.rsplit('/').next().unwrap_or_default();
    package.origin = name.split('?').next().unwrap_or(name).to_owned();
    Ok(audit::for_releases(package))
}

fn bad_target(message: String) -> CliError {
    CliError::bad_input("target", message)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
