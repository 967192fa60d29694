//! Answers to a chat, piece by piece or whole.

use std::collections::VecDeque;
use std::sync::Arc;

use engine::Event;
use futures_util::stream::{self, Stream, StreamExt};

use super::response::{
    ChatChoice, ChatChunk, ChatCompletion, ChatMessage, ChunkChoice, Delta, FunctionDelta,
    ToolCallDelta,
};
use crate::ApiError;
use crate::openai::calls::Piece;
use crate::openai::choice::{self, Choice, Step};
use crate::openai::generation::Usage;
use crate::openai::logprobs::{Logprobs, TokenTexts};
use crate::openai::sse::Message;
use crate::openai::tools::{FunctionCall, ToolCall};

/// What the answers of a request have in common.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) build: String,
    /// If log-probabilities are asked for.
    pub(super) texts: Option<Arc<TokenTexts>>,
    /// Names calls.
    pub(super) call_id: fn() -> String,
}

impl Header {
    fn logprobs(&self, step: &Step) -> Option<Logprobs> {
        let content = self.texts.as_ref()?.entries(&step.tokens);
        (!content.is_empty()).then_some(Logprobs { content, refusal: None })
    }
}

/// Collects the answers.
///
/// # Errors
/// Why one of them broke off: none is given then.
pub(super) async fn collect(
    header: Header,
    choices: Vec<Choice>,
    events: impl Stream<Item = (usize, Event)>,
) -> Result<ChatCompletion, ApiError> {
    let mut answers: Vec<ChatChoice> = (0..choices.len()).map(empty).collect();
    if header.texts.is_some() {
        let none = Logprobs { content: Vec::new(), refusal: None };
        answers.iter_mut().for_each(|answer| answer.logprobs = Some(none.clone()));
    }
    let mut choices = choices;
    let mut usage = Usage::default();
    let mut open = choices.len();
    let mut events = std::pin::pin!(events);
    while let Some((index, event)) = events.next().await {
        let step = choices[index].event(event)?;
        let answer = &mut answers[index];
        if let Some(more) = header.logprobs(&step)
            && let Some(logprobs) = &mut answer.logprobs
        {
            logprobs.content.extend(more.content);
        }
        step.pieces.into_iter().for_each(|piece| answer.message.add(piece, header.call_id));
        if let Some(finished) = step.finished {
            usage.add(&finished.completion, index == 0);
            answer.finish_reason = finished.reason;
            open -= 1;
        }
    }
    if open > 0 {
        return Err(choice::unfinished());
    }
    for answer in &mut answers {
        let message = &mut answer.message;
        if message.content.is_none() && message.tool_calls.is_empty() {
            message.content = Some(String::new());
        }
    }
    Ok(ChatCompletion {
        id: header.id,
        object: "chat.completion",
        created: header.created,
        model: header.model,
        system_fingerprint: header.build,
        choices: answers,
        usage,
    })
}

fn empty(index: usize) -> ChatChoice {
    let message = ChatMessage { role: "assistant", ..ChatMessage::default() };
    ChatChoice { index, message, ..ChatChoice::default() }
}

impl ChatMessage {
    fn add(&mut self, piece: Piece, call_id: fn() -> String) {
        match piece {
            Piece::Text(text) => self.content.get_or_insert_default().push_str(&text),
            Piece::Begin { name, .. } => self.tool_calls.push(ToolCall {
                id: Some(call_id()),
                kind: "function".to_owned(),
                function: FunctionCall { name, arguments: String::new() },
            }),
            Piece::Arguments { index, text } => {
                if let Some(call) = self.tool_calls.get_mut(index) {
                    call.function.arguments.push_str(&text);
                }
            }
        }
    }
}

