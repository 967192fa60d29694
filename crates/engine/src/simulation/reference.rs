//! The answer that a request has to get, found without an engine.

use backend::{Draw, draw, mask_words};

use crate::answer::{Choice, Chosen};
use crate::sampler::{Sampler, top_logprobs};
use crate::stop::StopStrings;
use crate::{Completion, FinishReason, GeneratedToken, Request};

use super::mock::{logits_after, tokenizer};
use super::schedule::Schedule;

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
pub(crate) fn expected(request: &Request, schedule: &Schedule) -> Expected {
    let mut expected = Expected::default();
    let outcome = answer(request, schedule, &mut expected);
    expected.outcome = Some(outcome.map_or_else(Outcome::NotFinite, Outcome::Finished));
    expected
}

fn answer(
    request: &Request,
    schedule: &Schedule,
    expected: &mut Expected,
) -> Result<Completion, usize> {
    let (context, poison) = (schedule.context(), schedule.poison);
    let tokenizer = tokenizer();
    let logits = |history: &[u32]| match history.last() == poison.as_ref() && poison.is_some() {
        true => Err(history.len() - 1),
        false => Ok(logits_after(history, schedule.vocab_size)),
    };
    let top = |logits: &[f32]| top_logprobs(logits, normalizer(logits), request.top_logprobs);
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
                logprob: logits[prompt[at] as usize] - normalizer(&logits),
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
    let budget = request.max_tokens.min(context - prompt.len());
    let mut chooser = Chooser::new(request, budget);
    let mut stream = tokenizer.stream(true);
    let mut stop = StopStrings::new(&request.stop);
    while completion.completion_tokens < budget {
        let logits = logits(&history)?;
        let Chosen { mut token, is_eos, ends } = chooser.next(&logits);
        token.top_logprobs = top(&logits);
        history.push(token.token);
        completion.completion_tokens += 1;
        if is_eos {
            expected.tokens.push(token);
            completion.finish_reason = ends.unwrap();
            break;
        }
        completion.tokens.push(token.token);
        let (text, stopped) = stop.push(&stream.step(&tokenizer, token.token).unwrap());
        completion.text.push_str(&text);
        token.text = text;
        expected.tokens.push(token);
        if stopped {
            completion.finish_reason = FinishReason::Stop;
            return Ok(completion);
        }
        if let Some(reason) = ends {
            completion.finish_reason = reason;
            break;
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

/// What the engine makes of the most probable token's log-probability: `log_sum_exp` but for a rounding.
fn normalizer(logits: &[f32]) -> f32 {
    let best = draw(logits, &Draw::GREEDY, &[]);
    logits[best.token as usize] - best.logprob
}

/// How tokens are chosen: in one go, or where there is a grammar, as the engine does it but step by step.
enum Chooser<'a> {
    Free(&'a Request, Box<Sampler>),
    Constrained(Box<Choice>),
}

impl<'a> Chooser<'a> {
    fn new(request: &'a Request, budget: usize) -> Self {
        match request.grammar {
            None => {
                let sampler = Sampler::new(request.sampling.clone(), &request.prompt);
                Chooser::Free(request, Box::new(sampler))
            }
            Some(_) => Chooser::Constrained(Box::new(Choice::new(request, budget))),
        }
    }

    fn next(&mut self, logits: &[f32]) -> Chosen {
        match self {
            Chooser::Free(request, sampler) => {
                let (token, mut logprob) = sampler.sample(logits);
                if request.top_logprobs > 0 || sampler.has_penalties() {
                    logprob = logits[token as usize] - normalizer(logits);
                }
                let is_eos = request.eos_token_id.contains(&token);
                let ends = is_eos.then_some(FinishReason::Stop);
                let (top_logprobs, text) = (Vec::new(), String::new());
                Chosen {
                    token: GeneratedToken { token, logprob, top_logprobs, text },
                    is_eos,
                    ends,
                }
            }
            Chooser::Constrained(choice) => {
                let by_host = choice.needs_logits();
                let mut mask = vec![0; mask_words(logits.len())];
                choice.mask(&mut mask).unwrap();
                if by_host {
                    return choice.sample(logits, normalizer(logits), Some(&mut mask)).unwrap();
                }
                let how = choice.draw(Some(0));
                let drawn = draw(logits, &how, &mask);
                choice.take_drawn(&drawn).unwrap().unwrap_or_else(|| {
                    mask[(drawn.token / 32) as usize] &= !(1 << (drawn.token % 32));
                    choice.sample(logits, normalizer(logits), Some(&mut mask)).unwrap()
                })
            }
        }
    }
}
