//! What `halfbyte quantize` writes, loaded by the programs it is written for.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::shell::{cargo, output, run};

/// How a checkpoint is quantized: `--type`, `--blocksize`, `--double-quant`.
const FORMATS: [[&str; 3]; 3] =
    [["nf4", "64", "true"], ["nf4", "128", "false"], ["fp4", "64", "false"]];

/// Whether there is a Python environment, so that [`peers`] fetches nothing.
pub(crate) fn installed(root: &Path) -> bool {
    environment(root).join("bin/python").exists()
}

/// `HALFBYTE_PEERS_VENV` if it is set, else `target/peers`.
fn environment(root: &Path) -> PathBuf {
    env::var_os("HALFBYTE_PEERS_VENV").map_or_else(|| root.join("target/peers"), PathBuf::from)
}

/// Quantizes every 16-bit fixture in every format, and compares the logits that we and the peers compute of it.
pub(crate) fn peers(root: &Path) -> Result<()> {
    let python = python(root)?;
    let halfbyte = build(root)?;
    let work = root.join("target/peers-artefacts");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot empty {}", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let mut count = 0;
    let mut worst = 0.0_f64;
    for source in sources(root)? {
        for format in FORMATS {
            let difference = check(&python, &halfbyte, root, &work, &source, format)?;
            println!("{source} {}: {difference:.1e} of the largest logit", format.join(" "));
            worst = worst.max(difference);
            count += 1;
        }
    }
    println!("peers: {count} artefacts agree, at worst to {worst:.1e} of the largest logit");
    Ok(())
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

/// Names of the 16-bit fixtures.
fn sources(root: &Path) -> Result<Vec<String>> {
    let path = root.join("fixtures/models/cases.json");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let cases: Vec<Value> = serde_json::from_str(&text).context("cases.json")?;
    let sixteen_bit = |case: &&Value| matches!(case["weights"].as_str(), Some("bf16" | "mixed"));
    let names: Vec<String> = cases
        .iter()
        .filter(sixteen_bit)
        .filter_map(|c| c["name"].as_str().map(String::from))
        .collect();
    ensure!(!names.is_empty(), "{} lists no 16-bit model", path.display());
    Ok(names)
}

/// Quantizes one fixture; the largest difference of a logit over the largest logit.
fn check(
    python: &Path,
    halfbyte: &Path,
    root: &Path,
    work: &Path,
    source: &str,
    [quant_type, blocksize, double_quant]: [&str; 3],
) -> Result<f64> {
    let artefact = work.join(format!("{source}-{quant_type}-{blocksize}-{double_quant}"));
    let fixture = root.join("fixtures/models").join(source);
    output(Command::new(halfbyte).arg("quantize").args([&fixture, &artefact]).args([
        "--type",
        quant_type,
        "--blocksize",
        blocksize,
        "--double-quant",
        double_quant,
    ]))?;
    let ids = artefact.with_extension("tokens.json");
    let logits = artefact.with_extension("logits.safetensors");
    fs::write(&ids, serde_json::to_string(&tokens(&fixture.join("expected.safetensors"))?)?)?;
    output(
        Command::new(halfbyte)
            .arg("score")
            .arg(&artefact)
            .arg("--tokens")
            .arg(&ids)
            .arg("--logits")
            .arg(&logits)
            .arg("--json"),
    )?;
    let said = output(
        Command::new(python)
            .arg("fixtures/check_artifact.py")
            .arg(&artefact)
            .arg("--expected")
            .arg(&logits)
            .arg("--tokens")
            .arg(&ids),
    )?;
    let report: Value =
        serde_json::from_str(said.trim()).context("check_artifact.py prints no JSON")?;
    report["max_difference_over_max_logit"]
        .as_f64()
        .context("check_artifact.py reports no difference")
}

/// The tensor `tokens`, I64, of a safetensors file: a length of 8 bytes, a JSON header, the data.
fn tokens(path: &Path) -> Result<Vec<i64>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let read = || -> Option<Vec<i64>> {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (header, data) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let header: Value = serde_json::from_slice(header).ok()?;
        let offset =
            |end: usize| usize::try_from(header["tokens"]["data_offsets"][end].as_u64()?).ok();
        let data = data.get(offset(0)?..offset(1)?)?;
        Some(data.as_chunks::<8>().0.iter().map(|chunk| i64::from_le_bytes(*chunk)).collect())
    };
    match read() {
        Some(tokens) if !tokens.is_empty() => Ok(tokens),
        _ => bail!("{} holds no tensor `tokens`", path.display()),
    }
}
