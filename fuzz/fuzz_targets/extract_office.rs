#![no_main]

// The functions are shared with the plain tests; each program uses one of them.
#[allow(dead_code)]
#[path = "../../crates/extract/tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::extract_office(bytes));
