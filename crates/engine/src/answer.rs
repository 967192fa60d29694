//! An answer in the making: how its tokens are chosen, and what they say.

use backend::{Draw, Drawn};
use grammar::{GrammarError, Matcher};
use model::{DecodeStream, Tokenizer};

use crate::sampler::{Sampler, top_logprobs};
use crate::stop::StopStrings;
use crate::{Completion, EngineError, FinishReason, GeneratedToken, Request};

/// How many tokens are tried, near the end of a budget, before the next one of a completion that fits is taken.
const REFUSALS_MAX: usize = 8;

/// What an answer keeps from step to step, whatever becomes of its blocks.
pub(crate) struct Answer {
    pub(crate) choice: Choice,
    pub(crate) text: Text,
    /// Of the prompt's tokens, as far as they are known.
    pub(crate) prompt_logprobs: Vec<GeneratedToken>,
}

impl Answer {
    /// An answer of at most `budget` tokens.
    pub(crate) fn new(request: &Request, budget: usize, tokenizer: &Tokenizer) -> Self {
        Answer {
            choice: Choice::new(request, budget),
            text: Text::new(request, tokenizer),
            prompt_logprobs: Vec::new(),
        }
    }
}

/// How the tokens of an answer are chosen: what has to be known before the next step.
pub(crate) struct Choice {
    sampler: Sampler,
    matcher: Option<Matcher>,
    eos_token_id: Vec<u32>,
    top_logprobs: usize,
    /// Most tokens that may be generated, and how many have been.
    budget: usize,
    generated: usize,
}

/// A token that was taken into an answer.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) token: GeneratedToken,
    /// Whether it stands for the end, and for no text.
    pub(crate) is_eos: bool,
    /// Why the answer ends with it, if it does.
    pub(crate) ends: Option<FinishReason>,
}

impl Chosen {
    fn new(token: GeneratedToken, taken: Taken) -> Self {
        let (is_eos, ends) = match taken {
            Taken::Eos(reason) => (true, Some(reason)),
            Taken::Text(ends) => (false, ends),
        };
        Chosen { token, is_eos, ends }
    }
}

/// What a token was taken for.
enum Taken {
    /// The end.
    Eos(FinishReason),
    /// Text, and maybe the last of it.
    Text(Option<FinishReason>),
}

impl Choice {
    /// For an answer of at most `budget` tokens.
    pub(crate) fn new(request: &Request, budget: usize) -> Self {
        Choice {
            sampler: Sampler::new(request.sampling.clone(), &request.prompt),
            matcher: request.grammar.as_ref().map(grammar::Grammar::matcher),
            eos_token_id: request.eos_token_id.clone(),
            top_logprobs: request.top_logprobs,
            budget,
            generated: 0,
        }
    }

    /// Whether the host has to see the logits.
    pub(crate) fn needs_logits(&self) -> bool {
        self.top_logprobs > 0 || self.sampler.has_penalties()
    }

    /// How many alternatives are reported with each token.
    pub(crate) fn top_logprobs(&self) -> usize {
        self.top_logprobs
    }

    /// Whether a grammar says which tokens may come.
    pub(crate) fn has_grammar(&self) -> bool {
        self.matcher.is_some()
    }

    fn remaining(&self) -> usize {
        self.budget - self.generated
    }

    /// Writes which tokens may come next, where a grammar says so.
    pub(crate) fn mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarError> {
        let remaining = self.remaining();
        self.matcher.as_mut().map_or(Ok(()), |matcher| matcher.mask(remaining, mask))
    }

    /// How a device draws the next token; asked once for each.
    pub(crate) fn draw(&mut self, mask: Option<u32>) -> Draw {
        Draw { mask, ..self.sampler.next_draw() }
    }

    /// Takes a token that a device drew; `None` if there was none, or if the answer could not end within its budget after it:
    /// the host then chooses another.
    pub(crate) fn take_drawn(&mut self, drawn: &Drawn) -> Result<Option<Chosen>, EngineError> {
        let Drawn { token, logprob, allowed, .. } = *drawn;
        let taken = if allowed { self.take(token)? } else { None };
        let (top_logprobs, text) = (Vec::new(), String::new());
        Ok(taken
            .map(|taken| Chosen::new(GeneratedToken { token, logprob, top_logprobs, text }, taken)))
    }

