//! The licences of all that is compiled into the binary, as one text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::spdx;
use crate::shell::{cargo, output};

/// How files are called that hold a licence, or what a licence wants to be passed on.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// Folders below a package's own in which they are looked for: code of others has its own beside it.
const DEPTH_MAX: usize = 4;

/// Folders of a package that are no part of what is compiled.
const ASIDE: [&str; 6] = ["tests", "test", "benches", "examples", "fuzz", ".git"];

/// Bytes of a licence, and of all that Rust's library comes with.
const TEXT_MAX: u64 = 1 << 20;

/// What is in the binary and no package of Cargo's.
const OTHERS: &str = include_str!("other-licences.txt");

/// A package that is compiled in.
struct Package {
    name: String,
    version: String,
    expression: String,
    folder: PathBuf,
    /// Without what comes behind the name of the repository.
    repository: String,
}

/// Licences by their text: a text, and whose it is.
type Texts = BTreeMap<String, BTreeSet<String>>;

/// The text of `THIRD-PARTY-LICENSES`.
///
/// # Errors
/// A package under no licence of `deny.toml`, or without any text of its licence.
pub(super) fn of_binary(root: &Path) -> Result<String> {
    let (packages, texts) = of_packages(root)?;
    Ok(render(&packages, &texts, &standard_library()?))
}

/// The packages that are compiled in, all allowed, and the texts of their licences.
fn of_packages(root: &Path) -> Result<(Vec<Package>, Texts)> {
    let packages = packages(&metadata()?)?;
    let allowed = Allowed::read(root)?;
    let mut found = Vec::new();
    for package in &packages {
        let is_allowed = |name: &str| allowed.takes(&package.name, name);
        match spdx::is_met(&package.expression, &is_allowed) {
            Ok(true) => {}
            Ok(false) => {
                found.push(format!("{}: {} is not allowed", package.name, package.expression))
            }
            Err(error) => found.push(format!("{}: {error}", package.name)),
        }
    }
    let mut texts = Texts::new();
    let mut of_repositories: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut without = Vec::new();
    for package in &packages {
        let own = texts_in(&package.folder, 0)?;
        if own.is_empty() {
            without.push(package);
        }
        for text in own {
            of_repositories.entry(&package.repository).or_default().insert(text.clone());
            texts.entry(text).or_default().insert(package.title());
        }
    }
    for package in without {
        // Some packages leave out what lies at the root of their repository; another of the same has it, or the licence has one text.
        let texts_of = match of_repositories.get(package.repository.as_str()) {
            Some(texts) => texts.clone(),
            None if package.expression == "Apache-2.0" => {
                BTreeSet::from([normal(&fs::read_to_string(root.join("LICENSE-APACHE"))?)])
            }
            None => {
                found.push(format!("{}: there is no text of {}", package.name, package.expression));
                continue;
            }
        };
        for text in texts_of {
            texts.entry(text).or_default().insert(package.title());
        }
    }
    if !found.is_empty() {
        bail!("licences that cannot be handed out:\n{}", found.join("\n"));
    }
    Ok((packages, texts))
}

impl Package {
    fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// Licences that `deny.toml` allows.
struct Allowed {
    all: Vec<String>,
    /// Those of one package alone.
    exceptions: Vec<(String, Vec<String>)>,
}

impl Allowed {
    fn read(root: &Path) -> Result<Allowed> {
        Allowed::parse(&fs::read_to_string(root.join("deny.toml")).context("deny.toml")?)
    }

    fn parse(text: &str) -> Result<Allowed> {
        let table: toml::Table = text.parse().context("deny.toml")?;
        let licences = table.get("licenses").context("deny.toml has no [licenses]")?;
        let names = |value: Option<&toml::Value>| -> Vec<String> {
            let names = value.and_then(toml::Value::as_array).into_iter().flatten();
            names.filter_map(|name| Some(name.as_str()?.to_owned())).collect()
        };
        let exceptions = licences.get("exceptions").and_then(toml::Value::as_array);
        let exceptions = exceptions.into_iter().flatten().filter_map(|exception| {
            let name = exception.get("crate")?.as_str()?.to_owned();
            Some((name, names(exception.get("allow"))))
        });
        Ok(Allowed { all: names(licences.get("allow")), exceptions: exceptions.collect() })
    }

    fn takes(&self, package: &str, licence: &str) -> bool {
        let of_package = self.exceptions.iter().filter(|(name, _)| name == package);
        of_package.flat_map(|(_, licences)| licences).chain(&self.all).any(|name| name == licence)
    }
}

fn metadata() -> Result<Value> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let said = output(cargo().args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        &target,
    ]))?;
    serde_json::from_str(&said).context("`cargo metadata` prints no JSON")
}

/// All packages that `halfbyte` is made of, ours aside; what only builds or tests it is no part of it.
fn packages(metadata: &Value) -> Result<Vec<Package>> {
    let list = |value: &'static str| metadata[value].as_array().into_iter().flatten();
    let by_id: BTreeMap<&str, &Value> =
        list("packages").filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    let nodes: BTreeMap<&str, &Value> =
        nodes.filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let is_root = |package: &Value| package["name"] == "halfbyte" && package["source"].is_null();
    let root = by_id.iter().find(|(_, package)| is_root(package));
    let mut waiting = vec![*root.context("there is no package `halfbyte`")?.0];
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("{id} is not resolved"))?;
        let used = node["deps"].as_array().into_iter().flatten().filter(|used| {
            let mut kinds = used["dep_kinds"].as_array().into_iter().flatten();
            kinds.any(|kind| kind["kind"].is_null())
        });
        waiting.extend(used.filter_map(|used| used["pkg"].as_str()));
    }
    let mut packages: Vec<Package> = seen
        .iter()
        .filter_map(|id| by_id.get(id))
        .filter(|package| !package["source"].is_null())
        .map(|package| Package::read(package))
        .collect::<Result<_>>()?;
    packages.sort_by_key(Package::title);
    Ok(packages)
}

