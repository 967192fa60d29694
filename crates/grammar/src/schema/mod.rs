//! JSON Schema, prepared for llguidance: what it supports and how is decided here, before llguidance sees anything.
//!
//! A schema is read ([`read`]) into nodes of one type each ([`node`]), in which `allOf`, `$ref` beside other keywords and
//! `anyOf` beside others are merged ([`merge`]); objects are closed last, when it is known what they name ([`write`]).
//! Every keyword is enforced or refused with a JSON pointer to it. What an answer may be is the schema's meaning or less:
//!
//! - A schema without `type` means the types that its keywords speak of (the standard lets every other type through).
//! - `oneOf` has to be told apart by type, constants or a required property's constant; it is then the same as `anyOf`.
//! - `format` is enforced for the formats of [`words::FORMATS`], years from 1000 to 2999; others are refused.
//! - Properties come in the schema's order. Where a schema leaves keys open, one may come twice; parsers take the last.
//! - Numbers have no exponent; integers go to 10^18, other numbers to 10^15, unless the schema's bounds lie beyond.
//! - Strings have no `\u` escapes; every character but control characters can be written as it is.
//! - A `maxLength` beyond 4,000 is 4,000.
//! - White space between parts is at most 64 characters.

mod words;
mod example;
mod node;
mod read;
mod typed;
mod merge;
mod write;

use serde_json::{Value, json};

pub use example::to_schema as example_to_schema;

use crate::{GrammarError, Tool};
use node::{Additional, Array, Node, Object};
use read::Reader;

/// White space between two parts of a document: what writers of JSON put there, a space, or a line's end and what indents the
/// next. A model that has lost its way likes to go on with white space, which fits every document; here it soon has to
/// go on with the document.
const WHITESPACE: &str = r"(\x20|(\x0D?\x0A)[\x20\x09]{0,28})";

/// A schema that llguidance enforces as it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prepared(Value);

impl Prepared {
    /// The schema, with llguidance's options in it.
    pub(crate) fn into_schema(self) -> Value {
        self.0
    }
}

/// Prepares a schema, or an example of what is wanted.
///
/// # Errors
/// [`GrammarError::Schema`] for what is not supported or contradicts itself, [`GrammarError::TooLarge`] beyond the bounds.
pub(crate) fn prepare(schema: &Value, open: bool) -> Result<Prepared, GrammarError> {
    let converted = example::to_schema(schema)?;
    let schema = converted.as_ref().unwrap_or(schema);
    let mut reader = Reader::new(schema, "#", open);
    let root = reader.root()?;
    finish(reader, root, open)
}

/// Prepares the schema of one call of any of `tools`, or of a list of them.
///
/// # Errors
/// As [`prepare`]; the path begins with the tool's name.
pub(crate) fn prepare_calls(
    tools: &[Tool],
    arguments_key: &str,
    list: bool,
    several: bool,
) -> Result<Prepared, GrammarError> {
    let none = Value::Null;
    let mut reader = Reader::new(&none, "", false);
    let mut calls = Vec::new();
    for tool in tools {
        reader.enter(&tool.parameters, &format!("tools/{}: #", tool.name));
        let arguments = match reader.root()? {
            // A tool that names no parameters has none.
            Node::Object(object) if object.is_unnamed() => {
                Node::Object(Object { additional: Additional::None, ..object })
            }
            Node::Any => Node::Object(Object { additional: Additional::None, ..Object::default() }),
            node => node,
        };
        if !reader.is_object(&arguments) {
            return Err(reader
                .refuse("", "the arguments of a tool are an object: write \"type\": \"object\""));
        }
        calls.push(Node::Object(Object {
            properties: vec![
                ("name".into(), Node::Enum(vec![Value::from(tool.name.as_str())])),
                (arguments_key.into(), arguments),
            ],
            required: vec!["name".into(), arguments_key.into()],
            additional: Additional::None,
            ..Object::default()
        }));
    }
    let call = Node::any_of(calls);
    let root = if list {
        let max = if several { None } else { Some(1) };
        Node::Array(Array { items: Some(Box::new(call)), min: 1, max, ..Array::default() })
    } else {
        call
    };
    finish(reader, root, false)
}

fn finish(reader: Reader<'_>, root: Node, open: bool) -> Result<Prepared, GrammarError> {
    let definitions = reader.finish()?;
    let mut schema = write::schema(&root, &definitions, open)?;
    schema["x-guidance"] = json!({
        "whitespace_pattern": WHITESPACE,
        "json_allowed_escapes": "nrbtf\\\"",
    });
    Ok(Prepared(schema))
}

#[cfg(test)]
mod tests;
