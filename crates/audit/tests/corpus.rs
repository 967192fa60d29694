//! Runs the parsers on the inputs of `fuzz/corpus`: seeds, and whatever once went wrong.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod targets;
#[path = "../../../fuzz/seeds.rs"]
mod seeds;

use seeds::run;

#[test]
fn every_seed_is_read_or_refused() {
    run("audit_elf", targets::audit_elf);
    run("audit_fatbin", targets::audit_fatbin);
    run("audit_zip", targets::audit_zip);
    run("audit_tar", targets::audit_tar);
    run("audit_requirements", targets::audit_requirements);
    run("audit_dockerfile", targets::audit_dockerfile);
}
