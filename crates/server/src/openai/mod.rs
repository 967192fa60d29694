//! The OpenAI API: requests in its form become requests of the engine, and the engine's events become answers in its form.
//!
//! OpenAI's names stand here alone; the rest of the program has its own.

mod body;
mod text;
mod harmless;
mod message;
mod tools;
mod structured;
mod dialogue;
mod generation;
mod calls;
mod choice;
mod logprobs;
mod ids;
mod sse;
mod chat;
mod completions;
mod responses;
mod models;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use axum::routing::get;
use serde_json::{Map, Value};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::{ApiError, App, Served};

pub use chat::{
    ChatChoice, ChatChunk, ChatCompletion, ChatMessage, ChatRequest, ChunkChoice, Delta,
    FunctionDelta, StreamOptions, ToolCallDelta,
};
pub use completions::{CompletionChoice, CompletionRequest, Completions, Prompt, TextLogprobs};
pub use generation::{PromptTokens, Usage};
pub(crate) use generation::{beyond_limit, served};
pub(crate) use logprobs::TokenTexts;
pub use logprobs::{Logprobs, TokenLogprob, TopLogprob};
pub use message::{Content, Message, Part};
pub use models::{ModelCard, ModelList};
pub use responses::{
    FunctionTool, Happening, Incomplete, Input, InputItem, InputTokens, OutputItem, OutputText,
    OutputTokens, ResponseBody, ResponseError, ResponseEvent, ResponseUsage, ResponsesRequest,
    TextFormat, TextOptions,
};
pub use structured::{JsonSchemaFormat, ResponseFormat, StructuredOutputs};
pub use text::Texts;
pub use tools::{Function, FunctionCall, FunctionName, NamedTool, Tool, ToolCall, ToolChoice};

/// The text of a chat, as the model is given it.
///
/// # Errors
/// 400 for messages that make no sense, or that the chat template refuses.
pub(crate) fn chat_text(
    served: &Served,
    messages: &[Message],
    tools: &[Tool],
    variables: Map<String, Value>,
    add_generation_prompt: bool,
) -> Result<String, ApiError> {
    let messages = message::for_template(messages)?;
    let tools = tools::Toolbox::new(tools, None, None)?;
    let dialogue = dialogue::Dialogue { messages, tools, variables };
    let template = chat::template(served, "messages")?;
    Ok(dialogue.render(template, add_generation_prompt)?.0)
}

/// Checks the form of a body of `/v1/chat/completions`.
///
/// # Errors
/// 400, with the field at fault.
pub(crate) fn check_chat(bytes: &[u8]) -> Result<(), ApiError> {
    body::parse::<ChatRequest>(bytes).map(drop)
}

/// The same of `/v1/completions`.
///
/// # Errors
/// 400, with the field at fault.
pub(crate) fn check_completions(bytes: &[u8]) -> Result<(), ApiError> {
    body::parse::<CompletionRequest>(bytes).map(drop)
}

/// The same of `/v1/responses`.
///
/// # Errors
/// 400, with the field at fault.
pub(crate) fn check_responses(bytes: &[u8]) -> Result<(), ApiError> {
    body::parse::<ResponsesRequest>(bytes).map(drop)
}

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(chat::chat_completions))
        .routes(routes!(completions::completions))
        .routes(routes!(responses::responses))
        .routes(routes!(models::models))
        .routes(routes!(models::model))
        .route("/v1/models/{id}/{name}", get(models::model_of))
}
