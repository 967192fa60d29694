//! Everything that CI runs.

use std::path::Path;

use anyhow::Result;

use crate::shell::{cargo, run, works};
use crate::{peers, root, suites, tidy};

const FUZZ: [&str; 2] = ["--manifest-path", "fuzz/Cargo.toml"];

/// The checks, the cheapest first, and the tests last.
pub(crate) fn ci() -> Result<()> {
    let root = root()?;
    run(cargo().args(["fmt", "--all", "--", "--check"]))?;
    tidy::tidy(&root)?;
    licences()?;
    let deny_warnings = ["--", "--deny", "warnings"];
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--locked"]).args(deny_warnings))?;
    run(cargo().env("RUSTDOCFLAGS", "--deny warnings").args([
        "doc",
        "--workspace",
        "--no-deps",
        "--locked",
    ]))?;
    if Path::new("fuzz/Cargo.toml").exists() {
        run(cargo().args(["fmt"]).args(FUZZ).args(["--", "--check"]))?;
        run(cargo().args(["clippy", "--locked"]).args(FUZZ).args(deny_warnings))?;
    }
    // The README's first command, and the build without which there is no product.
    run(cargo().args(["run", "--release", "--locked", "--package", "halfbyte", "--", "demo"]))?;
    if peers::installed(&root) {
        peers::peers(&root)?;
    }
    suites::test()
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
