//! The suites again, with counts that take an hour rather than a minute.

use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use crate::shell::{cargo, run, works};
use crate::{jobs, kill, peers};

/// Bits of a seed: few enough to type.
const SEED_BITS: u64 = (1 << 32) - 1;

/// How long to soak.
pub(crate) struct Options {
    /// Cases of each property test.
    cases: u32,
    /// How often `quantize` is killed.
    kills: u32,
    /// How often `pull` is killed.
    pulls: u32,
    /// Clients that a server meets.
    clients: u32,
    /// How often a server under load gets SIGTERM.
    signals: u32,
    /// How often servers with jobs are killed, on each kind of store.
    jobs: u32,
    /// Of clients, signals and jobs; another one each time by default.
    seed: u64,
    /// Runs of each fuzz target.
    runs: u32,
    /// The only fuzz target.
    target: Option<String>,
}

impl Options {
    /// Reads what `cargo xtask help` lists, each optional.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let mut options = Options {
            cases: 100_000,
            kills: 100,
            pulls: 100,
            clients: 2_000,
            signals: 100,
            jobs: 100,
            seed: time as u64 & SEED_BITS,
            runs: 1_000_000,
            target: None,
        };
        for pair in arguments.chunks(2) {
            let [name, value] = pair else {
                bail!("`{}` needs a value", pair.concat());
            };
            let count = || value.parse().with_context(|| format!("`{value}` is no count"));
            match *name {
                "--cases" => options.cases = count()?,
                "--kills" => options.kills = count()?,
                "--pulls" => options.pulls = count()?,
                "--clients" => options.clients = count()?,
                "--signals" => options.signals = count()?,
                "--jobs" => options.jobs = count()?,
                "--runs" => options.runs = count()?,
                "--target" => options.target = Some((*value).to_owned()),
                "--seed" => {
                    let digits = value.trim_start_matches("0x");
                    let seed = u64::from_str_radix(digits, 16);
                    options.seed = seed.with_context(|| format!("`{value}` is no hex number"))?;
                }
                other => bail!("`{other}` is no option of soak; `cargo xtask help` lists them"),
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
    if options.pulls > 0 {
        let test = "kills_at_any_moment_lose_nothing";
        seeded(options.pulls, options.seed, "HALFBYTE_SOAK_PULLS", "pull", test)?;
    }
    let (clients, signals) = ("HALFBYTE_SOAK_CLIENTS", "HALFBYTE_SOAK_SIGNALS");
    let chaos = [
        (options.clients, clients, "chaos", "clients_of_all_kinds_leave_nothing_behind"),
        (options.signals, signals, "chaos", "a_signal_at_any_moment_lets_every_stream_end"),
        (options.jobs, "HALFBYTE_SOAK_JOBS", "jobs", "a_server_killed_at_random_loses_no_job"),
    ];
    for (count, variable, file, test) in chaos {
        if count > 0 {
            seeded(count, options.seed, variable, file, test)?;
        }
    }
    if options.jobs > 0 {
        jobs::jobs_if_there(&jobs::Options::soak(options.jobs, options.seed))?;
    }
    if options.runs > 0 {
        fuzz(root, options)?;
    }
    Ok(())
}

/// A test of the binary with another count: a server among bad clients or under signals, kills; it prints what became of it.
fn seeded(count: u32, seed: u64, variable: &str, file: &str, test: &str) -> Result<()> {
    run(cargo()
        .env(variable, count.to_string())
        .env("HALFBYTE_SOAK_SEED", format!("{seed:#x}"))
        .args(["test", "--release", "--locked", "--package", "halfbyte", "--test", file])
        .args(["--", "--nocapture", test]))
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

fn fuzz(root: &Path, options: &Options) -> Result<()> {
    let runs = options.runs;
    if !works(cargo().args(["fuzz", "--version"])) {
        println!("left out: fuzzing; add it with `cargo install cargo-fuzz --locked`");
        return Ok(());
    }
    let mut targets = fuzz_targets(&root.join("fuzz/fuzz_targets"))?;
    if let Some(only) = &options.target {
        targets.retain(|target| target == only);
        ensure!(!targets.is_empty(), "`{only}` is no target in fuzz/fuzz_targets");
    }
    for target in targets {
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
        let options = ["--kills", "3", "--cases", "5", "--seed", "0xbeef", "--target", "config"];
        let options = Options::parse(&options).unwrap();
        assert_eq!((options.cases, options.kills, options.runs), (5, 3, 1_000_000));
        assert_eq!((options.clients, options.signals, options.seed), (2_000, 100, 0xbeef));
        assert_eq!(options.target.as_deref(), Some("config"));
        let wrong =
            [["--kills", "many"].as_slice(), &["--kills"], &["--deaths", "1"], &["--seed", "xyz"]];
        for wrong in wrong {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
