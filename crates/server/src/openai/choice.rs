//! One answer of a request, from the engine's events to what clients are told.

use engine::{Completion, Event, FinishReason, GeneratedToken};
use futures_util::stream::{self, SelectAll, Stream, StreamExt};
use grammar::ToolFormat;
use model::Tokenizer;

use super::calls::{CallParser, Piece};
use crate::{Answer, ApiError};

/// What an event adds to an answer.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// What can be shown.
    pub(super) pieces: Vec<Piece>,
    /// Tokens, if their log-probabilities are asked for.
    pub(super) tokens: Vec<GeneratedToken>,
    /// Log-probabilities of the prompt.
    pub(super) prompt: Vec<GeneratedToken>,
    /// The end.
    pub(super) finished: Option<Finished>,
}

/// How an answer ended.
#[derive(Debug)]
pub(super) struct Finished {
    /// `stop`, `length` or `tool_calls`.
    pub(super) reason: &'static str,
    /// What was generated.
    pub(super) completion: Completion,
}

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Choice {
    calls: Option<Calls>,
    /// Tokens that end the answer, and are no part of it.
    eos: Vec<u32>,
    logprobs: bool,
    /// Bytes of the text that came with tokens.
    shown: usize,
}

#[derive(Debug)]
struct Calls {
    parser: CallParser,
    /// The token that marks a call, where texts do not show it.
    mark: Option<u32>,
}

impl Choice {
    /// An answer whose text is shown as it is.
    pub(super) fn new(eos: Vec<u32>, logprobs: bool) -> Self {
        Choice { calls: None, eos, logprobs, shown: 0 }
    }

    /// The same, with calls of tools in it.
    pub(super) fn with_calls(
        mut self,
        format: ToolFormat,
        names: Vec<String>,
        tokenizer: &Tokenizer,
    ) -> Self {
        let hidden = |&id: &u32| tokenizer.decode(&[id], true).is_ok_and(|text| text.is_empty());
        let mark = tokenizer.token_to_id(format.begin.trim()).filter(hidden);
        self.calls = Some(Calls { parser: CallParser::new(format, names), mark });
        self
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// Why the answer broke off.
    pub(super) fn event(&mut self, event: Event) -> Result<Step, ApiError> {
        let mut step = Step::default();
        match event {
            Event::Prefill { .. } => {}
            Event::PromptLogprobs(tokens) => step.prompt = tokens,
            Event::Token(token) => {
                self.shown += token.text.len();
                self.show(Some(token.token), &token.text, &mut step.pieces);
                if self.logprobs && !self.eos.contains(&token.token) {
                    step.tokens.push(token);
                }
            }
            Event::Finished(completion) => {
                // What was held back for a stop string or an unfinished character comes with no token.
                let rest = completion.text.get(self.shown..).unwrap_or_default();
                self.show(None, rest, &mut step.pieces);
                step.finished = Some(self.finish(completion, &mut step.pieces));
            }
            Event::Failed(error) => return Err(ApiError::of_engine(&error)),
        }
        Ok(step)
    }

    fn show(&mut self, token: Option<u32>, text: &str, pieces: &mut Vec<Piece>) {
        match &mut self.calls {
            Some(calls) => {
                if token.is_some() && calls.mark == token {
                    calls.parser.push_mark(pieces);
                }
                calls.parser.push(text, pieces);
            }
            None if text.is_empty() => {}
            None => pieces.push(Piece::Text(text.to_owned())),
        }
    }

    fn finish(&mut self, completion: Completion, pieces: &mut Vec<Piece>) -> Finished {
        let mut called = false;
        if let Some(calls) = &mut self.calls {
            calls.parser.finish(pieces);
            called = calls.parser.count() > 0;
        }
        let reason = match completion.finish_reason {
            FinishReason::Stop if called => "tool_calls",
            reason => reason.name(),
        };
        Finished { reason, completion }
    }
}

/// Events of several answers, each with its answer's number, as they come. Dropping it cancels them.
pub(super) fn events(answers: Vec<Answer>) -> impl Stream<Item = (usize, Event)> + Send {
    let streams = answers.into_iter().enumerate().map(|(index, answer)| {
        let next = |mut answer: Answer| async move { Some((answer.next().await?, answer)) };
        stream::unfold(answer, next).map(move |event| (index, event)).boxed()
    });
    streams.collect::<SelectAll<_>>()
}

/// The answers broke off without a word.
pub(super) fn unfinished() -> ApiError {
    ApiError::internal("the answer ended before it was whole; see the server's log")
}
