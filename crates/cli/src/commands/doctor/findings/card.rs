//! Cards: whether they can be used, and whether they do what they could.

use super::super::facts::{CudaDevice, Facts, NvmlGpu};
use super::{Finding, Severity, finding};
use crate::memory::gb;

/// The oldest compute capability that there are kernels for.
const OLDEST: (u32, u32) = (8, 0);

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let devices = facts.cuda.found().map_or(&[][..], |cuda| &cuda.devices);
    let gpus = facts.nvml.found().map_or(&[][..], |nvml| &nvml.gpus);
    let mut found: Vec<Finding> =
        devices.iter().flat_map(|device| of_device(facts, device)).collect();
    for gpu in gpus {
        let device = devices.iter().find(|device| Some(&device.uuid) == gpu.uuid.as_ref());
        let unnamed =
            || format!("GPU {} ({})", gpu.index, gpu.name.as_deref().unwrap_or("unnamed"));
        let name = device.map_or_else(unnamed, name);
        found.extend(memory_errors(&name, gpu));
        found.extend(throttling(&name, gpu));
        found.extend(link(&name, gpu));
        found.extend(modes(&name, gpu));
        found.extend(held(&name, gpu));
    }
    found
}

/// As `cuda:0 (NVIDIA H200)`.
pub(super) fn name(device: &CudaDevice) -> String {
    format!("cuda:{} ({})", device.ordinal, device.name)
}

/// Whether it can be computed with.
fn of_device(facts: &Facts, device: &CudaDevice) -> Vec<Finding> {
    let name = name(device);
    let (major, minor) = device.compute_capability;
    if device.compute_capability < OLDEST {
        // Beside a card that serves, it only is not used.
        let devices = facts.cuda.found().map_or(&[][..], |cuda| &cuda.devices);
        let other = devices.iter().any(|other| other.compute_capability >= OLDEST);
        return vec![finding(
            if other { Severity::Warning } else { Severity::Error },
            "card_too_old",
            format!("{name} is older than any card that halfbyte runs on"),
            [format!("compute capability {major}.{minor}; 8.0 (Ampere) is the oldest")],
            "take a card of compute capability 8.0 or later, or run on the CPU with `--device cpu`",
        )];
    }
    let mut found = Vec::new();
    if let Some(error) = &device.error {
        found.push(finding(
            Severity::Error,
            "card_unusable",
            format!("{name} cannot be opened"),
            [error.message.clone()],
            "do what the driver's message says; if it says nothing, look for `Xid` in the host's kernel log",
        ));
    }
    if let Some(why) = &device.no_kernels {
        let fix = match &facts.program.cuda_kernels.absent {
            Some(_) => "run `cargo xtask kernels` and build again, or take a released binary",
            None => "unset HALFBYTE_CUDA_IMAGE if it is set, else take a newer release of halfbyte",
        };
        let what = format!("this binary has no kernels for {name}");
        found.push(finding(Severity::Error, "no_kernels", what, [why.clone()], fix));
    } else if device.kernels_are_ptx {
        found.push(ptx(facts, device, &name));
    }
    found
}

/// Kernels that the driver has to compile.
fn ptx(facts: &Facts, device: &CudaDevice, name: &str) -> Finding {
    const COMPILER: &str = "libnvidia-ptxjitcompiler.so.1";
    let mut evidence = vec![format!("kernels: {}", device.kernels.as_deref().unwrap_or("PTX"))];
    let environment = facts.system.found().map(|system| &system.environment);
    if let Some(image) = environment.and_then(|variables| variables.get("HALFBYTE_CUDA_IMAGE")) {
        evidence.push(format!("HALFBYTE_CUDA_IMAGE={image}"));
    }
    let driver = facts.cuda.found().and_then(|cuda| cuda.cuda_version);
    let compiler = facts.program.cuda_kernels.compiler_version;
    if let (Some(driver), Some(compiler)) = (driver, compiler)
        && driver < compiler
    {
        evidence.push(format!("they are PTX of CUDA {}.{}", compiler.0, compiler.1));
        evidence.push(format!("the driver knows CUDA {}.{}", driver.0, driver.1));
        let what = format!("the driver is too old to compile the kernels for {name}");
        let fix = "update NVIDIA's driver on the host";
        return finding(Severity::Error, "driver_too_old_for_ptx", what, evidence, fix);
    }
    let libraries = facts.driver.found().map_or(&[][..], |files| &files.libraries);
    let has = |name: &str| libraries.iter().any(|library| library.name == name);
    // Where the driver itself was not found, nothing is known of its compiler.
    if has("libcuda.so.1") && !has(COMPILER) {
        evidence.push(format!("{COMPILER} is not beside libcuda.so.1"));
        let what =
            format!("the driver's compiler, which the kernels for {name} need, was not found");
        let fix =
            "start the container with NVIDIA's container toolkit and the capability `compute`";
        return finding(Severity::Warning, "no_ptx_compiler", what, evidence, fix);
    }
    let what = format!(
        "the driver compiles the kernels for {name} when they are first used, which takes some seconds"
    );
    let fix = "nothing; a newer release may have machine code for this card";
    finding(Severity::Note, "kernels_from_ptx", what, evidence, fix)
}

