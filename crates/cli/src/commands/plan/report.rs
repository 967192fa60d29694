//! The plan as people and programs read it.

use anyhow::Result;
use cuda::WeightBytes;
use serde_json::{Value, json};

use super::estimate::{Ask, Estimate, Target};
use super::speed::{MEASURED_WITH, Traffic, measured_share};
use super::{Model, Quantized};
use crate::gpu::DRIVER_BYTES;
use crate::memory::gb;
use crate::pool::UTILIZATION;
use crate::{build, cards};

/// What was found out.
pub(super) struct Report<'a> {
    model: &'a Model,
    ask: &'a Ask,
    cards: Vec<OnCard>,
    kv_per_token: u64,
}

/// The model on one card.
struct OnCard {
    target: Target,
    estimate: Estimate,
    traffic: Traffic,
    /// As `quantize` would leave it, where it is not quantized.
    quantized: Option<Estimate>,
}

impl<'a> Report<'a> {
    pub(super) fn new(model: &'a Model, ask: &'a Ask, targets: &[Target]) -> Result<Self> {
        let made_for = model.config.max_position_embeddings;
        let block = model.footprint.block_bytes(ask.fp8_kv)?;
        let kv_per_token = block / backend::KV_BLOCK_SIZE as u64;
        let on_card = |target: &Target| -> Result<OnCard> {
            let total = target.total_bytes();
            let estimate = ask.estimate(&model.footprint, made_for, total)?;
            let quantized =
                |quantized: &Quantized| ask.estimate(&quantized.footprint, made_for, total);
            Ok(OnCard {
                target: *target,
                traffic: Traffic::new(&model.config, &estimate.plan, kv_per_token),
                estimate,
                quantized: model.quantized.as_ref().map(quantized).transpose()?,
            })
        };
        let cards = targets.iter().map(on_card).collect::<Result<_>>()?;
        Ok(Report { model, ask, cards, kv_per_token })
    }

    fn fits(&self) -> bool {
        self.cards.iter().any(|card| card.estimate.fits)
    }

    /// What the exit code is to say, if it does not fit.
    pub(super) fn refusal(&self) -> Option<String> {
        (!self.fits()).then(|| match &self.cards[..] {
            [card] => format!("does not fit on {}", name(&card.target)),
            _ => "fits on none of these cards".to_owned(),
        })
    }

    /// Sequences that are planned for.
    fn sequences(&self) -> u16 {
        self.ask.concurrency.unwrap_or(1)
    }

    pub(super) fn text(&self) -> String {
        let body = match &self.cards[..] {
            [card] => self.sum(card),
            cards => self.table(cards),
        };
        format!("{}\n{body}", self.head())
    }

    fn head(&self) -> String {
        let Model { name, origin, config, form, stored, quantized, .. } = self.model;
        let kv = if self.ask.fp8_kv { "FP8" } else { "bf16" };
        let planned = match self.ask.concurrency {
            None => "one sequence, as `prompt` has it".to_owned(),
            Some(n) => format!("{n} sequences at once, as `serve` has them"),
        };
        let mut text = format!(
            "{name} ({origin}): {}, {} layers, made for {} tokens\n\
             weights: {form}; {} stored\n\
             planned: {planned}; keys and values in {kv}, {} bytes a token\n",
            config.family.architecture(),
            config.num_hidden_layers,
            config.max_position_embeddings,
            both(*stored),
            self.kv_per_token,
        );
        if let Some(Quantized { stored, .. }) = quantized {
            text += &format!("`halfbyte quantize` would make {} of it, in NF4\n", both(*stored));
        }
        text
    }

