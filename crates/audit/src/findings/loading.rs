//! Whether the libraries that decide find what they need: apart from GPU code, the first thing that has to hold.

use std::collections::BTreeSet;

use super::{Finding, Severity};
use crate::facts::{Evidence, Library, Package};

/// What CUDA's and torch's packages bring. Others (`libc.so.6`) are the system's; `libcuda.so.1` is the driver's.
const BROUGHT: [&str; 11] = [
    "libcublas",
    "libcudart",
    "libcudnn",
    "libcufft",
    "libcurand",
    "libcusolver",
    "libcusparse",
    "libnccl",
    "libnvJitLink",
    "libtorch",
    "libc10",
];

/// Finds what a library of an installed package needs and no installed package has. `deciding` are those that are loaded.
pub(crate) fn findings(installed: &[&Package], deciding: &[(&Package, &Library)]) -> Vec<Finding> {
    let all = installed.iter().flat_map(|package| &package.libraries);
    let there: BTreeSet<&str> = all
        .flat_map(|library| [Some(library.file_name()), library.soname.as_deref()])
        .flatten()
        .collect();
    let missing = deciding.iter().filter_map(|(package, library)| {
        let needed = library.needed.iter().map(String::as_str);
        let brought = needed.filter(|name| BROUGHT.iter().any(|known| name.starts_with(known)));
        let absent: Vec<&str> = brought.filter(|name| !there.contains(name)).collect();
        let file = format!("{}!{}", package.origin, library.path);
        (!absent.is_empty()).then(|| Finding {
            id: "needed_library_missing",
            severity: Severity::Warning,
            what: format!(
                "{} {} ({}) needs {}, which no installed package has: unless the system has them, it does not load \
                 (\"cannot open shared object file\")",
                package.name,
                package.version,
                library.file_name(),
                absent.join(", ")
            ),
            fix: format!("install what {} pins (its nvidia packages), without --no-deps", package.name),
            evidence: absent.iter().map(|name| Evidence::file(&file, format!("NEEDED {name}"))).collect(),
        })
    });
    missing.collect()
}
