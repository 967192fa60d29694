//! What was measured, for people and for programs.

use anyhow::Result;
use backend::Cpu;
use serde_json::json;

use super::{BenchArgs, Source};
use crate::memory::gb;
use crate::output;
use crate::{build, device};

/// Sequences that were decoded together, and the tokens per second of all of them, one for each repetition.
pub(super) struct BatchRates {
    pub(super) batch: usize,
    pub(super) rates: Vec<f64>,
}

/// Figures of one run; rates in tokens per second, one for each repetition.
pub(super) struct Report {
    model: String,
    device: String,
    threads: usize,
    precision: &'static str,
    prompt_tokens: u32,
    decode_tokens: u32,
    depth: u32,
    pub(super) load_seconds: f64,
    pub(super) prefill: Vec<f64>,
    pub(super) decode: Vec<f64>,
    pub(super) batches: Vec<BatchRates>,
    /// Bytes of weights that a decoded token reads.
    pub(super) bytes_per_token: u64,
    /// In bytes per second; `None` where it could not be measured.
    pub(super) memory_bandwidth: Option<f64>,
    pub(super) logits_finite: bool,
}

impl Report {
    pub(super) fn new(args: &BenchArgs, source: &Source, cpu: &Cpu) -> Self {
        Report {
            model: source.name().to_owned(),
            device: device::describe_cpu(cpu),
            threads: cpu.threads(),
            precision: device::precision_name(cpu.precision()),
            prompt_tokens: args.prompt_tokens,
            decode_tokens: args.decode_tokens,
            depth: args.depth,
            load_seconds: 0.0,
            prefill: Vec::new(),
            decode: Vec::new(),
            batches: Vec::new(),
            bytes_per_token: 0,
            memory_bandwidth: None,
            logits_finite: true,
        }
    }

    pub(super) fn print(&self, json: bool) -> Result<()> {
        if json {
            return Ok(output::print_json(&self.json())?);
        }
        Ok(output::print(&self.table())?)
    }

    /// Bytes of weights read per second while decoding, in the median.
    fn weight_bandwidth(&self) -> f64 {
        self.bytes_per_token as f64 * median(&self.decode)
    }

    fn bandwidth_share(&self) -> Option<f64> {
        self.memory_bandwidth.map(|bandwidth| self.weight_bandwidth() / bandwidth)
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "model": self.model,
            "device": self.device,
            "threads": self.threads,
            "precision": self.precision,
            "prompt_tokens": self.prompt_tokens,
            "decode_tokens": self.decode_tokens,
            "depth": self.depth,
            "load_seconds": self.load_seconds,
            "prefill_tokens_per_second": self.prefill,
            "prefill_tokens_per_second_median": median(&self.prefill),
            "decode_tokens_per_second": self.decode,
            "decode_tokens_per_second_median": median(&self.decode),
            "batches": self.batches.iter().map(|BatchRates { batch, rates }| json!({
                "batch": batch,
                "tokens_per_second": rates,
                "tokens_per_second_median": median(rates),
            })).collect::<Vec<_>>(),
            "bytes_per_token": self.bytes_per_token,
            "memory_bandwidth_bytes_per_second": self.memory_bandwidth,
            "bandwidth_share": self.bandwidth_share(),
            "logits_finite": self.logits_finite,
            "build": build::name(),
        })
    }

    fn table(&self) -> String {
        let Report { model, load_seconds, prompt_tokens, decode_tokens, depth, .. } = self;
        let per_second = |bytes: f64| format!("{}/s", gb(bytes as u64));
        let bandwidth = match self.memory_bandwidth.zip(self.bandwidth_share()) {
            Some((bandwidth, share)) => {
                format!("{}; decode reaches {:.0} % of it", per_second(bandwidth), 100.0 * share)
            }
            None => "not measured: there is no memory to spare".to_owned(),
        };
        let mut table = format!(
            "model             {model}\n\
             load              {load_seconds:.2} s\n\
             prefill           {} ({prompt_tokens} tokens)\n\
             decode            {} ({decode_tokens} tokens after {depth})\n\
             weights per token {}, read at {}\n\
             memory bandwidth  {bandwidth}\n",
            rates(&self.prefill),
            rates(&self.decode),
            gb(self.bytes_per_token),
            per_second(self.weight_bandwidth()),
        );
        for BatchRates { batch, rates: of_batch } in &self.batches {
            table.push_str(&format!("decode together   {batch} sequences: {}\n", rates(of_batch)));
        }
        if !self.logits_finite {
            table.push_str(
                "logits            not all finite: the figures hold, the numbers do not\n",
            );
        }
        table
    }
}

fn rates(rates: &[f64]) -> String {
    let each: Vec<String> = rates.iter().map(|rate| format!("{rate:.1}")).collect();
    format!("{:.1} tok/s [{}]", median(rates), each.join(", "))
}

/// The least and the most.
pub(super) fn spread(rates: &[f64]) -> String {
    let low = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let high = rates.iter().copied().fold(0.0, f64::max);
    format!("{low:.0}-{high:.0}")
}

/// The middle value, or the mean of the two in the middle; 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
