//! The suites again, with counts that take an hour rather than a minute.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, run, works};
use crate::{kill, peers};

/// How long to soak.
pub(crate) struct Options {
    /// Cases of each property test.
    cases: u32,
    /// How often `quantize` is killed.
    kills: u32,
    /// Runs of each fuzz target.
    runs: u32,
}

impl Options {
    /// Reads `--cases N --kills N --runs N`, each optional.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options { cases: 100_000, kills: 100, runs: 1_000_000 };
        for pair in arguments.chunks(2) {
            let [name, value] = pair else {
                bail!("`{}` needs a number", pair.concat());
            };
            let count = value.parse().with_context(|| format!("`{value}` is no count"))?;
            match *name {
                "--cases" => options.cases = count,
                "--kills" => options.kills = count,
                "--runs" => options.runs = count,
                other => {
                    bail!("`{other}` is no option of soak; there are --cases, --kills and --runs")
                }
            }
        }
        Ok(options)
    }
}

/// Property tests, kills and fuzzing; each prints its counts, and a count of 0 leaves it out.
pub(crate) fn soak(root: &Path, options: &Options) -> Result<()> {
    if options.cases > 0 {
        properties(options.cases)?;
    }
    if options.kills > 0 {
        let halfbyte = peers::build(root)?;
        kill::kill(root, &halfbyte, options.kills)?;
    }
    if options.runs > 0 {
        fuzz(root, options.runs)?;
    }
    Ok(())
}

fn properties(cases: u32) -> Result<()> {
    let start = Instant::now();
    run(cargo()
        .env("PROPTEST_CASES", cases.to_string())
        .env("HALFBYTE_SOAK", "1")
        .args(["test", "--release", "--workspace", "--locked", "--lib", "--bins", "--tests"])
        .arg("--no-fail-fast"))?;
    println!("soak: {cases} cases of each property test, {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn fuzz(root: &Path, runs: u32) -> Result<()> {
    if !works(cargo().args(["fuzz", "--version"])) {
        println!("left out: fuzzing; add it with `cargo install cargo-fuzz --locked`");
        return Ok(());
    }
    for target in fuzz_targets(&root.join("fuzz/fuzz_targets"))? {
        let start = Instant::now();
        // What is found goes to the first folder, not into the committed corpus.
        let found = root.join("target/fuzz-corpus").join(&target);
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        let corpus = root.join("fuzz/corpus").join(&target);
        // The sanitizers of a stable compiler are the nightly's, behind this variable.
        run(cargo()
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", &target])
            .arg(&found)
            .args(corpus.exists().then_some(&corpus))
            .arg("--")
            .args([format!("-runs={runs}"), "-print_final_stats=1".to_owned()]))?;
        println!("soak: {target}, {runs} runs, {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Names of the targets: the files' stems, in order.
fn fuzz_targets(directory: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn options_are_read_and_refused() {
        let options = Options::parse(&["--kills", "3", "--cases", "5"]).unwrap();
        assert_eq!((options.cases, options.kills, options.runs), (5, 3, 1_000_000));
        for wrong in [["--kills", "many"].as_slice(), &["--kills"], &["--deaths", "1"]] {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
