//! The machine around the cards: where models lie, memory, and whether a model fits.

use super::super::facts::{Facts, FileSystem, Model, Storage};
use super::{Finding, Severity, card, finding};
use crate::memory::gb;

/// Types of file systems whose bytes come over a network, by the names that Linux gives them.
const NETWORK: [&str; 20] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "virtiofs",
    "lustre",
    "ceph",
    "beegfs",
    "gpfs",
    "afs",
    "glusterfs",
    "pvfs2",
    "orangefs",
    "wekafs",
    "fuse",
    "moosefs",
    "juicefs",
    "ocfs2",
];

/// A cold start that waits longer for the storage is worth a warning.
const COLD_SECONDS_MAX: f64 = 60.0;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(model) = facts.model.as_ref().and_then(|model| model.found()) {
        found.extend(fits(facts, model));
    }
    if let Some(storage) = facts.storage.as_ref().and_then(|storage| storage.found()) {
        found.extend(speed(storage));
        found.extend(cache(facts, storage));
    }
    found.extend(processor(facts));
    found
}

fn processor(facts: &Facts) -> Option<Finding> {
    let cpu = &facts.system.found()?.cpu;
    let has_gpu = facts.cuda.found().is_some_and(|cuda| !cuda.devices.is_empty());
    if facts.program.cpu_kernels == "portable" && !has_gpu {
        let what = "this CPU has none of the instruction sets that the kernels are written for: expect it to be slow";
        let fix = "take a machine with AVX2 or NEON, or with a GPU";
        return Some(finding(Severity::Warning, "slow_cpu", what, cpu.model.clone(), fix));
    }
    let (quota, online) = (cpu.quota?, cpu.online?);
    (quota < online as f64).then(|| {
        finding(
            Severity::Note,
            "cpu_quota",
            format!("this container may use {quota} of {online} processors"),
            [format!("the control group's quota; the CPU's kernels take {} threads", cpu.threads)],
            "nothing, if that is meant",
        )
    })
}

/// Whether the model fits: on a GPU where there is one, else in memory.
fn fits(facts: &Facts, model: &Model) -> Option<Finding> {
    if model.fits.is_empty() {
        return fits_in_memory(facts, model);
    }
    let devices = facts.cuda.found().map_or(&[][..], |cuda| &cuda.devices);
    let plan = &model.gpu_plan;
    let mut evidence = vec![format!(
        "weights {} + keys and values {} ({} tokens) + workspace {} = {}",
        gb(plan.weights),
        gb(plan.keys_and_values),
        model.context,
        gb(plan.workspace),
        gb(plan.total()),
    )];
    evidence.extend(model.fits.iter().map(|fit| {
        let device = devices.iter().find(|device| device.ordinal == fit.ordinal);
        let name = device.map_or_else(|| format!("cuda:{}", fit.ordinal), card::name);
        let verdict = match fit.context {
            0 => "does not fit".to_owned(),
            tokens => format!("fits with {tokens} tokens of context"),
        };
        format!("{name}: {} are free; {verdict}", gb(fit.free))
    }));
    let best = model.fits.iter().map(|fit| fit.context).max().unwrap_or_default();
    let name = &model.name;
    Some(if best == 0 {
        let fix = if model.quantized.is_none() {
            "quantize it to 4 bits with `halfbyte quantize`, or take a GPU with more memory"
        } else {
            "take a GPU with more memory, or free what others hold of it"
        };
        let what = format!("{name} does not fit into the memory of any GPU here");
        finding(Severity::Error, "model_does_not_fit", what, evidence, fix)
    } else if best < model.context {
        let what = format!(
            "{name} fits with {best} tokens of context, not with the {} it would take",
            model.context
        );
        let fix = "take --kv fp8, ask for less with --context, or free memory of the GPU";
        finding(Severity::Warning, "context_is_cut", what, evidence, fix)
    } else {
        finding(Severity::Note, "model_fits", format!("{name} fits"), evidence, "nothing")
    })
}

fn fits_in_memory(facts: &Facts, model: &Model) -> Option<Finding> {
    let memory = &facts.system.found()?.memory;
    let available = memory.available?;
    let mut evidence = vec![
        format!("{} with {} tokens of context", gb(model.cpu_bytes), model.context),
        format!("{} are available", gb(available)),
    ];
    evidence
        .extend(memory.limit.map(|limit| format!("the control group's limit is {}", gb(limit))));
    let name = &model.name;
    Some(if model.cpu_bytes > available {
        let what = format!("{name} does not fit into memory with all of its context");
        let fix = "ask for less with --context, or take a machine with more memory";
        finding(Severity::Error, "model_does_not_fit", what, evidence, fix)
    } else {
        let what = format!("{name} fits into memory, for the CPU");
        finding(Severity::Note, "model_fits", what, evidence, "nothing")
    })
}

fn is_network(kind: &str) -> bool {
    NETWORK.contains(&kind) || kind.starts_with("fuse.")
}

/// How long a cold start waits for the storage.
fn speed(storage: &Storage) -> Option<Finding> {
    let file_system = storage.file_system.as_ref();
    let shown = |at: &FileSystem| format!("{} is {} of {}", at.mount_point, at.kind, at.source);
    let mut evidence: Vec<String> = file_system.map(shown).into_iter().collect();
    let seconds = storage.bytes_per_second().map(|rate| storage.bytes as f64 / rate);
    if let (Some(reading), Some(rate)) = (&storage.reading, storage.bytes_per_second()) {
        let (bytes, rate) = (gb(reading.bytes), gb(rate as u64));
        evidence.push(format!("{bytes} were read in {:.2} s: {rate}/s", reading.seconds));
    }
    if let Some(seconds) = seconds {
        evidence.push(format!("{} take {seconds:.1} s when nothing is cached", gb(storage.bytes)));
    }
    let fix = "put the model on a local disk (NVMe) of the machine, or into the image";
    if seconds.is_some_and(|seconds| seconds > COLD_SECONDS_MAX) {
        let what = "a cold start waits long for the storage of the model";
        return Some(finding(Severity::Warning, "slow_storage", what, evidence, fix));
    }
    let network = file_system.is_some_and(|at| is_network(&at.kind));
    network.then(|| {
        let what = "the model lies on a network volume, whose speed varies with what others do";
        finding(Severity::Note, "network_storage", what, evidence, fix)
    })
}

/// A limit under which the files cannot stay cached.
fn cache(facts: &Facts, storage: &Storage) -> Option<Finding> {
    let limit = facts.system.found()?.memory.limit?;
    (limit < storage.bytes).then(|| {
        let evidence = format!("the control group's limit is {}, the files have {}", gb(limit), gb(storage.bytes));
        finding(
            Severity::Note,
            "cache_limited",
            "the page cache of this container cannot hold the model: every start reads it from the storage",
            [evidence],
            "give the container more memory, if it starts often",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::is_network;

    #[test]
    fn which_file_systems_are_networks() {
        for kind in ["nfs4", "fuse.juicefs", "fuse", "9p"] {
            assert!(is_network(kind), "{kind}");
        }
        for kind in ["ext4", "xfs", "overlay", "tmpfs", "btrfs", "zfs", "fuseblk"] {
            assert!(!is_network(kind), "{kind}");
        }
    }
}
