//! Nodes, as the schema that llguidance is given.

use serde_json::{Map, Value, json};

use super::node::{Additional, Array, Bound, Node, Number, Object, Text};
use super::words::MAX_LENGTHS;
use crate::GrammarError;

/// Nodes of a prepared schema.
const MAX_NODES: usize = 20_000;

/// Bounds of numbers that no schema states: what a double or 64 bits hold exactly enough.
const MAX_INTEGER: f64 = 1e18;
const MAX_NUMBER: f64 = 1e15;

/// Years from 1000 to 2999, months, and days that exist.
const DATE: &str = concat!(
    "(?:[12][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)",
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))",
    "|(?:[12][0-9](?:0[48]|[2468][048]|[13579][26])|(?:1[26]|2[048])00)-02-29)"
);
const TIME: &str = concat!(
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?",
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
);

struct Writer {
    open: bool,
    nodes: usize,
    /// Least and greatest lengths of texts, those that are the same once.
    lengths: Vec<(usize, Option<usize>)>,
}

/// Writes a root and its definitions.
pub(super) fn schema(root: &Node, definitions: &[Node], open: bool) -> Result<Value, GrammarError> {
    let mut writer = Writer { open, nodes: 0, lengths: Vec::new() };
    let mut named = Map::new();
    for (index, definition) in definitions.iter().enumerate() {
        named.insert(index.to_string(), writer.node(definition)?);
    }
    let mut schema = match writer.node(root)? {
        Value::Object(schema) => schema,
        other => Map::from_iter([("allOf".to_owned(), json!([other]))]),
    };
    named.insert("any".into(), anything());
    schema.insert("$defs".into(), Value::Object(named));
    Ok(Value::Object(schema))
}

impl Writer {
    fn node(&mut self, node: &Node) -> Result<Value, GrammarError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the merged schema has more than {MAX_NODES} parts");
            return Err(GrammarError::TooLarge(message));
        }
        Ok(match node {
            Node::Any => any(),
            Node::Never(_) => Value::Bool(false),
            Node::Null => json!({"type": "null"}),
            Node::Boolean => json!({"type": "boolean"}),
            Node::Number(number) => self::number(number),
            Node::String(text) => {
                self.count_lengths(text)?;
                self::text(text)
            }
            Node::Array(array) => self.array(array)?,
            Node::Object(object) => self.object(object)?,
            Node::Enum(values) => json!({"enum": values}),
            Node::AnyOf(options) => {
                let options = options.iter().map(|option| self.node(option));
                json!({"anyOf": options.collect::<Result<Vec<_>, _>>()?})
            }
            Node::Ref(index) => json!({"$ref": format!("#/$defs/{index}")}),
        })
    }

    fn count_lengths(&mut self, text: &Text) -> Result<(), GrammarError> {
        if !self.lengths.contains(&(text.min, text.max)) {
            self.lengths.push((text.min, text.max));
        }
        let sum: usize = self.lengths.iter().map(|(min, max)| max.unwrap_or(*min)).sum();
        if sum > MAX_LENGTHS {
            let message = format!(
                "the lengths of texts, each counted once, come to {sum}, of at most {MAX_LENGTHS}: give more texts the same \
                 `maxLength`, or none"
            );
            return Err(GrammarError::TooLarge(message));
        }
        Ok(())
    }

    fn array(&mut self, array: &Array) -> Result<Value, GrammarError> {
        let mut schema = json!({"type": "array"});
        if !array.prefix.is_empty() {
            let prefix = array.prefix.iter().map(|item| self.node(item));
            schema["prefixItems"] = prefix.collect::<Result<Vec<_>, _>>()?.into();
        }
        schema["items"] = match &array.items {
            Some(items) => self.node(items)?,
            None => any(),
        };
        if array.min > 0 {
            schema["minItems"] = array.min.into();
        }
        if let Some(max) = array.max {
            schema["maxItems"] = max.into();
        }
        Ok(schema)
    }

    fn object(&mut self, object: &Object) -> Result<Value, GrammarError> {
        let mut properties = Map::new();
        for (name, node) in &object.properties {
            properties.insert(name.clone(), self.node(node)?);
        }
        let others = match &object.additional {
            Additional::Of(node) => self.node(node)?,
            _ if object.is_open(self.open) => any(),
            _ => Value::Bool(false),
        };
        // What is required is named by that.
        for name in &object.required {
            if !properties.contains_key(name) && object.patterns.is_empty() {
                let node = match &object.additional {
                    Additional::Unsaid => any(),
                    _ => others.clone(),
                };
                properties.insert(name.clone(), node);
            }
        }
        let closed = others == Value::Bool(false) && object.patterns.is_empty();
        let (min, max) = self.counts(object, &mut properties, closed)?;
        let mut schema = json!({"type": "object"});
        schema["properties"] = properties.into();
        if !object.patterns.is_empty() {
            let mut patterns = Map::new();
            for (pattern, node) in &object.patterns {
                patterns.insert(pattern.clone(), self.node(node)?);
            }
            schema["patternProperties"] = patterns.into();
        }
        schema["required"] = object.required.clone().into();
        schema["additionalProperties"] = others;
        if let Some(min) = min {
            schema["minProperties"] = min.into();
        }
        if let Some(max) = max {
            schema["maxProperties"] = max.into();
        }
        Ok(schema)
    }

    /// `minProperties` and `maxProperties`, where they say something. Names that are left open may come twice, so only the
    /// first of them is sure to count.
    fn counts(
        &self,
        object: &Object,
        properties: &mut Map<String, Value>,
        closed: bool,
    ) -> Result<(Option<usize>, Option<usize>), GrammarError> {
        let refuse = |key: &str, reason: &str| {
            let path = format!("{}/{key}", object.at);
            Err(GrammarError::Schema { path, reason: reason.into() })
        };
        let required = object.required.len();
        let possible = |value: &Value| *value != Value::Bool(false);
        let optional = properties
            .iter()
            .filter(|(name, value)| possible(value) && !object.requires(name))
            .count();
        let min = Some(object.min).filter(|&min| min > required);
        let max = object.max.filter(|&max| !closed || max < required + optional);
        if closed && min.is_some_and(|min| min > required + optional) {
            return refuse("minProperties", "the object does not name as many properties");
        }
        if max == Some(required) && closed && min.is_none() {
            properties.retain(|name, _| object.requires(name));
            return Ok((None, None));
        }
        if optional == 0 {
            return match min {
                Some(min) if min > required + 1 => refuse(
                    "minProperties",
                    "more than one property without a name cannot be guaranteed to differ",
                ),
                _ => Ok((min, max)),
            };
        }
        // What llguidance has beyond that: at most one, at least one, or exactly one of closed properties.
        let one = |count: Option<usize>| count.is_none_or(|count| count == required + 1);
        if closed && one(min) && one(max) {
            return Ok((min, max));
        }
        let reason = "with optional properties it may ask for one of them, in an object that is closed: list them as \
                      `required`, or write the cases as `anyOf`";
        match (min, max) {
            (Some(_), _) => refuse("minProperties", reason),
            (None, Some(_)) => refuse("maxProperties", reason),
            (None, None) => Ok((None, None)),
        }
    }
}