/// Whether its memory can be trusted.
fn memory_errors(name: &str, gpu: &NvmlGpu) -> Option<Finding> {
    let ecc = &gpu.ecc;
    let count = |what: &str, count: Option<u64>| {
        count.filter(|count| *count > 0).map(|count| format!("uncorrected errors {what}: {count}"))
    };
    let mut evidence: Vec<String> = Vec::new();
    evidence.extend(count("since the driver started", ecc.uncorrected));
    evidence.extend(count("in the card's life", ecc.uncorrected_ever));
    let (severity, id, what, fix) = if ecc.repair_failed == Some(true) {
        evidence.push("replacing a faulty row of memory has failed".to_owned());
        (
            Severity::Error,
            "memory_faulty",
            format!("the memory of {name} is faulty and cannot be mended"),
            "take another card; this one goes back to its vendor",
        )
    } else if ecc.repair_pending == Some(true) {
        evidence.push("a faulty part waits to be replaced by a spare one".to_owned());
        (
            Severity::Warning,
            "memory_repair_pending",
            format!("the memory of {name} has a fault that a reset will mend"),
            "end all programs on it, and run `nvidia-smi -r` on the host",
        )
    } else if ecc.uncorrected.is_some_and(|errors| errors > 0) {
        (
            Severity::Error,
            "memory_errors",
            format!("{name} has lost data in its memory since the driver started"),
            "run `nvidia-smi -r` on the host; if it comes again, take another card",
        )
    } else {
        // Those of the past were dealt with.
        return None;
    };
    Some(finding(severity, id, what, evidence, fix))
}

/// Whether something holds its clocks back.
fn throttling(name: &str, gpu: &NvmlGpu) -> Option<Finding> {
    if gpu.throttling.is_empty() {
        return low_cap(name, gpu);
    }
    let is = |word: &str| gpu.throttling.iter().any(|reason| reason.contains(word));
    let mut evidence = vec![format!("held back by: {}", gpu.throttling.join(", "))];
    if let (Some(now), Some(max)) = (gpu.sm_clock_mhz, gpu.sm_clock_max_mhz) {
        evidence.push(format!("{now} of {max} MHz"));
    }
    if let Some(temperature) = gpu.temperature_c {
        let slowdown = gpu.slowdown_c.map(|slowdown| format!(", slows down at {slowdown} C"));
        evidence.push(format!("{temperature} C{}", slowdown.unwrap_or_default()));
    }
    if let (Some(usage), Some(cap)) = (gpu.power.usage_w, gpu.power.cap_w) {
        evidence.push(format!("{usage} of {cap} W"));
    }
    let (severity, what, fix) = if is("thermal") {
        (
            Severity::Warning,
            "is too hot, and slows down",
            "see to its cooling; on a rented machine take another",
        )
    } else if is("brake") || is("hardware") {
        (
            Severity::Warning,
            "is slowed down by its hardware",
            "see to its power supply and cables; on a rented machine take another",
        )
    } else {
        // At full work this is as it should be.
        (
            Severity::Note,
            "works at its power cap",
            "nothing; decoding is bound by memory, not by the clock",
        )
    };
    Some(finding(severity, "throttled", format!("{name} {what}"), evidence, fix))
}

