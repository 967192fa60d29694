//! The files of kernels, and what they include of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::TARGETS;

/// How a file asks for fewer targets, in its first line.
const OWN_TARGETS: &str = "// targets:";

/// All `.cu` and `.cuh` files by name.
#[derive(PartialEq, Eq)]
pub(super) struct Sources {
    pub(super) folder: PathBuf,
    texts: BTreeMap<String, String>,
}

impl Sources {
    pub(super) fn read(folder: &Path) -> Result<Sources> {
        let mut texts = BTreeMap::new();
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "cu" || ending == "cuh") {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                texts.insert(
                    path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    text,
                );
            }
        }
        Ok(Sources { folder: folder.to_path_buf(), texts })
    }

    /// The files to compile, without their ending.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.texts.keys().filter_map(|name| name.strip_suffix(".cu"))
    }

    /// What a file is compiled for.
    pub(super) fn targets(&self, file: &str) -> Result<Vec<&str>> {
        let first = self.text(file).lines().next().unwrap_or_default();
        let Some(own) = first.strip_prefix(OWN_TARGETS) else {
            return Ok(TARGETS.to_vec());
        };
        let own: Vec<&str> = own.split([',', ' ']).filter(|name| !name.is_empty()).collect();
        match own.iter().find(|name| !TARGETS.contains(name)) {
            Some(unknown) => bail!("{file}.cu:1: `{unknown}` is none of {}", TARGETS.join(", ")),
            None => Ok(own),
        }
    }

    /// Bytes of a file with what it includes of ours, a measure of how long it takes.
    pub(super) fn size(&self, file: &str) -> usize {
        self.closure(file).iter().map(|name| self.texts[*name].len()).sum()
    }

    fn text(&self, file: &str) -> &str {
        self.texts.get(&format!("{file}.cu")).map_or("", String::as_str)
    }

    /// The hash of everything that a file is made of: itself and what it includes.
    pub(super) fn key(&self, file: &str) -> String {
        let content: String = self
            .closure(file)
            .iter()
            .map(|name| format!("{name}\n{}\n", self.texts[*name]))
            .collect();
        hash(content.as_bytes())
    }

    /// Hashes of the files that `files` are made of, by name.
    pub(super) fn hashes<'a>(
        &self,
        files: impl IntoIterator<Item = &'a str>,
    ) -> BTreeMap<String, String> {
        let names: BTreeSet<&str> = files.into_iter().flat_map(|file| self.closure(file)).collect();
        names.into_iter().map(|name| (name.to_owned(), hash(self.texts[name].as_bytes()))).collect()
    }

    /// The file and all that it includes of ours.
    fn closure(&self, file: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open = vec![format!("{file}.cu")];
        while let Some(name) = open.pop() {
            if let Some((name, text)) = self.texts.get_key_value(&name)
                && found.insert(name.as_str())
            {
                open.extend(includes(text).map(str::to_owned));
            }
        }
        found
    }
}

fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix("#include \"")?.split('"').next())
}

/// SHA-256 in hexadecimal digits.
pub(super) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(texts: &[(&str, &str)]) -> Sources {
        let texts =
            texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Sources { folder: PathBuf::new(), texts }
    }

    #[test]
    fn a_file_is_made_of_what_it_includes() {
        let texts = [
            ("a.cu", "#include \"a.cuh\"\n"),
            ("a.cuh", "  #include \"b.cuh\"\n"),
            ("b.cuh", ""),
            ("c.cu", ""),
        ];
        let before = sources(&texts);
        assert_eq!(before.closure("a"), BTreeSet::from(["a.cu", "a.cuh", "b.cuh"]));
        let mut changed = texts;
        changed[2].1 = "int x;";
        let after = sources(&changed);
        assert_ne!(before.key("a"), after.key("a"));
        assert_eq!(before.key("c"), after.key("c"));
    }

    #[test]
    fn a_file_may_ask_for_its_targets() {
        let of = |line: &str| {
            sources(&[("a.cu", line)]).targets("a").map(|targets| targets.join(" ")).ok()
        };
        assert_eq!(of("// Kernels.\n").unwrap(), TARGETS.join(" "));
        assert_eq!(of("// targets: sm_80, sm_90a\n").unwrap(), "sm_80 sm_90a");
        assert_eq!(of("// targets: sm_91\n"), None);
    }
}
