//! Which jobs are in progress, and what became of the last ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

use crate::outcome::Outcome;

/// Outcomes that are kept, and their bytes together, about.
const KEPT_MAX: usize = 256;
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Shared by all that a worker does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Desk {
    jobs: Arc<Mutex<Jobs>>,
}

#[derive(Debug, Default)]
struct Jobs {
    /// With what stops them.
    running: BTreeMap<String, Option<AbortHandle>>,
    /// The newest last.
    kept: VecDeque<(String, Outcome, usize)>,
    kept_bytes: usize,
}

/// What to do with a job that was taken.
#[derive(Debug)]
pub(crate) enum Seen {
    /// It is new, and in progress now.
    Never,
    /// It is in progress already, and answered by that.
    Running,
    /// It has ended: this was its outcome, which the platform seems to have lost.
    Before(Outcome),
}

impl Desk {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a job that was taken: the platform may hand one out twice, but it is computed once.
    pub(crate) fn enter(&self, id: &str) -> Seen {
        let mut jobs = self.jobs();
        if jobs.running.contains_key(id) {
            return Seen::Running;
        }
        if let Some((_, outcome, _)) = jobs.kept.iter().find(|(kept, ..)| kept == id) {
            return Seen::Before(outcome.clone());
        }
        jobs.running.insert(id.to_owned(), None);
        Seen::Never
    }

    /// Says how a job is stopped.
    pub(crate) fn can_stop(&self, id: &str, handle: AbortHandle) {
        if let Some(place) = self.jobs().running.get_mut(id) {
            *place = Some(handle);
        }
    }

    /// Stops a job if it is in progress. Says whether it was.
    pub(crate) fn stop(&self, id: &str) -> bool {
        match self.jobs().running.remove(id) {
            Some(handle) => {
                if let Some(handle) = handle {
                    handle.abort();
                }
                true
            }
            None => false,
        }
    }

    /// The job has come to something: `false` if it was stopped, and nobody wants to know.
    pub(crate) fn keep(&self, id: &str, outcome: &Outcome) -> bool {
        let mut jobs = self.jobs();
        if !jobs.running.contains_key(id) {
            return false;
        }
        let bytes = match &outcome.result {
            Ok(value) => value.to_string().len(),
            Err(refusal) => refusal.error.to_string().len(),
        };
        jobs.kept.push_back((id.to_owned(), outcome.clone(), bytes));
        jobs.kept_bytes += bytes;
        while jobs.kept.len() > KEPT_MAX || jobs.kept_bytes > KEPT_BYTES_MAX {
            let Some((_, _, bytes)) = jobs.kept.pop_front() else { break };
            jobs.kept_bytes -= bytes;
        }
        true
    }

    /// The job's end has been told.
    pub(crate) fn leave(&self, id: &str) {
        self.jobs().running.remove(id);
    }

    /// Names of the jobs in progress.
    pub(crate) fn running(&self) -> Vec<String> {
        self.jobs().running.keys().cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.jobs().running.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(bytes: usize) -> Outcome {
        Outcome { result: Ok(json!("x".repeat(bytes))), is_stream: false }
    }

    #[test]
    fn a_job_is_computed_once() {
        let desk = Desk::default();
        assert!(matches!(desk.enter("a"), Seen::Never));
        assert!(matches!(desk.enter("a"), Seen::Running));
        assert!(desk.keep("a", &outcome(3)));
        assert!(matches!(desk.enter("a"), Seen::Running), "it is not told yet");
        desk.leave("a");
        assert!(
            matches!(desk.enter("a"), Seen::Before(outcome) if outcome.result == Ok(json!("xxx")))
        );
        assert_eq!(desk.count(), 0);
    }

    #[test]
    fn what_was_stopped_comes_to_nothing() {
        let desk = Desk::default();
        desk.enter("a");
        assert!(desk.stop("a"));
        assert!(!desk.stop("a"));
        assert!(!desk.keep("a", &outcome(1)));
        assert!(matches!(desk.enter("a"), Seen::Never), "the platform may want it after all");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let desk = Desk::default();
        for at in 0..KEPT_MAX + 10 {
            let id = at.to_string();
            desk.enter(&id);
            desk.keep(&id, &outcome(1));
            desk.leave(&id);
        }
        assert!(matches!(desk.enter("9"), Seen::Never));
        assert!(matches!(desk.enter("10"), Seen::Before(_)));
        for at in 0..4 {
            let id = format!("large {at}");
            desk.enter(&id);
            desk.keep(&id, &outcome(KEPT_BYTES_MAX / 3));
        }
        assert!(desk.jobs().kept_bytes <= KEPT_BYTES_MAX);
    }
}
