//! Thousands of schedules.

use proptest::test_runner::Config;

use super::Simulation;

/// Schedules that are run, but where `PROPTEST_CASES` asks for more.
const SCHEDULES: u32 = 1000;

#[test]
fn random_schedules_change_no_answer_and_leak_nothing() {
    let seeds = match std::env::var("HALFBYTE_SCHEDULE") {
        Ok(seed) => seed.parse().unwrap()..=seed.parse().unwrap(),
        Err(_) => 1..=u64::from(Config::default().cases.max(SCHEDULES)),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| Simulation::new(seed).run());
        assert!(run.is_ok(), "schedule {seed} failed; HALFBYTE_SCHEDULE={seed} repeats it");
    }
}

#[test]
fn the_same_schedule_does_the_same() {
    let run = |seed| {
        let mut simulation = Simulation::new(seed);
        simulation.run();
        let stats = format!("{:?}", simulation.engine.stats());
        let seen: Vec<_> = simulation.requests.values().map(|w| w.seen.clone()).collect();
        (simulation.steps, stats, seen)
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}
