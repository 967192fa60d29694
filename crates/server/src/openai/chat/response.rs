//! What `/v1/chat/completions` answers.

use serde::Serialize;
use utoipa::ToSchema;

use crate::openai::generation::Usage;
use crate::openai::logprobs::Logprobs;
use crate::openai::tools::ToolCall;

/// The answers to a chat.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// Names the request.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// Name of the model.
    pub model: String,
    /// The server's build.
    pub system_fingerprint: String,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// Tokens that they took.
    pub usage: Usage,
}

/// An answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Its number.
    pub index: usize,
    /// What the model says.
    pub message: ChatMessage,
    /// If asked for.
    pub logprobs: Option<Logprobs>,
    /// `stop`: the model ended it, or a stop string came. `length`: the tokens ran out; what was asked to fit a schema fits
    /// nonetheless. `tool_calls`: the model calls tools.
    pub finish_reason: &'static str,
}

/// What the model says.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct ChatMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text; null if there is nothing but calls of tools.
    pub content: Option<String>,
    /// Always null: this server does not refuse.
    pub refusal: Option<String>,
    /// Calls of tools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A piece of the answers, as it is streamed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatChunk {
    /// Names the request; the same in all pieces.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// Name of the model.
    pub model: String,
    /// The server's build.
    pub system_fingerprint: String,
    /// Pieces of answers; none in the piece that says how many tokens they took.
    pub choices: Vec<ChunkChoice>,
    /// Tokens that were taken: with `include_usage`, in the last piece, and null before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// A piece of an answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// The answer's number.
    pub index: usize,
    /// What is new.
    pub delta: Delta,
    /// If asked for: those of the tokens that have come since the last piece.
    pub logprobs: Option<Logprobs>,
    /// In an answer's last piece.
    pub finish_reason: Option<&'static str>,
}

/// What is new in an answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Delta {
    /// `assistant`, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// The next text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The next of calls of tools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// What is new in a call of a tool.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ToolCallDelta {
    /// The call's number.
    pub index: usize,
    /// Names the call, in its first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in the first piece.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// The function.
    pub function: FunctionDelta,
}

/// What is new in a call of a function.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct FunctionDelta {
    /// Its name, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The next of its arguments' JSON.
    pub arguments: String,
}
