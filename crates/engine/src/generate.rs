//! An answer, token by token.

use std::ops::ControlFlow;

use model::Tokenizer;

use crate::{EngineError, Sampled, Sampler, SamplingParams, Session, StopStrings, top_logprobs};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Most tokens of the answer. The context may end it earlier.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer.
    pub eos_token_id: Vec<u32>,
    /// How many alternatives to report with each token.
    pub top_logprobs: usize,
    /// What the answer has to fit.
    pub grammar: Option<grammar::Grammar>,
    /// Report the log-probabilities of the prompt's tokens from this one on (at least 1: the first has none).
    pub prompt_logprobs_from: Option<usize>,
    /// Requests of a higher priority go first.
    pub priority: i32,
    /// When the answer is of no use any more, by the clock of [`crate::Engine::step`].
    pub deadline: Option<std::time::Duration>,
}

/// A token of the answer, as it is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedToken {
    /// Its id.
    pub token: u32,
    /// Its log-probability under the model.
    pub logprob: f32,
    /// The most probable tokens in its place, if asked for.
    pub top_logprobs: Vec<(u32, f32)>,
    /// The text that it completes; empty while a character or a stop string may still be unfinished.
    pub text: String,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string came.
    Stop,
    /// `max_tokens` were generated, or the context was full.
    Length,
    /// The caller wanted no more.
    Cancelled,
}

impl FinishReason {
    /// The name of the OpenAI API: `stop`, `length`; and `cancelled`.
    pub const fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The text of the answer.
    pub text: String,
    /// Its tokens, that which ended it excepted.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were in the cache already.
    pub cached_tokens: usize,
    /// Tokens that were generated, that which ended the answer included.
    pub completion_tokens: usize,
}

/// What happens on the way.
#[derive(Debug)]
pub enum Progress<'a> {
    /// So many tokens of the prompt are computed, of so many.
    Prefill {
        /// Computed or cached.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was generated.
    Token(&'a GeneratedToken),
}

/// Generates an answer; `on_event` is told of every step and may end it.
///
/// # Errors
/// [`EngineError`] for a prompt that is empty, too long or has unknown ids, for parameters out of range, and for a model
/// whose logits are not finite.
pub fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    request: &Request,
    mut on_event: impl FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Completion, EngineError> {
    request.sampling.validate()?;
    session.check(&request.prompt, usize::from(request.max_tokens > 0))?;
    let mut answer = Answer::new(session, tokenizer, request);
    if request.max_tokens == 0 {
        return answer.finish(FinishReason::Length);
    }
    let reason = match prefill(session, &request.prompt, &mut on_event)? {
        ControlFlow::Break(()) => FinishReason::Cancelled,
        ControlFlow::Continue(rest) => answer.run(session, rest, &mut on_event)?,
    };
    answer.finish(reason)
}

/// Computes the prompt but for its last part, which is returned: its logits begin the answer.
fn prefill<'a>(
    session: &mut Session,
    prompt: &'a [u32],
    on_event: &mut impl FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<(), &'a [u32]>, EngineError> {
    let mut done = session.keep_common_prefix(prompt);
    let total = prompt.len();
    let tile = session.limits().tokens;
    while total - done > tile {
        session.append(&prompt[done..done + tile], 0)?;
        done += tile;
        if on_event(Progress::Prefill { done, total }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(&prompt[done..]))
}

/// An answer in the making.
struct Answer<'a> {
    request: &'a Request,
    sampler: Sampler,
    tokenizer: &'a Tokenizer,
    stream: model::DecodeStream,
    stop: StopStrings,
    /// Whether a stop string has come.
    stopped: bool,
    completion: Completion,
    context: usize,
}

impl<'a> Answer<'a> {
    fn new(session: &mut Session, tokenizer: &'a Tokenizer, request: &'a Request) -> Self {
        Answer {
            request,
            sampler: Sampler::new(request.sampling.clone(), &request.prompt),
            tokenizer,
            stream: tokenizer.stream(true),
            stop: StopStrings::new(&request.stop),
            stopped: false,
            completion: Completion {
                text: String::new(),
                tokens: Vec::new(),
                finish_reason: FinishReason::Stop,
                prompt_tokens: request.prompt.len(),
                cached_tokens: session.keep_common_prefix(&request.prompt),
                completion_tokens: 0,
            },
            context: session.context(),
        }
    }

    fn run(
        &mut self,
        session: &mut Session,
        rest: &[u32],
        on_event: &mut impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<FinishReason, EngineError> {
        let mut input = rest.to_vec();
        let total = self.request.prompt.len();
        loop {
            let (sampled, top) = self.sample(session, &input)?;
            if self.completion.completion_tokens == 0
                && on_event(Progress::Prefill { done: total, total }).is_break()
            {
                return Ok(FinishReason::Cancelled);
            }
            let (token, finished) = self.next(sampled, top)?;
            if on_event(Progress::Token(&token)).is_break() {
                return Ok(FinishReason::Cancelled);
            }
            if let Some(reason) = finished {
                return Ok(reason);
            }
            input = vec![token.token];
        }
    }

    /// Computes `input` and chooses the next token: on the device, unless the host has to see the logits.
    fn sample(
        &mut self,
        session: &mut Session,
        input: &[u32],
    ) -> Result<(Sampled, Vec<(u32, f32)>), EngineError> {
        if self.request.top_logprobs == 0
            && let Some(draw) = self.sampler.plain_draw()
        {
            let drawn = session.append_and_draw(input, &draw)?;
            return Ok((Sampled { token: drawn.token, logprob: drawn.logprob }, Vec::new()));
        }
        let logits = session.append(input, 1)?;
        let top = match self.request.top_logprobs {
            0 => Vec::new(),
            count => top_logprobs(logits, count),
        };
        Ok((self.sampler.sample(logits), top))
    }

    /// Takes a token into the answer and says whether it ends it.
    fn next(
        &mut self,
        sampled: Sampled,
        top_logprobs: Vec<(u32, f32)>,
    ) -> Result<(GeneratedToken, Option<FinishReason>), EngineError> {
        self.completion.completion_tokens += 1;
        let mut token = GeneratedToken {
            token: sampled.token,
            logprob: sampled.logprob,
            top_logprobs,
            text: String::new(),
        };
        if self.request.eos_token_id.contains(&sampled.token) {
            return Ok((token, Some(FinishReason::Stop)));
        }
        self.completion.tokens.push(sampled.token);
        let (text, stopped) = self.stop.push(&self.stream.step(self.tokenizer, sampled.token)?);
        self.stopped = stopped;
        self.completion.text.push_str(&text);
        token.text = text;
        let completion = &self.completion;
        let full = completion.completion_tokens >= self.request.max_tokens
            || completion.prompt_tokens + completion.completion_tokens >= self.context;
        let finished = match (stopped, full) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        Ok((token, finished))
    }

    /// Ends the text: what was held back belongs to it unless a stop string came.
    fn finish(self, reason: FinishReason) -> Result<Completion, EngineError> {
        let Answer { tokenizer, stream, mut stop, stopped, mut completion, .. } = self;
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
