//! The files of a model on disk, and what of them is in the page cache.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A folder of models is not walked further than this.
const ENTRIES_MAX: usize = 20_000;
const DEPTH_MAX: usize = 6;

/// Safetensors files at and below a folder, without links, the largest first, with their lengths.
pub(crate) fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut queue = VecDeque::from([(folder.to_owned(), 0)]);
    let mut entries = 0;
    while let Some((folder, depth)) = queue.pop_front() {
        let listed = fs::read_dir(&folder).into_iter().flatten().flatten();
        for name in listed.filter_map(|entry| entry.file_name().into_string().ok()) {
            entries += 1;
            if entries > ENTRIES_MAX {
                return found;
            }
            let path = folder.join(&name);
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() && depth < DEPTH_MAX && !path.is_symlink() {
                queue.push_back((path, depth + 1));
            } else if metadata.is_file()
                && name.ends_with(".safetensors")
                && let Ok(real) = path.canonicalize()
            {
                found.push((real, metadata.len()));
            }
        }
    }
    found.sort_by_key(|(path, len)| (std::cmp::Reverse(*len), path.clone()));
    found.dedup();
    found
}

/// Bytes of a file in the page cache, where the system tells this user.
pub(crate) fn cached(path: &Path) -> Option<u64> {
    if !is_told(path) {
        return None;
    }
    model::files::cached_bytes(path).ok()?
}

#[cfg(unix)]
fn is_told(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::geteuid();
    let owner = fs::metadata(path).is_ok_and(|metadata| metadata.uid() == user.as_raw());
    owner || user.is_root() || fs::OpenOptions::new().write(true).open(path).is_ok()
}

#[cfg(not(unix))]
fn is_told(_: &Path) -> bool {
    false
}

/// Drops what the page cache holds of a file, as far as nobody else uses it: pages that a program has mapped stay.
///
/// # Errors
/// If the file cannot be opened, or the system has no such call.
#[cfg(target_os = "linux")]
pub(crate) fn evict(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    // Pages that are not yet written stay, so they are written first.
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn evict(_: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
