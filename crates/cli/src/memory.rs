//! How much memory there is, and what a model needs of it.

use std::fs;

use anyhow::Result;
use backend::Cpu;
use model::{Checkpoint, Config};
use quant::QuantConfig;

use crate::output::CliError;

/// What a model takes in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    /// All weights, in the form in which they are computed with.
    pub(crate) weights: u64,
    /// Keys and values of one token in all layers.
    pub(crate) kv_per_token: u64,
    /// Activations of a step.
    pub(crate) activations: u64,
}

impl Needs {
    /// From the sizes in `config`, with weights of so many bytes.
    pub(crate) fn new(config: &Config, weights: u64) -> Self {
        // The CPU keeps keys and values in f32, values in panels of 16 columns.
        let head = config.head_dim + config.head_dim.next_multiple_of(16);
        let kv_per_token = 4 * config.num_hidden_layers * config.num_key_value_heads * head;
        // Residual, norm, q, k, v, attention's output, and the widest MLP's two halves and its sum.
        let widest =
            config.moe.map_or(0, |moe| moe.moe_intermediate_size * moe.num_experts_per_tok);
        let columns = 3 * config.hidden_size
            + 2 * (config.q_size() + config.kv_size())
            + 2 * widest.max(config.intermediate_size);
        let activations = 4 * Cpu::LIMITS.tokens * columns + 4 * config.vocab_size;
        Needs { weights, kv_per_token: kv_per_token as u64, activations: activations as u64 }
    }

    /// What a checkpoint needs, from the headers of its tensors; `quant` is the format it is quantized to while loading.
    pub(crate) fn of_checkpoint(checkpoint: &Checkpoint, quant: Option<QuantConfig>) -> Self {
        let config = checkpoint.config();
        let quant = quant.filter(|_| config.quantization_config.is_none());
        let sizes = checkpoint.infos().map(|(name, info)| {
            let bytes = info.bytes.len() as u64;
            let is_linear =
                info.shape.len() >= 2 && !name.contains("embed_tokens") && name != "lm_head.weight";
            match quant {
                Some(quant) if is_linear => packed_bytes(info.shape.iter().product(), quant),
                _ => bytes,
            }
        });
        Needs::new(config, sizes.sum())
    }

    /// All but keys and values.
    pub(crate) fn fixed(&self) -> u64 {
        self.weights + self.activations
    }

    /// All of it, with so many tokens of context.
    pub(crate) fn total(&self, context: usize) -> u64 {
        self.fixed().saturating_add(self.kv_per_token.saturating_mul(context as u64))
    }

    /// The longest context, in tokens, that `available` bytes leave room for.
    pub(crate) fn context_that_fits(&self, available: u64) -> usize {
        (available.saturating_sub(self.fixed()) / self.kv_per_token.max(1)) as usize
    }

    /// Refuses what exceeds `available`, and shows the sum.
    pub(crate) fn check(&self, context: usize, available: u64) -> Result<()> {
        let total = self.total(context);
        if total <= available {
            return Ok(());
        }
        let hint = match self.context_that_fits(available) {
            0 => "take a smaller model or a larger machine".to_owned(),
            tokens => format!("--context {tokens} would fit"),
        };
        Err(CliError::DoesNotFit(format!(
            "does not fit into memory: weights {} + keys and values {} ({context} tokens of {} bytes) + activations {} \
             = {}, but {} are available; {hint}",
            gb(self.weights),
            gb(self.kv_per_token.saturating_mul(context as u64)),
            self.kv_per_token,
            gb(self.activations),
            gb(total),
            gb(available),
        ))
        .into())
    }
}

/// Bytes of `len` elements in a 4-bit format.
pub(crate) fn packed_bytes(len: usize, quant: QuantConfig) -> u64 {
    let blocks = len.div_ceil(quant.blocksize) as u64;
    let scales = if quant.double_quant {
        blocks + 4 * blocks.div_ceil(quant::NESTED_BLOCKSIZE as u64)
    } else {
        4 * blocks
    };
    (len as u64).div_ceil(2) + scales
}

/// Bytes that a new allocation can have without pushing others out: the system's estimate, or the limit of this
/// process's control group. `None` where neither is known.
pub(crate) fn available() -> Option<u64> {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    let read = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok()
    };
    let stat = fs::read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
    let group = read("memory.max")
        .zip(read("memory.current"))
        .map(|(max, used)| max.saturating_sub(used.saturating_sub(page_cache(&stat))));
    system.into_iter().chain(group).min()
}

/// Bytes of cached files in a control group: the kernel counts them as used but gives them up when asked, and a model
/// that was mapped before is among them.
fn page_cache(stat: &str) -> u64 {
    let value = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        ["active_file", "inactive_file"].contains(&name).then_some(value.parse::<u64>().ok()?)
    };
    stat.lines().filter_map(value).fold(0, u64::saturating_add)
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Bytes in words, in decimal units.
pub(crate) fn gb(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_estimates() {
        let text = "MemTotal:       24689340 kB\nMemAvailable:   22000000 kB\nBuffers: 1 kB\n";
        assert_eq!(mem_available(text), Some(22_528_000_000));
        assert_eq!(mem_available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn cached_files_are_not_in_use() {
        let stat = "anon 500\nfile 1000\ninactive_anon 7\ninactive_file 600\nactive_file 300\n";
        assert_eq!(page_cache(stat), 900);
        assert_eq!(page_cache(""), 0);
    }

    #[test]
    fn refuses_with_the_sum() {
        let needs =
            Needs { weights: 3_000_000_000, kv_per_token: 1_000_000, activations: 500_000_000 };
        assert!(needs.check(500, 4_000_000_000).is_ok());
        let error = needs.check(1000, 4_000_000_000).unwrap_err().to_string();
        assert_eq!(
            error,
            "does not fit into memory: weights 3.00 GB + keys and values 1.00 GB (1000 tokens of 1000000 bytes) + \
             activations 500.0 MB = 4.50 GB, but 4.00 GB are available; --context 500 would fit"
        );
        assert!(needs.check(1, 1).unwrap_err().to_string().ends_with("a larger machine"));
    }

    #[test]
    fn a_packed_mixtral_is_as_large_as_the_format_says() {
        // 46.44 G elements at 4.127 bits.
        let bytes = packed_bytes(46_440_000_000, QuantConfig::default());
        assert!((bytes as f64 * 8.0 / 46.44e9 - 4.127).abs() < 0.001);
    }
}
