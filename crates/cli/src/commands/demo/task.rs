//! The task that the demo model was trained for, as `demo/generate.py` words it.

use engine::{Completion, FinishReason};
use serde_json::{Map, Value};

use crate::output::CliError;

/// Keys of an answer, in their order.
pub(super) const FIELDS: [&str; 7] =
    ["document_type", "direction", "party", "number", "date", "currency", "total"];

/// Most tokens of an answer.
pub(super) const ANSWER_TOKENS_MAX: usize = 128;

const INSTRUCTION: &str = "Read this accounting document and answer with one JSON object.";

/// The message of the user's turn.
pub(in crate::commands) fn message(our_business: &str, text: &str) -> String {
    format!("{INSTRUCTION}\nOur business: {our_business}\n\n{}", text.trim_matches('\n'))
}

/// The fields of an answer: a JSON object with exactly [`FIELDS`], each a text or null.
///
/// # Errors
/// For anything else. Nothing is repaired.
pub(super) fn parse(completion: &Completion) -> Result<Map<String, Value>, CliError> {
    fields(&completion.text).ok_or_else(|| {
        let cut = match completion.finish_reason {
            FinishReason::Length => format!(", cut after {} tokens", completion.completion_tokens),
            FinishReason::Cancelled => ", cut off by Ctrl-C".to_owned(),
            FinishReason::Stop => String::new(),
        };
        let text = &completion.text;
        CliError::Failed(format!(
            "the model's answer is not the JSON object that was asked for{cut}: {text}"
        ))
    })
}

/// `None` if the text is no such object.
pub(super) fn fields(text: &str) -> Option<Map<String, Value>> {
    let object: Map<String, Value> = serde_json::from_str(text).ok()?;
    let is_field = |name: &&str| object.get(*name).is_some_and(|v| v.is_string() || v.is_null());
    (object.len() == FIELDS.len() && FIELDS.iter().all(is_field)).then_some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_all_fields_and_no_others() {
        let good = r#"{"document_type":"invoice","direction":"outgoing","party":"A","number":null,"date":null,"currency":"EUR","total":"1.00"}"#;
        assert_eq!(fields(good).unwrap().len(), 7);
        assert_eq!(fields(&good.replace("\"total\"", "\"sum\"")), None);
        assert_eq!(fields(&good.replace("\"1.00\"", "1.0")), None);
        assert_eq!(fields(&good.replace('}', ",\"x\":null}")), None);
        assert_eq!(fields(&good[..40]), None);
        assert_eq!(fields(&format!("Sure! {good}")), None);
        assert_eq!(fields("[]"), None);
    }
}
