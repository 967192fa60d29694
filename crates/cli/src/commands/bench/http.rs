//! `halfbyte bench --url URL`: many streams on a server, of ours or another with the OpenAI API.
//!
//! Every request has a prompt of its own random tokens, so that no expert is spared and no prefix found, unless a shared
//! prefix is asked for.

pub(super) mod stream;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

use super::BenchArgs;
use super::report::median;
use crate::output::{self, CliError};
use crate::progress;
use stream::{Client, Timed};

/// What is asked of a server.
#[derive(Debug, Args)]
pub(crate) struct HttpArgs {
    /// Measure a running server instead, as http://127.0.0.1:8000; its key is taken from HALFBYTE_API_KEY
    #[arg(long, value_name = "URL", conflicts_with_all = ["model", "shape"])]
    pub(super) url: Option<String>,
    /// With --url: how many streams at once; several numbers are measured in turn
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,8,32", requires = "url",
        value_parser = clap::value_parser!(u16).range(1..=4096))]
    streams: Vec<u16>,
    /// With --url: requests that each stream makes, one after another
    #[arg(long, value_name = "N", default_value_t = 1, requires = "url",
        value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// With --url: let all prompts begin with the same tokens, this many
    #[arg(long, value_name = "N", default_value_t = 0, requires = "url")]
    shared_tokens: u32,
    /// With --url: constrain answers to the JSON Schema of this file
    #[arg(long, value_name = "FILE", requires = "url")]
    schema: Option<std::path::PathBuf>,
    /// With --url: temperature of the answers
    #[arg(long, value_name = "T", default_value_t = 0.0, requires = "url")]
    temperature: f32,
}

/// Measures a server.
pub(super) fn run(args: &BenchArgs, url: &str) -> Result<()> {
    let schema = args.http.schema.as_deref().map(read_schema).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed(format!("cannot start threads: {e}")))?;
    let report = runtime.block_on(async {
        let client = Arc::new(Client::new(url)?);
        let model = client.model().await?;
        let load = Load {
            ids: client.tokens().await?,
            model: model.clone(),
            client,
            schema,
            prompt_tokens: args.prompt_tokens as usize,
            shared: args.http.shared_tokens.min(args.prompt_tokens) as usize,
            max_tokens: args.decode_tokens,
            temperature: args.http.temperature,
        };
        let bar = progress::count(
            "requests",
            args.http.streams.iter().map(|&n| u64::from(n) * u64::from(args.http.rounds)).sum(),
        );
        // Once without counting: kernels are loaded, pages come in.
        load.request(0).await?;
        let mut levels = Vec::new();
        for &streams in &args.http.streams {
            levels.push(load.measure(streams, args.http.rounds, &bar).await?);
        }
        bar.finish_and_clear();
        Ok::<_, anyhow::Error>(Report { url: url.to_owned(), model, levels })
    })?;
    if args.json {
        Ok(output::print_json(&report.json(args))?)
    } else {
        Ok(output::print(&report.table())?)
    }
}

fn read_schema(path: &std::path::Path) -> Result<Value> {
    let bad = |e: &dyn std::fmt::Display| {
        CliError::bad_input("schema", format!("cannot read {}: {e}", path.display()))
    };
    let bytes = std::fs::read(path).map_err(|e| bad(&e))?;
    Ok(serde_json::from_slice(&bytes).map_err(|e| bad(&e))?)
}

/// What every request asks for.
struct Load {
    client: Arc<Client>,
    model: String,
    /// Ids that the model's tokenizer gives random text.
    ids: Vec<u32>,
    schema: Option<Value>,
    prompt_tokens: usize,
    shared: usize,
    max_tokens: u32,
    temperature: f32,
}

impl Load {
    fn body(&self, seed: u64) -> Value {
        let mut shared = ChaCha8Rng::seed_from_u64(0);
        let mut own = ChaCha8Rng::seed_from_u64(seed + 1);
        let id = |rng: &mut ChaCha8Rng| self.ids[rng.next_u32() as usize % self.ids.len()];
        let prompt: Vec<u32> = (0..self.prompt_tokens)
            .map(|i| if i < self.shared { id(&mut shared) } else { id(&mut own) })
            .collect();
        let mut body = json!({
            "model": self.model,
            "prompt": prompt,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": seed,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        match &self.schema {
            Some(schema) => body["structured_outputs"] = json!({ "json": schema }),
            // All answers of one length, so that the streams are as many to the end.
            None => body["ignore_eos"] = json!(true),
        }
        body
    }

    async fn request(&self, seed: u64) -> Result<Timed> {
        self.client.complete(&self.body(seed)).await
    }

    /// `streams` requests at once, `rounds` times.
    async fn measure(
        &self,
        streams: u16,
        rounds: u32,
        bar: &indicatif::ProgressBar,
    ) -> Result<Level> {
        let start = Instant::now();
        let stream = |stream: u16| async move {
            let mut answers = Vec::new();
            for round in 0..rounds {
                // No prompt comes twice in a run.
                let seed =
                    (u64::from(streams) << 48) | (u64::from(round) << 16) | u64::from(stream);
                answers.push(self.request(seed).await?);
                bar.inc(1);
            }
            Ok::<_, anyhow::Error>(answers)
        };
        let answers = futures_util::future::try_join_all((0..streams).map(stream)).await?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Level { streams, seconds, answers: answers.into_iter().flatten().collect() })
    }
}

