//! What each kernel takes of a multiprocessor, as the compiler reports it, and what it may take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::manifest::Manifest;

/// A kernel for a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) name: String,
    pub(super) registers: u64,
    /// Bytes of a thread's stack, in local memory.
    pub(super) stack_bytes: u64,
    /// Bytes of registers written to local memory and read again for want of registers.
    pub(super) spill_bytes: u64,
    /// Static shared memory.
    pub(super) shared_bytes: u64,
}

impl Kernel {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "registers": self.registers,
            "stack_bytes": self.stack_bytes,
            "spill_bytes": self.spill_bytes,
            "shared_bytes": self.shared_bytes,
        })
    }

    pub(super) fn from_json(value: &Value) -> Option<Kernel> {
        Some(Kernel {
            name: value["name"].as_str()?.to_owned(),
            registers: value["registers"].as_u64()?,
            stack_bytes: value["stack_bytes"].as_u64()?,
            spill_bytes: value["spill_bytes"].as_u64()?,
            shared_bytes: value["shared_bytes"].as_u64()?,
        })
    }
}

/// Takes a log of the compiler apart: the kernels of ptxas' report, and the first line of each warning.
pub(super) fn parse(log: &str) -> (Vec<Kernel>, String) {
    let (mut kernels, mut warnings) = (Vec::<Kernel>::new(), BTreeSet::new());
    for line in log.lines() {
        if let Some(name) = line.split_once("Compiling entry function '").map(|(_, name)| name) {
            let name = name.split('\'').next().unwrap_or_default().to_owned();
            kernels.push(Kernel { name, ..Kernel::default() });
        } else if let (true, Some(kernel)) =
            (line.contains("bytes stack frame"), kernels.last_mut())
        {
            // Functions that are not inlined have frames of their own, which count for every kernel that may call them.
            kernel.stack_bytes += before(line, " bytes stack frame");
            kernel.spill_bytes +=
                before(line, " bytes spill stores") + before(line, " bytes spill loads");
        } else if let (true, Some(kernel)) = (line.contains(" registers"), kernels.last_mut()) {
            kernel.registers = before(line, " registers");
            kernel.shared_bytes = before(line, " bytes smem");
        } else if line.to_lowercase().contains("warning") && !line.starts_with("Remark") {
            // Once for all instantiations of a template.
            warnings.insert(line);
        }
    }
    (kernels, warnings.into_iter().collect::<Vec<_>>().join("\n"))
}