    /// The arithmetic for one card.
    fn sum(&self, card: &OnCard) -> String {
        let OnCard { target, estimate, .. } = card;
        let plan = &estimate.plan;
        let tokens = match self.sequences() {
            1 => format!("{} tokens", estimate.context),
            n => format!("{n} x {} tokens", estimate.context),
        };
        let mut text = describe(target) + "\n";
        text += &row("", "GB", "GiB", "");
        for (kind, bytes) in kinds(&plan.weights) {
            text += &bytes_row(&format!("  {kind}"), bytes as u64, "");
        }
        text += &bytes_row("weights", plan.weights.total() as u64, "");
        text += &bytes_row("keys and values", plan.keys_and_values as u64, &tokens);
        text += &bytes_row("workspace", plan.workspace as u64, "");
        text += &bytes_row("driver", DRIVER_BYTES, "measured on an H200, assumed here");
        text += &bytes_row("together", estimate.needed(), "");
        text += &bytes_row("the card has", target.total_bytes(), "");
        let (needed, total) = (estimate.needed(), target.total_bytes());
        text += &match total.checked_sub(needed) {
            Some(left) => bytes_row("left", left, ""),
            None => bytes_row("missing", needed - total, ""),
        };
        text += &format!("(on the host, page-locked: embeddings, {})\n\n", both(plan.host as u64));
        text + &self.verdict(card) + &self.speed(card)
    }

    fn verdict(&self, card: &OnCard) -> String {
        let OnCard { target, estimate, quantized, .. } = card;
        let mut text = if !estimate.fits {
            let hint = match estimate.context_max {
                0 => "nor would one of 16 tokens".to_owned(),
                most => format!("--context {most} would"),
            };
            format!(
                "It does not fit on {} with {} tokens; {hint}.\n",
                name(target),
                estimate.context
            )
        } else if estimate.context_max == self.model.config.max_position_embeddings {
            format!(
                "It fits on {}, with all the tokens that the model was made for.\n",
                name(target)
            )
        } else {
            format!("It fits on {}, with up to {} tokens.\n", name(target), estimate.context_max)
        };
        if !self.ask.fp8_kv && estimate.context_max_fp8 > estimate.context_max {
            text += &format!("With --kv fp8: up to {} tokens.\n", estimate.context_max_fp8);
        }
        let (full, most) = (estimate.full_context, estimate.concurrency_max);
        text += &match most {
            0 => format!("`serve` has room for no sequence of {full} tokens.\n"),
            most => format!("`serve` has room for {most} sequences of {full} tokens at once.\n"),
        };
        let share = estimate.needed() as f64 / target.total_bytes() as f64;
        if self.ask.concurrency.is_some() && estimate.fits && share > UTILIZATION {
            let share = (share * 100.0).ceil() / 100.0;
            text += &format!(
                "This takes more than `serve` does unless told: give --gpu-memory-utilization {share:.2}.\n"
            );
        }
        if let Some(quantized) = quantized {
            text += &match (quantized.fits, quantized.context_max) {
                (true, most) => {
                    format!("After `halfbyte quantize` it fits with up to {most} tokens.\n")
                }
                (false, _) => "Nor does it fit after `halfbyte quantize`.\n".to_owned(),
            };
        }
        text
    }

    fn speed(&self, card: &OnCard) -> String {
        let Some(known) = card.target.card().filter(|_| card.estimate.fits) else {
            return String::new();
        };
        let (n, context) = (self.sequences(), card.estimate.context);
        let traffic = &card.traffic;
        let step = |bytes: f64| format!("{:.2} GB", bytes / 1e9);
        let experts = traffic.choice.map_or(String::new(), |(_, experts)| {
            let touched = traffic.touched(n);
            format!(
                " + {:.1} of {experts} experts in each layer, {}",
                touched,
                step(traffic.experts * touched / experts as f64)
            )
        });
        let bound = |context| traffic.bound(known.bandwidth, n, context);
        let together = if n == 1 { "" } else { " together" };
        let mut text = format!(
            "\nDecoding is bound by what a step reads: weights that all tokens share, {}{experts}; keys and values.\n  \
             tokens/s{together} <= {n} x {:.0} GB/s / {} = {:.0} at first, {:.0} where all have {context} tokens\n",
            step(traffic.shared),
            known.bandwidth / 1e9,
            step(traffic.step(n, 0)),
            bound(0),
            bound(context),
        );
        text += &match measured_share(n) {
            Some(share) => format!(
                "  {:.0} % of that was measured with {MEASURED_WITH}; the same share here would be {:.0} tokens/s\n",
                100.0 * share,
                share * bound(0),
            ),
            None => format!(
                "  ({MEASURED_WITH} was measured with up to 128 sequences: no share to go by)\n"
            ),
        };
        text
    }