/// The answers as events: pieces, the number of tokens if asked for, and the end.
pub(super) fn messages(
    header: Header,
    choices: Vec<Choice>,
    include_usage: bool,
    events: impl Stream<Item = (usize, Event)> + Send + 'static,
) -> impl Stream<Item = Message> + Send {
    let open = choices.len();
    let started = vec![false; open];
    let usage = Usage::default();
    let streamer = Streamer { header, choices, started, open, include_usage, usage, ended: false };
    let state = (streamer, events.boxed(), VecDeque::new());
    stream::unfold(state, |(mut streamer, mut events, mut ready)| async move {
        loop {
            if let Some(message) = ready.pop_front() {
                return Some((message, (streamer, events, ready)));
            }
            if streamer.ended {
                return None;
            }
            streamer.next(events.next().await, &mut ready);
        }
    })
}

struct Streamer {
    header: Header,
    choices: Vec<Choice>,
    /// Which answers have begun.
    started: Vec<bool>,
    /// Answers that have not ended.
    open: usize,
    include_usage: bool,
    usage: Usage,
    ended: bool,
}

impl Streamer {
    fn next(&mut self, event: Option<(usize, Event)>, ready: &mut VecDeque<Message>) {
        let result = match event {
            Some((index, event)) => self.event(index, event, ready),
            None => Err(choice::unfinished()),
        };
        if let Err(error) = result {
            ready.push_back(Message::error(&error));
            self.ended = true;
        } else if self.open == 0 {
            if self.include_usage {
                let mut chunk = self.chunk(Vec::new());
                chunk.usage = Some(Some(self.usage));
                ready.push_back(Message::data(&chunk));
            }
            self.ended = true;
        }
        if self.ended {
            ready.push_back(Message::done());
        }
    }

    fn event(
        &mut self,
        index: usize,
        event: Event,
        ready: &mut VecDeque<Message>,
    ) -> Result<(), ApiError> {
        let is_news = !matches!(event, Event::Prefill { .. });
        let step = self.choices[index].event(event)?;
        if is_news && !std::mem::replace(&mut self.started[index], true) {
            let role = Some("assistant");
            let delta = Delta { role, content: Some(String::new()), ..Delta::default() };
            self.push(ready, ChunkChoice { index, delta, ..ChunkChoice::default() });
        }
        let mut logprobs = self.header.logprobs(&step);
        for piece in step.pieces {
            let delta = self.delta(piece);
            let logprobs = logprobs.take();
            self.push(ready, ChunkChoice { index, delta, logprobs, finish_reason: None });
        }
        if logprobs.is_some() {
            let delta = Delta { content: Some(String::new()), ..Delta::default() };
            self.push(ready, ChunkChoice { index, delta, logprobs, finish_reason: None });
        }
        if let Some(finished) = step.finished {
            self.open -= 1;
            self.usage.add(&finished.completion, index == 0);
            let finish_reason = Some(finished.reason);
            self.push(ready, ChunkChoice { index, finish_reason, ..ChunkChoice::default() });
        }
        Ok(())
    }

    fn delta(&self, piece: Piece) -> Delta {
        match piece {
            Piece::Text(text) => Delta { content: Some(text), ..Delta::default() },
            Piece::Begin { index, name } => {
                let function = FunctionDelta { name: Some(name), arguments: String::new() };
                let id = Some((self.header.call_id)());
                call_delta(ToolCallDelta { index, id, kind: Some("function"), function })
            }
            Piece::Arguments { index, text } => {
                let function = FunctionDelta { name: None, arguments: text };
                call_delta(ToolCallDelta { index, id: None, kind: None, function })
            }
        }
    }

    fn push(&self, ready: &mut VecDeque<Message>, choice: ChunkChoice) {
        ready.push_back(Message::data(&self.chunk(vec![choice])));
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk {
        ChatChunk {
            id: self.header.id.clone(),
            object: "chat.completion.chunk",
            created: self.header.created,
            model: self.header.model.clone(),
            system_fingerprint: self.header.build.clone(),
            choices,
            usage: self.include_usage.then_some(None),
        }
    }
}

fn call_delta(call: ToolCallDelta) -> Delta {
    Delta { tool_calls: vec![call], ..Delta::default() }
}
