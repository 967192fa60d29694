//! Runs a fuzz target on the inputs of `fuzz/corpus`: seeds, and whatever once went wrong. Tests include this file.

use std::fs;
use std::path::Path;

/// Every input of `fuzz/corpus/NAME`, of which there have to be some.
pub(crate) fn run(name: &str, target: fn(&[u8])) {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = crates.join("../../fuzz/corpus").join(name);
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        target(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 1, "only {count} inputs for {name}");
}
