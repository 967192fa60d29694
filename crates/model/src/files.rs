//! Where the files of a model lie: a directory, or memory.

// Mapping a file is the one unsafe call of this crate.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;

use crate::{ModelError, Result};

/// Largest file that is read whole (a `tokenizer.json` takes about 10 MB); tensors are mapped, not read.
const MAX_SMALL_FILE: u64 = 256 << 20;

/// The files of a model.
#[derive(Debug, Clone)]
pub enum Files {
    /// Files of a directory.
    Directory(PathBuf),
    /// Files in memory, as those of the model that the binary holds.
    Memory {
        /// Stands for the directory in messages.
        name: String,
        /// Contents by file name.
        files: HashMap<String, Bytes>,
    },
}

impl Files {
    /// What messages call the file `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// The directory, or what stands for it.
    pub fn root(&self) -> &Path {
        match self {
            Files::Directory(path) => path,
            Files::Memory { name, .. } => Path::new(name),
        }
    }

    /// The whole of a small file; `None` if there is none of that name.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>> {
        match self {
            Files::Memory { files, .. } => Ok(files.get(name).cloned()),
            Files::Directory(_) => read_small(&self.path(name)),
        }
    }

    /// A file as shared memory, mapped if it lies on disk; `None` if there is none of that name.
    pub fn map(&self, name: &str) -> Result<Option<Bytes>> {
        match self {
            Files::Memory { files, .. } => Ok(files.get(name).cloned()),
            Files::Directory(_) => map(&self.path(name)),
        }
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    // Asked before opening: to open a pipe is to wait until somebody writes into it.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(ModelError::malformed(path, "is no regular file"));
    }
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ModelError::io("read", path)(e)),
    }
}

fn read_small(path: &Path) -> Result<Option<Bytes>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let len = file.metadata().map_err(ModelError::io("read", path))?.len();
    let mut bytes = Vec::new();
    if len <= MAX_SMALL_FILE {
        bytes.reserve_exact(len as usize);
        // The length is what it was a moment ago, or none, as that of the files of /proc.
        let mut start = file.take(MAX_SMALL_FILE + 1);
        start.read_to_end(&mut bytes).map_err(ModelError::io("read", path))?;
    }
    let len = len.max(bytes.len() as u64);
    if len > MAX_SMALL_FILE {
        return Err(ModelError::malformed(
            path,
            format!("holds {len} bytes, more than the {MAX_SMALL_FILE} that are read"),
        ));
    }
    Ok(Some(bytes.into()))
}

fn map(path: &Path) -> Result<Option<Bytes>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let len = file.metadata().map_err(ModelError::io("read", path))?.len();
    if len == 0 {
        return Ok(Some(Bytes::new()));
    }
    // SAFETY: the mapping is private and read-only, and is only ever seen as bytes, for which every value is valid. Should
    // another process write the file, the weights change under us; should it truncate the file, the next read past its
    // end kills this process with SIGBUS. Neither corrupts memory, and both are what every reader of mapped checkpoints
    // accepts; `quantize` replaces files by rename, which leaves the mapped ones whole.
    let mapped = unsafe { Mmap::map(&file) }.map_err(ModelError::io("map", path))?;
    Ok(Some(Bytes::from_owner(mapped)))
}

/// How many bytes of a file lie in the system's page cache. Linux tells the truth to the file's owner, to root, and to whoever
/// may write it; to others it says "all". `None` elsewhere than on Linux, or where the system does not say.
///
/// # Errors
/// If the file cannot be opened or mapped.
pub fn cached_bytes(path: &Path) -> Result<Option<u64>> {
    let Some(file) = open(path)? else { return Ok(None) };
    if file.metadata().map_err(ModelError::io("read", path))?.len() == 0 {
        return Ok(Some(0));
    }
    // SAFETY: as in `map`; the bytes of this mapping are never looked at.
    let mapped = unsafe { Mmap::map(&file) }.map_err(ModelError::io("map", path))?;
    Ok(residency::resident_bytes(&mapped))
}

/// Lets the system begin to read bytes of a mapped file, which is not waited for. Of other bytes nothing becomes.
pub(crate) fn will_need(bytes: &[u8]) {
    residency::will_need(bytes);
}

#[cfg(target_os = "linux")]
mod residency {
    use std::ffi::{c_int, c_void};

    unsafe extern "C" {
        fn getpagesize() -> c_int;
        fn mincore(address: *mut c_void, length: usize, pages: *mut u8) -> c_int;
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }

    /// `MADV_WILLNEED` of Linux's `mman-common.h`.
    const WILL_NEED: c_int = 3;

    pub(super) fn will_need(bytes: &[u8]) {
        // SAFETY: takes nothing, returns a number.
        let page = usize::try_from(unsafe { getpagesize() }).unwrap_or(4096);
        let before = bytes.as_ptr().addr() % page;
        let start = bytes.as_ptr().wrapping_byte_sub(before).cast_mut();
        // SAFETY: the advice changes no byte and unmaps nothing, whatever lies there; an error is as good as none.
        unsafe { madvise(start.cast(), before + bytes.len(), WILL_NEED) };
    }

    /// Bytes that are asked about in one call; a multiple of every page size.
    const WINDOW: usize = 256 << 20;

    /// Bytes of a mapping whose pages are in memory.
    pub(super) fn resident_bytes(mapped: &memmap2::Mmap) -> Option<u64> {
        // SAFETY: takes nothing, returns a number.
        let page = usize::try_from(unsafe { getpagesize() }).ok()?;
        let mut pages = vec![0u8; WINDOW.min(mapped.len()).div_ceil(page)];
        let mut resident = 0;
        for window in mapped.chunks(WINDOW) {
            // SAFETY: the window begins at a page and is mapped; `pages` has a byte for each of its pages. Nothing is written
            // through the address.
            let code = unsafe {
                mincore(window.as_ptr().cast_mut().cast(), window.len(), pages.as_mut_ptr())
            };
            if code != 0 {
                return None;
            }
            let here = &pages[..window.len().div_ceil(page)];
            let there = here.iter().filter(|page| **page & 1 == 1).count() * page;
            // The last page may reach beyond the file.
            resident += there.min(window.len()) as u64;
        }
        Some(resident)
    }
}

#[cfg(not(target_os = "linux"))]
mod residency {
    pub(super) fn will_need(_: &[u8]) {}

    pub(super) fn resident_bytes(_: &memmap2::Mmap) -> Option<u64> {
        None
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_just_written_is_cached() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x");
        fs::write(&path, vec![7; 100_001]).unwrap();
        assert_eq!(cached_bytes(&path).unwrap(), Some(100_001));
        fs::write(&path, []).unwrap();
        assert_eq!(cached_bytes(&path).unwrap(), Some(0));
        assert_eq!(cached_bytes(&root.path().join("none")).unwrap(), None);
    }

    #[test]
    fn only_regular_files_are_opened() {
        let root = tempfile::tempdir().unwrap();
        let made = Command::new("mkfifo").arg(root.path().join("pipe")).status().unwrap();
        assert!(made.success());
        fs::create_dir(root.path().join("directory")).unwrap();
        let files = Files::Directory(root.path().to_owned());
        for name in ["pipe", "directory"] {
            for opened in [files.read(name), files.map(name)] {
                let error = opened.unwrap_err().to_string();
                assert!(error.ends_with(&format!("{name}: is no regular file")), "{error}");
            }
        }
    }
}
