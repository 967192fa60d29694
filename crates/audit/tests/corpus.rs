//! Runs the parsers on the inputs of `fuzz/corpus`: seeds, and whatever once went wrong.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod targets;

use std::fs;
use std::path::Path;

fn run(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        target(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 1, "only {count} inputs for {name}");
}

#[test]
fn every_seed_is_read_or_refused() {
    run("audit_elf", targets::audit_elf);
    run("audit_fatbin", targets::audit_fatbin);
    run("audit_zip", targets::audit_zip);
    run("audit_requirements", targets::audit_requirements);
    run("audit_dockerfile", targets::audit_dockerfile);
}
