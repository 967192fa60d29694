//! A lock for volumes without `flock`: a file that says whose it is, and that its owner touches as long as it lives.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::HubError;
use crate::files;

/// How often an owner writes into its file, and after how long without that it counts as dead. The waiting process measures with
/// its own clock: clocks of two machines are not compared.
const BEAT: Duration = Duration::from_secs(5);
const DEAD: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(500);

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Owner {
    path: PathBuf,
    name: String,
    is_lost: Arc<AtomicBool>,
    stop: Option<Sender<()>>,
    heart: Option<JoinHandle<()>>,
}

impl Owner {
    /// Waits for the file; one whose owner is dead is taken over.
    pub(crate) fn take(
        path: &Path,
        waiting: &mut dyn FnMut() -> Result<(), HubError>,
    ) -> Result<Self, HubError> {
        Self::take_with(path, BEAT, DEAD, POLL, waiting)
    }

    fn take_with(
        path: &Path,
        beat: Duration,
        dead: Duration,
        poll: Duration,
        waiting: &mut dyn FnMut() -> Result<(), HubError>,
    ) -> Result<Self, HubError> {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = format!("{} {} {}", host.trim(), process::id(), files::unique());
        let mut seen: Option<(String, Instant)> = None;
        loop {
            match File::create_new(path)
                .and_then(|mut file| file.write_all(line(&name, 0).as_bytes()))
            {
                Ok(()) => return Self::hold(path, name, beat),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(HubError::file("write", path)(error)),
            }
            let content = read(path).unwrap_or_default();
            match &seen {
                Some((old, since)) if *old == content => {
                    if since.elapsed() >= dead {
                        bury(path, &content);
                        seen = None;
                        continue;
                    }
                }
                _ => seen = Some((content, Instant::now())),
            }
            waiting()?;
            thread::sleep(poll);
        }
    }

    fn hold(path: &Path, name: String, beat: Duration) -> Result<Self, HubError> {
        let is_lost = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = mpsc::channel::<()>();
        let (lost, at, owner) = (Arc::clone(&is_lost), path.to_owned(), name.clone());
        let heart = move || {
            for count in 1_u64.. {
                match stopped.recv_timeout(beat) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
                // A volume that is away for a moment is no loss; another's name in the file is.
                match read(&at) {
                    Some(content) if !content.starts_with(&format!("{owner}\n")) => {
                        lost.store(true, Ordering::Relaxed);
                        return;
                    }
                    _ => _ = fs::write(&at, line(&owner, count)),
                }
            }
        };
        let heart = thread::Builder::new().name("lock".to_owned()).spawn(heart);
        let heart =
            heart.map_err(|error| HubError::System(format!("cannot start a thread: {error}")))?;
        Ok(Owner { path: path.to_owned(), name, is_lost, stop: Some(stop), heart: Some(heart) })
    }

    /// An error if another took the file away, for this process was quiet for too long.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        match self.is_lost.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(HubError::LockLost(format!(
                "{}: another process has taken the lock, for this one was held up; run the same command again",
                self.path.display()
            ))),
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(heart) = self.heart.take() {
            let _ = heart.join();
        }
        if read(&self.path).is_some_and(|content| content.starts_with(&format!("{}\n", self.name)))
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whose it is, and how often that was said.
fn line(name: &str, count: u64) -> String {
    format!("{name}\n{count}\n")
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text)).ok()?;
    Some(text)
}

/// Takes a dead owner's file away. Another may have done so just before, and the file may be a living one's by now: then it
/// goes back, unless its place is taken.
fn bury(path: &Path, content: &str) {
    let aside = files::with(path, &format!(".{}.dead", files::unique()));
    if read(path).as_deref() != Some(content) || fs::rename(path, &aside).is_err() {
        return;
    }
    if read(&aside).as_deref() != Some(content) {
        let _ = fs::hard_link(&aside, path);
    }
    let _ = fs::remove_file(&aside);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    fn take(path: &Path, waits: &mut u32, dead: Duration) -> Result<Owner, HubError> {
        Owner::take_with(path, SHORT, dead, SHORT, &mut || {
            *waits += 1;
            if *waits > 40 { Err(HubError::System("long enough".to_owned())) } else { Ok(()) }
        })
    }

    #[test]
    fn the_living_are_waited_for_and_the_dead_are_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("owner");
        let first = take(&path, &mut 0, 10 * SHORT).unwrap();
        // It beats twice as often as it has to: 40 looks do not find it dead.
        assert!(take(&path, &mut 0, 20 * SHORT).is_err());
        first.check().unwrap();
        drop(first);
        fs::write(&path, "elsewhere 1 x\n3\n").unwrap();
        let mut waits = 0;
        let second = take(&path, &mut waits, 5 * SHORT).unwrap();
        assert!(waits >= 4, "{waits}");
        // Who is replaced learns of it, and leaves the other's file alone.
        fs::write(&path, "elsewhere 2 y\n1\n").unwrap();
        let start = Instant::now();
        while second.check().is_ok() {
            assert!(start.elapsed() < Duration::from_secs(20));
            thread::sleep(SHORT);
        }
        drop(second);
        assert!(path.exists());
    }
}
