//! What `halfbyte` writes and answers, read by the programs it is written for.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{cargo, run};

/// Packages from PyPI in an environment of their own.
struct Environment {
    /// Environment variable that names one that is there already.
    variable: &'static str,
    /// Folder in `target` otherwise.
    folder: &'static str,
    requirements: &'static str,
}

/// transformers and bitsandbytes.
const MODELS: Environment = Environment {
    variable: "HALFBYTE_PEERS_VENV",
    folder: "peers",
    requirements: "fixtures/requirements.txt",
};

/// OpenAI's client.
const CLIENT: Environment = Environment {
    variable: "HALFBYTE_OPENAI_VENV",
    folder: "peers-openai",
    requirements: "fixtures/openai-requirements.txt",
};

/// Whether there is a Python environment for the models, so that [`peers`] fetches little.
pub(crate) fn installed(root: &Path) -> bool {
    MODELS.python(root).exists()
}

/// Every fixture through the binary, and its artefacts through transformers and bitsandbytes; then a server through
/// OpenAI's client.
pub(crate) fn peers(root: &Path) -> Result<()> {
    let python = MODELS.make(root)?;
    let halfbyte = build(root)?;
    run(Command::new(python).arg("fixtures/check_families.py").arg(&halfbyte))?;
    check_client(root, &halfbyte)
}

/// A server through OpenAI's client alone.
pub(crate) fn client(root: &Path) -> Result<()> {
    check_client(root, &build(root)?)
}

fn check_client(root: &Path, halfbyte: &Path) -> Result<()> {
    let python = CLIENT.make(root)?;
    run(Command::new(python).arg("fixtures/check_openai.py").arg(halfbyte))
}

/// The web page in headless Chromium; a line says so where there is none. Python's own library is enough.
pub(crate) fn page(root: &Path) -> Result<()> {
    run(Command::new("python3").arg("fixtures/check_page.py").arg(build(root)?))
}

impl Environment {
    fn folder(&self, root: &Path) -> PathBuf {
        let folder = || root.join("target").join(self.folder);
        env::var_os(self.variable).map_or_else(folder, PathBuf::from)
    }

    fn python(&self, root: &Path) -> PathBuf {
        self.folder(root).join("bin/python")
    }

    /// The interpreter of the environment, which is made if it is not there.
    fn make(&self, root: &Path) -> Result<PathBuf> {
        let (folder, python) = (self.folder(root), self.python(root));
        if !python.exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&folder))
                .context("the peers need Python 3 with its venv module")?;
            let install = ["-m", "pip", "install", "--quiet", "--requirement", self.requirements];
            run(Command::new(&python).args(install))
                .with_context(|| format!("incomplete: remove {} to try again", folder.display()))?;
        }
        Ok(python)
    }
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
