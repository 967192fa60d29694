//! How many jobs can begin: of a platform's, or of this server's own.

use engine::Stats;

use crate::App;

/// More jobs than run that begin at once: nobody knows how large they are.
const FIRST: usize = 8;

impl App {
    /// From the jobs in progress: how many more can begin now.
    ///
    /// A job is expected to take as many blocks of keys and values as one that runs takes on average; while requests wait for
    /// room, none begin, so that another server may have them.
    pub fn job_room(&self, in_progress: usize) -> usize {
        self.served().map_or(0, |served| room(&served.engine.stats(), in_progress))
    }
}

fn room(stats: &Stats, jobs: usize) -> usize {
    if jobs == 0 {
        return FIRST;
    }
    if stats.waiting > 0 {
        return 0;
    }
    let each = stats.used_blocks.div_ceil(stats.running.max(1)).max(1);
    let free = stats.total_blocks.saturating_sub(stats.used_blocks) / each;
    // Jobs that were taken, but have not reached the engine yet, take room, too.
    free.saturating_sub(jobs.saturating_sub(stats.running)).min(jobs + FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_jobs_are_taken_as_there_is_room_for() {
        let stats = |running, waiting, used_blocks| Stats {
            running,
            waiting,
            used_blocks,
            total_blocks: 1000,
            ..Stats::default()
        };
        let check =
            |stats: Stats, jobs, expected| assert_eq!(room(&stats, jobs), expected, "{stats:?}");
        check(stats(0, 0, 0), 0, 8);
        // 10 blocks each: 96 more would fit, but they come step by step.
        check(stats(4, 0, 40), 4, 12);
        check(stats(4, 0, 800), 4, 1);
        check(stats(4, 0, 900), 4, 0);
        check(stats(4, 1, 40), 5, 0);
        check(stats(4, 0, 600), 6, 0);
        check(stats(0, 0, 0), 3, 11);
    }
}
