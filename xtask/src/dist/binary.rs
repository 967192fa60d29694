//! The binary: built for an old glibc, stripped, and held against what the archive and the wheel promise.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::elf::FileHeader64;
use object::read::elf::{Dyn, ElfFile, FileHeader};
use object::{Endianness, elf};

use super::environment;
use crate::shell::{cargo, output, run};

/// The newest version of the C library that may be asked for: Debian 10, Ubuntu 20.04, RHEL 8 and Amazon Linux 2023 have it.
const GLIBC: [u32; 2] = [2, 28];

/// The same in the terms of Python's packages.
pub(super) const PLATFORM: &str = "manylinux_2_28";

/// Libraries of the system that may be asked for: those that `manylinux_2_28` lists, of which we have use.
const LIBRARIES: [&str; 8] = [
    "ld-linux-aarch64.so.1",
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
];

/// zig, whose linker knows the symbols of every glibc, at pinned versions and hashes.
const REQUIREMENTS: &str = "xtask/src/dist/requirements.txt";

/// What a binary asks of the system that runs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// `x86_64` or `aarch64`.
    pub(super) machine: &'static str,
    /// Shared libraries.
    needed: BTreeSet<String>,
    /// Newest version of a symbol of glibc.
    glibc: [u32; 2],
}

impl Facts {
    pub(super) fn describe(&self) -> String {
        let needed: Vec<&str> = self.needed.iter().map(String::as_str).collect();
        let [major, minor] = self.glibc;
        format!("{}, glibc {major}.{minor} or later, {}", self.machine, needed.join(", "))
    }

    fn read(bytes: &[u8]) -> Result<Facts> {
        let file = ElfFile::<FileHeader64<Endianness>>::parse(bytes).context("no 64-bit ELF")?;
        let endian = file.endian();
        let machine = match file.elf_header().e_machine(endian) {
            elf::EM_X86_64 => "x86_64",
            elf::EM_AARCH64 => "aarch64",
            other => bail!("its machine is {other:?}, neither x86_64 nor aarch64"),
        };
        let sections = file.elf_section_table();
        let mut facts = Facts { machine, needed: BTreeSet::new(), glibc: [0, 0] };
        if let Some((dynamic, link)) = sections.dynamic(endian, bytes)? {
            let strings = sections.strings(endian, bytes, link)?;
            for entry in dynamic.iter().filter(|entry| entry.tag(endian) == elf::DT_NEEDED) {
                let name = object::read::elf::Dyn::string(entry, endian, strings)?;
                facts.needed.insert(String::from_utf8_lossy(name).into_owned());
            }
        }
        if let Some((mut libraries, link)) = sections.gnu_verneed(endian, bytes)? {
            let strings = sections.strings(endian, bytes, link)?;
            while let Some((_, mut versions)) = libraries.next()? {
                while let Some(version) = versions.next()? {
                    let name = String::from_utf8_lossy(version.name(endian, strings)?).into_owned();
                    if let Some(number) = glibc(&name)? {
                        facts.glibc = facts.glibc.max(number);
                    }
                }
            }
        }
        Ok(facts)
    }
}

/// `[2, 28]` of `GLIBC_2.28`; `None` for versions of other libraries.
fn glibc(name: &str) -> Result<Option<[u32; 2]>> {
    let Some(version) = name.strip_prefix("GLIBC_") else { return Ok(None) };
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok(Some([major, minor])),
        // GLIBC_PRIVATE: symbols that belong to one build of glibc.
        _ => bail!("it asks for {name}, which no other glibc has"),
    }
}

/// A release binary that runs with every glibc since [`GLIBC`], with kernels for all cards.
pub(super) fn build(root: &Path) -> Result<PathBuf> {
    let bin = environment(&root.join("target/zig"))
        .context("a binary for older systems is linked by zig, which is fetched with Python 3 and its venv module")?;
    run(Command::new(bin.join("python"))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary", ":all:", "--require-hashes", "--requirement", REQUIREMENTS]))?;
    let machine = std::env::consts::ARCH;
    let [major, minor] = GLIBC;
    // cargo-zigbuild finds zig in the Python environment that is first on the path.
    let mut path = bin.into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    run(cargo()
        .env("PATH", path)
        .env("HALFBYTE_REQUIRE_KERNELS", "1")
        .args(["zigbuild", "--release", "--locked", "--package", "halfbyte", "--target"])
        .arg(format!("{machine}-unknown-linux-gnu.{major}.{minor}")))?;
    Ok(crate::peers::target(root).join(format!("{machine}-unknown-linux-gnu/release/halfbyte")))
}

/// Copies the binary without symbols and lines for debuggers, which are most of its bytes.
pub(super) fn strip(built: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").arg("--strip-all").arg("-o").arg(to).arg(built))
        .context("`strip` comes with the C compiler (binutils)")
}

/// What the binary asks for; refuses what the archive and the wheel may not hold, unless it is for this machine alone.
pub(super) fn check(program: &Path, local: bool) -> Result<Facts> {
    let bytes = fs::read(program).with_context(|| program.display().to_string())?;
    let facts = Facts::read(&bytes).with_context(|| program.display().to_string())?;
    if local {
        return Ok(facts);
    }
    let [major, minor] = GLIBC;
    if facts.glibc > GLIBC {
        bail!(
            "{} needs more than glibc {major}.{minor} ({}); leave --binary away to have one built, or say --local",
            program.display(),
            facts.describe()
        );
    }
    if let Some(other) = facts.needed.iter().find(|name| !LIBRARIES.contains(&name.as_str())) {
        bail!("{} needs {other}, which not every system has", program.display());
    }
    let said = output(Command::new(program).arg("--version"))?;
    if said.contains("cuda kernels: none") {
        bail!(
            "{} holds no CUDA kernels: `cargo xtask kernels`, build again, or --local",
            program.display()
        );
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(glibc("GLIBC_2.2.5").unwrap(), Some([2, 2]));
        assert!(glibc("GLIBC_2.34").unwrap() > Some(GLIBC));
        assert!(glibc("GLIBC_2.4").unwrap() < Some(GLIBC));
        assert_eq!(glibc("GCC_4.2.0").unwrap(), None);
        assert!(glibc("GLIBC_PRIVATE").is_err());
    }

    #[test]
    fn this_very_program_is_read() {
        let bytes = fs::read(std::env::current_exe().unwrap()).unwrap();
        let facts = Facts::read(&bytes).unwrap();
        assert_eq!(facts.machine, std::env::consts::ARCH);
        assert!(facts.needed.contains("libc.so.6"), "{facts:?}");
        assert!(facts.glibc >= [2, 2], "{facts:?}");
        assert!(Facts::read(&bytes[..40]).is_err());
        assert!(Facts::read(b"#!/bin/sh\n").is_err());
    }
}
