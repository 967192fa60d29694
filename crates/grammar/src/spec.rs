//! What an answer is constrained to.

use serde_json::Value;

/// A constraint.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// A JSON document that fits a schema. Objects that name properties have no others, unless `open` or the schema says so.
    JsonSchema {
        /// The schema, or an example of what is wanted (`{"total": "number"}`).
        schema: Value,
        /// Whether an absent `additionalProperties` means what the standard says: anything.
        open: bool,
    },
    /// Any JSON object.
    JsonObject,
    /// A text that a regular expression matches as a whole.
    Regex(String),
    /// A text of a grammar in Lark's notation.
    Lark(String),
    /// One of these texts, none of them empty.
    Choice(Vec<String>),
    /// Calls of tools, or text where none is called.
    Tools {
        /// What may be called.
        tools: Vec<Tool>,
        /// How the model writes a call.
        format: ToolFormat,
        /// Whether a call must come (else text may come instead).
        required: bool,
        /// Whether several calls may follow each other. A format without marks around calls has but one in any case.
        parallel: bool,
    },
}

/// A tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// JSON Schema of its arguments, an object.
    pub parameters: Value,
}

/// How a model writes calls of tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolFormat {
    /// Text before each call, or before the list of them: `<tool_call>\n`, `[TOOL_CALLS]`.
    pub begin: String,
    /// Text after it.
    pub end: String,
    /// Key of the arguments: `arguments`, or `parameters`. The name's key is `name`.
    pub arguments_key: String,
    /// Whether the calls stand in one JSON array between `begin` and `end`.
    pub list: bool,
}
