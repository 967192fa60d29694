//! Continuations of texts, piece by piece or whole.

use std::collections::VecDeque;
use std::sync::Arc;

use engine::{Event, GeneratedToken};
use futures_util::stream::{self, Stream, StreamExt};
use serde_json::Map;

use super::response::{CompletionChoice, Completions, TextLogprobs};
use crate::ApiError;
use crate::openai::calls::Piece;
use crate::openai::choice::{self, Choice};
use crate::openai::generation::Usage;
use crate::openai::logprobs::{self, TokenTexts};
use crate::openai::sse::Message;

/// A prompt, as it comes before its answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Echo {
    pub(super) text: String,
    pub(super) tokens: Vec<u32>,
    /// Where each token begins in the text, in characters.
    pub(super) offsets: Vec<usize>,
}

/// What the answers of a request have in common.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) build: String,
    /// If log-probabilities are asked for.
    pub(super) texts: Option<Arc<TokenTexts>>,
    /// Answers to each prompt.
    pub(super) n: usize,
    /// The prompts, if they come before their answers.
    pub(super) echo: Vec<Echo>,
}

/// One answer in the making.
#[derive(Debug)]
struct Writer {
    choice: Choice,
    /// The prompt, until it was written.
    echo: Option<Echo>,
    /// Characters of the text so far.
    characters: usize,
}

/// All answers in the making.
#[derive(Debug)]
struct Writers {
    header: Header,
    writers: Vec<Writer>,
    usage: Usage,
    /// Answers that have not ended.
    open: usize,
}

impl Writers {
    fn new(header: Header, choices: Vec<Choice>) -> Self {
        let writer = |(i, choice)| {
            let echo = header.echo.get(i / header.n).cloned();
            Writer { choice, echo, characters: 0 }
        };
        let open = choices.len();
        let writers = choices.into_iter().enumerate().map(writer).collect();
        Writers { header, writers, usage: Usage::default(), open }
    }

    /// What an event adds to its answer, if anything.
    fn event(&mut self, index: usize, event: Event) -> Result<Option<CompletionChoice>, ApiError> {
        let Writers { header, writers, usage, open } = self;
        let writer = &mut writers[index];
        let is_prefill = matches!(event, Event::Prefill { .. });
        let step = writer.choice.event(event)?;
        let mut piece = CompletionChoice { index, ..CompletionChoice::default() };
        let mut logprobs = TextLogprobs::default();
        if !is_prefill && let Some(echo) = writer.echo.take() {
            if let Some(texts) = &header.texts {
                logprobs.extend(prompt_logprobs(texts, &echo, &step.prompt));
            }
            piece.text = echo.text;
        }
        let offset = writer.characters + piece.text.chars().count();
        if let Some(texts) = &header.texts {
            logprobs.extend(answer_logprobs(texts, &step.tokens, offset));
        }
        for part in step.pieces {
            if let Piece::Text(text) = part {
                piece.text.push_str(&text);
            }
        }
        writer.characters += piece.text.chars().count();
        if !logprobs.tokens.is_empty() {
            piece.logprobs = Some(logprobs);
        }
        if let Some(finished) = step.finished {
            usage.add(&finished.completion, index.is_multiple_of(header.n));
            piece.finish_reason = Some(finished.reason);
            *open -= 1;
        }
        let is_empty =
            piece.text.is_empty() && piece.logprobs.is_none() && piece.finish_reason.is_none();
        Ok((!is_empty).then_some(piece))
    }

