//! Small things that the file system is asked for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::HubError;

/// A name that no other process, on whatever machine, takes at the same time.
pub(crate) fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("{:x}-{:x}-{count:x}", process::id(), time)
}

/// `path` with more behind its name.
pub(crate) fn with(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

pub(crate) fn create_dirs(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(HubError::file("create the directory", path))
}

/// Writes a small file so that it is there as a whole or as it was before.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> Result<(), HubError> {
    let temporary = with(path, &format!(".{}.tmp", unique()));
    let written = File::create_new(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        // What is left of it has no meaning to anybody.
        let _ = fs::remove_file(&temporary);
        HubError::file("write", path)(error)
    })
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(HubError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Makes names in a directory last. Some network volumes know no such thing; there it lasts as long as they promise.
pub(crate) fn sync_directory(path: &Path) {
    let _ = File::open(path).and_then(|directory| directory.sync_all());
}

/// Opens a file for writing at offsets, with room for all of it where the file system can promise that.
pub(crate) fn open_with_room(path: &Path, len: u64) -> Result<File, HubError> {
    let open = || -> io::Result<File> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() != len {
            file.set_len(len)?;
        }
        if len > 0 {
            match fallocate(&file, FallocateFlags::empty(), 0, len) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(file)
    };
    open().map_err(HubError::file("write", path))
}

/// Bytes that a user may still write on the volume of an existing path.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, HubError> {
    let volume = statvfs(path)
        .map_err(|error| HubError::file("read the free space of", path)(error.into()))?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

/// Bytes that a file takes on its volume already.
pub(crate) fn allocated_bytes(path: &Path) -> u64 {
    // `stat` counts in 512 bytes, whatever the file system's blocks are.
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Length of a regular file; `None` if there is none.
pub(crate) fn file_len(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(|metadata| metadata.is_file()).map(|metadata| metadata.len())
}
