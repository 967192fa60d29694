//! Messages of a chat: what clients send, and what chat templates are given.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::tools::ToolCall;
use crate::ApiError;

/// Most messages of a chat.
const MAX_MESSAGES: usize = 4096;

/// A message of a chat.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said. Assistants that call tools may say nothing.
    pub content: Option<Content>,
    /// Who says it; given to the chat template.
    pub name: Option<String>,
    /// Tools that an assistant called.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a `tool` message answers.
    pub tool_call_id: Option<String>,
    /// What an assistant thought; given to the chat template.
    pub reasoning_content: Option<String>,
    /// Why an assistant declined: comes with answers, and means nothing here.
    pub refusal: Option<String>,
}

/// A text, or parts of one. Parts are joined with line breaks, as vLLM does.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// A text.
    Text(String),
    /// Parts of a text.
    Parts(Vec<Part>),
}

/// A part of a message. Only text is supported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Part {
    /// `text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;

        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of parts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Content, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Content::Parts)
            }
        }

        deserializer.deserialize_any(TextOrParts)
    }
}

impl Content {
    /// The text; `param` names the content in errors.
    ///
    /// # Errors
    /// 400 for a part that is no text.
    pub(super) fn text(&self, param: &str) -> Result<String, ApiError> {
        let parts = match self {
            Content::Text(text) => return Ok(text.clone()),
            Content::Parts(parts) => parts,
        };
        let texts: Result<Vec<&str>, ApiError> =
            parts.iter().enumerate().map(|(i, part)| part.text(param, i)).collect();
        Ok(texts?.join("\n"))
    }
}

impl Part {
    /// The text; `param` names the content, in which this is part `index`.
    fn text(&self, param: &str, index: usize) -> Result<&str, ApiError> {
        if !matches!(self.kind.as_str(), "text" | "input_text" | "output_text") {
            let message = format!(
                "`{param}[{index}]` is of type `{}`; this model reads text alone: send parts of type `text`",
                self.kind
            );
            let error = ApiError::invalid(format!("{param}[{index}].type"), message);
            return Err(error.with_code("unsupported_content"));
        }
        self.text.as_deref().ok_or_else(|| {
            let param = format!("{param}[{index}].text");
            ApiError::invalid(param.clone(), format!("`{param}` is missing"))
        })
    }
}

/// Messages as chat templates take them: `content` is a text, arguments of calls are objects.
///
/// # Errors
/// 400 for a role that does not exist, a message without what its role needs, and parts that are no text.
pub(super) fn for_template(messages: &[Message]) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages".to_owned(), "`messages` is empty; say something"));
    }
    if messages.len() > MAX_MESSAGES {
        return Err(ApiError::invalid(
            "messages".to_owned(),
            format!("{} messages are more than {MAX_MESSAGES}", messages.len()),
        ));
    }
    messages.iter().enumerate().map(|(i, message)| message.for_template(i)).collect()
}

impl Message {
    fn for_template(&self, index: usize) -> Result<Value, ApiError> {
        let at = format!("messages[{index}]");
        let refuse = |field: &str, message: String| {
            let param = format!("{at}.{field}");
            ApiError::invalid(param.clone(), format!("`{param}`{message}"))
        };
        let calls = self.tool_calls.as_deref().unwrap_or_default();
        match self.role.as_str() {
            "system" | "developer" | "user" | "assistant" | "tool" => {}
            role => {
                return Err(refuse(
                    "role",
                    format!(" is `{role}`; roles are system, developer, user, assistant and tool"),
                ));
            }
        }
        if self.role != "assistant" && !calls.is_empty() {
            return Err(refuse(
                "tool_calls",
                format!(": a message of role {} calls no tools", self.role),
            ));
        }
        let content = match &self.content {
            Some(content) => content.text(&format!("{at}.content"))?,
            // An assistant's `refusal` takes the place of its content in answers of OpenAI's.
            None if self.role == "assistant" => self.refusal.clone().unwrap_or_default(),
            None => return Err(refuse("content", " is missing".to_owned())),
        };
        let mut value = Map::new();
        value.insert("role".to_owned(), self.role.as_str().into());
        value.insert("content".to_owned(), content.into());
        let optional = [
            ("name", &self.name),
            ("tool_call_id", &self.tool_call_id),
            ("reasoning_content", &self.reasoning_content),
        ];
        for (key, field) in optional {
            if let Some(text) = field {
                value.insert(key.to_owned(), text.as_str().into());
            }
        }
        if !calls.is_empty() {
            let calls: Result<Vec<Value>, ApiError> = calls
                .iter()
                .enumerate()
                .map(|(i, call)| call.for_template(&format!("{at}.tool_calls[{i}]")))
                .collect();
            value.insert("tool_calls".to_owned(), calls?.into());
        }
        Ok(value.into())
    }
}

/// A message of one role.
pub(super) fn plain(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}
