//! What `halfbyte` writes and answers, read by the programs it is written for.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

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

/// OpenAI's client, the parser of Prometheus, OpenTelemetry's definitions, jsonschema, RunPod's SDK.
const SERVER: Environment = Environment {
    variable: "HALFBYTE_SERVER_VENV",
    folder: "peers-server",
    requirements: "fixtures/server-requirements.txt",
};

/// Producers of documents, and what reads them beside us.
const DOCUMENTS: Environment = Environment {
    variable: "HALFBYTE_DOCUMENTS_VENV",
    folder: "peers-documents",
    requirements: "fixtures/documents/requirements.txt",
};

/// Schemas of Kubernetes, and hadolint.
const DEPLOY: Environment = Environment {
    variable: "HALFBYTE_DEPLOY_VENV",
    folder: "peers-deploy",
    requirements: "deploy/requirements.txt",
};

/// What a running server is asked by, by the names that `cargo xtask peers` takes.
const CHECKS: [(&str, &str); 6] = [
    ("openai", "fixtures/check_openai.py"),
    ("proxy", "fixtures/check_proxy.py"),
    ("metrics", "fixtures/check_metrics.py"),
    ("spans", "fixtures/check_spans.py"),
    ("schemas", "fixtures/check_schemas.py"),
    ("worker", "fixtures/check_worker.py"),
];

/// Whether there is a Python environment for the models, so that [`peers`] fetches little.
pub(crate) fn installed(root: &Path) -> bool {
    MODELS.python(root).exists()
}

/// Every fixture through the binary, and its artefacts through transformers and bitsandbytes; then a server through the
/// programs that are put beside one.
pub(crate) fn peers(root: &Path) -> Result<()> {
    let python = MODELS.make(root)?;
    let halfbyte = build(root)?;
    run(Command::new(python).arg("fixtures/check_families.py").arg(&halfbyte))?;
    deploy(root)?;
    serve(root, &halfbyte, &[])
}

/// A server through those programs alone: the named ones, or all.
pub(crate) fn server(root: &Path, names: &[&str]) -> Result<()> {
    if let Some(name) = names.iter().find(|name| !CHECKS.iter().any(|(known, _)| known == *name)) {
        let known: Vec<_> = CHECKS.iter().map(|(name, _)| *name).collect();
        bail!("`{name}` is no check of a server; there are {}", known.join(", "));
    }
    serve(root, &build(root)?, names)
}

fn serve(root: &Path, halfbyte: &Path, names: &[&str]) -> Result<()> {
    let python = SERVER.make(root)?;
    for (name, script) in CHECKS {
        if names.is_empty() || names.contains(&name) {
            let mut check = Command::new(&python);
            check.arg(script).arg(halfbyte);
            if name == "schemas" {
                check.arg(schemas(root)?);
            }
            run(&mut check)?;
        }
    }
    Ok(())
}

/// The files of `deploy/` before the programs that read them.
pub(crate) fn deploy(root: &Path) -> Result<()> {
    run(Command::new(DEPLOY.make(root)?).arg("deploy/check.py"))
}

/// A file of all test schemas, some of which are made up by the tests.
fn schemas(root: &Path) -> Result<PathBuf> {
    let path = root.join("target/schemas.jsonl");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let dump = ["run", "--quiet", "--locked", "--package", "halfbyte-grammar", "--example", "dump"];
    run(cargo().args(dump).args(["--", "--schemas"]).stdout(file))?;
    Ok(path)
}

/// The web page in headless Chromium; a line says so where there is none. Python's own library is enough.
pub(crate) fn page(root: &Path) -> Result<()> {
    run(Command::new("python3").arg("fixtures/check_page.py").arg(build(root)?))
}

/// Documents made with known content, read by `extract` and by other programs; then pages per second.
pub(crate) fn documents(root: &Path) -> Result<()> {
    let python = DOCUMENTS.make(root)?;
    let folder = root.join("target/documents");
    let script = |name: &str| {
        let mut command = Command::new(&python);
        command.arg(format!("fixtures/documents/{name}"));
        command
    };
    run(script("make.py").arg(&folder))?;
    run(cargo()
        .args(["build", "--release", "--locked", "--package", "halfbyte-extract"])
        .args(["--example", "read"]))?;
    let read = target(root).join("release/examples/read");
    run(script("evaluate.py").arg(&read).arg(&folder))?;
    run(script("evaluate.py").arg(&read).arg(&folder).arg("--speed"))
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
    Ok(target(root).join("release/halfbyte"))
}

/// Where cargo puts what it builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
