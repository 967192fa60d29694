//! The answer that a request has to get, found without an engine.

use crate::sampler::{Sampler, top_logprobs};
use crate::stop::StopStrings;
use crate::{Completion, FinishReason, GeneratedToken, Request, log_sum_exp};

use super::mock::{logits_after, tokenizer};

/// All that a request's events say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Expected {
    pub(crate) prompt: Option<Vec<GeneratedToken>>,
    pub(crate) tokens: Vec<GeneratedToken>,
    pub(crate) outcome: Option<Outcome>,
}

/// How it ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Finished(Completion),
    /// At this position.
    NotFinite(usize),
    /// Before it was whole: its deadline passed, or the device failed.
    Late,
}

impl Expected {
    /// Compares what was seen; of an answer that broke off, as far as it came.
    pub(crate) fn assert_agrees(&self, expected: &Expected, request: &Request, seed: u64) {
        let same = match &self.outcome {
            Some(Outcome::Late) => {
                expected.tokens.starts_with(&self.tokens)
                    && (self.prompt.is_none() || self.prompt == expected.prompt)
            }
            _ => self == expected,
        };
        assert!(same, "schedule {seed}\n{request:?}\nseen {self:#?}\nexpected {expected:#?}");
    }
}

/// What a request has to get.
pub(crate) fn expected(request: &Request, context: usize, poison: Option<u32>) -> Expected {
    let mut expected = Expected::default();
    let outcome = answer(request, context, poison, &mut expected);
    expected.outcome = Some(outcome.map_or_else(Outcome::NotFinite, Outcome::Finished));
    expected
}

fn answer(
    request: &Request,
    context: usize,
    poison: Option<u32>,
    expected: &mut Expected,
) -> Result<Completion, usize> {
    let tokenizer = tokenizer();
    let logits = |history: &[u32]| match history.last() == poison.as_ref() && poison.is_some() {
        true => Err(history.len() - 1),
        false => Ok(logits_after(history)),
    };
    let top = |logits: &[f32]| match request.top_logprobs {
        0 => Vec::new(),
        count => top_logprobs(logits, count),
    };
    let Request { prompt, .. } = request;
    if let Some(from) = request.prompt_logprobs_from {
        let from = from.clamp(1, prompt.len());
        let mut stream = tokenizer.stream(true);
        for &token in &prompt[from.saturating_sub(8)..from] {
            stream.step(&tokenizer, token).unwrap();
        }
        let mut tokens = Vec::new();
        for at in from..prompt.len() {
            let logits = logits(&prompt[..at])?;
            tokens.push(GeneratedToken {
                token: prompt[at],
                logprob: logits[prompt[at] as usize] - log_sum_exp(&logits),
                top_logprobs: top(&logits),
                text: stream.step(&tokenizer, prompt[at]).unwrap(),
            });
        }
        if let Some(last) = tokens.last_mut() {
            last.text.push_str(&stream.finish(&tokenizer).unwrap());
        }
        // With nothing to tell, nothing is told, unless it is all that was asked for.
        expected.prompt = (!tokens.is_empty() || request.max_tokens == 0).then_some(tokens);
    }
    let mut completion = Completion {
        text: String::new(),
        tokens: Vec::new(),
        finish_reason: FinishReason::Length,
        prompt_tokens: prompt.len(),
        cached_tokens: 0,
        completion_tokens: 0,
    };
    let mut history = prompt.clone();
    let mut sampler = Sampler::new(request.sampling.clone(), prompt);
    let mut stream = tokenizer.stream(true);
    let mut stop = StopStrings::new(&request.stop);
    for _ in 0..request.max_tokens.min(context - prompt.len()) {
        let logits = logits(&history)?;
        let top_logprobs = top(&logits);
        let (token, logprob) = sampler.sample(&logits);
        history.push(token);
        completion.completion_tokens += 1;
        if request.eos_token_id.contains(&token) {
            expected.tokens.push(GeneratedToken {
                token,
                logprob,
                top_logprobs,
                text: String::new(),
            });
            completion.finish_reason = FinishReason::Stop;
            break;
        }
        completion.tokens.push(token);
        let (text, stopped) = stop.push(&stream.step(&tokenizer, token).unwrap());
        completion.text.push_str(&text);
        expected.tokens.push(GeneratedToken { token, logprob, top_logprobs, text });
        if stopped {
            completion.finish_reason = FinishReason::Stop;
            return Ok(completion);
        }
    }
    let (text, stopped) = stop.push(&stream.finish(&tokenizer).unwrap());
    completion.text.push_str(&text);
    match stopped {
        true => completion.finish_reason = FinishReason::Stop,
        false => completion.text.push_str(&stop.finish()),
    }
    Ok(completion)
}