    /// All cards, a line each.
    fn table(&self, cards: &[OnCard]) -> String {
        let (n, full) = (self.sequences(), self.ask.context);
        let weights = cards.first().map_or(0, |card| card.estimate.plan.weights.total() as u64);
        let quantized = self.model.quantized.is_some();
        let mut text = format!(
            "on the card: {} of weights, beside keys and values, workspace and {} for the driver\n\n",
            both(weights),
            gb(DRIVER_BYTES)
        );
        text += "                     memory              tokens   of these  tokens/s\n";
        text += "card            GB      GiB  fits  a sequence    at once   at most  expected\n";
        for card in cards {
            let OnCard { target, estimate, traffic, .. } = card;
            let total = target.total_bytes();
            let bound = target.card().filter(|_| estimate.fits);
            let bound = bound.map(|known| traffic.bound(known.bandwidth, n, 0));
            let number =
                |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
            let expected = bound.zip(measured_share(n)).map(|(bound, share)| bound * share);
            let also = match &card.quantized {
                Some(quantized) if quantized.fits => {
                    format!("  quantized: {} tokens", quantized.context_max)
                }
                Some(_) => "  nor quantized".to_owned(),
                None => String::new(),
            };
            text += &format!(
                "{:<14} {:>6.2} {:>6.2}  {:<4}  {:>10}  {:>9}  {:>8}  {:>8}{also}\n",
                name(target),
                total as f64 / 1e9,
                total as f64 / (1u64 << 30) as f64,
                if estimate.fits { "yes" } else { "no" },
                estimate.context_max,
                estimate.concurrency_max,
                number(bound),
                number(expected),
            );
        }
        text += &format!(
            "\nmemory: all that CUDA shows of it, as seen on real cards; --json has the sources. \
             tokens a sequence: the most for {}. of these at once: sequences of {full} tokens under `serve`. \
             tokens/s: decoding {}, at most by the memory's bandwidth, and at the share of it that was measured with \
             {MEASURED_WITH}; `plan --gpu NAME` shows the formula.{}\n",
            if n == 1 { "one sequence".to_owned() } else { format!("{n} at once") },
            if n == 1 { "one sequence".to_owned() } else { format!("{n} sequences together") },
            if quantized { " quantized: the most after `halfbyte quantize`." } else { "" },
        );
        let fitting: Vec<String> =
            cards.iter().filter(|card| card.estimate.fits).map(|card| name(&card.target)).collect();
        text + &match fitting.len() {
            0 => "It fits on none of them.\n".to_owned(),
            _ => format!("It fits on: {}.\n", fitting.join(", ")),
        }
    }

    pub(super) fn json(&self) -> Value {
        let Model { name, origin, config, form, stored, quantized, .. } = self.model;
        let cards: Vec<Value> = self.cards.iter().map(|card| self.card_json(card)).collect();
        json!({
            "model": name,
            "origin": origin,
            "architecture": config.family.architecture(),
            "max_position_embeddings": config.max_position_embeddings,
            "weights_form": form,
            "stored_bytes": stored,
            "quantized_stored_bytes": quantized.as_ref().map(|quantized| quantized.stored),
            "keys_and_values": if self.ask.fp8_kv { "fp8" } else { "bf16" },
            "keys_and_values_bytes_per_token": self.kv_per_token,
            "command": if self.ask.concurrency.is_some() { "serve" } else { "prompt" },
            "concurrency": self.sequences(),
            "context_asked": self.ask.is_typed.then_some(self.ask.context),
            "driver_bytes": DRIVER_BYTES,
            "driver_source": "measured on an H200",
            "fits": self.fits(),
            "cards": cards,
            "build": build::name(),
        })
    }