impl Package {
    fn read(package: &Value) -> Result<Package> {
        let text = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
        let manifest = PathBuf::from(text("manifest_path"));
        let folder = manifest.parent().context("a manifest lies in no folder")?.to_path_buf();
        let repository = text("repository");
        let root = repository.split("/tree/").next().unwrap_or_default();
        Ok(Package {
            name: text("name"),
            version: text("version"),
            expression: text("license"),
            folder,
            repository: root.trim_end_matches(['/']).trim_end_matches(".git").to_owned(),
        })
    }
}

/// Texts of licences in a folder and those below it.
fn texts_in(folder: &Path, depth: usize) -> Result<BTreeSet<String>> {
    let mut texts = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().to_uppercase());
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < DEPTH_MAX && !ASIDE.contains(&name.to_lowercase().as_str()) {
            texts.extend(texts_in(&path, depth + 1)?);
        } else if kind.is_file() && holds_licence(&name, folder) {
            if entry.metadata()?.len() > TEXT_MAX {
                bail!("{}: too long for a licence", path.display());
            }
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            texts.insert(normal(&text));
        }
    }
    Ok(texts)
}

/// Whether a file of this name, in upper case, is a licence: `LICENSE-MIT`, `COPYING.md`, or any in a folder `LICENSES`; not
/// `license.rs`.
fn holds_licence(name: &str, folder: &Path) -> bool {
    let of_name = NAMES.iter().any(|known| name.starts_with(known));
    let of_folder = folder
        .file_name()
        .is_some_and(|folder| folder.to_string_lossy().to_uppercase() == "LICENSES");
    let is_code =
        [".RS", ".PY", ".C", ".H", ".TOML", ".HTML"].iter().any(|end| name.ends_with(end));
    (of_name || of_folder) && !is_code
}

/// The text without the differences that are none: ends of lines, white space at them, empty lines around.
fn normal(text: &str) -> String {
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

/// The notices of Rust's library, without the marks of HTML.
fn standard_library() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let path = Path::new(sysroot.trim()).join("share/doc/rust/COPYRIGHT-library.html");
    let html = fs::read_to_string(&path).with_context(|| {
        format!(
            "{}: the notices of Rust's library, which rustup installs with rustc",
            path.display()
        )
    })?;
    Ok(normal(&without_marks(&html)))
}

/// The text of HTML that rustc's own tool wrote: no scripts, no comments, few entities.
fn without_marks(html: &str) -> String {
    let mut text = String::new();
    for (index, piece) in html.split('<').enumerate() {
        // Before the first mark everything is text; then what follows the mark's end.
        text += if index == 0 { piece } else { piece.split_once('>').map_or("", |(_, text)| text) };
    }
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ];
    let text = entities.iter().fold(text, |text, (from, to)| text.replace(from, to));
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim_end) {
        if !line.is_empty() || lines.last().is_some_and(|last: &&str| !last.is_empty()) {
            lines.push(line);
        }
    }
    lines.join("\n")
}

fn render(packages: &[Package], texts: &Texts, library: &str) -> String {
    const RULE: &str =
        "================================================================================";
    let mut out = String::from(
        "halfbyte itself is licensed under Apache-2.0 OR MIT. The binary also holds what follows, under the licences whose \
         texts stand below.\n\n",
    );
    for package in packages {
        out += &format!("{} ({})\n", package.title(), package.expression);
    }
    out += &format!("\n{RULE}\n{}\n", normal(OTHERS));
    for (text, of) in texts {
        let of: Vec<&str> = of.iter().map(String::as_str).collect();
        out += &format!("\n{RULE}\n{}\n\n{text}\n", of.join(", "));
    }
    out += &format!("\n{RULE}\nRust's standard library\n\n{library}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deny_allows() {
        let text = "[licenses]\nallow = [\"MIT\"]\nexceptions = [{ crate = \"a\", allow = [\"MPL-2.0\"] }]\n";
        let allowed = Allowed::parse(text).unwrap();
        assert!(allowed.takes("b", "MIT") && allowed.takes("a", "MPL-2.0"));
        assert!(!allowed.takes("b", "MPL-2.0"));
    }

    #[test]
    fn files_that_are_licences() {
        let src = Path::new("src");
        for name in ["LICENSE", "LICENSE-MIT", "COPYING.TXT", "NOTICE", "LICENCE.MD"] {
            assert!(holds_licence(name, src), "{name}");
        }
        assert!(holds_licence("MIT.TXT", Path::new("LICENSES")));
        for name in ["LICENSE.RS", "README.MD", "LICENSES.TOML"] {
            assert!(!holds_licence(name, src), "{name}");
        }
    }

    #[test]
    fn one_text_however_it_was_saved() {
        assert_eq!(normal("\u{feff}\r\nMIT  \r\nLicense\r\n\r\n"), "MIT\nLicense");
        assert_eq!(without_marks("<p>a &lt;b&gt; &amp;amp;</p>\n\n\n<b>c</b>"), "a <b> &amp;\n\nc");
    }

    #[test]
    fn every_package_of_ours_has_its_licence() {
        let root = crate::root().unwrap();
        let (packages, texts) = of_packages(&root).unwrap();
        let text = render(&packages, &texts, "");
        for expected in ["\nring ", "\nclap ", "\nversion-ranges ", "Apache License"] {
            assert!(text.contains(expected), "{expected}");
        }
        assert!(!text.contains("\nproptest "), "what only tests halfbyte is no part of it");
    }
}
