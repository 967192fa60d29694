//! Writes answers of a seeded chooser to all test schemas, as JSON lines of `name`, `schema`, `budget`, `answer`:
//! `cargo run -p halfbyte-grammar --example dump > answers.jsonl`, then `fixtures/schemas/check.py answers.jsonl`. With
//! `--schemas` only the names and schemas, which `fixtures/check_schemas.py` asks a server to answer.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write;

use grammar::{Grammar, Spec};
use serde_json::{Value, json};
use support::generate::cases;
use support::{Chooser, Rng, demo, demo_tokens, walk};

fn main() -> std::io::Result<()> {
    let (vocabulary, tokens) = (demo(), demo_tokens());
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if std::env::args().any(|argument| argument == "--schemas") {
        for case in cases() {
            writeln!(out, "{}", json!({"name": case.name, "schema": case.schema}))?;
        }
        return out.flush();
    }
    for case in cases() {
        let spec = Spec::JsonSchema { schema: case.schema.clone(), open: false };
        let grammar = match Grammar::compile(&vocabulary, &spec) {
            Ok(grammar) => grammar,
            Err(error) => {
                eprintln!("{}: {error}\n    {}", case.name, case.schema);
                continue;
            }
        };
        let shortest = grammar.shortest().unwrap_or_default();
        for more in [0, 1, 3, 10, 40, 150, 600] {
            for chooser in [Chooser::Uniform, Chooser::Logits, Chooser::Greedy] {
                let budget = shortest + more;
                let mut rng = Rng(more as u64 + 31 * chooser as u64);
                let walk = walk(&grammar, &vocabulary, &tokens, budget, chooser, &mut rng);
                let answer: Value = String::from_utf8_lossy(&walk.text).into_owned().into();
                let line = json!({
                    "name": case.name,
                    // An example is no schema: it is checked as JSON alone.
                    "schema": if case.name.ends_with("_example") { json!(true) } else { case.schema.clone() },
                    "budget": budget, "tokens": walk.tokens, "cut": walk.was_cut, "answer": answer,
                });
                writeln!(out, "{line}")?;
            }
        }
    }
    out.flush()
}
