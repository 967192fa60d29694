//! Probes in processes of their own, each with a deadline.
//!
//! A read from a network volume that is gone, or a call into a driver that hangs, cannot be interrupted: not by a thread's owner,
//! and the process that made it does not end before it returns. So another process makes it, and is left behind if it must be.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::facts::Probed;

/// A probe prints less.
const OUTPUT_MAX: u64 = 16 << 20;
/// How long a process that has said everything may take to end.
const LEAVING: Duration = Duration::from_secs(2);

/// A probe that runs.
pub(super) struct Running {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

/// Starts a program that prints facts as JSON, or a line on stderr that says why not.
pub(super) fn start(command: &mut Command) -> std::io::Result<Running> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    Ok(Running { child, stdout, stderr })
}

/// Reads to the end, in a thread that nobody waits for.
fn collect(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            // What came before an error is judged as it is.
            let _ = stream.take(OUTPUT_MAX).read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

impl Running {
    /// Its facts, or what became of it.
    pub(super) fn wait<T: DeserializeOwned>(
        mut self,
        deadline: Instant,
        seconds: u64,
    ) -> Probed<T> {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(stdout) = self.stdout.recv_timeout(left) else {
            // It may be past killing. It is not waited for.
            let _ = self.child.kill();
            return Probed::TimedOut(seconds);
        };
        let status = self.leave();
        if let Ok(facts) = serde_json::from_slice(&stdout) {
            return Probed::Found(facts);
        }
        let stderr = self.stderr.recv_timeout(LEAVING).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&stderr);
        let said = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let said = said.map(|line| line.trim_start_matches("error: ").to_owned());
        match (status.map(|status| (status, status.code())), said) {
            (Some((_, Some(1..=4))), Some(said)) => Probed::Failed(said),
            (Some((status, _)), said) => {
                let said = said.map_or(String::new(), |said| format!(": {said}"));
                Probed::Died(format!("{status}{said}"))
            }
            (None, said) => Probed::Died(said.unwrap_or_else(|| "it did not end".to_owned())),
        }
    }

    /// How it ended; `None` if it did not within the time for that.
    fn leave(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + LEAVING;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        None
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    /// What becomes of a shell's line within a second.
    #[track_caller]
    fn check(line: &str, expected: &Probed<Vec<u32>>) {
        let start = Instant::now();
        let running = super::start(Command::new("sh").args(["-c", line])).unwrap();
        let found: Probed<Vec<u32>> = running.wait(start + Duration::from_secs(1), 1);
        assert_eq!(&found, expected, "{line}");
        assert!(start.elapsed() < Duration::from_secs(9), "{line}: {:?}", start.elapsed());
    }

    #[test]
    fn facts_refusals_and_faults() {
        check("echo '[1, 2]'", &Probed::Found(vec![1, 2]));
        check(
            "echo 'note: x' >&2; echo 'error: no such thing' >&2; exit 3",
            &Probed::Failed("no such thing".into()),
        );
        check("kill -KILL $$", &Probed::Died("signal: 9 (SIGKILL)".into()));
        check("echo half; exit 0", &Probed::Died("exit status: 0".into()));
    }

    #[test]
    fn what_hangs_is_left_behind() {
        check("exec sleep 20", &Probed::TimedOut(1));
        // It has said everything, and does not end, as when a driver hangs while its library is unloaded.
        check("echo '[3]'; exec >&- 2>&-; sleep 20", &Probed::Found(vec![3]));
    }
}
