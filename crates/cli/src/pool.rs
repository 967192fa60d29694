//! How many tokens the cache of a server holds: as many as there is room for, within reason.

use anyhow::Result;
use backend::{Cpu, KV_BLOCK_SIZE, StepLimits};
use clap::Args;
use model::{Checkpoint, Config, ModelWeights};
use server::MemoryPlan;

use crate::args::ByteSize;
use crate::gpu::{self, Footprint, Gpu};
use crate::memory::{self, Needs, gb};
use crate::models::DEFAULT_CONTEXT_MAX;
use crate::output::CliError;

/// Rows of a step, beyond those of sequences that decode, whose logits may be asked for: prompts that are scored.
const SCORED_ROWS: usize = 128;

/// What `--max-num-batched-tokens` and `--gpu-memory-utilization` are unless typed.
const BATCHED_TOKENS: u32 = 2048;
pub(crate) const UTILIZATION: f64 = 0.92;

/// On a CPU, keys and values take at most this share of the memory that is left, and at most so many bytes, unless asked.
const CPU_SHARE: f64 = 0.5;
const CPU_BYTES_MAX: u64 = 8_000_000_000;

/// How many requests share the model, and how much memory they get.
#[derive(Debug, Clone, Args)]
pub(crate) struct PoolArgs {
    /// Most sequences that share a step
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) max_num_seqs: u16,
    /// Most tokens of a step: prompts are computed in pieces of it, beside the answers in progress
    #[arg(long, value_name = "N", default_value_t = BATCHED_TOKENS, value_parser = clap::value_parser!(u32).range(16..=65536))]
    pub(crate) max_num_batched_tokens: u32,
    /// Memory of keys and values, as 8GB or 512MiB [default: what is free, at most what all sequences need]
    #[arg(long, value_name = "BYTES")]
    pub(crate) kv_memory: Option<ByteSize>,
    /// Share of the GPU's memory to use, what others have of it included
    #[arg(long, value_name = "SHARE", default_value_t = UTILIZATION, value_parser = share)]
    pub(crate) gpu_memory_utilization: f64,
}

impl PoolArgs {
    /// How many requests share the model, where all else is as it is unless it is typed.
    pub(crate) fn of(max_num_seqs: u16) -> Self {
        PoolArgs {
            max_num_seqs,
            max_num_batched_tokens: BATCHED_TOKENS,
            kv_memory: None,
            gpu_memory_utilization: UTILIZATION,
        }
    }

    /// How much a step on a GPU holds.
    pub(crate) fn limits(&self) -> StepLimits {
        let sequences = usize::from(self.max_num_seqs);
        let tokens = (self.max_num_batched_tokens as usize).max(sequences);
        StepLimits { tokens, rows: (sequences + SCORED_ROWS).min(tokens), sequences }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| format!("`{text}` is not a number above 0 and at most 1"))
}

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    /// Most tokens of a request.
    pub(crate) context: usize,
    /// Tokens that the cache holds.
    pub(crate) tokens: usize,
    /// How much a step holds.
    pub(crate) limits: StepLimits,
    /// What lies in memory.
    pub(crate) plan: MemoryPlan,
}

/// What is asked for.
struct Asked<'a> {
    args: &'a PoolArgs,
    /// Most tokens of a request.
    context: usize,
    /// Whether that was typed, and not less will do.
    is_typed: bool,
}

impl<'a> Asked<'a> {
    fn new(config: &Config, context: Option<u32>, args: &'a PoolArgs) -> Result<Self> {
        let made_for = config.max_position_embeddings;
        let typed = context.map(|context| context as usize);
        let is_typed = typed.is_some();
        let context = typed.unwrap_or_else(|| made_for.min(DEFAULT_CONTEXT_MAX));
        if context > made_for {
            let message = format!(
                "--context {context} exceeds the {made_for} tokens that the model was made for"
            );
            return Err(CliError::bad_input("context", message).into());
        }
        Ok(Asked { args, context, is_typed })
    }

    fn sequences(&self) -> usize {
        usize::from(self.args.max_num_seqs)
    }

    /// More would never be used.
    fn tokens_max(&self) -> usize {
        (self.context.next_multiple_of(KV_BLOCK_SIZE)).saturating_mul(self.sequences())
    }

