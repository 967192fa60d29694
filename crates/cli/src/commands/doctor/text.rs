//! The report for people.

use super::facts::{CudaDevice, DriverFiles, Facts, Model, NvmlGpu, Probed, Storage, System};
use super::findings::card::number;
use super::findings::{Finding, Severity};
use crate::memory::gb;

/// Facts in short, then findings.
pub(super) fn report(facts: &Facts, findings: &[Finding]) -> String {
    let mut lines = program(facts);
    lines.extend(section(&facts.system, "machine", system));
    lines.extend(section(&facts.driver, "driver", |files| driver(facts, files)));
    lines.extend(gpus(facts));
    lines.extend(facts.storage.iter().flat_map(|it| section(it, "storage", storage)));
    lines.extend(facts.model.iter().flat_map(|it| section(it, "model", model)));
    if findings.is_empty() {
        lines.push("findings: none".to_owned());
    } else {
        lines.push("findings:".to_owned());
    }
    lines.extend(findings.iter().flat_map(finding));
    lines.join("\n") + "\n"
}

fn finding(finding: &Finding) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", finding.severity.name(), finding.what)];
    lines.extend(finding.evidence.iter().map(|evidence| format!("    {evidence}")));
    // Of a note, "nothing" goes without saying.
    if finding.severity < Severity::Note || finding.fix != "nothing" {
        lines.push(format!("  -> {}", finding.fix));
    }
    lines
}

/// The lines of a probe, or one that says why there are none.
fn section<T>(probed: &Probed<T>, name: &str, lines: impl Fn(&T) -> Vec<String>) -> Vec<String> {
    match probed {
        Probed::Found(facts) => lines(facts),
        Probed::Failed(why) => vec![format!("{name}: not known ({why})")],
        Probed::Died(how) => vec![format!("{name}: not known (the probe ended: {how})")],
        Probed::TimedOut(seconds) => {
            vec![format!("{name}: not known (no answer within {seconds} s)")]
        }
    }
}

fn program(facts: &Facts) -> Vec<String> {
    let program = &facts.program;
    let kernels = &program.cuda_kernels;
    let cuda = match &kernels.absent {
        None => format!("{} ({})", kernels.targets.join(", "), kernels.compiler),
        Some(reason) => format!("none ({reason})"),
    };
    vec![
        format!("halfbyte: {} for {}", program.build, program.target),
        format!("cpu kernels: {}", program.cpu_kernels),
        format!("cuda kernels: {cuda}"),
    ]
}

fn system(system: &System) -> Vec<String> {
    let (cpu, memory) = (&system.cpu, &system.memory);
    let quota = cpu.quota.map_or(String::new(), |quota| format!(", quota {quota}"));
    let online = cpu.online.map_or(String::new(), |online| format!(" of {online}"));
    let mut lines = vec![format!(
        "cpu: {}, {}{online} processors{quota}, {}",
        cpu.model.as_deref().unwrap_or("unknown"),
        cpu.usable,
        cpu.features.join(" "),
    )];
    let size = |bytes: Option<u64>| bytes.map_or("?".to_owned(), gb);
    let limit = memory.limit.map_or(String::new(), |limit| format!(", limit {}", gb(limit)));
    let shm =
        system.shm.as_ref().map_or(String::new(), |shm| format!(", /dev/shm {}", gb(shm.total)));
    let memlock = system.memlock_bytes.map_or("unlimited".to_owned(), gb);
    lines.push(format!(
        "memory: {}, {} available{limit}{shm}, memlock {memlock}",
        size(memory.total),
        size(memory.available)
    ));
    let kernel = system.kernel.as_deref().unwrap_or("unknown");
    let container = system.container.as_deref().unwrap_or("no container");
    lines.push(format!("system: Linux {kernel}, {container}"));
    lines.extend(system.environment.iter().map(|(name, value)| format!("  {name}={value}")));
    lines
}

fn driver(facts: &Facts, files: &DriverFiles) -> Vec<String> {
    let cuda = facts.cuda.found();
    let version = cuda.and_then(|cuda| cuda.cuda_version);
    let version = version.map(|(major, minor)| format!("CUDA {major}.{minor}"));
    let module = files.module.as_ref().map(|module| {
        let open = if module.open { ", open" } else { "" };
        format!("{} in the kernel{open}", module.version)
    });
    let known: Vec<String> = [module, version].into_iter().flatten().collect();
    let mut lines = vec![match (&known[..], &facts.cuda) {
        ([], Probed::Found(cuda)) if cuda.error.as_ref().is_some_and(|error| error.no_library) => {
            "driver: none".to_owned()
        }
        ([], _) => "driver: not known".to_owned(),
        (known, _) => format!("driver: {}", known.join(", ")),
    }];
    if let Some(path) = cuda.and_then(|cuda| cuda.library.as_ref()) {
        lines.push(format!("  loaded {path}"));
    }
    lines.extend(files.libraries.iter().map(|library| {
        let version = library.version.as_deref().unwrap_or("of unknown version");
        let mounted = if library.mounted { ", mounted" } else { "" };
        let compat = if library.compat { ", of a compatibility package" } else { "" };
        format!("  {} {version}{mounted}{compat}", library.path)
    }));
    if !files.nodes.is_empty() {
        let nodes: Vec<&str> = files.nodes.iter().map(|node| node.path.as_str()).collect();
        lines.push(format!("  {}", nodes.join(" ")));
    }
    lines
}

