//! Runs constraints on the inputs of `fuzz/corpus`: seeds, and whatever once went wrong.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod targets;
#[path = "../../../fuzz/seeds.rs"]
mod seeds;

use seeds::run;

#[test]
fn schema() {
    run("grammar_schema", targets::schema);
}

#[test]
fn walk() {
    run("grammar_walk", targets::walk);
}