    /// As many of `fit` tokens as make sense, in whole blocks; and the longest request that they can hold.
    fn decide(&self, fit: usize, sum: impl FnOnce() -> String) -> Result<(usize, usize)> {
        let fit = fit - fit % KV_BLOCK_SIZE;
        let tokens = if self.args.kv_memory.is_some() { fit } else { fit.min(self.tokens_max()) };
        let least = if self.is_typed { self.context } else { KV_BLOCK_SIZE };
        if tokens >= least {
            return Ok((tokens, self.context.min(tokens)));
        }
        if let Some(ByteSize(bytes)) = self.args.kv_memory {
            let size = gb(bytes);
            return Err(CliError::DoesNotFit(format!(
                "--kv-memory {size} has room for {fit} tokens, but {least} have to fit; give more"
            ))
            .into());
        }
        let hint = match fit {
            0 => "take a smaller model, a larger device, or fewer --max-num-seqs".to_owned(),
            fit => format!("--context {fit} would fit"),
        };
        Err(CliError::DoesNotFit(format!("does not fit into memory: {}; {hint}", sum())).into())
    }
}

/// The pool on a GPU: what is left of its memory once weights and workspace are in it.
pub(crate) fn on_gpu(
    config: &Config,
    weights: &ModelWeights,
    context: Option<u32>,
    args: &PoolArgs,
    gpu: &Gpu,
) -> Result<Pool> {
    let (free, total) = gpu.memory()?;
    let card = CardMemory { ordinal: gpu.info.ordinal, free, total };
    gpu_pool(config, &Footprint::of(config, weights)?, context, args, card, gpu.fp8_kv)
}

/// What a card has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CardMemory {
    pub(crate) ordinal: u32,
    /// Bytes that nobody has.
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// The pool on a card, from nothing but numbers.
pub(crate) fn gpu_pool(
    config: &Config,
    footprint: &Footprint,
    context: Option<u32>,
    args: &PoolArgs,
    card: CardMemory,
    fp8_kv: bool,
) -> Result<Pool> {
    let asked = Asked::new(config, context, args)?;
    let limits = args.limits();
    let plan = |tokens: usize| footprint.plan(tokens, limits, fp8_kv);
    let CardMemory { ordinal, free, total } = card;
    let used = total.saturating_sub(free);
    let share = (total as f64 * args.gpu_memory_utilization) as u64;
    let budget = free.min(share.saturating_sub(used));
    let most = match args.kv_memory {
        None => asked.tokens_max(),
        Some(ByteSize(bytes)) => {
            let block = plan(KV_BLOCK_SIZE)?.keys_and_values as u64;
            (bytes / block.max(1)) as usize * KV_BLOCK_SIZE
        }
    };
    // What a step needs grows a little with the pool, so it is no division.
    let fits = |blocks: usize| -> Result<bool> {
        Ok(plan(blocks * KV_BLOCK_SIZE)?.total() as u64 <= budget)
    };
    let fit = gpu::largest(most / KV_BLOCK_SIZE, fits)? * KV_BLOCK_SIZE;
    let needed = plan(asked.context)?;
    let sum = || {
        format!(
            "{}, but {} may be used of cuda:{ordinal} ({} free of {}, --gpu-memory-utilization {})",
            gpu::sum(&needed, asked.context),
            gb(budget),
            gb(free),
            gb(total),
            args.gpu_memory_utilization
        )
    };
    if args.kv_memory.is_some() && fit < most {
        return Err(CliError::DoesNotFit(format!("--kv-memory: {} tokens; {}", most, sum())).into());
    }
    let (tokens, context) = asked.decide(fit, sum)?;
    let plan = plan(tokens)?;
    let plan = MemoryPlan {
        weights_bytes: plan.weights.total() as u64,
        kv_bytes: plan.keys_and_values as u64,
        kv_tokens: tokens,
        workspace_bytes: plan.workspace as u64,
    };
    Ok(Pool { context, tokens, limits, plan })
}

/// The pool in the machine's own memory: a part of what is left, which others may want, too.
pub(crate) fn on_cpu(
    checkpoint: &Checkpoint,
    needs: Needs,
    context: Option<u32>,
    args: &PoolArgs,
) -> Result<Pool> {
    cpu_pool(checkpoint.config(), needs, context, args, memory::available().unwrap_or(u64::MAX))
}

