//! A response in the making: items that begin, grow and end.

use std::collections::VecDeque;

use engine::Event;
use futures_util::stream::{self, Stream, StreamExt};

use super::response::{
    Happening, Incomplete, InputTokens, OutputItem, OutputText, OutputTokens, ResponseBody,
    ResponseError, ResponseEvent, ResponseUsage,
};
use crate::ApiError;
use crate::openai::calls::Piece;
use crate::openai::choice::{self, Choice, Finished};
use crate::openai::sse::Message;

/// Names for what comes to be: items and calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) item: fn(&str) -> String,
    pub(super) call: fn() -> String,
}

/// A response in the making. What it tells of its way is what a stream is made of.
#[derive(Debug)]
pub(super) struct Writer {
    body: ResponseBody,
    choice: Choice,
    names: Names,
    /// Whether the last item is still growing.
    growing: bool,
    ended: bool,
}

impl Writer {
    pub(super) fn new(body: ResponseBody, choice: Choice, names: Names) -> Self {
        Writer { body, choice, names, growing: false, ended: false }
    }

    /// Takes the next event of the engine.
    fn event(&mut self, event: Event, told: &mut Vec<Happening>) -> Result<(), ApiError> {
        let step = self.choice.event(event)?;
        for piece in step.pieces {
            match piece {
                Piece::Text(text) => self.text(text, told),
                Piece::Begin { name, .. } => self.begin_call(name, told),
                Piece::Arguments { text, .. } => self.arguments(text, told),
            }
        }
        if let Some(finished) = step.finished {
            self.finish(&finished, told);
        }
        Ok(())
    }

    /// The number of the item that grows.
    fn index(&self) -> usize {
        self.body.output.len().saturating_sub(1)
    }

    fn text(&mut self, delta: String, told: &mut Vec<Happening>) {
        let is_message = matches!(self.body.output.last(), Some(OutputItem::Message { .. }));
        if !(self.growing && is_message) {
            self.begin_message(told);
        }
        let output_index = self.index();
        let Some(OutputItem::Message { id, content, .. }) = self.body.output.last_mut() else {
            return;
        };
        content.iter_mut().for_each(|part| part.text.push_str(&delta));
        let (item_id, logprobs) = (id.clone(), Vec::new());
        told.push(Happening::TextDelta {
            item_id,
            output_index,
            content_index: 0,
            delta,
            logprobs,
        });
    }

    fn begin_message(&mut self, told: &mut Vec<Happening>) {
        self.end_item("completed", told);
        let (id, output_index) = ((self.names.item)("msg"), self.body.output.len());
        let message = |content| OutputItem::Message {
            id: id.clone(),
            status: "in_progress",
            role: "assistant",
            content,
        };
        let part = OutputText::new(String::new());
        told.push(Happening::ItemAdded { output_index, item: message(Vec::new()) });
        self.body.output.push(message(vec![part.clone()]));
        told.push(Happening::PartAdded { item_id: id, output_index, content_index: 0, part });
        self.growing = true;
    }

    fn begin_call(&mut self, name: String, told: &mut Vec<Happening>) {
        self.end_item("completed", told);
        let item = OutputItem::FunctionCall {
            id: (self.names.item)("fc"),
            status: "in_progress",
            call_id: (self.names.call)(),
            name,
            arguments: String::new(),
        };
        told.push(Happening::ItemAdded {
            output_index: self.body.output.len(),
            item: item.clone(),
        });
        self.body.output.push(item);
        self.growing = true;
    }

    fn arguments(&mut self, delta: String, told: &mut Vec<Happening>) {
        let output_index = self.index();
        if let Some(OutputItem::FunctionCall { id, arguments, .. }) = self.body.output.last_mut() {
            arguments.push_str(&delta);
            told.push(Happening::ArgumentsDelta { item_id: id.clone(), output_index, delta });
        }
    }

