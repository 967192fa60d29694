#![no_main]

#[allow(dead_code, reason = "each target runs one of the functions")]
#[path = "../../crates/quant/tests/corpus/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::quantize_values(data));
