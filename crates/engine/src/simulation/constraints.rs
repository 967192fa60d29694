//! What answers are constrained to in schedules that have grammars.

use std::sync::{Arc, OnceLock};

use grammar::{Grammar, Spec};
use serde_json::{Value, json};

use super::mock::{WHOLE_VOCAB_SIZE, tokenizer};

/// `<|im_end|>`.
pub(crate) const EOS: u32 = 297;

/// A grammar, and whether a text fits it, found without it.
pub(crate) struct Constraint {
    pub(crate) grammar: Grammar,
    pub(crate) fits: fn(&str) -> bool,
    /// Whether an answer that its budget cut fits as well.
    pub(crate) fits_always: bool,
}

/// All of them, compiled once.
pub(crate) fn all() -> &'static [Constraint] {
    static ALL: OnceLock<Vec<Constraint>> = OnceLock::new();
    ALL.get_or_init(|| {
        let vocabulary = crate::vocabulary(&tokenizer(), WHOLE_VOCAB_SIZE, &[EOS]).unwrap();
        let vocabulary = Arc::new(vocabulary);
        let constraint = |spec: Spec, fits, fits_always| Constraint {
            grammar: Grammar::compile(&vocabulary, &spec).unwrap(),
            fits,
            fits_always,
        };
        let choice = Spec::Choice(vec!["yes".into(), "no".into(), "not at all".into()]);
        let schema = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 12},
                "amounts": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
            },
            "required": ["name"],
        });
        vec![
            constraint(choice, |text| ["yes", "no", "not at all"].contains(&text), true),
            constraint(Spec::JsonSchema { schema, open: false }, is_of_the_schema, true),
            constraint(Spec::Regex("[a-f]{3,9}".into()), is_hexadecimal, false),
        ]
    })
}

fn is_of_the_schema(text: &str) -> bool {
    let Ok(Value::Object(object)) = serde_json::from_str(text) else { return false };
    let name = object.get("name").and_then(Value::as_str);
    let amounts = object
        .get("amounts")
        .map_or(Some([].as_slice()), |amounts| amounts.as_array().map(Vec::as_slice));
    name.is_some_and(|name| name.chars().count() <= 12)
        && amounts.is_some_and(|all| all.len() <= 3 && all.iter().all(Value::is_i64))
        && object.keys().all(|key| key == "name" || key == "amounts")
}

fn is_hexadecimal(text: &str) -> bool {
    (3..=9).contains(&text.len()) && text.bytes().all(|byte| (b'a'..=b'f').contains(&byte))
}
