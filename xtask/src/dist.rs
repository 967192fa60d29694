//! What is handed out: an archive of the binary and what belongs to it, a Python wheel of the same binary, and their hashes.
//!
//! The same binary gives the same bytes: entries are sorted, their times fixed, nothing of this machine goes in.

mod binary;
mod licences;
mod spdx;
mod archive;
mod wheel;
mod installed;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::shell::{output, run};

/// Seconds since 1970 of every entry: the beginning of 1980, before which a zip knows no time.
const TIME: u64 = 315_532_800;

/// A file of what is handed out.
struct Entry {
    /// Relative, with `/`.
    path: String,
    content: Vec<u8>,
    executable: bool,
}

impl Entry {
    fn new(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Entry {
        Entry { path: path.into(), content: content.into(), executable: false }
    }
}

/// What was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// The binary; otherwise one is built.
    binary: Option<PathBuf>,
    /// Folder for what is made; otherwise `target/dist`.
    out: Option<PathBuf>,
    /// For machines like this one alone: any glibc, and no kernels needed.
    local: bool,
    /// Install both in an empty place, and run what is there.
    check: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || match arguments.next() {
                Some(value) => Ok(PathBuf::from(value)),
                None => bail!("{argument} needs a value"),
            };
            match *argument {
                "--binary" => options.binary = Some(value()?),
                "--out" => options.out = Some(value()?),
                "--local" => options.local = true,
                "--check" => options.check = true,
                other => bail!("`{other}` is no option of dist; `cargo xtask help` lists them"),
            }
        }
        Ok(options)
    }

    /// The binary that CI has built, packed, installed and run.
    pub(crate) fn ci(binary: PathBuf) -> Options {
        Options { binary: Some(binary), local: true, check: true, ..Options::default() }
    }
}

/// Makes archive, wheel and `SHA256SUMS`; with `--check` installs and runs them. Gives the program that was packed, then
/// unpacked if it was checked.
pub(crate) fn dist(root: &Path, options: &Options) -> Result<PathBuf> {
    let out = options.out.clone().unwrap_or_else(|| root.join("target/dist"));
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let built = match &options.binary {
        Some(binary) => binary.clone(),
        None => binary::build(root)?,
    };
    let program = out.join("halfbyte");
    binary::strip(&built, &program)?;
    let facts = binary::check(&program, options.local)?;
    let version = version(&program)?;
    let entries = entries(root, &program)?;

    let suffix = if options.local { "-local" } else { "" };
    let name = format!("halfbyte-{version}-{}-linux-gnu{suffix}", facts.machine);
    let archive = out.join(format!("{name}.tar.gz"));
    write(&archive, &archive::tar_gz(&name, &entries)?)?;
    // A wheel that has not been held against a platform's bounds may not claim them.
    let platform = if options.local { "linux" } else { binary::PLATFORM };
    let tag = format!("py3-none-{platform}_{}", facts.machine);
    let wheel = out.join(format!("halfbyte-{version}-{tag}.whl"));
    write(&wheel, &wheel::wheel(&version, &tag, &entries)?)?;
    sums(&out, &[&archive, &wheel])?;
    println!("{}: {}", out.join("halfbyte").display(), facts.describe());
    match options.check {
        true => installed::check(&out, &archive, &wheel, &name),
        false => Ok(program),
    }
}

/// What the archive holds, by path: the binary, its documents and licences, and what it prints about itself.
fn entries(root: &Path, program: &Path) -> Result<Vec<Entry>> {
    let read = |path: &str| fs::read(root.join(path)).with_context(|| path.to_owned());
    let said = |shell: &str| {
        output(Command::new(program).args(["completions", shell])).map(String::into_bytes)
    };
    let mut entries = vec![
        Entry { executable: true, ..Entry::new("halfbyte", fs::read(program)?) },
        Entry::new("THIRD-PARTY-LICENSES", licences::of_binary(root)?),
        Entry::new("completions/halfbyte.bash", said("bash")?),
        Entry::new("completions/_halfbyte", said("zsh")?),
        Entry::new("completions/halfbyte.fish", said("fish")?),
        Entry::new("man/man1/halfbyte.1", said("man")?),
    ];
    for path in ["LICENSE", "LICENSE-APACHE", "LICENSE-MIT", "README.md", "CHANGELOG.md"] {
        entries.push(Entry::new(path, read(path)?));
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// `0.1.0` of `halfbyte 0.1.0`.
fn version(program: &Path) -> Result<String> {
    let said = output(Command::new(program).arg("-V"))?;
    let version = said.trim().strip_prefix("halfbyte ");
    version.map(str::to_owned).with_context(|| format!("`halfbyte -V` says {said:?}"))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    println!("{}: {} bytes", path.display(), content.len());
    fs::write(path, content).with_context(|| path.display().to_string())
}

/// `SHA256SUMS` of these files, for `sha256sum --check`.
fn sums(out: &Path, files: &[&Path]) -> Result<()> {
    let mut lines = String::new();
    for path in files {
        let hash: String =
            Sha256::digest(fs::read(path)?).iter().map(|byte| format!("{byte:02x}")).collect();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        lines += &format!("{hash}  {name}\n");
    }
    write(&out.join("SHA256SUMS"), lines.as_bytes())
}

/// A Python environment in `folder`, made if it is not there; its `bin`.
fn environment(folder: &Path) -> Result<PathBuf> {
    let bin = folder.join("bin");
    if !bin.join("python").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    }
    Ok(bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&["--binary", "a", "--out", "b", "--check"]).unwrap();
        let expected = Options {
            binary: Some("a".into()),
            out: Some("b".into()),
            check: true,
            ..Options::default()
        };
        assert_eq!(options, expected);
        assert!(Options::ci("a".into()).local);
        for wrong in [["--binary"].as_slice(), &["a"], &["--glibc"]] {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
