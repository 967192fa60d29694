//! What the engine costs beside the model: microseconds of each step on a runner that computes nothing.
//!
//! ```text
//! cargo run --release -p halfbyte-engine --example scheduler_overhead -- [SEQUENCES] [CONTEXT] [TOKENIZER] [KIND]
//! ```
//! `outside` is what a device would wait for: the time between two calls of `step_and_draw`. `choose` is done while it works.
//! KIND is `plain`, `stop` (a stop string each), `top` (five alternatives each), `penalty`, or `schema` (the same JSON Schema for
//! all, tokens drawn evenly from the masks).

#![allow(clippy::unwrap_used, reason = "an example may end as it likes")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backend::{BackendError, Batch, Drawn, Draws, KV_BLOCK_SIZE, StepLimits, mask_words};
use engine::{Engine, EngineConfig, ModelRunner, Request, SamplingParams};
use grammar::{Grammar, Spec};
use model::{Config, Tokenizer};
use serde_json::json;

/// Steps that are measured.
const STEPS: usize = 400;

/// Tokens of an answer at most: enough for the schema's shortest in bytes, so that no budget is near.
const MAX_TOKENS: usize = 4 * STEPS;

/// Times of one step.
#[derive(Default, Clone, Copy)]
struct Times {
    /// Within `step_and_draw`, `choose` aside.
    runner: Duration,
    choose: Duration,
}

/// A model whose tokens come from nowhere, at once.
struct Null {
    config: Config,
    limits: StepLimits,
    context: usize,
    next: u32,
    row: Vec<f32>,
    times: Arc<Mutex<Times>>,
}

impl ModelRunner for Null {
    fn config(&self) -> &Config {
        &self.config
    }

    fn context(&self) -> usize {
        self.context
    }

    fn limits(&self) -> StepLimits {
        self.limits
    }

    fn step(&mut self, _: &Batch<'_>, _: &[u32], _: &mut Vec<f32>) -> Result<(), BackendError> {
        unreachable!("the engine draws in every step")
    }

    fn step_and_draw(
        &mut self,
        _: &Batch<'_>,
        rows: &[u32],
        kept: &[u32],
        choose: &mut (dyn FnMut(&mut Draws) + Send),
        drawn: &mut Vec<Drawn>,
        logits: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let start = Instant::now();
        let mut draws = Draws::default();
        choose(&mut draws);
        let choose = start.elapsed();
        drawn.clear();
        for _ in rows {
            self.next = self.next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let token = (self.next >> 8) % self.config.vocab_size as u32;
            let token = match draws.draws[drawn.len()].mask {
                Some(mask) => allowed_from(token, mask, &draws.masks, self.config.vocab_size),
                None => token,
            };
            drawn.push(Drawn { token, logprob: -1.0, is_finite: true, allowed: true });
        }
        self.last_logits(kept, logits)?;
        *self.times.lock().unwrap() = Times { runner: start.elapsed() - choose, choose };
        Ok(())
    }

    fn last_logits(&mut self, which: &[u32], logits: &mut Vec<f32>) -> Result<(), BackendError> {
        logits.clear();
        which.iter().for_each(|_| logits.extend_from_slice(&self.row));
        Ok(())
    }
}

/// The first token from `token` on that a mask allows.
fn allowed_from(token: u32, mask: u32, masks: &[u32], vocab_size: usize) -> u32 {
    let words = &masks[mask as usize * mask_words(vocab_size)..][..mask_words(vocab_size)];
    let is_allowed = |token: &u32| words[(token / 32) as usize] >> (token % 32) & 1 == 1;
    (token..vocab_size as u32).chain(0..token).find(is_allowed).unwrap()
}

