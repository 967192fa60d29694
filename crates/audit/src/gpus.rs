//! Cards and their compute capability: a table from outside, for no library says it.

use crate::facts::ComputeCapability;

/// A card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// NVIDIA's name, without "GeForce", "NVIDIA" and the like.
    pub name: &'static str,
    /// What it runs.
    pub compute_capability: ComputeCapability,
}

/// Where [`GPUS`] comes from.
pub const SOURCE: &str = "https://developer.nvidia.com/cuda-gpus (and cuda-legacy-gpus)";

const fn gpu(name: &'static str, major: u32, minor: u32) -> Gpu {
    Gpu { name, compute_capability: ComputeCapability { major, minor } }
}

/// Cards that people rent or own, newest first.
pub const GPUS: [Gpu; 46] = [
    gpu("B300", 10, 3),
    gpu("B200", 10, 0),
    gpu("GB200", 10, 0),
    gpu("RTX PRO 6000", 12, 0),
    gpu("RTX PRO 5000", 12, 0),
    gpu("RTX PRO 4500", 12, 0),
    gpu("RTX PRO 4000", 12, 0),
    gpu("RTX 5090", 12, 0),
    gpu("RTX 5080", 12, 0),
    gpu("RTX 5070 Ti", 12, 0),
    gpu("RTX 5070", 12, 0),
    gpu("RTX 5060 Ti", 12, 0),
    gpu("RTX 5060", 12, 0),
    gpu("GB10", 12, 1),
    gpu("H200", 9, 0),
    gpu("H100", 9, 0),
    gpu("GH200", 9, 0),
    gpu("L4", 8, 9),
    gpu("L40", 8, 9),
    gpu("L40S", 8, 9),
    gpu("RTX 6000 Ada", 8, 9),
    gpu("RTX 5000 Ada", 8, 9),
    gpu("RTX 4000 Ada", 8, 9),
    gpu("RTX 4090", 8, 9),
    gpu("RTX 4080 SUPER", 8, 9),
    gpu("RTX 4080", 8, 9),
    gpu("RTX 4070 Ti", 8, 9),
    gpu("RTX 4070", 8, 9),
    gpu("RTX 4060", 8, 9),
    gpu("A40", 8, 6),
    gpu("A10", 8, 6),
    gpu("A10G", 8, 6),
    gpu("A16", 8, 6),
    gpu("A2", 8, 6),
    gpu("RTX A6000", 8, 6),
    gpu("RTX A5000", 8, 6),
    gpu("RTX A4000", 8, 6),
    gpu("RTX 3090 Ti", 8, 6),
    gpu("RTX 3090", 8, 6),
    gpu("RTX 3080", 8, 6),
    gpu("RTX 3070", 8, 6),
    gpu("RTX 3060", 8, 6),
    gpu("A100", 8, 0),
    gpu("A30", 8, 0),
    gpu("T4", 7, 5),
    gpu("V100", 7, 0),
];

/// The card of this name, whatever is said around it: `NVIDIA GeForce RTX 5090`, `rtx5090`, `A100 80GB`; or a compute
/// capability, `12.0` or `sm_120`.
///
/// # Errors
///
/// One line that lists the names.
pub fn find(name: &str) -> Result<(String, ComputeCapability), String> {
    if let Some(capability) = compute_capability(name) {
        return Ok((format!("compute capability {capability}"), capability));
    }
    let wanted = squeeze(name);
    // "RTX 4080 SUPER" is looked for before "RTX 4080".
    let known = |gpu: &&Gpu| wanted == squeeze(gpu.name);
    match GPUS.iter().find(known) {
        Some(gpu) => Ok((gpu.name.to_owned(), gpu.compute_capability)),
        None => {
            let names: Vec<&str> = GPUS.iter().map(|gpu| gpu.name).collect();
            Err(format!(
                "the GPU `{name}` is not in the table; give its compute capability, as 12.0, or one of: {}",
                names.join(", ")
            ))
        }
    }
}

fn compute_capability(text: &str) -> Option<ComputeCapability> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n < 100);
    if let Some(digits) = text.strip_prefix("sm_") {
        let value: u32 = digits.parse().ok().filter(|value| (10..1000).contains(value))?;
        return Some(ComputeCapability { major: value / 10, minor: value % 10 });
    }
    let (major, minor) = text.split_once('.')?;
    Some(ComputeCapability { major: number(major)?, minor: number(minor)? })
}

/// Lower case letters and digits, without the words that vary.
fn squeeze(name: &str) -> String {
    const NOISE: [&str; 14] = [
        "nvidia",
        "geforce",
        "tesla",
        "quadro",
        "generation",
        "laptop",
        "gpu",
        "sxm",
        "sxm4",
        "sxm5",
        "pcie",
        "nvl",
        "server",
        "edition",
    ];
    let lower = name.to_lowercase().replace(['-', '_'], " ");
    let words = lower.split_whitespace().filter(|word| !NOISE.contains(word));
    let words = words.filter(|word| {
        !word.trim_end_matches("gb").chars().all(|c| c.is_ascii_digit()) || !word.ends_with("gb")
    });
    words.flat_map(str::chars).filter(char::is_ascii_alphanumeric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: (u32, u32)) {
        let (major, minor) = expected;
        assert_eq!(find(name).unwrap().1, ComputeCapability { major, minor }, "{name}");
    }

    #[test]
    fn names_as_people_write_them() {
        check("RTX 5090", (12, 0));
        check("NVIDIA GeForce RTX 5090", (12, 0));
        check("rtx4090", (8, 9));
        check("A100 80GB", (8, 0));
        check("NVIDIA A100-SXM4-80GB", (8, 0));
        check("NVIDIA H100 80GB HBM3".trim_end_matches(" HBM3"), (9, 0));
        check("sm_120", (12, 0));
        check("8.6", (8, 6));
    }

    #[test]
    fn an_unknown_card_is_no_guess() {
        assert!(find("RTX 9090").unwrap_err().contains("RTX 5090"));
        assert!(find("Blackwell").is_err(), "10.0 and 12.0 both are");
    }
}
