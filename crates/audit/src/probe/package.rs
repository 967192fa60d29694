//! A distribution: its metadata, its libraries, and the facts that torch and bitsandbytes alone have.

use std::collections::BTreeSet;

use super::tree::{self, Tree};
use super::{imports, library};
use crate::error::{ProbeError, Result};
use crate::facts::{Evidence, Library, LibraryChoice, Package, TorchCuda, WhenMissing};
use crate::limits::Budget;

const METADATA_MAX: u64 = 16 << 20;
pub(crate) const PYTHON_MAX: u64 = 8 << 20;

/// Where torch's files import private names of each other (`mm_configs`), which change with every release.
pub(crate) const PRIVATE_KERNELS: &str = "torch/_inductor/kernel/";

/// Packages whose libraries are listed even if there is no GPU code in them: others need them to load.
const RUNTIMES: [&str; 3] = ["torch", "bitsandbytes", "nvidia-"];

/// Reads the distribution whose metadata stands in `info`, a folder of the tree.
///
/// # Errors
///
/// When the metadata is missing or damaged, or a bound is reached.
pub(crate) fn read(
    tree: &mut dyn Tree,
    info: &str,
    origin: &str,
    budget: &Budget,
) -> Result<Package> {
    let metadata = tree::text(tree, &format!("{info}/METADATA"), METADATA_MAX, budget)?;
    let mut package = parse_metadata(&metadata)?;
    origin.clone_into(&mut package.origin);
    if let Ok(wheel) = tree::text(tree, &format!("{info}/WHEEL"), METADATA_MAX, budget) {
        package.tags = fields(&wheel, "Tag");
    }
    package.libraries = libraries(tree, &package.name, budget)?;
    match package.name.as_str() {
        "torch" => {
            package.torch_cuda = torch_cuda(tree, budget)?;
            package.modules = imports::watched_modules(&tree.names());
            package.broken_imports = imports::broken(tree, PRIVATE_KERNELS, budget)?;
        }
        "triton" => package.modules = imports::watched_modules(&tree.names()),
        "bitsandbytes" => {
            package.library_choice = library_choice(tree, budget)?;
            package.imports = imports::follow(tree, "bitsandbytes", budget)?;
        }
        _ => {}
    }
    Ok(package)
}

/// The folder of a tree that holds a distribution's metadata.
pub(crate) fn info_folder(names: &[&str]) -> Option<String> {
    let folder = names.iter().filter_map(|name| name.strip_suffix("/METADATA"));
    let mut folders = folder.filter(|name| name.ends_with(".dist-info") && !name.contains('/'));
    folders.next().map(str::to_owned)
}

fn parse_metadata(text: &str) -> Result<Package> {
    let one = |name: &str| fields(text, name).into_iter().next();
    let field = |name: &str| {
        one(name).ok_or_else(|| ProbeError::damaged(format!("METADATA has no line `{name}:`")))
    };
    Ok(Package {
        name: normalize(&field("Name")?),
        version: field("Version")?,
        requires_python: one("Requires-Python"),
        requires_dist: fields(text, "Requires-Dist"),
        ..Package::default()
    })
}

/// The values of a header, up to the empty line that ends them all.
fn fields(text: &str, name: &str) -> Vec<String> {
    let header = text.lines().take_while(|line| !line.trim_end().is_empty());
    let value = |line: &str| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    };
    header.filter_map(value).collect()
}

/// PEP 503: lower case, and one dash for dashes, underscores and points.
pub(crate) fn normalize(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for c in name.trim().chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            c => normal.extend(c.to_lowercase()),
        }
    }
    normal
}

pub(crate) fn is_library(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let versioned = |(_, version): (&str, &str)| {
        version.starts_with(|c: char| c.is_ascii_digit())
            && version.chars().all(|c| c.is_ascii_digit() || c == '.')
    };
    file.ends_with(".so") || file.split_once(".so.").is_some_and(versioned)
}

