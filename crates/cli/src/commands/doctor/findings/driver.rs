//! What keeps the driver from being used.

use super::super::facts::{DriverFiles, Facts, LibraryFile};
use super::{Finding, Severity, finding};

/// CUDA's codes for a driver library that does not fit the kernel's module, and for a compatibility library on a card that
/// it does not serve.
const MISMATCH: [u32; 2] = [803, 804];
/// A stub for linking was loaded.
const STUB: u32 = 34;
/// WSL's way to the driver.
const WSL: &str = "/dev/dxg";

/// A number for each GPU: other nodes serve all of them.
fn is_gpu_node(path: &str) -> bool {
    let number = path.strip_prefix("/dev/nvidia").unwrap_or_default();
    path == WSL || !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

/// What shows that there is a GPU, if anything does.
fn signs(files: &DriverFiles) -> Vec<String> {
    let nodes = files.nodes.iter().filter(|node| is_gpu_node(&node.path));
    let bus = files.pci.iter().map(|gpu| {
        let driver = gpu.driver.as_deref().unwrap_or("no driver");
        format!("PCI {} is {} ({driver})", gpu.address, gpu.id)
    });
    nodes.map(|node| node.path.clone()).chain(bus).collect()
}

/// Whether anything shows a GPU of NVIDIA's, or its driver.
pub(super) fn is_gpu_visible(facts: &Facts) -> bool {
    let devices = facts.cuda.found().is_some_and(|cuda| !cuda.devices.is_empty());
    let files = facts.driver.found();
    devices || files.is_some_and(|files| !signs(files).is_empty() || files.module.is_some())
}

fn in_container(facts: &Facts) -> Option<&str> {
    facts.system.found()?.container.as_deref()
}

fn variable<'f>(facts: &'f Facts, name: &str) -> Option<&'f str> {
    facts.system.found()?.environment.get(name).map(String::as_str)
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let Some(files) = facts.driver.found() else { return Vec::new() };
    let mut found = Vec::new();
    let nodes = nodes(facts, files);
    // What the driver answers where its nodes are missing is that they are.
    let library = if nodes.is_none() { library(facts, files) } else { None };
    found.extend(nodes);
    found.extend(refused_nodes(files));
    found.extend(mismatch(facts, files));
    found.extend(library);
    found.extend(hidden(facts));
    found.extend(no_gpu(facts));
    found
}

fn no_gpu(facts: &Facts) -> Option<Finding> {
    let error = facts.cuda.found()?.error.as_ref()?;
    // Where the library is there, whoever installed it means to use it.
    (error.no_library && !is_gpu_visible(facts)).then(|| {
        finding(
            Severity::Note,
            "no_gpu",
            "no NVIDIA GPU is visible here: models run on the CPU",
            [error.message.clone()],
            "nothing, if there is none; in a container, start it with `--gpus all`",
        )
    })
}

/// GPUs that are there, of which no node is.
fn nodes(facts: &Facts, files: &DriverFiles) -> Option<Finding> {
    let has_node = files.nodes.iter().any(|node| is_gpu_node(&node.path));
    if has_node || (files.pci.is_empty() && files.module.is_none()) {
        return None;
    }
    let mut evidence = signs(files);
    if let Some(module) = &files.module {
        evidence.push(format!("{}: the kernel has driver {}", module.file, module.version));
    }
    evidence.push("there is no /dev/nvidia0".to_owned());
    let container = in_container(facts);
    evidence.extend(container.map(|container| format!("this is {container}")));
    let reserved = files.pci.iter().any(|gpu| gpu.driver.as_deref() == Some("vfio-pci"));
    let (what, fix) = if container.is_some() {
        (
            "the host has an NVIDIA GPU, but this container was started without it",
            "start the container with `--gpus all` (NVIDIA's container toolkit), or ask the provider for a container with a GPU",
        )
    } else if reserved {
        (
            "the GPU is reserved for a virtual machine",
            "run halfbyte in that virtual machine, or give the GPU back to the `nvidia` driver",
        )
    } else if files.module.is_none() {
        (
            "there is an NVIDIA GPU, but its driver is not loaded",
            "install NVIDIA's driver (525 or later), or `modprobe nvidia`",
        )
    } else {
        (
            "NVIDIA's driver is loaded, but has made no device nodes",
            "run `nvidia-modprobe -u -c=0`, or `nvidia-smi` once as root",
        )
    };
    Some(finding(Severity::Error, "no_device_nodes", what, evidence, fix))
}

fn refused_nodes(files: &DriverFiles) -> Option<Finding> {
    const SHARED: [&str; 2] = ["/dev/nvidiactl", "/dev/nvidia-uvm"];
    let mut evidence: Vec<String> = Vec::new();
    for node in &files.nodes {
        let needed = is_gpu_node(&node.path) || SHARED.contains(&node.path.as_str());
        if let (true, Some(problem)) = (needed, &node.problem) {
            evidence.push(format!("{} ({}): {problem}", node.path, node.mode));
        }
    }
    let has = |path: &str| files.nodes.iter().any(|node| node.path == path);
    if files.nodes.iter().any(|node| is_gpu_node(&node.path) && node.path != WSL) {
        let missing = SHARED.into_iter().filter(|path| !has(path));
        evidence.extend(missing.map(|path| format!("{path} is missing")));
    }
    (!evidence.is_empty()).then(|| {
        finding(
            Severity::Error,
            "device_nodes_unusable",
            "device nodes of the driver cannot be used",
            evidence,
            "start the container with `--gpus all` rather than with single devices; on a host, run `nvidia-modprobe -u -c=0` \
             and see that this user may open them",
        )
    })
}

