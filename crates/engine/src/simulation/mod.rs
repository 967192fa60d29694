//! The engine on a mock model.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

pub(crate) mod mock;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backend::StepLimits;

use crate::{Completion, Engine, EngineConfig, Event, Request, RequestId, SamplingParams};
use mock::{Device, Mock, VOCAB_SIZE, mix, tokenizer};

fn engine(blocks: usize, limits: StepLimits, config: EngineConfig) -> Engine {
    let device = Arc::new(Mutex::new(Device::default()));
    Engine::new(Box::new(Mock::new(blocks, limits, device)), tokenizer(), config)
}

const CONFIG: EngineConfig = EngineConfig {
    context: 160,
    max_num_seqs: 8,
    max_num_batched_tokens: 64,
    max_waiting: 100,
    prefix_cache: true,
};
const LIMITS: StepLimits = StepLimits { tokens: 64, rows: 8, sequences: 8 };

fn run(engine: &mut Engine, requests: &[Request]) -> BTreeMap<RequestId, Completion> {
    for request in requests {
        engine.submit(request.clone()).unwrap();
    }
    let mut done = BTreeMap::new();
    while engine.has_work() {
        engine
            .step(Duration::ZERO, &mut |id, event| {
                if let Event::Finished(completion) = event {
                    done.insert(id, completion);
                }
            })
            .unwrap();
    }
    done
}

fn request(seed: u64) -> Request {
    let len = 1 + mix(seed) % 70;
    Request {
        prompt: (0..len).map(|i| (mix(seed % 3 + i) % VOCAB_SIZE as u64) as u32).collect(),
        max_tokens: 1 + mix(seed + 1) as usize % 60,
        sampling: SamplingParams { temperature: 1.0, seed, ..SamplingParams::default() },
        eos_token_id: vec![7],
        ..Request::default()
    }
}

#[test]
fn many_answers_are_those_of_each_alone() {
    let requests: Vec<Request> = (0..40).map(request).collect();
    let together = run(&mut engine(12, LIMITS, CONFIG), &requests);
    for (request, together) in requests.iter().zip(together.values()) {
        let config = EngineConfig { prefix_cache: false, ..CONFIG };
        let alone = run(&mut engine(10, LIMITS, config), std::slice::from_ref(request));
        let alone = alone.into_values().next().unwrap();
        assert_eq!(Completion { cached_tokens: 0, ..together.clone() }, alone);
    }
}
