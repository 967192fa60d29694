//! Events of an engine that does not exist.

use std::path::Path;
use std::sync::Arc;

use engine::{Completion, Event, FinishReason, GeneratedToken};
use futures_util::stream::{self, Stream, StreamExt};
use model::{Checkpoint, Tokenizer};

use super::sse::Message;

/// The demo model's tokenizer.
pub(super) fn tokenizer() -> Arc<Tokenizer> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    Arc::new(Tokenizer::load(checkpoint.files()).unwrap())
}

/// A token that completes `text`.
pub(super) fn token(id: u32, text: &str) -> Event {
    Event::Token(generated(id, text))
}

pub(super) fn generated(id: u32, text: &str) -> GeneratedToken {
    let top_logprobs = vec![(id, -0.5), (id + 1, f32::NEG_INFINITY)];
    GeneratedToken { token: id, logprob: -0.5, top_logprobs, text: text.to_owned() }
}

/// The end of an answer.
pub(super) fn finished(text: &str, finish_reason: FinishReason) -> Event {
    Event::Finished(Completion {
        text: text.to_owned(),
        tokens: Vec::new(),
        finish_reason,
        prompt_tokens: 7,
        cached_tokens: 4,
        completion_tokens: 3,
    })
}

/// An answer of these texts, a token each.
pub(super) fn answer(texts: &[&str], finish_reason: FinishReason) -> Vec<Event> {
    let tokens = texts.iter().enumerate().map(|(i, text)| token(300 + i as u32, text));
    let end = finished(&texts.concat(), finish_reason);
    std::iter::once(Event::Prefill { done: 7, total: 7, cached: 4 })
        .chain(tokens)
        .chain([end])
        .collect()
}

/// Events of one answer.
pub(super) fn script(events: Vec<Event>) -> impl Stream<Item = (usize, Event)> + Send + 'static {
    stream::iter(events.into_iter().map(|event| (0, event)))
}

/// What a stream sends, a line for each event.
pub(super) async fn lines(messages: impl Stream<Item = Message>) -> String {
    let line = |message: Message| match message.name {
        Some(name) => format!("{name}: {}\n", message.data),
        None => format!("{}\n", message.data),
    };
    messages.map(line).collect::<Vec<_>>().await.concat()
}
