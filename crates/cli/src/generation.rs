//! From what was asked to an answer on the screen, timed.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use engine::{
    Completion, Engine, EngineError, GeneratedToken, Progress, Request, SamplingFields,
    SamplingParams,
};
use indicatif::ProgressBar;
use model::GenerationConfig;
use serde_json::{Value, json};

use crate::args::SamplingArgs;
use crate::output::{self, CliError};
use crate::{interrupt, progress};

/// What is sampled: what was given, else what the model's makers recommend, else the likeliest token each time.
///
/// # Errors
/// For a parameter out of its range.
pub(crate) fn sampling(
    args: &SamplingArgs,
    model: &GenerationConfig,
) -> Result<SamplingParams, EngineError> {
    let fields = SamplingFields {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        frequency_penalty: Some(args.frequency_penalty),
        presence_penalty: Some(args.presence_penalty),
        penalize_prompt: Some(args.penalize_prompt),
        seed: args.seed,
    };
    Ok(fields.resolve(model, server::random_seed)?)
}

/// An answer and how long it took.
pub(crate) struct Answer {
    pub(crate) completion: Completion,
    /// Its tokens with their log-probabilities, the one that ended it included.
    pub(crate) tokens: Vec<GeneratedToken>,
    /// Seconds until the prompt was computed.
    pub(crate) prefill_seconds: f64,
    /// Seconds from the first token to the last; 0 if there are not two.
    pub(crate) decode_seconds: f64,
}

impl Answer {
    /// Tokens of the prompt that were computed, per second; `None` if none were.
    pub(crate) fn prefill_tokens_per_second(&self) -> Option<f64> {
        let computed = self.completion.prompt_tokens - self.completion.cached_tokens;
        (self.prefill_seconds > 0.0).then(|| computed as f64 / self.prefill_seconds)
    }

    /// Tokens after the first (which the prompt's computation gives) per second; `None` if there are none.
    pub(crate) fn decode_tokens_per_second(&self) -> Option<f64> {
        (self.decode_seconds > 0.0).then(|| (self.tokens.len() - 1) as f64 / self.decode_seconds)
    }

    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        let Completion { prompt_tokens, cached_tokens, completion_tokens, finish_reason, .. } =
            &self.completion;
        let cached = match cached_tokens {
            0 => String::new(),
            cached => format!(" ({cached} cached)"),
        };
        let rate =
            |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
        format!(
            "{prompt_tokens} prompt tokens{cached}, {completion_tokens} completion tokens; prefill {} tok/s, decode {} \
             tok/s; finish_reason: {}",
            rate(self.prefill_tokens_per_second()),
            rate(self.decode_tokens_per_second()),
            finish_reason.name(),
        )
    }

    /// Token counts, as the OpenAI API names them.
    pub(crate) fn usage_json(&self) -> Value {
        json!({
            "prompt_tokens": self.completion.prompt_tokens,
            "completion_tokens": self.completion.completion_tokens,
            "cached_tokens": self.completion.cached_tokens,
        })
    }

    /// Seconds and rates.
    pub(crate) fn timings_json(&self, load_seconds: f64) -> Value {
        json!({
            "load_seconds": load_seconds,
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": self.decode_seconds,
            "prefill_tokens_per_second": self.prefill_tokens_per_second(),
            "decode_tokens_per_second": self.decode_tokens_per_second(),
        })
    }
}

/// Generates an answer; `show` gets its text piece by piece. Ctrl-C ends it.
pub(crate) fn answer(
    engine: &mut Engine,
    request: Request,
    show: impl FnMut(&str) -> Result<(), CliError> + Send,
) -> Result<Answer> {
    let mut watch = Watch::new(show);
    interrupt::listen();
    let completion = engine::generate(engine, request, |event| watch.event(event));
    watch.bar.finish_and_clear();
    interrupt::clear();
    let completion = completion?;
    // What was held back for a stop string or an unfinished character comes with no token.
    let rest = completion.text.get(watch.shown..).unwrap_or_default();
    if watch.failed.is_none() && !rest.is_empty() {
        watch.failed = (watch.show)(rest).err();
    }
    match watch.failed {
        Some(error) => Err(error.into()),
        None => Ok(Answer {
            completion,
            decode_seconds: (watch.last - watch.first).max(0.0),
            prefill_seconds: watch.prefill,
            tokens: watch.tokens,
        }),
    }
}

/// What becomes of the events of an answer. Times are in seconds since the start.
struct Watch<F> {
    show: F,
    /// Bytes of text that were shown.
    shown: usize,
    failed: Option<CliError>,
    tokens: Vec<GeneratedToken>,
    bar: ProgressBar,
    start: Instant,
    prefill: f64,
    first: f64,
    last: f64,
}

impl<F: FnMut(&str) -> Result<(), CliError>> Watch<F> {
    fn new(show: F) -> Self {
        Watch {
            show,
            shown: 0,
            failed: None,
            tokens: Vec::new(),
            bar: ProgressBar::hidden(),
            start: Instant::now(),
            prefill: 0.0,
            first: 0.0,
            last: 0.0,
        }
    }

    fn event(&mut self, event: Progress<'_>) -> ControlFlow<()> {
        let now = self.start.elapsed().as_secs_f64();
        match event {
            Progress::Prefill { done, total } if done < total => {
                if self.bar.is_hidden() {
                    self.bar = progress::count("prompt", total as u64);
                }
                self.bar.set_position(done as u64);
            }
            Progress::Prefill { .. } => {
                self.bar.finish_and_clear();
                self.prefill = now;
            }
            Progress::Token(token) => {
                if self.tokens.is_empty() {
                    self.first = now;
                }
                self.last = now;
                self.tokens.push(token.clone());
                self.shown += token.text.len();
                if let Err(error) = self.show_piece(&token.text) {
                    self.failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
        }
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn show_piece(&mut self, text: &str) -> Result<(), CliError> {
        if text.is_empty() { Ok(()) } else { (self.show)(text) }
    }
}

/// Shows an answer as it comes.
pub(crate) fn stream(text: &str) -> Result<(), CliError> {
    output::print(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn check(typed: &[&str], model: &GenerationConfig) -> SamplingParams {
        let typed = Typed::parse_from([&["halfbyte"], typed].concat());
        sampling(&typed.sampling, model).unwrap()
    }

    #[test]
    fn what_was_typed_wins_over_what_the_model_recommends() {
        let model = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_p: Some(0.9),
            top_k: Some(40),
            ..GenerationConfig::default()
        };
        let params = check(&["--seed", "7"], &model);
        assert_eq!(
            (params.temperature, params.top_p, params.top_k, params.seed),
            (0.6, 0.9, 40, 7)
        );
        let params = check(&["--temperature", "0", "--top-p", "0.5", "--top-k", "0"], &model);
        assert_eq!((params.temperature, params.top_p, params.top_k), (0.0, 0.5, 0));
    }
}