    fn card_json(&self, card: &OnCard) -> Value {
        let OnCard { target, estimate, traffic, quantized } = card;
        let Estimate { plan, .. } = estimate;
        let WeightBytes { codes, scales, dense, lm_head, router, small, in_experts } = plan.weights;
        let total = target.total_bytes();
        let n = self.sequences();
        let speed = target.card().filter(|_| estimate.fits).map(|known| {
            let bound = traffic.bound(known.bandwidth, n, 0);
            json!({
                "bytes_per_step": traffic.step(n, 0),
                "experts_per_layer": traffic.choice.map(|_| traffic.touched(n)),
                "tokens_per_second_at_most": bound,
                "tokens_per_second_at_most_full": traffic.bound(known.bandwidth, n, estimate.context),
                "measured_share": measured_share(n),
                "measured_with": MEASURED_WITH,
                "tokens_per_second_at_that_share": measured_share(n).map(|share| share * bound),
            })
        });
        json!({
            "card": target.card().map(|known| known.name),
            "compute_capability": target.card().and_then(cards::Card::compute_capability),
            "nominal_gib": target.card().map(|known| known.nominal_gib),
            "total_bytes": total,
            "total_source": target.card().map(|known| known.total_source),
            "bandwidth_bytes_per_second": target.card().map(|known| known.bandwidth),
            "bandwidth_source": target.card().map(|known| known.bandwidth_source),
            "fits": estimate.fits,
            "context": estimate.context,
            "plan": {
                "weights": {
                    "codes": codes,
                    "scales": scales,
                    "linear_16_bit": dense,
                    "lm_head": lm_head,
                    "router": router,
                    "norms_biases_tables": small,
                    "total": plan.weights.total(),
                    "in_experts": in_experts,
                },
                "keys_and_values": plan.keys_and_values,
                "workspace": plan.workspace,
                "arena": plan.total(),
                "driver": DRIVER_BYTES,
                "total": estimate.needed(),
                "host": plan.host,
            },
            "left_bytes": total.wrapping_sub(estimate.needed()).cast_signed(),
            "context_max": estimate.context_max,
            "context_max_fp8": estimate.context_max_fp8,
            "concurrency_context": estimate.full_context,
            "concurrency_max": estimate.concurrency_max,
            "decode": speed,
            "quantized": quantized.map(|quantized| json!({
                "fits": quantized.fits,
                "context_max": quantized.context_max,
                "concurrency_max": quantized.concurrency_max,
                "weights": quantized.plan.weights.total(),
            })),
        })
    }
}

fn name(target: &Target) -> String {
    match target {
        Target::Card(card) => card.name.to_owned(),
        Target::Bytes(bytes) => format!("a card of {}", gb(*bytes)),
    }
}

fn describe(target: &Target) -> String {
    match target.card() {
        None => format!("{}, as CUDA shows it", name(target)),
        Some(card) => format!(
            "{}: compute capability {}, {} GB as NVIDIA counts, {:.0} GB/s",
            card.name,
            card.compute_capability().unwrap_or_default(),
            card.nominal_gib,
            card.bandwidth / 1e9
        ),
    }
}

/// Kinds of weights that there are any of.
fn kinds(weights: &WeightBytes) -> Vec<(&'static str, usize)> {
    let WeightBytes { codes, scales, dense, lm_head, router, small, in_experts: _ } = *weights;
    let kinds = [
        ("4-bit codes", codes),
        ("their scales", scales),
        ("16-bit linear layers", dense),
        ("lm_head", lm_head),
        ("router", router),
        ("norms, biases, tables", small),
    ];
    kinds.into_iter().filter(|(_, bytes)| *bytes > 0).collect()
}

/// `24.48 GB = 22.80 GiB`.
fn both(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        return gb(bytes);
    }
    format!("{} = {:.2} GiB", gb(bytes), bytes as f64 / (1u64 << 30) as f64)
}

fn bytes_row(what: &str, bytes: u64, note: &str) -> String {
    let gib = bytes as f64 / (1u64 << 30) as f64;
    row(what, &format!("{:.3}", bytes as f64 / 1e9), &format!("{gib:.3}"), note)
}

fn row(what: &str, gb: &str, gib: &str, note: &str) -> String {
    let line = format!("{what:<24} {gb:>9} {gib:>9}  {note}");
    format!("{}\n", line.trim_end())
}
