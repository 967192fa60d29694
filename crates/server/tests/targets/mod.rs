//! What is fuzzed: reading requests must return whatever it is given. `fuzz/` runs it on inputs that it makes up,
//! `tests/requests.rs` on those in `fuzz/corpus` and on variations of them.

use server::openai::{ChatRequest, CompletionRequest, ResponsesRequest};

/// A body, read as each of the requests of the OpenAI API. What is refused is told in one line, and with 400.
pub(crate) fn openai_request(bytes: &[u8]) {
    let refusals = [
        ChatRequest::from_json(bytes).err(),
        CompletionRequest::from_json(bytes).err(),
        ResponsesRequest::from_json(bytes).err(),
    ];
    for error in refusals.into_iter().flatten() {
        assert_eq!(error.status, 400);
        assert!(!error.message.is_empty());
    }
}