fn cpu_pool(
    config: &Config,
    needs: Needs,
    context: Option<u32>,
    args: &PoolArgs,
    available: u64,
) -> Result<Pool> {
    let asked = Asked::new(config, context, args)?;
    let left = available.saturating_sub(needs.fixed());
    let per_token = needs.kv_per_token.max(1);
    let least = per_token.saturating_mul(asked.context as u64);
    let bytes = match args.kv_memory {
        Some(ByteSize(bytes)) if bytes > left => {
            let message = format!(
                "--kv-memory {}: weights and activations take {}, and {} are available",
                gb(bytes),
                gb(needs.fixed()),
                gb(available)
            );
            return Err(CliError::DoesNotFit(message).into());
        }
        Some(ByteSize(bytes)) => bytes,
        // One request of full length goes before modesty.
        None => ((left as f64 * CPU_SHARE) as u64).min(CPU_BYTES_MAX).max(least.min(left)),
    };
    let sum = || {
        format!(
            "weights {} + keys and values {} ({} tokens of {per_token} bytes) + activations {}, but {} are available",
            gb(needs.weights),
            gb(least),
            asked.context,
            gb(needs.activations),
            gb(available)
        )
    };
    let fit = usize::try_from(bytes / per_token).unwrap_or(usize::MAX);
    let (tokens, context) = asked.decide(fit, sum)?;
    let limits = StepLimits {
        tokens: (args.max_num_batched_tokens as usize).min(Cpu::LIMITS.tokens),
        rows: Cpu::LIMITS.rows,
        sequences: asked.sequences(),
    };
    let plan = MemoryPlan {
        weights_bytes: needs.weights,
        kv_bytes: per_token * tokens as u64,
        kv_tokens: tokens,
        workspace_bytes: needs.activations,
    };
    Ok(Pool { context, tokens, limits, plan })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        pool: PoolArgs,
    }

    fn check(typed: &[&str], context: Option<u32>, available: u64) -> Result<(usize, usize)> {
        let typed = Typed::parse_from([&["halfbyte"], typed].concat());
        let needs = Needs { weights: 1_000_000, kv_per_token: 1000, activations: 1_000_000 };
        let checkpoint = embedded::checkpoint()?;
        let pool = cpu_pool(checkpoint.config(), needs, context, &typed.pool, available)?;
        assert_eq!(pool.plan.kv_bytes, 1000 * pool.tokens as u64);
        assert_eq!(pool.plan.kv_tokens, pool.tokens);
        Ok((pool.context, pool.tokens))
    }

    #[test]
    fn half_of_what_is_left_goes_to_keys_and_values() {
        // The demo model is made for 2,048 tokens.
        let made_for = embedded::checkpoint().unwrap().config().max_position_embeddings;
        assert_eq!(check(&[], None, 22_000_000).unwrap(), (made_for.min(10_000), 10_000));
        assert_eq!(check(&["--max-num-seqs", "2"], Some(64), 22_000_000).unwrap(), (64, 128));
        assert_eq!(check(&["--kv-memory", "20MB"], Some(64), 22_000_000).unwrap(), (64, 20_000));
        // A long request may take more than its half.
        assert_eq!(check(&[], Some(1024), 3_100_000).unwrap(), (1024, 1024));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_sum() {
        let refused = |typed: &[&str], context, available| {
            check(typed, context, available).unwrap_err().to_string()
        };
        assert_eq!(
            refused(&[], Some(1024), 3_000_000),
            "does not fit into memory: weights 1.0 MB + keys and values 1.0 MB (1024 tokens of 1000 bytes) + activations \
             1.0 MB, but 3.0 MB are available; --context 992 would fit"
        );
        assert!(refused(&[], None, 2_000_000).contains("take a smaller model"));
        assert!(
            refused(&["--kv-memory", "1MB"], None, 2_500_000).contains("and 2.5 MB are available")
        );
        assert_eq!(
            refused(&["--kv-memory", "1MB"], Some(1024), 30_000_000),
            "--kv-memory 1.0 MB has room for 992 tokens, but 1024 have to fit; give more"
        );
    }
}
