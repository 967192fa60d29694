//! The unfinished artefact: a directory beside the destination, with a record of what in it is whole.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Checkpoint, ModelError, Result};

/// Name of the record within the directory.
const RECORD: &str = "halfbyte-quantize.json";

/// Name of the file whose lock says that a run is at work.
const LOCK: &str = "halfbyte-quantize.lock";

/// Name of the list of checksums, in the format of `sha256sum`.
const SUMS: &str = "SHA256SUMS";

/// Where `dst` is built until it is whole.
pub(super) fn path(dst: &Path) -> PathBuf {
    let mut name = dst.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    dst.with_file_name(name)
}

/// The unfinished artefact; no other run works on it while this lives.
#[derive(Debug)]
pub(super) struct Partial {
    directory: PathBuf,
    record: Record,
    /// Checksums of the small files.
    small: Vec<Finished>,
    _lock: File,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Of the plan and the source that the shards were made from.
    fingerprint: String,
    shards: Vec<Finished>,
}

/// A file that is whole and on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Finished {
    name: String,
    bytes: u64,
    sha256: String,
}

impl Partial {
    /// Creates the directory, or takes over that of a run that was cut off. What an older plan or source left is removed.
    pub(super) fn open(dst: &Path, fingerprint: &str) -> Result<Self> {
        let directory = path(dst);
        match fs::create_dir(&directory) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => check_ours(&directory)?,
            Err(e) => return Err(ModelError::io("create", &directory)(e)),
        }
        let lock = lock(&directory)?;
        let record = read_record(&directory).filter(|record| record.fingerprint == fingerprint);
        let record = match record {
            Some(record) => record,
            None => {
                clear(&directory)?;
                Record { fingerprint: fingerprint.to_owned(), shards: Vec::new() }
            }
        };
        let partial = Partial { directory, record, small: Vec::new(), _lock: lock };
        partial.save_record()?;
        Ok(partial)
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Whether the shard is recorded as finished and its bytes still have the recorded checksum.
    pub(super) fn has_shard(&self, name: &str) -> Result<bool> {
        let Some(shard) = self.record.shards.iter().find(|shard| shard.name == name) else {
            return Ok(false);
        };
        match fs::metadata(self.join(name)) {
            Ok(metadata) if metadata.len() == shard.bytes => {
                Ok(sha256_of(&self.join(name))? == shard.sha256)
            }
            _ => Ok(false),
        }
    }

    /// Records a shard that is on disk.
    pub(super) fn record_shard(&mut self, name: &str, bytes: u64) -> Result<()> {
        let sha256 = sha256_of(&self.join(name))?;
        self.record.shards.retain(|shard| shard.name != name);
        self.record.shards.push(Finished { name: name.to_owned(), bytes, sha256 });
        sync_directory(&self.directory)?;
        self.save_record()
    }

    /// Writes a small file.
    pub(super) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        write_synced(&self.join(name), bytes)?;
        self.small.retain(|file| file.name != name);
        let (name, len) = (name.to_owned(), bytes.len() as u64);
        self.small.push(Finished { name, bytes: len, sha256: hex(&Sha256::digest(bytes)) });
        Ok(())
    }

    /// Checks the whole, lists its checksums, and gives it its name; returns the bytes of the shards.
    pub(super) fn finish(self, dst: &Path) -> Result<u64> {
        let mut files: Vec<_> = self.record.shards.iter().chain(&self.small).collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let lines = files.iter().map(|file| format!("{}  {}\n", file.sha256, file.name));
        write_synced(&self.join(SUMS), lines.collect::<String>().as_bytes())?;
        Checkpoint::open(&self.directory)?;
        // A rename would replace an empty directory that came up meanwhile, but nothing else.
        if fs::symlink_metadata(dst).is_ok() {
            return Err(ModelError::Exists(dst.to_owned()));
        }
        fs::rename(&self.directory, dst).map_err(ModelError::io("create", dst))?;
        sync_directory(parent(dst))?;
        // Only now: a run that is killed before the rename finds its own directory and continues.
        for name in [RECORD, LOCK] {
            let path = dst.join(name);
            fs::remove_file(&path).map_err(ModelError::io("remove", &path))?;
        }
        sync_directory(dst)?;
        Ok(self.record.shards.iter().map(|shard| shard.bytes).sum())
    }

    /// Removes everything; for sources that no later run can quantize either.
    pub(super) fn discard(&self) {
        // Should it fail, the next run finds a directory it can take over.
        let _ = fs::remove_dir_all(&self.directory);
    }

    fn save_record(&self) -> Result<()> {
        let path = self.join(RECORD);
        let new = self.join(&format!("{RECORD}.new"));
        let json = serde_json::to_vec_pretty(&self.record)
            .map_err(|e| ModelError::malformed(&path, e.to_string()))?;
        write_synced(&new, &json)?;
        fs::rename(&new, &path).map_err(ModelError::io("write", &path))?;
        sync_directory(&self.directory)
    }
}

/// A directory that happens to have this name, and not by our doing, is left alone.
fn check_ours(directory: &Path) -> Result<()> {
    let mut entries = fs::read_dir(directory).map_err(ModelError::io("read", directory))?;
    if directory.join(LOCK).exists() || directory.join(RECORD).exists() || entries.next().is_none()
    {
        Ok(())
    } else {
        Err(ModelError::Exists(directory.to_owned()))
    }
}

fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(LOCK);
    let file = File::create(&path).map_err(ModelError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ModelError::malformed(
            directory,
            "another run is writing it; wait for that, or name another destination",
        )),
        Err(TryLockError::Error(e)) => Err(ModelError::io("lock", &path)(e)),
    }
}

fn read_record(directory: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(directory.join(RECORD)).ok()?).ok()
}

/// Removes all files but the lock.
fn clear(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(ModelError::io("read", directory))?;
    for entry in entries {
        let entry = entry.map_err(ModelError::io("read", directory))?;
        if entry.file_name() != LOCK {
            let path = entry.path();
            fs::remove_file(&path).map_err(ModelError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(ModelError::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(ModelError::io("write", path))
}

/// Makes names in a directory durable.
fn sync_directory(directory: &Path) -> Result<()> {
    let file = File::open(directory).map_err(ModelError::io("open", directory))?;
    file.sync_all().map_err(ModelError::io("write", directory))
}

pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(ModelError::io("read", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(ModelError::io("read", path))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
