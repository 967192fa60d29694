//! A seed's schedule: bounds, requests, and when they come and go.

use std::time::Duration;

use backend::{KV_BLOCK_SIZE, StepLimits};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::{EngineConfig, Request, SamplingParams};

use super::constraints::{self, Constraint};
use super::mock::{VOCAB_SIZE, WHOLE_VOCAB_SIZE};

/// An id that ends answers; it comes about every 45 tokens.
const EOS: u32 = 7;

/// What happens before a step.
pub(crate) enum Action {
    Submit(Request, Option<&'static Constraint>),
    /// One of the open requests, by a number to be reduced.
    Cancel(u64),
}

/// A random schedule.
pub(crate) struct Schedule {
    rng: ChaCha8Rng,
    /// Ids of the model; all of the tokenizer's where there are grammars.
    pub(crate) vocab_size: usize,
    pub(crate) blocks: usize,
    pub(crate) limits: StepLimits,
    pub(crate) config: EngineConfig,
    pub(crate) fails_in: Option<u32>,
    pub(crate) poison: Option<u32>,
    /// Requests that are yet to come.
    arrivals: u64,
    /// Texts with which prompts begin.
    prefixes: Vec<Vec<u32>>,
    /// The last prompt, for those that ask the same again.
    last: Option<Request>,
    /// In how many of a hundred steps something arrives, and is cancelled.
    arrives: u64,
    cancels: u64,
    /// Whether most requests want no more than tokens.
    plain: bool,
}

impl Schedule {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut below = |n: u64| rng.next_u64() % n;
        let (scarcity, haste) = (below(3) as usize, below(3) as usize);
        let blocks = 1 + below([4, 12, 40][scarcity]) as usize;
        let limits = StepLimits {
            tokens: 1 + below([3, 20, 100][haste]) as usize,
            rows: 1 + below(12) as usize,
            sequences: 1 + below(10) as usize,
        };
        let config = EngineConfig {
            context: 1 + below(200) as usize,
            max_num_seqs: 1 + below(12) as usize,
            max_num_batched_tokens: 1 + below(100) as usize,
            max_waiting: 1 + below(20) as usize,
            prefix_cache: below(5) > 0,
        };
        let mut prefix = || {
            let len = below(6 * KV_BLOCK_SIZE as u64);
            (0..len).map(|_| below(VOCAB_SIZE as u64) as u32).collect()
        };
        let prefixes = vec![prefix(), prefix(), prefix()];
        let vocab_size = if below(10) == 0 { WHOLE_VOCAB_SIZE } else { VOCAB_SIZE };
        Schedule {
            vocab_size,
            blocks,
            limits,
            config,
            prefixes,
            fails_in: (below(20) == 0).then(|| 1 + below(100) as u32),
            poison: (below(20) == 0).then(|| below(VOCAB_SIZE as u64) as u32),
            arrivals: 1 + below(30),
            arrives: [2, 20, 100][below(3) as usize],
            cancels: [0, 0, 2, 20][below(4) as usize],
            plain: below(2) == 0,
            last: None,
            rng,
        }
    }

    /// Most tokens of a request.
    pub(crate) fn context(&self) -> usize {
        self.config.context.min(self.blocks * KV_BLOCK_SIZE)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// What happens before the next step; `None`: nothing more, ever.
    pub(crate) fn next_actions(&mut self, has_work: bool) -> Option<Vec<Action>> {
        if self.arrivals == 0 && !has_work {
            return None;
        }
        let mut actions = Vec::new();
        while self.arrivals > 0 && (!has_work || self.below(100) < self.arrives) {
            self.arrivals -= 1;
            let mut request = self.request();
            let constraint = self.constrain(&mut request);
            // Several answers to the same prompt.
            let copies = if self.one_in(6) { 1 + self.below(4) } else { 1 };
            for copy in 0..copies {
                let mut request = request.clone();
                request.sampling.seed += copy;
                actions.push(Action::Submit(request, constraint));
            }
            if self.one_in(3) {
                break;
            }
        }
        if self.below(100) < self.cancels {
            actions.push(Action::Cancel(self.rng.next_u64()));
        }
        Some(actions)
    }

    fn prompt(&mut self) -> Vec<u32> {
        if let Some(last) = &self.last
            && self.rng.next_u64().is_multiple_of(4)
        {
            return last.prompt.clone();
        }
        let which = self.below(3) as usize;
        let prefix = &self.prefixes[which];
        let mut prompt = prefix.clone();
        if self.one_in(3) {
            prompt.truncate(self.rng.next_u64() as usize % (prompt.len() + 1));
        }
        let more = 1 + self.below(20);
        prompt.extend((0..more).map(|_| (self.rng.next_u64() % VOCAB_SIZE as u64) as u32));
        prompt
    }

    fn request(&mut self) -> Request {
        let prompt = self.prompt();
        let mut request = Request {
            max_tokens: 1 + self.below(40) as usize,
            sampling: SamplingParams {
                temperature: if self.one_in(3) { 0.0 } else { 1.0 },
                seed: self.below(1000),
                ..SamplingParams::default()
            },
            eos_token_id: if self.one_in(4) { Vec::new() } else { vec![EOS] },
            prompt,
            ..Request::default()
        };
        if self.one_in(4) {
            request.priority = self.below(5) as i32 - 2;
        }
        if self.one_in(10) {
            request.deadline = Some(Duration::from_millis(1 + self.below(60)));
        }
        if !self.plain || self.one_in(10) {
            self.decorate(&mut request);
        }
        self.last = Some(request.clone());
        request
    }

    /// Asks for an answer that fits something.
    fn constrain(&mut self, request: &mut Request) -> Option<&'static Constraint> {
        if self.vocab_size == VOCAB_SIZE || self.one_in(4) {
            return None;
        }
        let all = constraints::all();
        let constraint = &all[self.below(all.len() as u64) as usize];
        request.grammar = Some(constraint.grammar.clone());
        request.eos_token_id = vec![constraints::EOS];
        Some(constraint)
    }

    /// Asks for more than tokens.
    fn decorate(&mut self, request: &mut Request) {
        if self.one_in(3) {
            // Of the ids of the mock, most are single characters.
            let character = (b'!' + self.below(40) as u8) as char;
            request.stop.push(character.to_string());
            if self.one_in(2) {
                request.stop.push(format!("{character}{}", (b'!' + self.below(40) as u8) as char));
            }
        }
        if self.one_in(4) {
            request.top_logprobs = 1 + self.below(3) as usize;
        }
        if self.one_in(4) {
            let from = self.rng.next_u64() as usize % (request.prompt.len() + 2);
            request.prompt_logprobs_from = Some(from);
        }
        if self.one_in(6) {
            request.max_tokens = 0;
        }
        if self.one_in(3) {
            request.sampling.repetition_penalty = 1.3;
            request.sampling.presence_penalty = 0.5;
            request.sampling.penalize_prompt = self.one_in(2);
        }
        if self.one_in(3) {
            request.sampling.top_k = self.below(10) as usize;
            request.sampling.top_p = 0.9;
        }
    }
}
