//! Archive and wheel, installed where nothing else is, and run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::environment;
use crate::shell::{output, run, works};

/// Unpacks the one, installs the other with pip and without an index, and runs both. Gives the unpacked program.
pub(super) fn check(out: &Path, archive: &Path, wheel: &Path, name: &str) -> Result<PathBuf> {
    let place = out.join("installed");
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| place.display().to_string())?;
    }
    fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    run(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(out))?;
    run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&place))?;
    let unpacked = place.join(name);
    for file in ["man/man1/halfbyte.1", "completions/_halfbyte", "THIRD-PARTY-LICENSES"] {
        if fs::metadata(unpacked.join(file)).map_or(0, |file| file.len()) == 0 {
            bail!("{}: {file} is not there, or empty", archive.display());
        }
    }
    let program = unpacked.join("halfbyte");
    answers(&program)?;
    if !works(Command::new("python3").args(["-c", "import venv, ensurepip"])) {
        println!(
            "left out: the wheel in an environment of its own; add it with Python 3 and python3-venv"
        );
        return Ok(program);
    }
    let bin = environment(&place.join("venv"))?;
    run(Command::new(bin.join("python"))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"])
        .arg(wheel))?;
    answers(&bin.join("halfbyte"))?;
    Ok(program)
}

/// Runs the program with nothing of this environment but its own folder as home.
fn answers(program: &Path) -> Result<()> {
    let run = |arguments: &[&str]| {
        println!("+ {} {}", program.display(), arguments.join(" "));
        output(Command::new(program).args(arguments).env_clear())
    };
    print!("{}", run(&["--version"])?);
    let said = run(&[
        "prompt",
        "demo",
        "Invoice 7, total 12.00 EUR",
        "--max-tokens",
        "24",
        "--device",
        "cpu",
    ])?;
    if said.trim().is_empty() {
        bail!("{} answers nothing", program.display());
    }
    println!("{}", said.trim_end());
    Ok(())
}
