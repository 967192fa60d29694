//! Cards as `plan` knows them: memory and bandwidth, each with where it comes from. What a card runs stands in the audit's table.

use audit::gpus;

/// A card, in one of its forms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Card {
    /// What `--gpu` takes.
    pub(crate) name: &'static str,
    /// Its name among the audit's cards.
    model: &'static str,
    /// Memory as NVIDIA states it, in GiB though it says GB.
    pub(crate) nominal_gib: u32,
    /// Bytes that CUDA shows of it in total: what is left once the driver has taken its part, and error correction its
    /// sixteenth where it is kept in the memory itself. Seen on real cards, the least if reports differ.
    pub(crate) total_bytes: u64,
    /// Where that was seen.
    pub(crate) total_source: &'static str,
    /// Bandwidth of the memory in bytes a second.
    pub(crate) bandwidth: f64,
    /// Where that stands.
    pub(crate) bandwidth_source: &'static str,
}

/// Hundredths of GiB, as reports round them, in bytes.
const fn gib(hundredths: u64) -> u64 {
    hundredths * (1 << 30) / 100
}

/// All of them, by memory.
pub(crate) static CARDS: [Card; 15] = [
    Card {
        name: "A10",
        model: "A10",
        nominal_gib: 24,
        total_bytes: gib(2199),
        total_source: "21.99 GiB in github.com/zai-org/CogVLM/issues/236",
        bandwidth: 600e9,
        bandwidth_source: "NVIDIA A10 datasheet",
    },
    Card {
        name: "L4",
        model: "L4",
        nominal_gib: 24,
        total_bytes: gib(2199),
        total_source: "no report found: that of the A10, which has the same amount and error correction",
        bandwidth: 300e9,
        bandwidth_source: "NVIDIA L4 datasheet",
    },
    Card {
        name: "RTX 3090",
        model: "RTX 3090",
        nominal_gib: 24,
        total_bytes: gib(2370),
        total_source: "23.70 GiB in github.com/Lightning-AI/lit-llama/issues/137",
        bandwidth: 936e9,
        bandwidth_source: "NVIDIA's specifications of the GeForce RTX 3090",
    },
    Card {
        name: "RTX 4090",
        model: "RTX 4090",
        nominal_gib: 24,
        total_bytes: gib(2361),
        total_source: "23.61 GiB in github.com/pinokiofactory/flux-webui/issues/11; others report up to 23.68",
        bandwidth: 1008e9,
        bandwidth_source: "NVIDIA Ada GPU architecture whitepaper",
    },
    Card {
        name: "RTX 5090",
        model: "RTX 5090",
        nominal_gib: 32,
        total_bytes: gib(3136),
        total_source: "31.36 GiB in github.com/TrajectoryCrafter/TrajectoryCrafter/issues/20",
        bandwidth: 1792e9,
        bandwidth_source: "NVIDIA RTX Blackwell GPU architecture whitepaper",
    },
    Card {
        name: "A100 40GB",
        model: "A100",
        nominal_gib: 40,
        total_bytes: gib(3950),
        total_source: "39.50 GiB in github.com/TianheWu/CoSeR/issues/10",
        bandwidth: 1555e9,
        bandwidth_source: "NVIDIA A100 datasheet",
    },
    Card {
        name: "A40",
        model: "A40",
        nominal_gib: 48,
        total_bytes: gib(4440),
        total_source: "no report found: that of the L40, which has the same amount and error correction, \
                       44.40 GiB in github.com/QwenLM/Qwen3-VL/issues/2097",
        bandwidth: 696e9,
        bandwidth_source: "NVIDIA A40 datasheet",
    },
    Card {
        name: "L40S",
        model: "L40S",
        nominal_gib: 48,
        total_bytes: gib(4442),
        total_source: "44.42 GiB in github.com/stepfun-ai/Step-Video-T2V/issues/8",
        bandwidth: 864e9,
        bandwidth_source: "NVIDIA L40S datasheet",
    },
    Card {
        name: "A100 80GB SXM",
        model: "A100",
        nominal_gib: 80,
        total_bytes: gib(7925),
        total_source: "79.25 GiB in github.com/HiDream-ai/VAREdit/issues/6, which does not say the form",
        bandwidth: 2039e9,
        bandwidth_source: "NVIDIA A100 datasheet",
    },
    Card {
        name: "A100 80GB PCIe",
        model: "A100",
        nominal_gib: 80,
        total_bytes: gib(7925),
        total_source: "79.25 GiB in github.com/HiDream-ai/VAREdit/issues/6, which does not say the form",
        bandwidth: 1935e9,
        bandwidth_source: "NVIDIA A100 datasheet",
    },
    Card {
        name: "H100 SXM",
        model: "H100",
        nominal_gib: 80,
        total_bytes: gib(7911),
        total_source: "79.11 GiB in github.com/vllm-project/vllm/issues/27508, which does not say the form",
        bandwidth: 3350e9,
        bandwidth_source: "NVIDIA H100 datasheet",
    },
    Card {
        name: "H100 PCIe",
        model: "H100",
        nominal_gib: 80,
        total_bytes: gib(7911),
        total_source: "79.11 GiB in github.com/vllm-project/vllm/issues/27508, which does not say the form",
        bandwidth: 2000e9,
        bandwidth_source: "NVIDIA H100 datasheet",
    },
    Card {
        name: "RTX PRO 6000",
        model: "RTX PRO 6000",
        nominal_gib: 96,
        total_bytes: gib(9497),
        total_source: "94.97 GiB in github.com/antirez/ds4/issues/431",
        bandwidth: 1792e9,
        bandwidth_source: "NVIDIA RTX PRO 6000 Blackwell datasheet",
    },
    Card {
        name: "H200",
        model: "H200",
        nominal_gib: 141,
        total_bytes: 150_110_011_392,
        total_source: "measured: halfbyte's LOG.md",
        bandwidth: 4800e9,
        bandwidth_source: "NVIDIA H200 datasheet; a read kernel of ours reaches 4.5 TB/s",
    },
    Card {
        name: "B200",
        model: "B200",
        nominal_gib: 180,
        total_bytes: gib(17835),
        total_source: "178.35 GiB in github.com/pytorch/ao/pull/4002",
        bandwidth: 7670e9,
        bandwidth_source: "its driver's bus width and clock in github.com/pytorch/ao/pull/4002; NVIDIA's datasheet says 8 TB/s",
    },
];

