//! Processors, memory, and whether this is a container.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, thread};

use super::super::facts::{CpuFacts, MemoryFacts, System};
use super::os;
use crate::{device, memory};

/// Variables that decide what is seen of GPUs, and which kernels they get.
const VARIABLES: [&str; 10] = [
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_FORCE_PTX_JIT",
    "CUDA_DISABLE_PTX_JIT",
    "CUDA_MPS_PIPE_DIRECTORY",
    "HALFBYTE_CUDA_IMAGE",
    "HALFBYTE_MODEL_DIR",
    "LD_LIBRARY_PATH",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_VISIBLE_DEVICES",
];

/// Instruction sets that kernels of ours use, or would.
const FEATURES: [&str; 13] = [
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
];

pub(super) fn probe() -> System {
    let root = Path::new("/");
    let variables = VARIABLES.iter().filter_map(|name| {
        let value = env::var_os(name)?.to_string_lossy().into_owned();
        Some(((*name).to_owned(), value))
    });
    System {
        kernel: os::text("/proc/sys/kernel/osrelease"),
        container: container(root, env::var("KUBERNETES_SERVICE_HOST").is_ok()),
        cpu: cpu(root),
        memory: MemoryFacts {
            total: os::text("/proc/meminfo").and_then(|text| mem_total(&text)),
            available: memory::available(),
            limit: memory_limit(root),
        },
        shm: os::space(Path::new("/dev/shm")),
        memlock_bytes: os::memlock(),
        open_files: os::open_files(),
        environment: variables.collect::<BTreeMap<_, _>>(),
    }
}

fn container(root: &Path, kubernetes: bool) -> Option<String> {
    let there = |path: &str| root.join(path).exists();
    if kubernetes {
        return Some("kubernetes (KUBERNETES_SERVICE_HOST)".to_owned());
    }
    if there(".dockerenv") {
        return Some("docker (/.dockerenv)".to_owned());
    }
    if there("run/.containerenv") {
        return Some("podman (/run/.containerenv)".to_owned());
    }
    let groups = os::text(root.join("proc/1/cgroup")).unwrap_or_default();
    let known = ["docker", "kubepods", "containerd", "lxc", "libpod"];
    if let Some(kind) = known.into_iter().find(|kind| groups.contains(kind)) {
        return Some(format!("{kind} (/proc/1/cgroup)"));
    }
    let mounts = os::text(root.join("proc/self/mountinfo")).unwrap_or_default();
    let overlay =
        mounts.lines().filter_map(os::mount).any(|[at, kind, _]| at == "/" && kind == "overlay");
    overlay.then(|| "a container (the root file system is an overlay)".to_owned())
}

fn cpu(root: &Path) -> CpuFacts {
    let info = os::text(root.join("proc/cpuinfo")).unwrap_or_default();
    let field = |names: [&str; 2]| {
        info.lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(name, value)| names.contains(&name.trim()).then(|| value.trim().to_owned()))
    };
    let flags = field(["flags", "Features"]).unwrap_or_default();
    let flags: Vec<&str> = flags.split(' ').collect();
    let features = FEATURES.iter().filter(|name| flags.contains(*name));
    CpuFacts {
        model: field(["model name", "Model"]),
        features: features.map(|name| (*name).to_owned()).collect(),
        online: os::text(root.join("sys/devices/system/cpu/online")).and_then(|text| count(&text)),
        usable: thread::available_parallelism().map_or(1, usize::from),
        quota: quota(root),
        threads: device::default_threads(),
    }
}

/// How many are in a list such as `0-3,8`.
fn count(list: &str) -> Option<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some((last + 1).saturating_sub(first))
    };
    list.split(',').map(range).sum()
}

/// Version 2's `cpu.max` is `200000 100000`, or `max 100000`; version 1 has a file for each of the two.
fn quota(root: &Path) -> Option<f64> {
    let folder = root.join("sys/fs/cgroup");
    let two = os::text(folder.join("cpu.max")).and_then(|text| {
        let (quota, period) = text.split_once(' ')?;
        Some((quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?))
    });
    let number = |name: &str| os::text(folder.join("cpu").join(name))?.parse::<f64>().ok();
    let one = || Some((number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?));
    let (quota, period) = two.or_else(one)?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

fn memory_limit(root: &Path) -> Option<u64> {
    /// Version 1 writes a huge number for none.
    const NONE: u64 = 1 << 60;
    let files = ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = files.iter().find_map(|file| os::text(root.join(file)))?.parse().ok()?;
    (limit < NONE).then_some(limit)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn limits_of_a_control_group() {
        let two = machine(&[
            ("sys/fs/cgroup/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/memory.max", "1024\n"),
        ]);
        assert_eq!((quota(two.path()), memory_limit(two.path())), (Some(2.5), Some(1024)));
        let none = machine(&[
            ("sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
        ]);
        assert_eq!((quota(none.path()), memory_limit(none.path())), (None, None));
        let one = machine(&[
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!((quota(one.path()), memory_limit(one.path())), (None, None));
    }

    #[test]
    fn kinds_of_containers() {
        let check = |files: &[(&str, &str)], expected: Option<&str>| {
            assert_eq!(container(machine(files).path(), false).as_deref(), expected);
        };
        check(&[], None);
        check(&[(".dockerenv", "")], Some("docker (/.dockerenv)"));
        check(&[("proc/1/cgroup", "0::/kubepods/x\n")], Some("kubepods (/proc/1/cgroup)"));
        check(&[("proc/1/cgroup", "0::/init.scope\n")], None);
        let overlay = "1 0 0:1 / / rw - overlay overlay rw\n";
        check(
            &[("proc/self/mountinfo", overlay)],
            Some("a container (the root file system is an overlay)"),
        );
    }

    #[test]
    fn processors_of_two_kinds() {
        let x86 = machine(&[
            (
                "proc/cpuinfo",
                "processor : 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 fma sse\n\nprocessor : 1\n",
            ),
            ("sys/devices/system/cpu/online", "0-3,8\n"),
        ]);
        let found = cpu(x86.path());
        assert_eq!((found.model.as_deref(), found.online), (Some("AMD EPYC"), Some(5)));
        assert_eq!(found.features, ["avx2", "fma"]);
        let arm = machine(&[("proc/cpuinfo", "processor : 0\nFeatures\t: asimd i8mm\n")]);
        assert_eq!(cpu(arm.path()).features, ["asimd", "i8mm"]);
    }
}