/// The number before `what`; 0 if it is not there.
fn before(line: &str, what: &str) -> u64 {
    let number = line.split_once(what).and_then(|(text, _)| text.rsplit([' ', ',']).next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// `resources.json`.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Beginnings of names of kernels that must not spill.
    hot: Vec<String>,
    /// Bytes that a hot kernel spills all the same, on any target.
    spill_bytes: BTreeMap<String, u64>,
    /// Bytes of local memory that a kernel may have, on any target.
    local_bytes: BTreeMap<String, u64>,
    /// Instructions that must be in the machine code, by file and target.
    pub(super) instructions: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

impl Limits {
    pub(super) fn read(path: &Path) -> Result<Limits> {
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        let value = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        Limits::from_json(&value).with_context(|| format!("{} has another form", path.display()))
    }

    fn from_json(value: &Value) -> Option<Limits> {
        let names = |value: &Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
        };
        let bytes = |value: &Value| -> Option<BTreeMap<String, u64>> {
            let entries = value.as_object()?.iter();
            entries.map(|(name, bytes)| Some((name.clone(), bytes.as_u64()?))).collect()
        };
        let instructions = value["instructions"].as_object()?.iter().map(|(file, targets)| {
            let targets = targets.as_object()?.iter();
            let targets = targets.map(|(target, list)| Some((target.clone(), names(list)?)));
            Some((file.clone(), targets.collect::<Option<_>>()?))
        });
        Some(Limits {
            hot: names(&value["hot"])?,
            spill_bytes: bytes(&value["spill_bytes"])?,
            local_bytes: bytes(&value["local_bytes"])?,
            instructions: instructions.collect::<Option<_>>()?,
        })
    }

    /// Kernels over their limits, and limits that nothing needs any more.
    pub(super) fn check(&self, manifest: &Manifest) -> Vec<String> {
        let mut found = Vec::new();
        let mut needed = BTreeSet::new();
        for image in &manifest.images {
            for kernel in &image.kernels {
                let place = format!("{} of {}.cu, {}", kernel.name, image.file, image.target);
                let is_hot = self.hot.iter().any(|prefix| kernel.name.starts_with(prefix.as_str()));
                let allowed =
                    |limits: &BTreeMap<String, u64>| limits.get(&kernel.name).copied().unwrap_or(0);
                let (spills, allowed) = (allowed(&self.spill_bytes), allowed(&self.local_bytes));
                if is_hot && kernel.spill_bytes > spills {
                    let bytes = kernel.spill_bytes;
                    found.push(format!(
                        "{place}: spills {bytes} bytes of registers, {spills} are allowed"
                    ));
                }
                if kernel.stack_bytes > allowed {
                    found.push(format!(
                        "{place}: {} bytes of local memory, {allowed} are allowed",
                        kernel.stack_bytes
                    ));
                }
                if kernel.stack_bytes > 0 || kernel.spill_bytes > 0 {
                    needed.insert(kernel.name.as_str());
                }
            }
        }
        if !manifest.partial {
            let listed: BTreeSet<&String> =
                self.local_bytes.keys().chain(self.spill_bytes.keys()).collect();
            let unused = listed.into_iter().filter(|name| !needed.contains(name.as_str()));
            found.extend(
                unused.map(|name| {
                    format!("resources.json: {name} needs no local memory; take it off")
                }),
            );
        }
        found
    }
}

/// Prints a table of what each kernel takes.
pub(super) fn report(manifest: &Manifest) {
    println!(
        "{:<44} {:<8} {:>9} {:>6} {:>6} {:>6}",
        "kernel", "target", "registers", "stack", "spills", "shared"
    );
    for image in &manifest.images {
        for kernel in &image.kernels {
            let Kernel { name, registers, stack_bytes, spill_bytes, shared_bytes } = kernel;
            let target = &image.target;
            println!(
                "{name:<44} {target:<8} {registers:>9} {stack_bytes:>6} {spill_bytes:>6} {shared_bytes:>6}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::manifest::Image;

    const LOG: &str = "\
layer.cu(3): warning #177-D: variable \"x\" was declared but never referenced
    int x;
        ^
Remark: The warnings can be suppressed with \"-diag-suppress <warning-number>\"
ptxas info    : 36 bytes gmem
ptxas info    : Compiling entry function 'norm' for 'sm_90a'
ptxas info    : Function properties for norm
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 76 registers, used 1 barriers, 16 bytes cumulative stack size, 128 bytes smem
ptxas info    : Compile time = 193.995 ms";

    fn kernel() -> Kernel {
        Kernel {
            name: "norm".into(),
            registers: 76,
            stack_bytes: 16,
            spill_bytes: 12,
            shared_bytes: 128,
        }
    }

    #[test]
    fn the_compilers_report_is_read() {
        let (kernels, warnings) = parse(LOG);
        assert_eq!(kernels, [kernel()]);
        let expected =
            "layer.cu(3): warning #177-D: variable \"x\" was declared but never referenced";
        assert_eq!(warnings, expected);
        assert_eq!(Kernel::from_json(&kernel().to_json()).unwrap(), kernel());
    }

    fn check_limits(limits: Value, expected: &[&str]) {
        let image = Image {
            file: "layer".into(),
            target: "sm_90a".into(),
            path: String::new(),
            sha256: String::new(),
            bytes: 0,
            packed_sha256: String::new(),
            packed_bytes: 0,
            key: String::new(),
            kernels: vec![kernel()],
        };
        let manifest = Manifest { images: vec![image], ..Manifest::default() };
        assert_eq!(Limits::from_json(&limits).unwrap().check(&manifest), expected);
    }

    #[test]
    fn what_a_kernel_may_take() {
        let limits = |hot: &str, local: Value| json!({ "hot": [hot], "spill_bytes": { "norm": 8 }, "local_bytes": local, "instructions": {} });
        check_limits(limits("gemv", json!({ "norm": 16 })), &[]);
        check_limits(
            limits("nor", json!({ "norm": 16 })),
            &["norm of layer.cu, sm_90a: spills 12 bytes of registers, 8 are allowed"],
        );
        check_limits(
            limits("gemv", json!({ "gone": 8 })),
            &[
                "norm of layer.cu, sm_90a: 16 bytes of local memory, 0 are allowed",
                "resources.json: gone needs no local memory; take it off",
            ],
        );
    }
}
