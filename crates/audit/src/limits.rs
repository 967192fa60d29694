//! How much an audit may read, keep and wait for, whatever the files claim.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::ProbeError;

/// Bounds of one audit. Those of single structures stand beside the code that reads them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes read or unpacked, all files together.
    pub bytes_max: u64,
    /// Files of a directory, or members of an archive.
    pub entries_max: usize,
    /// Time for everything.
    pub time_max: Duration,
}

impl Default for Limits {
    /// Enough for an image with two deep-learning frameworks.
    fn default() -> Self {
        Limits { bytes_max: 256 << 30, entries_max: 500_000, time_max: Duration::from_secs(600) }
    }
}

/// What is left of the [`Limits`]; shared by all threads of an audit.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_left: AtomicU64,
    deadline: Instant,
    pub(crate) limits: Limits,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Budget {
        let deadline = Instant::now() + limits.time_max;
        Budget { bytes_left: AtomicU64::new(limits.bytes_max), deadline, limits }
    }

    /// Takes `bytes` off.
    ///
    /// # Errors
    ///
    /// When they, or the time, are used up.
    pub(crate) fn spend(&self, bytes: u64) -> Result<(), ProbeError> {
        let take = |left: u64| left.checked_sub(bytes);
        if self.bytes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(ProbeError::TooMuch { what: "bytes to read", max: self.limits.bytes_max });
        }
        if Instant::now() > self.deadline {
            let max = self.limits.time_max.as_secs();
            return Err(ProbeError::TooMuch { what: "seconds", max });
        }
        Ok(())
    }
}
