//! The keywords of JSON Schema: those that are enforced, those that say nothing, those that are refused.

use serde_json::{Map, Value};

/// Schemas within each other.
pub(super) const MAX_DEPTH: usize = 32;
/// Schemas in a document, those read again through `$ref` aside.
pub(super) const MAX_SCHEMAS: usize = 5_000;
/// Steps of merging.
pub(super) const MAX_MERGES: usize = 200_000;
/// Constants of one `enum`.
pub(super) const MAX_ENUM: usize = 2_000;
/// Largest length, number of items or of properties that a schema may speak of.
pub(super) const MAX_COUNT: u64 = 20_000;

/// Largest `minLength`, and what a larger `maxLength` is lowered to: the lexer has a few states for every character.
pub(super) const MAX_LENGTH: usize = 4_000;
/// Sum of the lengths that differ from each other in a schema.
pub(super) const MAX_LENGTHS: usize = 12_000;

/// Formats of strings that are enforced.
pub(super) const FORMATS: [&str; 10] =
    ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Keywords that assert something, and are enforced.
pub(super) const ENFORCED: [&str; 31] = [
    "$defs",
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "definitions",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "nullable",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
    "unevaluatedProperties",
];

/// Keywords that assert nothing.
const ANNOTATIONS: [&str; 16] = [
    "$comment",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "externalDocs",
    "readOnly",
    "title",
    "writeOnly",
];

/// Keywords that are refused, and what to do about it.
pub(super) const REFUSED: [(&str, &str); 21] = [
    ("$anchor", "name the definition by its path: \"#/$defs/NAME\""),
    ("$dynamicAnchor", "use \"$ref\" with a path: \"#/$defs/NAME\""),
    ("$dynamicRef", "use \"$ref\" with a path: \"#/$defs/NAME\""),
    ("$recursiveAnchor", "use \"$ref\" with a path: \"#/$defs/NAME\""),
    ("$recursiveRef", "use \"$ref\" with a path: \"#/$defs/NAME\""),
    ("$vocabulary", "remove it"),
    ("contains", "say what all items are with \"items\""),
    ("dependencies", "write the cases as \"anyOf\""),
    ("dependentRequired", "write the cases as \"anyOf\""),
    ("dependentSchemas", "write the cases as \"anyOf\""),
    ("else", "write the cases as \"anyOf\""),
    ("id", "remove it, or write \"$id\""),
    ("if", "write the cases as \"anyOf\""),
    ("maxContains", "use \"maxItems\""),
    ("minContains", "use \"minItems\""),
    ("not", "say what is allowed instead"),
    ("propertyNames", "use \"patternProperties\" with \"additionalProperties\": false"),
    ("then", "write the cases as \"anyOf\""),
    ("unevaluatedItems", "use \"items\": false"),
    ("uniqueItems", "check it afterwards, and remove it"),
    ("x-guidance", "remove it"),
];

pub(super) fn is_annotation(key: &str) -> bool {
    ANNOTATIONS.contains(&key)
}

/// Whether JSON Schema knows a key.
pub(super) fn is_keyword(key: &str) -> bool {
    is_annotation(key) || ENFORCED.contains(&key) || REFUSED.iter().any(|(name, _)| *name == key)
}

/// A JSON pointer, one step on.
pub(super) fn pointer(path: &str, step: &str) -> String {
    format!("{path}/{}", step.replace('~', "~0").replace('/', "~1"))
}

/// The type that a keyword speaks of.
pub(super) fn type_of_keyword(key: &str) -> Option<&'static str> {
    Some(match key {
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => "number",
        "minLength" | "maxLength" | "pattern" | "format" => "string",
        "items" | "prefixItems" | "additionalItems" | "minItems" | "maxItems" => "array",
        "properties"
        | "patternProperties"
        | "additionalProperties"
        | "required"
        | "minProperties"
        | "maxProperties"
        | "unevaluatedProperties" => "object",
        _ => return None,
    })
}

/// Whether a schema speaks of strings.
pub(super) fn names_string(keys: &Map<String, Value>) -> bool {
    match keys.get("type") {
        Some(Value::Array(types)) => types.iter().any(|name| name == "string"),
        Some(name) => name == "string",
        None => true,
    }
}

/// The text of a fragment of a URI.
pub(super) fn percent_decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
