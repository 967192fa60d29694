//! What `halfbyte quantize` writes, loaded by the programs it is written for.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{cargo, run};

/// Whether there is a Python environment, so that [`peers`] fetches nothing.
pub(crate) fn installed(root: &Path) -> bool {
    environment(root).join("bin/python").exists()
}

/// `HALFBYTE_PEERS_VENV` if it is set, else `target/peers`.
fn environment(root: &Path) -> PathBuf {
    env::var_os("HALFBYTE_PEERS_VENV").map_or_else(|| root.join("target/peers"), PathBuf::from)
}

/// Every fixture through the binary, and its artefacts through transformers and bitsandbytes.
pub(crate) fn peers(root: &Path) -> Result<()> {
    let python = python(root)?;
    let halfbyte = build(root)?;
    run(Command::new(python).arg("fixtures/check_families.py").arg(halfbyte))
}

/// The interpreter of the environment, which is made if it is not there.
fn python(root: &Path) -> Result<PathBuf> {
    let environment = environment(root);
    let python = environment.join("bin/python");
    if !installed(root) {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))
            .context("the peers need Python 3 with its venv module")?;
        let requirements = ["--requirement", "fixtures/requirements.txt"];
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(requirements))
            .with_context(|| {
                format!("incomplete: remove {} to try again", environment.display())
            })?;
    }
    Ok(python)
}

/// The release binary: the one that `HALFBYTE_BINARY` names, else one built from this tree.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    if let Some(binary) = env::var_os("HALFBYTE_BINARY") {
        return Ok(binary.into());
    }
    run(cargo().args(["build", "--release", "--locked", "--package", "halfbyte"]))?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/halfbyte"))
}