    /// Chooses and takes the next token on the host, of those in `mask`; what is refused is taken out of it. `normalizer` is
    /// the logits' [`log_sum_exp`](crate::log_sum_exp).
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        normalizer: f32,
        mask: Option<&mut [u32]>,
    ) -> Result<Chosen, EngineError> {
        let top_logprobs = top_logprobs(logits, normalizer, self.top_logprobs);
        let penalized = self.sampler.penalized(logits);
        let (token, taken) = match self.try_tokens(&penalized, mask)? {
            Some(taken) => taken,
            None => self.take_next_of_completion()?,
        };
        let logprob = logits[token as usize] - normalizer;
        Ok(Chosen::new(GeneratedToken { token, logprob, top_logprobs, text: String::new() }, taken))
    }

    /// Draws until a token is taken; `None` if too many are refused, or none is left.
    fn try_tokens(
        &mut self,
        logits: &[f32],
        mut mask: Option<&mut [u32]>,
    ) -> Result<Option<(u32, Taken)>, EngineError> {
        for _ in 0..REFUSALS_MAX {
            let how = self.draw(mask.as_ref().map(|_| 0));
            let drawn = backend::draw(logits, &how, mask.as_deref().unwrap_or_default());
            if !drawn.allowed {
                return Ok(None);
            }
            let token = drawn.token;
            if let Some(taken) = self.take(token)? {
                return Ok(Some((token, taken)));
            }
            if let Some(mask) = &mut mask {
                mask[(token / 32) as usize] &= !(1 << (token % 32));
            }
        }
        Ok(None)
    }

    /// Takes the next token of a completion that the grammar knows to fit; EOS if there is nothing to complete.
    fn take_next_of_completion(&mut self) -> Result<(u32, Taken), EngineError> {
        let nothing_fits =
            || GrammarError::Failed("no token that may come next is possible".to_owned());
        let matcher = self.matcher.as_mut().ok_or_else(nothing_fits)?;
        let token = match matcher.is_complete() {
            true => *self.eos_token_id.first().ok_or_else(nothing_fits)?,
            false => matcher.next_of_completion()?,
        };
        Ok((token, self.take(token)?.ok_or_else(nothing_fits)?))
    }

    /// Takes a token into the answer; `None` if the answer could not end within its budget after it.
    fn take(&mut self, token: u32) -> Result<Option<Taken>, EngineError> {
        // Where a grammar lets an answer end, its EOS ends it, also for who ignores EOS elsewhere.
        let ends_grammar = self.matcher.as_ref().is_some_and(|matcher| matcher.is_eos(token));
        if ends_grammar || self.eos_token_id.contains(&token) {
            self.generated += 1;
            return Ok(Some(Taken::Eos(self.stop_reason())));
        }
        let remaining = self.remaining();
        if let Some(matcher) = &mut self.matcher
            && !matcher.accept(token, remaining)?
        {
            return Ok(None);
        }
        self.generated += 1;
        self.sampler.count(token);
        let is_finished = self.matcher.as_ref().is_some_and(Matcher::is_finished);
        Ok(Some(Taken::Text(match is_finished {
            true => Some(self.stop_reason()),
            false if self.generated >= self.budget => Some(FinishReason::Length),
            false => None,
        })))
    }

    /// Why an answer that is whole has ended: by itself, or because its budget decided about a token.
    fn stop_reason(&self) -> FinishReason {
        match self.matcher.as_ref().is_some_and(Matcher::was_cut) {
            true => FinishReason::Length,
            false => FinishReason::Stop,
        }
    }
}

/// What an answer says: what can be found out while the next step runs.
pub(crate) struct Text {
    stream: DecodeStream,
    stop: StopStrings,
    /// Whether a stop string has come.
    stopped: bool,
    completion: Completion,
}

impl Text {
    /// No text yet.
    fn new(request: &Request, tokenizer: &Tokenizer) -> Self {
        Text {
            stream: tokenizer.stream(true),
            stop: StopStrings::new(&request.stop),
            stopped: false,
            completion: Completion {
                text: String::new(),
                tokens: Vec::new(),
                finish_reason: FinishReason::Length,
                prompt_tokens: request.prompt.len(),
                cached_tokens: 0,
                completion_tokens: 0,
            },
        }
    }

    /// Tells how many tokens of the prompt were in the cache.
    pub(crate) fn set_cached(&mut self, cached_tokens: usize) {
        self.completion.cached_tokens = cached_tokens;
    }

    /// Takes a token into the text and writes to it what it completes. Says whether that ends the answer.
    pub(crate) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        chosen: &mut Chosen,
    ) -> Result<Option<FinishReason>, EngineError> {
        let token = &mut chosen.token;
        self.completion.completion_tokens += 1;
        if !chosen.is_eos {
            self.completion.tokens.push(token.token);
            let (text, stopped) = self.stop.push(&self.stream.step(tokenizer, token.token)?);
            self.completion.text.push_str(&text);
            self.stopped = stopped;
            token.text = text;
        }
        Ok(if self.stopped { Some(FinishReason::Stop) } else { chosen.ends })
    }

    /// Ends the text: what was held back belongs to it unless a stop string came.
    pub(crate) fn finish(
        self,
        tokenizer: &Tokenizer,
        reason: FinishReason,
    ) -> Result<Completion, EngineError> {
        let Text { stream, mut stop, stopped, mut completion } = self;
        completion.finish_reason = reason;
        if stopped {
            return Ok(completion);
        }
        let (text, stopped) = stop.push(&stream.finish(tokenizer)?);
        completion.text.push_str(&text);
        if stopped {
            completion.finish_reason = FinishReason::Stop;
        } else {
            completion.text.push_str(&stop.finish());
        }
        Ok(completion)
    }
}
