//! Where models lie: the file system, what of them is in the page cache, and how fast the rest would come.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::facts::{FileSystem, Reading, Storage};
use super::os;
use crate::output::CliError;
use crate::storage::{cached, files};

/// Bounds of the read, whichever is reached first.
const BYTES_MAX: u64 = 256 << 20;
const TIME_MAX: Duration = Duration::from_secs(1);
/// Readers side by side, as while a model is loaded, and what each asks for at once.
const THREADS: usize = 4;
const PIECE: usize = 1 << 20;
/// Reads past the cache go to memory, and from places in the file, at multiples of this.
const ALIGNMENT: usize = 4096;

pub(super) fn probe(folder: &Path) -> Result<Storage> {
    let real = folder
        .canonicalize()
        .map_err(|error| CliError::bad_input("model", format!("{}: {error}", folder.display())))?;
    let mounts = os::text("/proc/self/mountinfo").unwrap_or_default();
    let files = files(&real);
    // The files of a cache are links to where they lie.
    let lies = files.first().map_or(&real, |(path, _)| path);
    let file_system = os::mount_of(lies, &mounts).map(|[mount_point, kind, source]| FileSystem {
        kind,
        source,
        mount_point,
    });
    let cached: Option<Vec<u64>> = files.iter().map(|(path, _)| cached(path)).collect();
    Ok(Storage {
        directory: folder.display().to_string(),
        file_system,
        space: os::space(&real),
        files: files.len(),
        bytes: files.iter().map(|(_, len)| len).sum(),
        cached_bytes: cached.map(|cached| cached.iter().sum()),
        reading: files.first().map(|(path, len)| read(path, *len)),
    })
}

/// Reads a part of a file past the page cache: nothing is added to the cache, and nothing dropped from it.
fn read(path: &Path, len: u64) -> Reading {
    let start = Instant::now();
    let deadline = start + TIME_MAX;
    let share = len / THREADS as u64;
    let results: Vec<(u64, Option<String>)> = thread::scope(|scope| {
        let readers: Vec<_> = (0..THREADS as u64)
            .map(|at| scope.spawn(move || read_part(path, at * share, share, deadline)))
            .collect();
        let gone = || (0, Some("a reader ended early".to_owned()));
        readers.into_iter().map(|reader| reader.join().unwrap_or_else(|_| gone())).collect()
    });
    Reading {
        bytes: results.iter().map(|(bytes, _)| bytes).sum(),
        seconds: start.elapsed().as_secs_f64(),
        threads: THREADS,
        problem: results.into_iter().find_map(|(_, problem)| problem),
    }
}

/// Reads a part of a file, and says how much of it came until the deadline.
fn read_part(path: &Path, start: u64, len: u64, deadline: Instant) -> (u64, Option<String>) {
    let file = match os::open_direct(path) {
        Ok(file) => file,
        Err(error) => {
            return (0, Some(format!("the file system allows no direct reads ({error})")));
        }
    };
    let mut buffer = vec![0; PIECE + ALIGNMENT];
    let skip = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let buffer = &mut buffer[skip..skip + PIECE];
    let start = start.next_multiple_of(ALIGNMENT as u64);
    let most = len.min(BYTES_MAX / THREADS as u64);
    let mut done = 0;
    while done + PIECE as u64 <= most && Instant::now() < deadline {
        match read_at(&file, buffer, start + done) {
            Ok(0) => break,
            Ok(read) => done += read as u64,
            Err(error) => return (done, Some(error.to_string())),
        }
    }
    (done, None)
}

#[cfg(unix)]
fn read_at(file: &fs::File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(not(unix))]
fn read_at(_: &fs::File, _: &mut [u8], _: u64) -> std::io::Result<usize> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_folder_and_of_a_cache() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for (path, len) in
            [("blobs/ab", 10), ("org/name/a.safetensors", 5), ("org/name/config.json", 99)]
        {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; len]).unwrap();
        }
        fs::create_dir(root.join("snapshots")).unwrap();
        std::os::unix::fs::symlink("../blobs/ab", root.join("snapshots/model.safetensors"))
            .unwrap();
        std::os::unix::fs::symlink("..", root.join("org/loop")).unwrap();
        assert_eq!(
            files(&root),
            [(root.join("blobs/ab"), 10), (root.join("org/name/a.safetensors"), 5)]
        );
        let storage = probe(&root).unwrap();
        assert_eq!((storage.files, storage.bytes, storage.cached_bytes), (2, 15, Some(15)));
        let [point, ..] = os::mount_of(&root, &os::text("/proc/self/mountinfo").unwrap()).unwrap();
        assert_eq!(storage.file_system.unwrap().mount_point, point);
        assert!(probe(&root.join("none")).is_err());
    }

    #[test]
    fn a_read_is_bounded_and_leaves_the_cache_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.safetensors");
        fs::write(&path, vec![1; 9 << 20]).unwrap();
        let reading = read(&path, 9 << 20);
        // Some file systems allow none.
        let most = if reading.problem.is_some() { 0 } else { 8 << 20 };
        assert!(reading.bytes <= most && (reading.bytes > 0) == (most > 0), "{reading:?}");
        assert!(reading.seconds < 5.0, "{reading:?}");
    }
}
