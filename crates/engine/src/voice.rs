//! What the engine has to say of what happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::Tokenizer;

use crate::answer::{Answer, Chosen};
use crate::{EngineError, Event, FinishReason, GeneratedToken, RequestId};

/// Answers by request.
pub(crate) type Answers = BTreeMap<RequestId, Answer>;

/// What has happened, and has yet to be said.
pub(crate) struct Voice {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pending: Vec<(RequestId, Pending)>,
}

/// Something that happened to a request.
pub(crate) enum Pending {
    /// So much of the prompt is done.
    Prefill { done: usize, total: usize, cached: usize },
    /// Tokens of the prompt, and some before them.
    PromptLogprobs { context: Vec<u32>, tokens: Vec<GeneratedToken> },
    /// A token was generated.
    Token(Chosen),
    /// It ended, but not with a token.
    End(FinishReason),
    /// It broke off.
    Failed(EngineError),
}

impl Voice {
    /// Nothing to say.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Voice { tokenizer, pending: Vec::new() }
    }

    /// Notes what happened.
    pub(crate) fn push(&mut self, id: RequestId, pending: Pending) {
        self.pending.push((id, pending));
    }

    /// How many ended without a step, since the last time.
    pub(crate) fn num_ends(&self) -> usize {
        self.pending.iter().filter(|(_, pending)| matches!(pending, Pending::End(_))).count()
    }

    /// Says all of it, but nothing of requests that are gone. Returns those that ended.
    pub(crate) fn tell(
        &mut self,
        answers: &mut Answers,
        on_event: &mut (dyn FnMut(RequestId, Event) + Send),
    ) -> Vec<RequestId> {
        let mut ended = Vec::new();
        for (id, pending) in self.pending.drain(..) {
            let Some(answer) = answers.get_mut(&id) else { continue };
            let told = match pending {
                Pending::Prefill { done, total, cached } => {
                    answer.text.set_cached(cached);
                    on_event(id, Event::Prefill { done, total, cached });
                    Ok(None)
                }
                Pending::PromptLogprobs { context, tokens } => {
                    with_texts(&self.tokenizer, &context, tokens).map(|tokens| {
                        on_event(id, Event::PromptLogprobs(tokens));
                        None
                    })
                }
                Pending::Token(mut chosen) => {
                    let pushed = answer.text.push(&self.tokenizer, &mut chosen);
                    if pushed.is_ok() {
                        on_event(id, Event::Token(chosen.token));
                    }
                    pushed
                }
                Pending::End(reason) => Ok(Some(reason)),
                Pending::Failed(error) => Err(error),
            };
            let last = match told {
                Ok(None) => continue,
                Ok(Some(reason)) => {
                    answers.remove(&id).map(|answer| answer.text.finish(&self.tokenizer, reason))
                }
                Err(error) => answers.remove(&id).map(|_| Err(error)),
            };
            let Some(last) = last else { continue };
            on_event(id, last.map_or_else(Event::Failed, Event::Finished));
            ended.push(id);
        }
        ended
    }
}

/// Adds to each token of a part of a prompt the text that it completes.
fn with_texts(
    tokenizer: &Tokenizer,
    context: &[u32],
    mut tokens: Vec<GeneratedToken>,
) -> Result<Vec<GeneratedToken>, EngineError> {
    let mut stream = tokenizer.stream(true);
    for &token in context {
        stream.step(tokenizer, token)?;
    }
    for token in &mut tokens {
        token.text = stream.step(tokenizer, token.token)?;
    }
    if let Some(last) = tokens.last_mut() {
        last.text.push_str(&stream.finish(tokenizer)?);
    }
    Ok(tokens)
}