    /// Ends the item that grows, if one does.
    fn end_item(&mut self, end: &'static str, told: &mut Vec<Happening>) {
        if !std::mem::replace(&mut self.growing, false) {
            return;
        }
        let output_index = self.index();
        let Some(item) = self.body.output.last_mut() else { return };
        match item {
            OutputItem::Message { id, status, content, .. } => {
                *status = end;
                let part = content.first().cloned().unwrap_or_default();
                let (item_id, text, logprobs) = (id.clone(), part.text.clone(), Vec::new());
                told.push(Happening::TextDone {
                    item_id,
                    output_index,
                    content_index: 0,
                    text,
                    logprobs,
                });
                let item_id = id.clone();
                told.push(Happening::PartDone { item_id, output_index, content_index: 0, part });
            }
            OutputItem::FunctionCall { id, status, name, arguments, .. } => {
                *status = end;
                let (item_id, name, arguments) = (id.clone(), name.clone(), arguments.clone());
                told.push(Happening::ArgumentsDone { item_id, output_index, name, arguments });
            }
        }
        told.push(Happening::ItemDone { output_index, item: item.clone() });
    }

    fn finish(&mut self, finished: &Finished, told: &mut Vec<Happening>) {
        let is_whole = finished.reason != "length";
        let status = if is_whole { "completed" } else { "incomplete" };
        if self.body.output.is_empty() {
            self.begin_message(told);
        }
        self.end_item(status, told);
        let completion = &finished.completion;
        self.body.status = status;
        self.body.incomplete_details =
            (!is_whole).then_some(Incomplete { reason: "max_output_tokens" });
        self.body.usage = Some(ResponseUsage {
            input_tokens: completion.prompt_tokens,
            input_tokens_details: InputTokens { cached_tokens: completion.cached_tokens },
            output_tokens: completion.completion_tokens,
            output_tokens_details: OutputTokens { reasoning_tokens: 0 },
            total_tokens: completion.prompt_tokens + completion.completion_tokens,
        });
        let response = self.response();
        told.push(if is_whole {
            Happening::Completed { response }
        } else {
            Happening::Incomplete { response }
        });
        self.ended = true;
    }

    fn fail(&mut self, error: &ApiError, told: &mut Vec<Happening>) {
        if let Some(OutputItem::Message { status, .. } | OutputItem::FunctionCall { status, .. }) =
            self.body.output.last_mut().filter(|_| self.growing)
        {
            *status = "incomplete";
        }
        self.body.status = "failed";
        let code = error.code.unwrap_or("server_error").to_owned();
        self.body.error = Some(ResponseError { code, message: error.message.clone() });
        told.push(Happening::Failed { response: self.response() });
        self.ended = true;
    }

    fn response(&self) -> Box<ResponseBody> {
        Box::new(self.body.clone())
    }
}

/// The whole response.
///
/// # Errors
/// Why it broke off.
pub(super) async fn collect(
    mut writer: Writer,
    events: impl Stream<Item = (usize, Event)>,
) -> Result<ResponseBody, ApiError> {
    let mut events = std::pin::pin!(events);
    while let Some((_, event)) = events.next().await {
        writer.event(event, &mut Vec::new())?;
    }
    if writer.ended { Ok(writer.body) } else { Err(choice::unfinished()) }
}

/// The response as events.
pub(super) fn messages(
    writer: Writer,
    events: impl Stream<Item = (usize, Event)> + Send + 'static,
) -> impl Stream<Item = Message> + Send {
    let begin = [
        Happening::Created { response: writer.response() },
        Happening::InProgress { response: writer.response() },
    ];
    let state = (writer, events.boxed(), VecDeque::from(begin), 0);
    stream::unfold(state, |(mut writer, mut events, mut ready, number)| async move {
        loop {
            if let Some(happening) = ready.pop_front() {
                let name = happening.name();
                let event = ResponseEvent { sequence_number: number, happening };
                return Some((Message::named(name, &event), (writer, events, ready, number + 1)));
            }
            if writer.ended {
                return None;
            }
            let mut told = Vec::new();
            let result = match events.next().await {
                Some((_, event)) => writer.event(event, &mut told),
                None => Err(choice::unfinished()),
            };
            if let Err(error) = result {
                writer.fail(&error, &mut told);
            }
            ready.extend(told);
        }
    })
}
