//! Reads documents on all cores, in processes of their own, and hands them over as they are ready.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::{self, available_parallelism};
use std::time::Instant;

use ::extract::{Document, ErrorKind, ExtractError, Input, Limits, WorkerCommand, Workers};
use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::output::CliError;

/// A document, or why there is none.
pub(super) struct Read {
    pub(super) document: Result<Document, ExtractError>,
    /// Digest of the file; empty if it could not be read.
    pub(super) sha256: String,
    /// How long it took.
    pub(super) seconds: f64,
}

/// Reads files, each on a thread of its own, as many at once as there are cores. `done` gets each with its index, in the
/// order in which they are ready, and says whether to go on.
pub(super) fn each(
    files: &[&Path],
    limits: &Limits,
    mut done: impl FnMut(usize, Read) -> Result<bool>,
) -> Result<()> {
    let threads = available_parallelism().map_or(1, usize::from).min(files.len());
    let workers = &workers(threads)?;
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(threads.max(1));
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(at) else { return };
                    // Whoever listens no more wants no more.
                    if sender.send((at, read(workers, file, limits))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (at, read) in receiver {
            if !done(at, read)? {
                break;
            }
        }
        Ok(())
    })
}

/// Up to `count` processes of this program that read documents; none is started yet.
pub(super) fn workers(count: usize) -> Result<Workers> {
    let command = WorkerCommand::of_this_program(&["document-reader"]).map_err(|error| {
        CliError::Failed(format!(
            "documents are read in processes of this program, and the system does not say where it lies: {error}"
        ))
    })?;
    Ok(Workers::new(command, count))
}

/// What such a process does.
pub(super) fn serve() -> Result<()> {
    let served = ::extract::serve_worker(&mut io::stdin().lock(), &mut io::stdout().lock());
    served.map_err(|error| {
        CliError::Failed(format!("the process that asked has gone: {error}")).into()
    })
}

/// Reads a file.
pub(super) fn read(workers: &Workers, file: &Path, limits: &Limits) -> Read {
    let start = Instant::now();
    let name = file.display().to_string();
    let mut sha256 = String::new();
    let document = bytes(file, limits).map_err(|kind| kind.of(&name)).and_then(|bytes| {
        sha256 = digest(&bytes);
        workers.read(Input { bytes: &bytes, name: &name, mime: None }, limits, &mut |_| {})
    });
    Read { document, sha256, seconds: start.elapsed().as_secs_f64() }
}

fn bytes(file: &Path, limits: &Limits) -> Result<Vec<u8>, ErrorKind> {
    let failed = |error: std::io::Error| ErrorKind::Io(error.to_string());
    if fs::metadata(file).map_err(failed)?.is_dir() {
        return Err(ErrorKind::Io("is a folder; give its files, as FOLDER/*".to_owned()));
    }
    let mut bytes = Vec::new();
    // One more than may be, so that what is larger is seen.
    let most = limits.bytes_max as u64 + 1;
    File::open(file).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// SHA-256 in hexadecimal digits.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
