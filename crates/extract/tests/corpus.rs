//! Runs the readers on the inputs of `fuzz/corpus`.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod targets;
#[path = "../../../fuzz/seeds.rs"]
mod seeds;

#[test]
fn every_seed_is_read_or_refused() {
    seeds::run("extract_office", targets::extract_office);
}
