//! How long masks take: microseconds over the test schemas, with a vocabulary of 32,000 tokens, as one line of JSON.
//! `cargo run --release -p halfbyte-grammar --example mask_speed`

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Instant;

use grammar::{Grammar, Spec, TokenText, Vocabulary};
use serde_json::{Value, json};
use support::generate::cases;
use support::{EOS, Rng, large};

/// Tokens of an answer at most.
const BUDGET: usize = 400;

#[derive(Default)]
struct Times {
    compile: Vec<f64>,
    mask: Vec<f64>,
    accept: Vec<f64>,
}

fn main() {
    let tokens = large(32_000);
    let started = Instant::now();
    let vocabulary = Vocabulary::new(tokens.clone(), tokens.len(), &[EOS]);
    let vocabulary = Arc::new(vocabulary.unwrap_or_else(|e| panic!("{e}")));
    let prepared = started.elapsed().as_secs_f64() * 1e3;
    let mut times = Times::default();
    let mut schemas = 0;
    for case in cases() {
        let spec = Spec::JsonSchema { schema: case.schema, open: false };
        let started = Instant::now();
        let Ok(grammar) = Grammar::compile(&vocabulary, &spec) else { continue };
        times.compile.push(started.elapsed().as_secs_f64() * 1e6);
        schemas += 1;
        for seed in 0..3 {
            answer(&grammar, &vocabulary, &tokens, seed, &mut times);
        }
    }
    println!(
        "{}",
        json!({
            "vocabulary": tokens.len(), "prepare_ms": prepared, "schemas": schemas,
            "compile_us": summary(&mut times.compile), "mask_us": summary(&mut times.mask),
            "accept_us": summary(&mut times.accept),
        })
    );
}

/// An answer as a model writes it rather than any: mostly texts of letters, no endless white space.
fn answer(
    grammar: &Grammar,
    vocabulary: &Vocabulary,
    tokens: &[TokenText],
    seed: u64,
    times: &mut Times,
) {
    let mut rng = Rng(seed);
    let mut matcher = grammar.matcher();
    let mut mask = vec![0u32; vocabulary.mask_words()];
    let budget = grammar.shortest().unwrap_or(0) + BUDGET;
    let mut remaining = budget;
    loop {
        let started = Instant::now();
        matcher.mask(remaining, &mut mask).unwrap_or_else(|e| panic!("{e}"));
        times.mask.push(started.elapsed().as_secs_f64() * 1e6);
        let allowed: Vec<u32> = (0..tokens.len() as u32)
            .filter(|&t| mask[t as usize / 32] >> (t % 32) & 1 == 1)
            .collect();
        let likely = |rng: &mut Rng| {
            let mut token = *rng.pick(&allowed);
            for _ in 0..4 {
                let blank = |t: u32| match &tokens[t as usize] {
                    TokenText::Bytes(bytes) => bytes.iter().all(u8::is_ascii_whitespace),
                    _ => false,
                };
                if !blank(token) {
                    break;
                }
                token = *rng.pick(&allowed);
            }
            token
        };
        let mut taken = None;
        for _ in 0..16 {
            let token = likely(&mut rng);
            if token == EOS {
                return;
            }
            let started = Instant::now();
            let accepted = matcher.accept(token, remaining).unwrap_or_else(|e| panic!("{e}"));
            let spent = started.elapsed().as_secs_f64() * 1e6;
            times.accept.push(spent);
            if accepted {
                taken = Some(token);
                break;
            }
        }
        if taken.is_none() {
            let token = matcher.next_of_completion().unwrap_or_else(|e| panic!("{e}"));
            if token == EOS {
                return;
            }
            assert!(matcher.accept(token, remaining).unwrap_or_else(|e| panic!("{e}")));
        }
        remaining -= 1;
    }
}

fn summary(values: &mut [f64]) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
    let round = |value: f64| (value * 10.0).round() / 10.0;
    if values.is_empty() {
        return Value::Null;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    json!({
        "count": values.len(), "mean": round(mean), "p50": round(at(0.5)), "p95": round(at(0.95)),
        "p99": round(at(0.99)), "max": round(at(1.0)),
    })
}
