//! Answers to many schemas, by choosers that know nothing: every one is JSON and fits, whatever the budget.
//!
//! A tenth of it runs by default; with `HALFBYTE_SOAK=1` all of it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use grammar::{Grammar, Spec, TokenText, Vocabulary};
use serde_json::Value;
use support::generate::{Case, cases};
use support::valid::invalid;
use support::{Chooser, Rng, demo, demo_tokens, walk};

fn compile(vocabulary: &std::sync::Arc<Vocabulary>, schema: &Value) -> Grammar {
    let spec = Spec::JsonSchema { schema: schema.clone(), open: false };
    Grammar::compile(vocabulary, &spec).unwrap_or_else(|e| panic!("{e}\n{schema}"))
}

/// Answers of one schema, at budgets from the least on.
fn check(case: &Case, vocabulary: &std::sync::Arc<Vocabulary>, tokens: &[TokenText]) -> usize {
    let grammar = compile(vocabulary, &case.schema);
    let shortest = grammar.shortest().unwrap();
    let mut answers = 0;
    for (at, more) in [0, 1, 2, 3, 5, 8, 13, 25, 60, 150, 400].into_iter().enumerate() {
        let budget = shortest + more;
        for chooser in [Chooser::Uniform, Chooser::Logits, Chooser::Greedy] {
            let mut rng = Rng(at as u64 * 3 + chooser as u64 + case.name.len() as u64);
            let walk = walk(&grammar, vocabulary, tokens, budget, chooser, &mut rng);
            let text = String::from_utf8(walk.text.clone()).unwrap();
            let what = || format!("{}: {chooser:?}, {budget} tokens: {text}", case.name);
            assert!(walk.complete, "not complete: {}", what());
            assert!(walk.tokens <= budget, "{} tokens: {}", walk.tokens, what());
            let value: Value = serde_json::from_str(&text)
                .unwrap_or_else(|e| panic!("not JSON ({e}): {}", what()));
            if case.name != "receipt_example"
                && let Some(why) = invalid(&case.schema, &value)
            {
                panic!("{}\n{why}", what());
            }
            assert!(walk.was_cut || walk.refused == 0, "refused without being cut: {}", what());
            answers += 1;
        }
    }
    answers
}

#[test]
fn every_answer_is_json_that_fits_at_any_budget() {
    let soak = std::env::var_os("HALFBYTE_SOAK").is_some();
    let (vocabulary, tokens) = (demo(), demo_tokens());
    let (mut schemas, mut answers) = (0, 0);
    for (at, case) in cases().iter().enumerate() {
        let made = case.name.starts_with("seed");
        if soak || at % 10 == 0 || !made && at % 3 == 0 {
            answers += check(case, &vocabulary, &tokens);
            schemas += 1;
        }
    }
    assert!(schemas >= if soak { 320 } else { 30 }, "{schemas} schemas");
    println!("{schemas} schemas, {answers} answers");
}