fn libraries(tree: &mut dyn Tree, package: &str, budget: &Budget) -> Result<Vec<Library>> {
    let runtime = RUNTIMES.iter().any(|name| package.starts_with(name));
    let names: Vec<String> =
        tree.names().into_iter().filter(|name| is_library(name)).map(str::to_owned).collect();
    let mut libraries = Vec::new();
    for name in names {
        let read = match tree.library(&name) {
            Some(read) => read,
            None => match tree.open(&name, budget) {
                Ok(mut source) => library::read(&name, &mut *source, budget),
                Err(error @ ProbeError::TooMuch { .. }) => return Err(error),
                Err(error) => {
                    libraries.push(damaged(name, &error));
                    continue;
                }
            },
        };
        match read {
            Ok(library) => {
                if runtime || !library.device_code.is_empty() || library.damage.is_some() {
                    libraries.push(library);
                }
            }
            Err(error @ ProbeError::TooMuch { .. }) => return Err(error),
            // A linker script is called .so, too; and libraries for other systems may lie in a wheel.
            Err(ProbeError::Unsupported(_)) => {}
            Err(error) => libraries.push(damaged(name, &error)),
        }
    }
    Ok(libraries)
}

fn damaged(path: String, error: &ProbeError) -> Library {
    Library { path, damage: Some(error.to_string()), ..Library::default() }
}

/// `cuda = '12.1'`, with or without a type, in `torch/version.py`.
fn torch_cuda(tree: &mut dyn Tree, budget: &Budget) -> Result<Option<TorchCuda>> {
    const FILE: &str = "torch/version.py";
    if !tree.names().contains(&FILE) {
        return Ok(None);
    }
    let text = tree::text(tree, FILE, PYTHON_MAX, budget)?;
    let found = text.lines().enumerate().find_map(|(at, line)| {
        let rest = line.strip_prefix("cuda")?;
        let (annotation, value) = rest.split_once('=')?;
        let plain = annotation.trim().is_empty() || annotation.trim_start().starts_with(':');
        let value = value.trim();
        let version = value.trim_matches(['\'', '"']);
        let version = (version.len() < value.len()).then(|| version.to_owned());
        plain.then(|| TorchCuda { version, evidence: Evidence::line(FILE, at + 1, line.trim()) })
    });
    Ok(found)
}

/// Lines of bitsandbytes' loader that tell its releases apart, each a part of a statement. The first that is found decides.
const CHOICES: [(&str, WhenMissing); 4] = [
    ("def _find_cuda_libs(", WhenMissing::NearestOfMajor),
    ("ErrorHandlerMockBNBNativeLibrary(error_msg)", WhenMissing::FailAtUse),
    ("binary_path = cuda_binary_path", WhenMissing::LoadCpu),
    ("raise Exception('CUDA SETUP: Setup Failed!')", WhenMissing::RaiseAtImport),
];

fn library_choice(tree: &mut dyn Tree, budget: &Budget) -> Result<Option<LibraryChoice>> {
    const FILES: [&str; 2] = ["bitsandbytes/cextension.py", "bitsandbytes/cuda_setup/main.py"];
    let present: BTreeSet<String> = tree.names().into_iter().map(str::to_owned).collect();
    let mut lines = Vec::new();
    for file in FILES.into_iter().filter(|file| present.contains(*file)) {
        let text = tree::text(tree, file, PYTHON_MAX, budget)?;
        let numbered = text.lines().enumerate();
        lines.extend(numbered.map(|(at, line)| Evidence::line(file, at + 1, line.trim())));
    }
    let find = |mark: &str| lines.iter().find(|line| line.value.contains(mark)).cloned();
    let choice = CHOICES.iter().find_map(|(mark, choice)| Some((find(mark)?, *choice)));
    Ok(choice.map(|(evidence, when_missing)| {
        let by_version = find("torch.version.cuda.split").or_else(|| find("cuda_version_string}"));
        let evidence = [Some(evidence), by_version].into_iter().flatten().collect();
        LibraryChoice { when_missing, evidence }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalized() {
        assert_eq!(normalize("Nvidia_CUDA.-runtime"), "nvidia-cuda-runtime");
    }

    #[test]
    fn metadata_ends_at_the_empty_line() {
        let package =
            parse_metadata("Name: A_b\nVersion: 1\nRequires-Dist: x>1\n\nRequires-Dist: y\n");
        let package = package.unwrap();
        assert_eq!((package.name.as_str(), package.requires_dist), ("a-b", vec!["x>1".to_owned()]));
        assert!(parse_metadata("Name: a\n").unwrap_err().to_string().contains("Version"));
    }

    #[test]
    fn what_is_a_library() {
        assert!(is_library("a/b.so") && is_library("libx.so.12") && is_library("x.cpython-311.so"));
        assert!(!is_library("a.so/x.py") && !is_library("x.so.py") && !is_library("x.sol"));
    }
}
