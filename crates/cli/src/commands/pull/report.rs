//! What is said of a pull: on the way, and in the end.

use std::io::{self, IsTerminal};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use hub::{Event, HubError, Inventory, Plan, Progress, Report};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::memory::gb;
use crate::output::{self, CliError};
use crate::{build, progress};

/// Between two steps of the bar, and two lines where there is none.
const TICK: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(10);

/// Shows how far it is: a bar on a terminal, a line now and then elsewhere.
pub(super) struct Watch {
    total: u64,
    /// On a terminal, once there is something to show.
    bar: Mutex<Option<ProgressBar>>,
    is_terminal: bool,
}

impl Watch {
    pub(super) fn new(plan: &Plan) -> Self {
        let total = plan.entries.iter().map(|entry| entry.size).sum();
        Watch { total, bar: Mutex::new(None), is_terminal: io::stderr().is_terminal() }
    }

    /// Shows the progress of some work.
    pub(super) fn over<T: Send>(
        &self,
        progress: &Progress,
        work: impl FnOnce() -> Result<T, HubError> + Send,
    ) -> Result<T, HubError> {
        let (done, over) = mpsc::channel();
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                let result = work();
                // Whoever waits sees it, too, when this end is dropped.
                drop(done);
                result
            });
            self.show(progress, &over);
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn show(&self, progress: &Progress, over: &mpsc::Receiver<()>) {
        let (start, mut said) = (Instant::now(), Instant::now());
        while let Err(RecvTimeoutError::Timeout) = over.recv_timeout(TICK) {
            let done = progress.done.load(Ordering::Relaxed);
            let fetched = progress.fetched.load(Ordering::Relaxed);
            if fetched == 0 {
                continue;
            }
            if self.is_terminal {
                // What an earlier run has fetched is no work of this one: the rate counts from there.
                let mut bar = self.bar();
                let bar = bar.get_or_insert_with(|| {
                    let bar = progress::bytes("pulling", self.total).with_position(done);
                    bar.reset_eta();
                    bar
                });
                bar.set_position(done);
            } else if said.elapsed() >= LINE {
                said = Instant::now();
                let rate = fetched as f64 / start.elapsed().as_secs_f64();
                let left = self.total.saturating_sub(done) as f64 / rate.max(1.0);
                let (done, total, rate) = (gb(done), gb(self.total), gb(rate as u64));
                output::note(&format!("{done} of {total}, {rate}/s, {left:.0} s left"));
            }
        }
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what happened.
    pub(super) fn tell(&self, event: Event) {
        let line = match event {
            Event::Waiting { what } => {
                format!("{what}: another process fetches it; waiting for it")
            }
            Event::NoFlock { reason } => format!(
                "this volume has no locks ({reason}); a file with an owner takes their place, and counts as abandoned after a minute of silence"
            ),
            Event::Checking { file, bytes } => format!("checking {file}, {}", gb(bytes)),
            Event::Resumed { file, bytes, is_adopted: false } => {
                format!("{file}: {} are here already", gb(bytes))
            }
            Event::Resumed { file, bytes, is_adopted: true } => {
                format!("{file}: {} are here already, from another tool", gb(bytes))
            }
            Event::NoRanges { file } => {
                format!("{file}: the server sends whole files only, so one connection reads it")
            }
            Event::Retrying { file, reason, wait } => {
                format!("{file}: {reason}; again in {:.1} s", wait.as_secs_f64())
            }
            Event::Discarded { file, found, expected } => {
                format!(
                    "{file}: came as {found} where the hub says {expected}; thrown away, and fetched again"
                )
            }
            Event::Done { file, bytes } if !self.is_terminal => format!("{file}, {}", gb(bytes)),
            _ => return,
        };
        match &*self.bar() {
            Some(bar) => bar.suspend(|| output::note(&line)),
            None => output::note(&line),
        }
    }
}

/// What is not fetched, in a line.
pub(super) fn left_out(plan: &Plan) -> Option<String> {
    const SHOWN: usize = 6;
    let files: usize = plan.left_out.iter().map(|left| left.files).sum();
    let shown: Vec<String> = plan
        .left_out
        .iter()
        .take(SHOWN)
        .map(|left| format!("{} {} ({})", left.files, left.ending, gb(left.bytes)))
        .collect();
    let more = if plan.left_out.len() > SHOWN { ", …" } else { "" };
    let plural = if files == 1 { "file" } else { "files" };
    (files > 0).then(|| format!("left out: {files} {plural}: {}{more}", shown.join(", ")))
}

fn files(plan: &Plan, is_here: Option<&[bool]>) -> Value {
    let entry = |(at, entry): (usize, &hub::Entry)| {
        let mut file = json!({
            "path": entry.path, "bytes": entry.size, entry.digest.kind().replace(' ', "_"): entry.digest.id(),
        });
        if let Some(is_here) = is_here {
            file["here"] = is_here[at].into();
        }
        file
    };
    plan.entries.iter().enumerate().map(entry).collect()
}

/// What would be done.
pub(super) fn dry_run(plan: &Plan, inventory: &Inventory, as_json: bool) -> Result<()> {
    let Inventory { is_here, bytes, missing_bytes, needed_bytes, free_bytes, path } = inventory;
    if as_json {
        output::print_json(&json!({
            "revision": plan.commit,
            "path": path.display().to_string(),
            "files": files(plan, Some(is_here)),
            "bytes": bytes,
            "missing_bytes": missing_bytes,
            "needed_bytes": needed_bytes,
            "free_bytes": free_bytes,
            "build": build::name(),
        }))?;
    } else {
        let lines: String = plan
            .entries
            .iter()
            .zip(is_here)
            .map(|(entry, here)| {
                let here = if *here { "  here" } else { "" };
                format!("{:>10}  {}{here}\n", gb(entry.size), entry.path)
            })
            .collect();
        let sum = format!(
            "{} of {} would be fetched to {}; {} are needed there, and {} are free\n",
            gb(*missing_bytes),
            gb(*bytes),
            path.display(),
            gb(*needed_bytes),
            gb(*free_bytes)
        );
        output::print(&(lines + &sum))?;
    }
    if needed_bytes > free_bytes {
        let message = format!("it lacks {}", gb(needed_bytes - free_bytes));
        return Err(CliError::Failed(message).into());
    }
    Ok(())
}

/// What was done.
pub(super) fn done(plan: &Plan, report: &Report, seconds: f64, as_json: bool) -> Result<()> {
    let bytes: u64 = plan.entries.iter().map(|entry| entry.size).sum();
    let Report { path, fetched_files, fetched_bytes } = report;
    let (path, count) = (path.display().to_string(), plan.entries.len());
    if as_json {
        return Ok(output::print_json(&json!({
            "path": path,
            "revision": plan.commit,
            "files": files(plan, None),
            "bytes": bytes,
            "fetched_files": fetched_files,
            "fetched_bytes": fetched_bytes,
            "seconds": seconds,
            "build": build::name(),
        }))?);
    }
    let what = match (fetched_files, fetched_bytes) {
        (0, _) => "all of it was here".to_owned(),
        (_, fetched) => {
            let rate = *fetched as f64 / seconds.max(1e-3);
            format!("{} fetched in {seconds:.1} s, {}/s", gb(*fetched), gb(rate as u64))
        }
    };
    Ok(output::print(&format!("{path}: {count} files, {}; {what}\n", gb(bytes)))?)
}
