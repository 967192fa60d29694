//! Whether the instructions that a kernel was written for are in its machine code.

use std::path::Path;

use anyhow::Result;

use super::manifest::Manifest;
use super::resources::Limits;
use super::toolchain::Toolchain;
use crate::shell::output;

/// Stands for every target of machine code.
const ANY: &str = "*";

/// Files that lack an instruction named in `resources.json`.
pub(super) fn check(
    toolchain: &Toolchain,
    folder: &Path,
    manifest: &Manifest,
    limits: &Limits,
) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (file, targets) in &limits.instructions {
        for image in manifest
            .images
            .iter()
            .filter(|image| image.file == *file && image.path.ends_with(".cubin"))
        {
            let wanted: Vec<&String> = [ANY, &image.target]
                .iter()
                .filter_map(|target| targets.get(*target))
                .flatten()
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let code = output(toolchain.nvdisasm().args(["-c"]).arg(folder.join(&image.path)))?;
            let missing = wanted.into_iter().filter(|name| !holds(&code, name));
            found.extend(
                missing.map(|name| format!("{file}.cu, {}: no instruction {name}", image.target)),
            );
        }
    }
    Ok(found)
}

/// Whether an instruction of this name is in the listing, with or without modifiers.
fn holds(code: &str, name: &str) -> bool {
    let is_it = |word: &str| {
        word == name || word.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    };
    code.lines().any(|line| line.split_whitespace().any(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_found_by_name() {
        let code = "\
        /*0010*/                   LDC R1, c[0x0][0x28] ;
        /*0020*/              @!P0 HGMMA.64x8x16.F32.BF16 R24, R4, gdesc[UR4], R24 ;";
        assert!(holds(code, "HGMMA") && holds(code, "LDC"));
        assert!(!holds(code, "HMMA") && !holds(code, "LD"));
    }
}