impl Card {
    /// What it runs, as `12.0`.
    pub(crate) fn compute_capability(&self) -> Option<String> {
        gpus::find(self.model).ok().map(|(_, capability)| capability.to_string())
    }

    /// The card of this name, however it is written: `NVIDIA GeForce RTX 5090`, `rtx4090`, `A100-SXM4-80GB`.
    ///
    /// # Errors
    /// One line: the names there are, or those that it may mean.
    pub(crate) fn find(name: &str) -> Result<&'static Card, String> {
        let wanted = Name::of(name);
        let found: Vec<&Card> = CARDS.iter().filter(|card| wanted.names(card)).collect();
        let list =
            |cards: &[&Card]| cards.iter().map(|card| card.name).collect::<Vec<_>>().join(", ");
        match found[..] {
            [card] => Ok(card),
            [] => Err(format!(
                "the card `{name}` is not in the table; give its memory as --vram 24GiB, or one of: {}",
                list(&CARDS.each_ref())
            )),
            _ => Err(format!("`{name}` may be any of: {}; say which", list(&found))),
        }
    }
}

/// A name in its parts.
struct Name {
    /// Letters and digits of the model's name.
    model: String,
    /// `80gb`, `sxm`, `pcie`.
    forms: Vec<String>,
}

impl Name {
    fn of(text: &str) -> Self {
        const NOISE: [&str; 13] = [
            "nvidia",
            "geforce",
            "tesla",
            "generation",
            "gpu",
            "blackwell",
            "server",
            "workstation",
            "edition",
            "hbm2",
            "hbm2e",
            "hbm3",
            "hbm3e",
        ];
        let text = text.to_lowercase().replace(['-', '_'], " ").replace(" gb", "gb");
        let mut name = Name { model: String::new(), forms: Vec::new() };
        for word in text.split_whitespace().filter(|word| !NOISE.contains(word)) {
            let is_size = word.strip_suffix("gb").is_some_and(|n| n.parse::<u32>().is_ok());
            match word {
                "sxm" | "sxm2" | "sxm4" | "sxm5" => name.forms.push("sxm".to_owned()),
                "pcie" => name.forms.push("pcie".to_owned()),
                size if is_size => name.forms.push(size.to_owned()),
                word => name.model.extend(word.chars().filter(char::is_ascii_alphanumeric)),
            }
        }
        name
    }

    /// Whether it can mean the card: the same model, and no form that the card has not.
    fn names(&self, card: &Card) -> bool {
        let Name { model, mut forms } = Name::of(card.name);
        forms.push(format!("{}gb", card.nominal_gib));
        let without_rtx = model.strip_prefix("rtx").unwrap_or(&model);
        (self.model == model || self.model == without_rtx)
            && self.forms.iter().all(|form| forms.contains(form))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        assert_eq!(Card::find(name).unwrap().name, expected);
    }

    #[test]
    fn names_as_people_write_them() {
        for card in &CARDS {
            check(card.name, card.name);
        }
        check("NVIDIA GeForce RTX 5090", "RTX 5090");
        check("rtx4090", "RTX 4090");
        check("4090", "RTX 4090");
        check("NVIDIA A100-SXM4-80GB", "A100 80GB SXM");
        check("A100 40 GB", "A100 40GB");
        check("a100 pcie 80gb", "A100 80GB PCIe");
        check("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000");
        check("h200", "H200");
    }

    #[test]
    fn no_card_is_guessed() {
        let error = |name| Card::find(name).unwrap_err();
        assert_eq!(error("H100"), "`H100` may be any of: H100 SXM, H100 PCIe; say which");
        assert!(error("A100").contains("A100 40GB, A100 80GB SXM, A100 80GB PCIe"));
        // Other cards with names like those of the table.
        for name in ["L40", "H100 NVL", "RTX 4090 Laptop", "RTX 4090 48GB", "A10G", ""] {
            assert!(error(name).contains("--vram 24GiB"), "{name}");
        }
    }

    /// CUDA shows less than there is, and with error correction in the memory itself a sixteenth less still.
    #[test]
    fn totals_are_what_such_memory_leaves() {
        for card in &CARDS {
            let share =
                card.total_bytes as f64 / (f64::from(card.nominal_gib) * (1u64 << 30) as f64);
            assert!((0.91..1.0).contains(&share), "{}: {share}", card.name);
            assert!(card.compute_capability().is_some(), "{}", card.name);
        }
        assert!(CARDS.is_sorted_by_key(|card| card.nominal_gib));
    }
}