    fn body(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Completions {
        Completions {
            id: self.header.id.clone(),
            object: "text_completion",
            created: self.header.created,
            model: self.header.model.clone(),
            system_fingerprint: self.header.build.clone(),
            choices,
            usage,
        }
    }
}

/// Log-probabilities of a prompt: none of its first token. `scored` are those of the others.
fn prompt_logprobs(texts: &TokenTexts, echo: &Echo, scored: &[GeneratedToken]) -> TextLogprobs {
    let first = echo.tokens.len().saturating_sub(scored.len());
    let mut all = TextLogprobs { text_offset: echo.offsets.clone(), ..TextLogprobs::default() };
    for &token in &echo.tokens[..first] {
        all.tokens.push(texts.text(token));
        all.token_logprobs.push(None);
        all.top_logprobs.push(None);
    }
    scored.iter().for_each(|token| add(&mut all, texts, token));
    all
}

/// Log-probabilities of tokens of an answer; the first begins at character `offset`.
fn answer_logprobs(texts: &TokenTexts, tokens: &[GeneratedToken], offset: usize) -> TextLogprobs {
    let mut all = TextLogprobs::default();
    let mut at = offset;
    for token in tokens {
        add(&mut all, texts, token);
        all.text_offset.push(at);
        at += token.text.chars().count();
    }
    all
}

fn add(all: &mut TextLogprobs, texts: &TokenTexts, token: &GeneratedToken) {
    let text = texts.text(token.token);
    let logprob = logprobs::finite(token.logprob);
    let mut top = Map::new();
    for &(id, logprob) in &token.top_logprobs {
        // Parts of characters look alike: the likeliest stands for them.
        top.entry(texts.text(id)).or_insert_with(|| logprobs::finite(logprob).into());
    }
    top.entry(text.clone()).or_insert_with(|| logprob.into());
    all.tokens.push(text);
    all.token_logprobs.push(Some(logprob));
    all.top_logprobs.push(Some(top));
}

/// Collects the answers.
///
/// # Errors
/// Why one of them broke off: none is given then.
pub(super) async fn collect(
    header: Header,
    choices: Vec<Choice>,
    events: impl Stream<Item = (usize, Event)>,
) -> Result<Completions, ApiError> {
    let mut writers = Writers::new(header, choices);
    let empty = |index| CompletionChoice { index, ..CompletionChoice::default() };
    let mut answers: Vec<CompletionChoice> = (0..writers.open).map(empty).collect();
    let mut events = std::pin::pin!(events);
    while let Some((index, event)) = events.next().await {
        let Some(piece) = writers.event(index, event)? else { continue };
        let answer = &mut answers[index];
        answer.text.push_str(&piece.text);
        if let Some(logprobs) = piece.logprobs {
            answer.logprobs.get_or_insert_default().extend(logprobs);
        }
        answer.finish_reason = piece.finish_reason;
    }
    if writers.open > 0 {
        return Err(choice::unfinished());
    }
    if writers.header.texts.is_some() {
        for answer in &mut answers {
            answer.logprobs.get_or_insert_default();
        }
    }
    Ok(writers.body(answers, Some(Some(writers.usage))))
}

/// The answers as events: pieces, the number of tokens if asked for, and the end.
pub(super) fn messages(
    header: Header,
    choices: Vec<Choice>,
    include_usage: bool,
    events: impl Stream<Item = (usize, Event)> + Send + 'static,
) -> impl Stream<Item = Message> + Send {
    let writers = Writers::new(header, choices);
    let state = (writers, events.boxed(), VecDeque::new(), false);
    stream::unfold(state, move |(mut writers, mut events, mut ready, mut ended)| async move {
        loop {
            if let Some(message) = ready.pop_front() {
                return Some((message, (writers, events, ready, ended)));
            }
            if ended {
                return None;
            }
            ended = writers.next(events.next().await, include_usage, &mut ready);
        }
    })
}

impl Writers {
    /// Takes the next event; whether the stream ends after what is ready then.
    fn next(
        &mut self,
        event: Option<(usize, Event)>,
        include_usage: bool,
        ready: &mut VecDeque<Message>,
    ) -> bool {
        let result = match event {
            Some((index, event)) => self.event(index, event),
            None => Err(choice::unfinished()),
        };
        match result {
            Ok(piece) => {
                let usage = include_usage.then_some(None);
                ready.extend(piece.map(|piece| Message::data(&self.body(vec![piece], usage))));
                if self.open > 0 {
                    return false;
                }
                if include_usage {
                    let usage = Some(Some(self.usage));
                    ready.push_back(Message::data(&self.body(Vec::new(), usage)));
                }
            }
            Err(error) => ready.push_back(Message::error(&error)),
        }
        ready.push_back(Message::done());
        true
    }
}