/// A document that does not end within the steps that are measured.
fn grammar(tokenizer: &Tokenizer) -> Grammar {
    let line = json!({
        "type": "object",
        "properties": {
            "id": { "type": "integer", "minimum": 0, "maximum": 99999 },
            "kind": { "enum": ["goods", "service", "tax", "discount"] },
            "amount": { "type": "number" },
            "note": { "type": ["string", "null"], "maxLength": 24 },
            "booked": { "type": "boolean" },
        },
        "required": ["id", "kind", "amount", "note", "booked"],
    });
    let lines = json!({ "type": "array", "minItems": 20, "items": line });
    let schema =
        json!({ "type": "object", "properties": { "lines": lines }, "required": ["lines"] });
    let eos = tokenizer.vocab_size() as u32 - 1;
    let vocabulary = engine::vocabulary(tokenizer, tokenizer.vocab_size(), &[eos]).unwrap();
    Grammar::compile(&Arc::new(vocabulary), &Spec::JsonSchema { schema, open: false }).unwrap()
}

fn request(seed: u64, context: usize, kind: &str, grammar: &Grammar) -> Request {
    let prompt = (0..context as u64).map(|i| ((seed * 7919 + i * 31) % 200) as u32).collect();
    let mut request = Request {
        prompt,
        max_tokens: MAX_TOKENS,
        sampling: SamplingParams { temperature: 0.7, seed, ..SamplingParams::default() },
        ..Request::default()
    };
    match kind {
        "plain" => {}
        "schema" => request.grammar = Some(grammar.clone()),
        "stop" => request.stop.push("\n\nHuman:".to_owned()),
        "top" => request.top_logprobs = 5,
        "penalty" => request.sampling.presence_penalty = 0.5,
        other => panic!("`{other}` is no kind"),
    }
    request
}

/// `[p50, p99, max]` in microseconds.
fn percentiles(mut times: Vec<Duration>) -> [f64; 3] {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    [at(0.5), at(0.99), at(1.0)].map(|time| time.as_secs_f64() * 1e6)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default: &str| {
        arguments.get(index).map_or_else(|| default.to_owned(), String::clone)
    };
    let sequences: usize = argument(0, "128").parse().unwrap();
    let context: usize = argument(1, "1024").parse().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = argument(2, root.join("demo/model/tokenizer.json").to_str().unwrap());
    let kind = argument(3, "plain");
    let json = std::fs::read(&path).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_json(&json, Path::new(&path), None).unwrap());
    let config = root.join("fixtures/models/qwen3-bf16/config.json");
    let mut config = Config::from_json(&std::fs::read(&config).unwrap(), &config).unwrap();
    config.vocab_size = tokenizer.vocab_size();
    let vocab_size = config.vocab_size;
    let times = Arc::new(Mutex::new(Times::default()));
    let pool = sequences * (context + MAX_TOKENS + 100).next_multiple_of(KV_BLOCK_SIZE);
    let null = Null {
        config,
        limits: StepLimits { tokens: 2048, rows: sequences, sequences },
        context: pool,
        next: 1,
        row: (0..vocab_size).map(|token| (token * 7 % 13) as f32).collect(),
        times: Arc::clone(&times),
    };
    let config = EngineConfig {
        context: context + MAX_TOKENS + 100,
        max_num_seqs: sequences,
        max_num_batched_tokens: 2048,
        max_waiting: sequences,
        prefix_cache: true,
    };
    let grammar = grammar(&tokenizer);
    let mut engine = Engine::new(Box::new(null), tokenizer, config);
    for seed in 0..sequences as u64 {
        engine.submit(request(seed, context, &kind, &grammar)).unwrap();
    }
    let (mut outside, mut choose, mut events) = (Vec::new(), Vec::new(), 0);
    while outside.len() < STEPS {
        let start = Instant::now();
        let report = engine.step(Duration::ZERO, &mut |_, _| events += 1).unwrap();
        let whole = start.elapsed();
        if report.sequences == sequences && report.tokens == sequences {
            let times = *times.lock().unwrap();
            outside.push(whole - times.runner - times.choose);
            choose.push(times.choose);
        }
    }
    let [outside, choose] = [outside, choose].map(percentiles);
    println!(
        "{{\"sequences\": {sequences}, \"context\": {context}, \"vocab_size\": {vocab_size}, \"kind\": \"{kind}\", \
         \"steps\": {STEPS}, \"outside_us\": {outside:.1?}, \"choose_us\": {choose:.1?}, \"events\": {events}}}"
    );
}
