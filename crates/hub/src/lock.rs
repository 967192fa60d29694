//! One process at a time: `flock` on a file, or, where the volume has none, a file with an owner.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::HubError;
use crate::files;
use crate::owner::Owner;

/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) enum Lock {
    /// The system lets go of it when the process ends, however it does.
    Flock { _file: File },
    /// On volumes without.
    Owned(Owner),
}

/// What became of an attempt with `flock`.
enum Attempt {
    Held(File),
    Taken,
    /// The volume has no such locks; why.
    Unsupported(io::Error),
}

impl Lock {
    /// Waits for the lock; `waiting` is called while another has it, and may end it with an error.
    pub(crate) fn take(
        path: &Path,
        waiting: &mut dyn FnMut() -> Result<(), HubError>,
        unsupported: &dyn Fn(&io::Error),
    ) -> Result<Self, HubError> {
        Self::take_with(path, File::try_lock, waiting, unsupported)
    }

    fn take_with(
        path: &Path,
        try_lock: fn(&File) -> Result<(), TryLockError>,
        waiting: &mut dyn FnMut() -> Result<(), HubError>,
        unsupported: &dyn Fn(&io::Error),
    ) -> Result<Self, HubError> {
        if let Some(parent) = path.parent() {
            files::create_dirs(parent)?;
        }
        loop {
            match attempt(path, try_lock).map_err(HubError::file("lock", path))? {
                Attempt::Held(file) => return Ok(Lock::Flock { _file: file }),
                Attempt::Taken => {
                    waiting()?;
                    thread::sleep(POLL);
                }
                Attempt::Unsupported(error) => {
                    unsupported(&error);
                    let path = files::with(path, ".owner");
                    return Owner::take(&path, waiting).map(Lock::Owned);
                }
            }
        }
    }

    /// An error if another process has taken the lock away, which is possible on volumes without `flock` alone.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        match self {
            Lock::Flock { .. } => Ok(()),
            Lock::Owned(owner) => owner.check(),
        }
    }
}

fn attempt(path: &Path, try_lock: fn(&File) -> Result<(), TryLockError>) -> io::Result<Attempt> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match try_lock(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Attempt::Taken),
        Err(TryLockError::Error(error)) => {
            let is_missing = [Errno::NOLCK, Errno::NOSYS, Errno::OPNOTSUPP]
                .iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
            return if is_missing { Ok(Attempt::Unsupported(error)) } else { Err(error) };
        }
    }
    // Whoever had it may have removed the file: then this is a lock on a name that is gone.
    let is_same = path.metadata().is_ok_and(|there| {
        file.metadata().is_ok_and(|here| (here.dev(), here.ino()) == (there.dev(), there.ino()))
    });
    Ok(if is_same { Attempt::Held(file) } else { Attempt::Taken })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never(_: &io::Error) {
        panic!("this volume has locks");
    }

    #[test]
    fn the_second_waits_for_the_first() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/lock");
        let first = Lock::take(&path, &mut || panic!("nobody has it"), &never).unwrap();
        let mut first = Some(first);
        let mut waits = 0;
        let second = Lock::take(
            &path,
            &mut || {
                waits += 1;
                first.take();
                Ok(())
            },
            &never,
        );
        assert!(second.is_ok());
        assert_eq!(waits, 1);
    }

    #[test]
    fn a_wait_can_be_ended() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        let _held = Lock::take(&path, &mut || Ok(()), &never).unwrap();
        let stop = &mut || Err(HubError::System("stop".to_owned()));
        assert!(Lock::take(&path, stop, &never).is_err());
    }

    #[test]
    fn a_volume_without_locks_gets_an_owner() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        let none = |_: &File| Err(TryLockError::Error(Errno::NOLCK.into()));
        let lock = Lock::take_with(&path, none, &mut || Ok(()), &|_| ()).unwrap();
        assert!(root.path().join("lock.owner").exists());
        lock.check().unwrap();
        let stop = &mut || Err(HubError::System("stop".to_owned()));
        assert!(Lock::take_with(&path, none, stop, &|_| ()).is_err());
        drop(lock);
        assert!(!root.path().join("lock.owner").exists());
    }
}