/// What was measured at one number of streams.
struct Level {
    streams: u16,
    seconds: f64,
    answers: Vec<Timed>,
}

impl Level {
    /// Tokens that were generated, per second from the first request to the last answer.
    fn tokens_per_second(&self) -> f64 {
        let tokens: u64 = self.answers.iter().map(|answer| answer.completion_tokens).sum();
        tokens as f64 / self.seconds
    }

    /// Tokens per second while answers come: for each stream its tokens after the first over the time that they took, and
    /// so many streams of them.
    fn decode_tokens_per_second(&self) -> f64 {
        let rates: Vec<f64> = self.answers.iter().filter_map(Timed::decode_rate).collect();
        if rates.is_empty() {
            return 0.0;
        }
        f64::from(self.streams) * rates.iter().sum::<f64>() / rates.len() as f64
    }

    fn json(&self) -> Value {
        let first: Vec<f64> = self.answers.iter().map(Timed::first).collect();
        let gaps: Vec<f64> = self.answers.iter().flat_map(Timed::gaps).collect();
        json!({
            "streams": self.streams,
            "requests": self.answers.len(),
            "seconds": self.seconds,
            "completion_tokens": self.answers.iter().map(|a| a.completion_tokens).sum::<u64>(),
            "cached_tokens": self.answers.iter().map(|a| a.cached_tokens).sum::<u64>(),
            "tokens_per_second": self.tokens_per_second(),
            "decode_tokens_per_second": self.decode_tokens_per_second(),
            "time_to_first_token_ms": percentiles(&first),
            "inter_token_ms": percentiles(&gaps),
        })
    }
}

/// p50 and p99 of seconds, in milliseconds.
fn percentiles(seconds: &[f64]) -> Value {
    let mut sorted = seconds.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (sorted.len() as f64 * share) as usize;
        sorted.get(index.min(sorted.len().saturating_sub(1))).map(|seconds| 1e3 * seconds)
    };
    json!({ "p50": (!sorted.is_empty()).then(|| 1e3 * median(seconds)), "p99": at(0.99) })
}

struct Report {
    url: String,
    model: String,
    levels: Vec<Level>,
}

impl Report {
    fn json(&self, args: &BenchArgs) -> Value {
        json!({
            "url": self.url,
            "model": self.model,
            "prompt_tokens": args.prompt_tokens,
            "shared_tokens": args.http.shared_tokens,
            "decode_tokens": args.decode_tokens,
            "levels": self.levels.iter().map(Level::json).collect::<Vec<_>>(),
            "build": crate::build::name(),
        })
    }

    fn table(&self) -> String {
        let mut table = format!(
            "server   {} ({})\n\nstreams  requests      tok/s  while decoding  first token p50/p99 ms  next token p50/p99 ms\n",
            self.url, self.model
        );
        for level in &self.levels {
            let json = level.json();
            let pair = |name: &str| {
                let of =
                    |p: &str| json[name][p].as_f64().map_or("-".to_owned(), |v| format!("{v:.1}"));
                format!("{} / {}", of("p50"), of("p99"))
            };
            table.push_str(&format!(
                "{:>7}  {:>8}  {:>9.1}  {:>14.1}  {:>22}  {:>21}\n",
                level.streams,
                level.answers.len(),
                level.tokens_per_second(),
                level.decode_tokens_per_second(),
                pair("time_to_first_token_ms"),
                pair("inter_token_ms"),
            ));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_what_came_after_the_first_token() {
        let answer = |first, last, tokens| Timed {
            end: last,
            pieces: vec![first, last],
            completion_tokens: tokens,
            cached_tokens: 0,
        };
        assert_eq!(answer(0.5, 1.5, 11).decode_rate(), Some(10.0));
        assert_eq!(answer(0.5, 0.5, 1).decode_rate(), None);
        let level = Level {
            streams: 2,
            seconds: 2.0,
            answers: vec![answer(0.5, 1.5, 11), answer(0.5, 2.5, 21)],
        };
        assert_eq!(level.tokens_per_second(), 16.0);
        assert_eq!(level.decode_tokens_per_second(), 20.0);
    }

    #[test]
    fn percentiles_are_of_what_there_is() {
        assert_eq!(percentiles(&[]), json!({ "p50": null, "p99": null }));
        let seconds: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentiles(&seconds)["p99"], json!(100_000.0));
    }
}