/// Any value, its numbers bounded.
fn any() -> Value {
    json!({"$ref": "#/$defs/any"})
}

/// The definition of any value.
fn anything() -> Value {
    json!({"anyOf": [
        {"type": "null"},
        {"type": "boolean"},
        number(&Number::default()),
        {"type": "string"},
        {"type": "array", "items": any()},
        {"type": "object", "additionalProperties": any()},
    ]})
}

fn number(number: &Number) -> Value {
    let limit = if number.integer { MAX_INTEGER } else { MAX_NUMBER };
    let or_limit = |bound: Option<Bound>, limit: f64, other: Option<Bound>| {
        // A range that lies beyond the limit altogether has an end of its own.
        let beyond = other.is_some_and(|other| other.value.abs() >= limit.abs());
        bound.unwrap_or(Bound {
            value: if beyond { limit * 1000.0 } else { limit },
            exclusive: false,
        })
    };
    let min = or_limit(number.min, -limit, number.max);
    let max = or_limit(number.max, limit, number.min);
    let mut schema = json!({"type": if number.integer { "integer" } else { "number" }});
    schema[if min.exclusive { "exclusiveMinimum" } else { "minimum" }] = plain(min.value);
    schema[if max.exclusive { "exclusiveMaximum" } else { "maximum" }] = plain(max.value);
    match &number.multiple_of[..] {
        [] => {}
        [step] => schema["multipleOf"] = plain(*step),
        steps => {
            let steps =
                steps.iter().map(|step| json!({"type": "number", "multipleOf": plain(*step)}));
            schema["allOf"] = steps.collect::<Vec<_>>().into();
        }
    }
    schema
}

fn plain(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e18 { (value as i64).into() } else { value.into() }
}

fn text(text: &Text) -> Value {
    let mut schema = json!({"type": "string"});
    if text.min > 0 {
        schema["minLength"] = text.min.into();
    }
    if let Some(max) = text.max {
        schema["maxLength"] = max.into();
    }
    let mut more = Vec::new();
    for pattern in &text.patterns {
        more.push(json!({"type": "string", "pattern": pattern}));
    }
    for format in &text.formats {
        more.push(match *format {
            "date" => json!({"type": "string", "pattern": format!("^{DATE}$")}),
            "date-time" => json!({"type": "string", "pattern": format!("^{DATE}T{TIME}$")}),
            "time" => json!({"type": "string", "pattern": format!("^{TIME}$")}),
            format => json!({"type": "string", "format": format}),
        });
    }
    if !more.is_empty() {
        schema["allOf"] = more.into();
    }
    schema
}
