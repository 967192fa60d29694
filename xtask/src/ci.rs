//! Everything that CI runs.

use std::process::Command;

use anyhow::Result;

use crate::shell::{cargo, run, works};
use crate::{dist, image, jobs, kernels, peers, root, suites, tidy};

const FUZZ: [&str; 2] = ["--manifest-path", "fuzz/Cargo.toml"];

const DENY_WARNINGS: [&str; 3] = ["--", "--deny", "warnings"];

/// The checks, the cheapest first, and the tests last.
pub(crate) fn ci() -> Result<()> {
    let root = root()?;
    run(cargo().args(["fmt", "--all", "--", "--check"]))?;
    tidy::tidy(&root)?;
    licences()?;
    kernels::kernels(&root, &kernels::Options::ci())?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--locked"]).args(DENY_WARNINGS))?;
    run(cargo().env("RUSTDOCFLAGS", "--deny warnings").args([
        "doc",
        "--workspace",
        "--no-deps",
        "--locked",
    ]))?;
    fuzz_targets()?;
    // The README's first command, and the build without which there is no product.
    run(cargo().args([
        "run",
        "--release",
        "--locked",
        "--package",
        "halfbyte",
        "--",
        "demo",
        "--device",
        "cpu",
    ]))?;
    // What is handed out is made of that binary, installed and run; and the image of what was installed.
    let binary = peers::target(&root).join("release/halfbyte");
    let installed = dist::dist(&root, &dist::Options::ci(binary))?;
    image::image(&root, &image::Options { binary: Some(installed) })?;
    if works(Command::new("python3").args(["-c", "import venv, ensurepip"])) {
        peers::deploy(&root)?;
    } else {
        println!(
            "left out: the files of deploy/ before the programs that read them; Python 3 and python3-venv add it"
        );
    }
    if peers::installed(&root) {
        peers::peers(&root)?;
    }
    jobs::jobs_if_there(&jobs::Options::parse(&[])?)?;
    suites::test()
}

/// The fuzz targets, a workspace of its own, must build; libFuzzer is C++.
fn fuzz_targets() -> Result<()> {
    run(cargo().arg("fmt").args(FUZZ).args(["--", "--check"]))?;
    if works(Command::new("c++").arg("--version")) {
        return run(cargo().args(["clippy", "--locked"]).args(FUZZ).args(DENY_WARNINGS));
    }
    println!(
        "left out: building the fuzz targets; add it with a C++ compiler, on Debian `apt-get install g++`"
    );
    Ok(())
}

/// Licences, sources and bans of the dependencies, after `deny.toml`.
fn licences() -> Result<()> {
    if works(cargo().args(["deny", "--version"])) {
        return run(cargo().args(["deny", "--locked", "check", "licenses", "bans", "sources"]));
    }
    println!(
        "left out: licences of dependencies; add them with `cargo install cargo-deny --locked`"
    );
    Ok(())
}
