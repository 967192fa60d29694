//! What the operating system is asked for. Elsewhere than on Linux it is not asked, and facts are `None`.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::super::facts::Space;

/// A small text file of the system's, trimmed; `None` where there is none.
pub(super) fn text(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// Names of a folder's entries, sorted; none where it cannot be listed.
pub(super) fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The mount that a path lies in, from `/proc/self/mountinfo`: mount point, type, source.
pub(super) fn mount_of(path: &Path, mountinfo: &str) -> Option<[String; 3]> {
    // The later of two at one place hides the other.
    mountinfo.lines().filter_map(mount).filter(|[point, ..]| path.starts_with(point)).fold(
        None,
        |best: Option<[String; 3]>, mount| match best {
            Some(best) if best[0].len() > mount[0].len() => Some(best),
            _ => Some(mount),
        },
    )
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: the fifth field, and the two after the dash.
pub(super) fn mount(line: &str) -> Option<[String; 3]> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let point = before.split(' ').nth(4)?;
    Some([point, after.next()?, after.next()?].map(unescape))
}

/// Blanks and backslashes stand there as three octal digits.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::OFlags;
    use rustix::process::{Resource, getrlimit};

    use super::{File, Path, Space, fs, io};

    pub(in super::super) fn space(path: &Path) -> Option<Space> {
        let found = rustix::fs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(Space { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
    }

    pub(in super::super) fn memlock() -> Option<u64> {
        getrlimit(Resource::Memlock).current
    }

    pub(in super::super) fn open_files() -> Option<u64> {
        getrlimit(Resource::Nofile).current
    }

    pub(in super::super) fn open_direct(path: &Path) -> io::Result<File> {
        let flags = (OFlags::DIRECT | OFlags::NONBLOCK).bits().cast_signed();
        fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    use super::{File, Path, Space, io};

    pub(in super::super) fn space(_: &Path) -> Option<Space> {
        None
    }

    pub(in super::super) fn memlock() -> Option<u64> {
        None
    }

    pub(in super::super) fn open_files() -> Option<u64> {
        None
    }

    pub(in super::super) fn open_direct(_: &Path) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(super) use linux::{memlock, open_direct, open_files, space};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_a_path() {
        let mounts = "1 0 0:1 / / rw - overlay overlay rw\n\
                      2 1 8:1 / /data rw,noatime shared:2 - ext4 /dev/sda1 rw\n\
                      3 1 0:9 / /data/my\\040models rw - nfs4 host:/x rw\n\
                      4 1 0:9 / /database rw - xfs /dev/sdb rw\nnonsense\n";
        let check = |path: &str, expected: [&str; 3]| {
            assert_eq!(mount_of(Path::new(path), mounts).unwrap(), expected, "{path}");
        };
        check("/data/x", ["/data", "ext4", "/dev/sda1"]);
        check("/data/my models/a", ["/data/my models", "nfs4", "host:/x"]);
        check("/dat", ["/", "overlay", "overlay"]);
    }
}
