//! The tests that need no more than Rust, and the names of those that need more.

use anyhow::Result;

use crate::shell::{cargo, run, run_last, works};

/// A suite that `cargo xtask test` does not run: what it is, and the line that does.
const LEFT_OUT: [(&str, &str); 3] = [
    (
        "artefacts loaded by transformers + bitsandbytes (Python, about 1 GB of packages)",
        "cargo xtask peers",
    ),
    (
        "documents with known content, beside other programs (Python, about 150 MB of packages)",
        "cargo xtask documents",
    ),
    (
        "long property tests, quantize killed 100 times, a server among 2,000 bad clients, fuzzing (about an hour)",
        "cargo xtask soak",
    ),
];

/// Builds and runs all Rust tests of the workspace, with cargo-nextest where it is installed.
pub(crate) fn test() -> Result<()> {
    let workspace = ["--workspace", "--locked"];
    run(cargo().args(["test", "--doc"]).args(workspace))?;
    for (suite, line) in LEFT_OUT {
        println!("left out: {suite}; add it with `{line}`");
    }
    for kernels in kernels_left_out() {
        println!(
            "left out: the {kernels} kernels, which this processor lacks; `cargo xtask test` on one that has it adds them"
        );
    }
    // Last, so that the runner's summary is the last thing to read.
    if works(cargo().args(["nextest", "--version"])) {
        run_last(cargo().args(["nextest", "run", "--no-fail-fast"]).args(workspace))
    } else {
        run_last(
            cargo()
                .args(["test", "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"])
                .args(workspace),
        )
    }
}

/// Instruction sets for which there are kernels that this processor cannot run.
fn kernels_left_out() -> Vec<&'static str> {
    let mut missing = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if !std::arch::is_x86_feature_detected!("avx2") {
            missing.push("AVX2");
        }
        // All that any of the kernels asks for.
        let avx512 = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512vnni");
        if !avx512 {
            missing.push("AVX-512");
        }
        missing.push("NEON");
    }
    #[cfg(target_arch = "aarch64")]
    missing.extend(["AVX2", "AVX-512"]);
    missing
}