fn gpus(facts: &Facts) -> Vec<String> {
    let devices = facts.cuda.found().map_or(&[][..], |cuda| &cuda.devices);
    let gpus = facts.nvml.found().map_or(&[][..], |nvml| &nvml.gpus);
    let mut lines = Vec::new();
    for it in devices {
        lines.push(device(it));
        let gpu = gpus.iter().find(|gpu| gpu.uuid.as_ref() == Some(&it.uuid));
        lines.extend(gpu.into_iter().flat_map(state));
    }
    for gpu in gpus {
        if !devices.iter().any(|device| gpu.uuid.as_ref() == Some(&device.uuid)) {
            lines.push(format!("GPU {}: {}", gpu.index, gpu.name.as_deref().unwrap_or("unnamed")));
            lines.extend(state(gpu));
        }
    }
    match (&facts.cuda, lines.is_empty()) {
        (Probed::Found(_), true) => lines.push("gpus: none".to_owned()),
        (Probed::Found(_), false) => {}
        (other, _) => lines.extend(section(other, "gpus", |_| Vec::new())),
    }
    lines
}

fn device(device: &CudaDevice) -> String {
    let (major, minor) = device.compute_capability;
    let free = device
        .free_memory
        .map_or("not to be opened".to_owned(), |free| format!("{} free", gb(free)));
    let kernels = device
        .kernels
        .as_deref()
        .map_or("no kernels".to_owned(), |target| format!("kernels for {target}"));
    format!(
        "cuda:{}: {}, compute capability {major}.{minor}, {} ({free}), {kernels}",
        device.ordinal,
        device.name,
        gb(device.total_memory),
    )
}

/// What a card is doing.
fn state(gpu: &NvmlGpu) -> Vec<String> {
    let (pcie, power) = (&gpu.pcie, &gpu.power);
    let on = |value: Option<bool>| match value {
        Some(true) => "on",
        Some(false) => "off",
        None => "?",
    };
    let mig = if gpu.mig == Some(true) { ", MIG on" } else { "" };
    let held = if gpu.throttling.is_empty() {
        String::new()
    } else {
        format!(", held back by {}", gpu.throttling.join(", "))
    };
    vec![
        format!(
            "  PCIe generation {} x{} (at most {} x{}), persistence {}, ECC {}{mig}",
            number(pcie.generation),
            number(pcie.width),
            number(pcie.generation_max),
            number(pcie.width_max),
            on(gpu.persistence),
            on(gpu.ecc.enabled),
        ),
        format!(
            "  P{}, {} C, {} of {} W, {} of {} MHz, {} % busy{held}",
            number(gpu.performance_state),
            number(gpu.temperature_c),
            number(power.usage_w),
            number(power.cap_w),
            number(gpu.sm_clock_mhz),
            number(gpu.sm_clock_max_mhz),
            number(gpu.utilization_percent),
        ),
    ]
}

fn storage(storage: &Storage) -> Vec<String> {
    let at = storage
        .file_system
        .as_ref()
        .map_or("an unknown file system".to_owned(), |at| format!("{} of {}", at.kind, at.source));
    let free =
        storage.space.as_ref().map_or(String::new(), |space| format!(", {} free", gb(space.free)));
    let mut lines = vec![format!("storage: {} ({at}{free})", storage.directory)];
    let cached = storage.cached_bytes.map_or("an unknown part".to_owned(), gb);
    let files = if storage.files == 1 { "1 file" } else { &format!("{} files", storage.files) };
    lines.push(format!("  {files}, {}, of which {cached} in the page cache", gb(storage.bytes)));
    lines.extend(storage.reading.as_ref().map(|reading| {
        match (&reading.problem, storage.bytes_per_second()) {
            (Some(problem), _) => format!("  speed not measured: {problem}"),
            (None, Some(rate)) => format!(
                "  {}/s past the page cache ({} in {:.2} s)",
                gb(rate as u64),
                gb(reading.bytes),
                reading.seconds
            ),
            (None, None) => "  speed not measured: the files are too small".to_owned(),
        }
    }));
    lines
}

fn model(model: &Model) -> Vec<String> {
    let kind = model.quantized.as_deref().unwrap_or("not quantized");
    let mut lines = vec![format!("model: {} ({}), {kind}", model.name, model.directory)];
    let plan = &model.gpu_plan;
    lines.push(format!(
        "  on a GPU {} for {} tokens of context, on the CPU {}",
        gb(plan.total()),
        model.context,
        gb(model.cpu_bytes)
    ));
    lines
}