fn low_cap(name: &str, gpu: &NvmlGpu) -> Option<Finding> {
    let (cap, default) = (gpu.power.cap_w?, gpu.power.default_cap_w?);
    // So far below, a card slows down even at what is bound by memory.
    let severity = if cap * 10 < default * 6 { Severity::Warning } else { Severity::Note };
    (cap < default).then(|| {
        finding(
            severity,
            "low_power_cap",
            format!("the power cap of {name} was lowered"),
            [format!("{cap} W, by default {default} W")],
            format!("run `nvidia-smi -pl {default}` on the host, if speed matters more"),
        )
    })
}

/// The way to the host, which loading goes over.
fn link(name: &str, gpu: &NvmlGpu) -> Option<Finding> {
    let pcie = &gpu.pcie;
    let (generation, width) = (number(pcie.generation), number(pcie.width));
    let most =
        format!("at most generation {} x{}", number(pcie.generation_max), number(pcie.width_max));
    let evidence = [format!("now generation {generation} x{width}, {most}")];
    if pcie.width.zip(pcie.width_max).is_some_and(|(now, max)| now < max) {
        let what = format!(
            "{name} is connected by {width} of {} PCIe lanes: loading takes longer",
            number(pcie.width_max)
        );
        let fix = "put the card into a slot with all lanes, or see that it sits tight; on a rented machine take another";
        return Some(finding(Severity::Warning, "narrow_link", what, evidence, fix));
    }
    // At rest a card lowers the generation to save power.
    let works = gpu.utilization_percent.is_some_and(|percent| percent > 0)
        && gpu.performance_state.is_some_and(|state| state <= 2);
    let slower = pcie.generation.zip(pcie.generation_max).is_some_and(|(now, max)| now < max);
    (works && slower).then(|| {
        let what = format!("{name} uses PCIe generation {generation} while it works");
        let fix = "look at the slot's settings in the firmware, if loading is slow";
        finding(Severity::Note, "slow_link", what, evidence, fix)
    })
}

/// How it was set up.
fn modes(name: &str, gpu: &NvmlGpu) -> Vec<Finding> {
    let mut found = Vec::new();
    if gpu.persistence == Some(false) {
        found.push(finding(
            Severity::Note,
            "no_persistence",
            format!("{name} is started anew for every program that comes alone, which takes a second or more"),
            ["persistence mode is off".to_owned()],
            "run `nvidia-smi -pm 1`, or nvidia-persistenced, on the host",
        ));
    }
    if gpu.mig == Some(true) {
        found.push(finding(
            Severity::Note,
            "mig",
            format!(
                "{name} is split into instances (MIG): each has a part of its memory and speed"
            ),
            ["MIG mode is on".to_owned()],
            "nothing; CUDA_VISIBLE_DEVICES chooses the instance",
        ));
    }
    match gpu.compute_mode.as_deref() {
        Some("prohibited") => found.push(finding(
            Severity::Error,
            "compute_prohibited",
            format!("{name} is closed to computing"),
            ["compute mode: prohibited".to_owned()],
            "run `nvidia-smi -c 0` on the host",
        )),
        Some(mode @ ("exclusive process" | "exclusive thread")) => found.push(finding(
            Severity::Note,
            "compute_exclusive",
            format!("{name} serves one program at a time"),
            [format!("compute mode: {mode}")],
            "nothing, if that is meant; `nvidia-smi -c 0` on the host ends it",
        )),
        _ => {}
    }
    found
}

/// Memory that others have.
fn held(name: &str, gpu: &NvmlGpu) -> Option<Finding> {
    let memory = gpu.memory.as_ref()?;
    // Less than a tenth is the driver's own, and a desktop's.
    if memory.used <= memory.total / 10 {
        return None;
    }
    let mut evidence = vec![format!("{} of {} are taken", gb(memory.used), gb(memory.total))];
    evidence.extend(gpu.processes.iter().map(|process| {
        let name = process.name.as_ref().map_or(String::new(), |name| format!(" ({name})"));
        let bytes = process.bytes.map_or("an unknown part".to_owned(), gb);
        format!("process {}{name}: {bytes}", process.pid)
    }));
    if gpu.processes.is_empty() {
        evidence
            .push("by no process that is visible here; it may be of another container".to_owned());
    }
    let fix = "nothing, if those programs are meant; else end them";
    Some(finding(
        Severity::Note,
        "memory_taken",
        format!("others hold memory of {name}"),
        evidence,
        fix,
    ))
}

/// A number that may not be known.
pub(in super::super) fn number(value: Option<u32>) -> String {
    value.map_or("?".to_owned(), |value| value.to_string())
}
