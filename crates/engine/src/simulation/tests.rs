//! Thousands of schedules.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backend::StepLimits;
use proptest::test_runner::Config;

use super::Simulation;
use super::mock::{Device, Mock, VOCAB_SIZE, mix, tokenizer};
use crate::{
    Completion, Engine, EngineConfig, EngineError, Event, FinishReason, Progress, Request,
    SamplingParams,
};

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

const LIMITS: StepLimits = StepLimits { tokens: 64, rows: 8, sequences: 8 };

/// An engine with 40 blocks, and the device under it.
fn engine(max_waiting: usize) -> (Engine, Arc<Mutex<Device>>) {
    let device = Arc::new(Mutex::new(Device::default()));
    let mock = Mock::new(VOCAB_SIZE, 40, LIMITS, Arc::clone(&device));
    let config = EngineConfig {
        context: 400,
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        max_waiting,
        prefix_cache: true,
    };
    (Engine::new(Box::new(mock), tokenizer(), config), device)
}

/// 200 tokens of a prompt, and 20 of an answer.
fn request(seed: u64) -> Request {
    Request {
        prompt: (0..200).map(|i| (mix(i) % VOCAB_SIZE as u64) as u32).collect(),
        max_tokens: 20,
        sampling: SamplingParams { temperature: 1.0, seed, ..SamplingParams::default() },
        ..Request::default()
    }
}

/// Runs until all is done; returns how requests ended, in their order.
fn finish(engine: &mut Engine) -> Vec<Result<Completion, EngineError>> {
    let mut ends = BTreeMap::new();
    while engine.has_work() {
        let mut end = |id, event| match event {
            Event::Finished(completion) => drop(ends.insert(id, Ok(completion))),
            Event::Failed(error) => drop(ends.insert(id, Err(error))),
            _ => {}
        };
        engine.step(Duration::from_millis(5), &mut end).unwrap();
    }
    ends.into_values().collect()
}

#[test]
fn a_prompt_that_several_share_is_computed_once() {
    let (mut engine, device) = engine(100);
    for seed in 0..6 {
        engine.submit(request(seed)).unwrap();
    }
    let ends = finish(&mut engine);
    let cached = ends.iter().map(|end| end.as_ref().unwrap().cached_tokens);
    assert_eq!(cached.collect::<Vec<_>>(), [0, 192, 192, 192, 192, 192]);
    // The last eight tokens of each prompt, and all of the answers but their last.
    assert_eq!(device.lock().unwrap().tokens, 192 + 6 * (8 + 19));
}

#[test]
fn a_chat_goes_on_where_it_was() {
    let (mut engine, _) = engine(100);
    engine.submit(request(1)).unwrap();
    let first = finish(&mut engine).remove(0).unwrap();
    let mut next = request(1);
    next.prompt.extend(first.tokens);
    next.prompt.extend([1, 2, 3]);
    engine.submit(next).unwrap();
    // 219 of 223 tokens were computed, which is 13 blocks.
    assert_eq!(finish(&mut engine)[0].as_ref().unwrap().cached_tokens, 208);
}

#[test]
fn what_is_scored_is_computed_again() {
    let (mut engine, _) = engine(100);
    let scored = Request { max_tokens: 0, prompt_logprobs_from: Some(100), ..request(1) };
    engine.submit(scored.clone()).unwrap();
    engine.submit(scored).unwrap();
    let ends = finish(&mut engine);
    // The logits that say token 100 are those of token 99: six blocks may come from the cache.
    assert_eq!(ends[1].as_ref().unwrap().cached_tokens, 96);
}

#[test]
fn a_request_that_is_cancelled_gives_its_blocks_back_at_once() {
    let (mut engine, _) = engine(100);
    let id = engine.submit(request(1)).unwrap();
    engine.step(Duration::ZERO, &mut |_, _| {}).unwrap();
    assert_eq!(engine.stats().used_blocks, 13);
    engine.cancel(id);
    assert!(!engine.has_work());
    let stats = engine.stats();
    // The four blocks that were computed can be found again.
    assert_eq!((stats.used_blocks, stats.cached_blocks), (0, 4));
}

#[test]
fn the_queue_is_bounded_and_what_can_never_fit_refused() {
    let (mut engine, _) = engine(2);
    let too_long = Request { prompt: vec![1; 400], ..request(1) };
    assert!(matches!(engine.submit(too_long), Err(EngineError::TooLong { .. })));
    let unknown = Request { prompt: vec![VOCAB_SIZE as u32], ..request(1) };
    assert!(matches!(engine.submit(unknown), Err(EngineError::Token { .. })));
    engine.submit(request(1)).unwrap();
    engine.submit(request(2)).unwrap();
    assert!(matches!(engine.submit(request(3)), Err(EngineError::QueueFull { waiting: 2 })));
    engine.step(Duration::ZERO, &mut |_, _| {}).unwrap();
    engine.submit(request(3)).unwrap();
}

#[test]
fn what_comes_too_late_is_not_computed() {
    let (mut engine, device) = engine(100);
    let late = Request { deadline: Some(Duration::from_millis(5)), ..request(1) };
    engine.submit(late).unwrap();
    assert!(matches!(finish(&mut engine)[..], [Err(EngineError::Deadline)]));
    assert_eq!(device.lock().unwrap().steps, 0);
}

#[test]
fn one_request_is_answered_as_among_many() {
    let (mut engine, _) = engine(100);
    let mut seen = 0;
    let completion = crate::generate(&mut engine, request(3), |event| {
        seen += usize::from(matches!(event, Progress::Token(_)));
        ControlFlow::Continue(())
    });
    let completion = completion.unwrap();
    assert_eq!((seen, completion.completion_tokens), (20, 20));
    let broken_off = crate::generate(&mut engine, request(3), |event| match event {
        Progress::Token(_) => ControlFlow::Break(()),
        Progress::Prefill { .. } => ControlFlow::Continue(()),
    });
    let broken_off = broken_off.unwrap();
    assert_eq!(broken_off.finish_reason, FinishReason::Cancelled);
    assert_eq!(broken_off.tokens, completion.tokens[..1]);
    assert_eq!(engine.stats().used_blocks, 0);
}