/// The driver's library against the kernel's module: outside of compatibility packages both are of one version.
fn mismatch(facts: &Facts, files: &DriverFiles) -> Option<Finding> {
    let module = files.module.as_ref()?;
    let cuda = facts.cuda.found();
    let loaded = cuda.and_then(|cuda| cuda.library.as_deref());
    let mut libraries = files.libraries.iter().filter(|library| library.name == "libcuda.so.1");
    let by_path = |path: &str| {
        let in_folder = |library: &&LibraryFile| path.starts_with(folder(library));
        libraries.clone().find(in_folder)
    };
    let library = loaded.and_then(by_path).or_else(|| libraries.next())?;
    let code = cuda.and_then(|cuda| cuda.error.as_ref()?.code);
    let refused = code.is_some_and(|code| MISMATCH.contains(&code));
    let version = library.version.as_deref()?;
    if version == module.version || library.compat && !refused {
        return None;
    }
    let evidence = [
        format!("{} is of driver {version}", library.path),
        format!("{}: the kernel has driver {}", module.file, module.version),
    ];
    let (what, fix) = if library.compat {
        (
            "a CUDA compatibility library is loaded that does not serve this card or driver",
            "take the compatibility folder out of LD_LIBRARY_PATH and of /etc/ld.so.conf.d: halfbyte needs none",
        )
    } else {
        (
            "the driver's library and the kernel's module are of different versions",
            "reboot the host (or reload the module) after an update of the driver, and start the container again",
        )
    };
    Some(finding(Severity::Error, "driver_mismatch", what, evidence, fix))
}

fn folder(library: &LibraryFile) -> &str {
    library.path.rsplit_once('/').map_or("/", |(folder, _)| folder)
}

fn hidden(facts: &Facts) -> Option<Finding> {
    let visible = variable(facts, "CUDA_VISIBLE_DEVICES")?;
    let seen = facts.cuda.found()?.devices.len();
    let there = facts.nvml.found()?.gpus.len();
    (seen < there).then(|| {
        finding(
            if seen == 0 { Severity::Error } else { Severity::Note },
            "gpus_hidden",
            format!("{seen} of {there} GPUs are visible to programs"),
            [format!("CUDA_VISIBLE_DEVICES={visible}")],
            "unset CUDA_VISIBLE_DEVICES, if that is not meant",
        )
    })
}

/// What the driver's library said.
fn library(facts: &Facts, files: &DriverFiles) -> Option<Finding> {
    let cuda = facts.cuda.found()?;
    let signs = signs(files);
    let Some(error) = &cuda.error else {
        let nothing = cuda.devices.is_empty() && !signs.is_empty();
        let explained = variable(facts, "CUDA_VISIBLE_DEVICES").is_some();
        return (nothing && !explained).then(|| {
            finding(
                Severity::Error,
                "no_cuda_device",
                "a GPU is visible, but the driver shows none",
                signs,
                "see `nvidia-smi -L` on the host: with MIG, an instance has to be made and given to the container",
            )
        });
    };
    let mut evidence = vec![error.message.clone()];
    if error.no_library {
        return (!signs.is_empty()).then(|| no_library(facts, [evidence, signs].concat()));
    }
    // Said already, with both versions.
    if error.code.is_some_and(|code| MISMATCH.contains(&code)) && mismatch(facts, files).is_some() {
        return None;
    }
    evidence.extend(cuda.library.iter().map(|path| format!("loaded: {path}")));
    if let Some((major, minor)) = cuda.cuda_version {
        evidence.push(format!("the driver knows CUDA {major}.{minor}"));
    }
    let fix = if cuda.cuda_version.is_some_and(|version| version < (12, 0)) {
        "update NVIDIA's driver on the host to 525 or later"
    } else if error.code == Some(STUB) {
        "take CUDA's `stubs` folder out of LD_LIBRARY_PATH"
    } else {
        "do what the driver's message says; if it says nothing, look for `NVRM` in the host's kernel log"
    };
    Some(finding(Severity::Error, "driver_unusable", "the driver cannot be used", evidence, fix))
}

/// GPUs without the library that leads to them.
fn no_library(facts: &Facts, mut evidence: Vec<String>) -> Finding {
    let computes =
        |value: &str| value.split(',').any(|one| ["all", "compute"].contains(&one.trim()));
    let capabilities =
        variable(facts, "NVIDIA_DRIVER_CAPABILITIES").filter(|value| !computes(value));
    let fix = if let Some(value) = capabilities {
        evidence.push(format!("NVIDIA_DRIVER_CAPABILITIES={value}"));
        "set NVIDIA_DRIVER_CAPABILITIES=compute,utility for the container"
    } else if in_container(facts).is_some() {
        "start the container with `--gpus all`, so that NVIDIA's container toolkit mounts the driver's libraries"
    } else {
        "install NVIDIA's driver (525 or later) with its libraries for computing"
    };
    let what = "a GPU is visible, but the driver's library libcuda.so.1 is not here";
    finding(Severity::Error, "no_driver_library", what, evidence, fix)
}
