//! The GPUs of this machine.

use std::process::Command;

use super::TARGETS;
use crate::shell::output;

/// The targets that this machine's GPUs need; `None` where the driver shows no GPU.
pub(super) fn targets() -> Option<Vec<String>> {
    let query = ["--query-gpu=compute_cap", "--format=csv,noheader"];
    let shown = output(Command::new("nvidia-smi").args(query)).ok()?;
    let mut targets: Vec<String> = shown.lines().filter_map(target).map(str::to_owned).collect();
    targets.sort();
    targets.dedup();
    (!targets.is_empty()).then_some(targets)
}

/// What runs on a compute capability (`9.0`), by the rule of `images.rs` in `crates/cuda`: machine code of the same
/// generation and no later card, else the latest PTX.
fn target(capability: &str) -> Option<&'static str> {
    let (major, minor) = capability.trim().split_once('.')?;
    let card = number(major)? * 10 + number(minor)?;
    let runs = |name: &&&str| {
        let architecture = number(name).unwrap_or(u32::MAX);
        match (name.starts_with("compute_"), name.ends_with('a')) {
            (true, _) => architecture <= card,
            (false, true) => architecture == card,
            (false, false) => architecture / 10 == card / 10 && architecture <= card,
        }
    };
    let best = |is_ptx: bool| {
        let of_kind = TARGETS.iter().filter(|name| name.starts_with("compute_") == is_ptx);
        of_kind.filter(runs).max_by_key(|name| number(name)).copied()
    };
    best(false).or_else(|| best(true))
}

/// The digits of a text as a number.
fn number(text: &str) -> Option<u32> {
    text.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_card_gets_its_target() {
        for (capability, expected) in [
            ("8.0", Some("sm_80")),
            ("8.7", Some("sm_86")),
            ("9.0", Some("sm_90a")),
            ("10.3", Some("sm_100")),
            ("12.1", Some("sm_120")),
            ("11.0", Some("compute_80")),
            ("13.0", Some("compute_120")),
            ("7.5", None),
            ("[N/A]", None),
        ] {
            assert_eq!(target(capability), expected, "{capability}");
        }
    }
}
