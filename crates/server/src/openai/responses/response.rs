//! What `/v1/responses` answers.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::request::{FunctionTool, TextOptions};
use crate::openai::tools::ToolChoice;

/// The next turn of a conversation.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ResponseBody {
    /// Names the request.
    pub id: String,
    /// `response`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub status: &'static str,
    /// Why it failed.
    pub error: Option<ResponseError>,
    /// Why it is incomplete.
    pub incomplete_details: Option<Incomplete>,
    /// As it was asked.
    pub instructions: Option<String>,
    /// As it was asked.
    pub max_output_tokens: Option<u32>,
    /// Name of the model.
    pub model: String,
    /// What the model says and calls.
    pub output: Vec<OutputItem>,
    /// As it was asked, or true.
    pub parallel_tool_calls: bool,
    /// Always null: nothing is kept.
    pub previous_response_id: Option<String>,
    /// Always false: nothing is kept.
    pub store: bool,
    /// In force.
    pub temperature: f32,
    /// In force.
    pub top_p: f32,
    /// As it was asked.
    pub text: TextOptions,
    /// As it was asked, or `auto`.
    pub tool_choice: ToolChoice,
    /// As it was asked.
    pub tools: Vec<FunctionTool>,
    /// `disabled`: nothing is cut.
    pub truncation: &'static str,
    /// Tokens that it took; null until it has ended.
    pub usage: Option<ResponseUsage>,
    /// As it was asked.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// As it was asked.
    pub user: Option<String>,
}

/// Why a response failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ResponseError {
    /// `server_error`, or a word that says more.
    pub code: String,
    /// In words.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Incomplete {
    /// `max_output_tokens`: the tokens ran out.
    pub reason: &'static str,
}

/// Tokens that a response took.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct ResponseUsage {
    /// Tokens of the input.
    pub input_tokens: usize,
    /// More about these.
    pub input_tokens_details: InputTokens,
    /// Tokens that were generated.
    pub output_tokens: usize,
    /// More about these.
    pub output_tokens_details: OutputTokens,
    /// Both.
    pub total_tokens: usize,
}

/// More about the tokens of an input.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct InputTokens {
    /// Tokens that were in the cache already.
    pub cached_tokens: usize,
}

/// More about the tokens of an output.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct OutputTokens {
    /// Always 0: they are not counted apart.
    pub reasoning_tokens: usize,
}

/// What the model says, or calls.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// What it says.
    Message {
        /// Names the item.
        id: String,
        /// `in_progress`, `completed` or `incomplete`.
        status: &'static str,
        /// `assistant`.
        role: &'static str,
        /// One text.
        content: Vec<OutputText>,
    },
    /// What it calls.
    FunctionCall {
        /// Names the item.
        id: String,
        /// `in_progress`, `completed` or `incomplete`.
        status: &'static str,
        /// Names the call; its result repeats this.
        call_id: String,
        /// The function.
        name: String,
        /// The arguments, as a JSON text.
        arguments: String,
    },
}

/// A text.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct OutputText {
    /// `output_text`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The text.
    pub text: String,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    pub annotations: Vec<Value>,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    pub logprobs: Vec<Value>,
}

impl OutputText {
    pub(super) fn new(text: String) -> Self {
        OutputText { kind: "output_text", text, ..OutputText::default() }
    }
}

/// An event of a stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ResponseEvent {
    /// Counts the events from 0.
    pub sequence_number: usize,
    /// What happens.
    #[serde(flatten)]
    pub happening: Happening,
}

/// What happens in a stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "type")]
pub enum Happening {
    /// The request was taken.
    #[serde(rename = "response.created")]
    Created {
        /// So far.
        response: Box<ResponseBody>,
    },
    /// It is worked on.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// So far.
        response: Box<ResponseBody>,
    },
    /// An item begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// The item's number.
        output_index: usize,
        /// So far.
        item: OutputItem,
    },
    /// A text begins.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// Names the item.
        item_id: String,
        /// The item's number.
        output_index: usize,
        /// 0: a message has one text.
        content_index: usize,
        /// So far.
        part: OutputText,
    },
    /// A text goes on.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// Names the item.
        item_id: String,
        /// The item's number.
        output_index: usize,
        /// 0: a message has one text.
        content_index: usize,
        /// What is new.
        delta: String,
        /// Always empty.
        #[schema(value_type = Vec<Object>)]
        logprobs: Vec<Value>,
    },
    /// A text is whole.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// Names the item.
        item_id: String,
        /// The item's number.
        output_index: usize,
        /// 0: a message has one text.
        content_index: usize,
        /// The text.
        text: String,
        /// Always empty.
        #[schema(value_type = Vec<Object>)]
        logprobs: Vec<Value>,
    },
    /// A text is whole.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// Names the item.
        item_id: String,
        /// The item's number.
        output_index: usize,
        /// 0: a message has one text.
        content_index: usize,
        /// The text.
        part: OutputText,
    },
    /// Arguments of a call go on.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// Names the item.
        item_id: String,
        /// The item's number.
        output_index: usize,
        /// What is new.
        delta: String,
    },
    /// Arguments of a call are whole.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// Names the item.
        item_id: String,
        /// The item's number.
        output_index: usize,
        /// The function.
        name: String,
        /// The arguments.
        arguments: String,
    },
    /// An item is whole.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// The item's number.
        output_index: usize,
        /// The item.
        item: OutputItem,
    },
    /// The end.
    #[serde(rename = "response.completed")]
    Completed {
        /// The response.
        response: Box<ResponseBody>,
    },
    /// The end, because the tokens ran out.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// The response.
        response: Box<ResponseBody>,
    },
    /// The response broke off.
    #[serde(rename = "response.failed")]
    Failed {
        /// The response so far, and why.
        response: Box<ResponseBody>,
    },
}

impl Happening {
    /// The name of the event, as the line `event:` has it.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Happening::Created { .. } => "response.created",
            Happening::InProgress { .. } => "response.in_progress",
            Happening::ItemAdded { .. } => "response.output_item.added",
            Happening::PartAdded { .. } => "response.content_part.added",
            Happening::TextDelta { .. } => "response.output_text.delta",
            Happening::TextDone { .. } => "response.output_text.done",
            Happening::PartDone { .. } => "response.content_part.done",
            Happening::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Happening::ArgumentsDone { .. } => "response.function_call_arguments.done",
            Happening::ItemDone { .. } => "response.output_item.done",
            Happening::Completed { .. } => "response.completed",
            Happening::Incomplete { .. } => "response.incomplete",
            Happening::Failed { .. } => "response.failed",
        }
    }
}
