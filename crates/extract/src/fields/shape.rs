//! What is wanted, as a schema in which every value may be `null`.

use serde_json::{Map, Value, json};

use super::Fields;

/// Most names in a list of fields.
const MAX_NAMES: usize = 200;

/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 64;

/// Fields that make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// A name in a list.
    #[error(
        "fields: `{0}` is no field: write a name, or NAME:TYPE with string, number, integer, boolean or date"
    )]
    Name(String),
    /// A name that stands twice, or too many, or none.
    #[error("fields: {0}")]
    List(String),
    /// A schema that is no object's.
    #[error(
        "schema: the fields of a document are an object's: write \"type\": \"object\" with \"properties\""
    )]
    NoObject,
    /// A schema that nests deeper than is read.
    #[error("schema: nests deeper than {MAX_DEPTH}")]
    Deep,
}

impl Fields {
    /// From a list of names, as `number,date:date,total:number`; without a type a field is a text.
    ///
    /// # Errors
    /// Names the field.
    pub fn from_names(names: &[&str]) -> Result<Self, FieldsError> {
        let mut properties = Map::new();
        for entry in names {
            let entry = entry.trim();
            let wrong = || FieldsError::Name(entry.to_owned());
            let (name, kind) = entry.split_once(':').unwrap_or((entry, "string"));
            let schema = match kind.trim() {
                "date" => json!({"type": "string", "format": "date"}),
                kind @ ("string" | "number" | "integer" | "boolean") => json!({"type": kind}),
                _ => return Err(wrong()),
            };
            let name = name.trim();
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err(wrong());
            }
            if properties.insert(name.to_owned(), schema).is_some() {
                return Err(FieldsError::List(format!("`{name}` stands twice")));
            }
        }
        if properties.is_empty() || properties.len() > MAX_NAMES {
            let count = properties.len();
            return Err(FieldsError::List(format!(
                "{count} names; at least 1, at most {MAX_NAMES}"
            )));
        }
        Fields::from_schema(json!({"type": "object", "properties": properties}))
    }

    /// From a JSON Schema of an object. Every value in it may be `null` afterwards, and every property is there; lists may
    /// be empty, whatever `minItems` says: what a document does not hold must not be made up.
    ///
    /// # Errors
    /// For the schema of something else, or one that nests too deep. Keywords are judged where the schema is compiled.
    pub fn from_schema(schema: Value) -> Result<Self, FieldsError> {
        let is_object = schema.get("type").is_some_and(|kind| kind == "object")
            || ["properties", "$ref", "allOf"].iter().any(|key| schema.get(key).is_some());
        if !is_object {
            return Err(FieldsError::NoObject);
        }
        let mut schema = schema;
        relax(&mut schema, false, 0)?;
        Ok(Fields { schema })
    }

    /// What the answer fits.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// Whether the schema offers this value at a place as one of some, or as yes or no. `path` holds the keys to it, `None`
    /// for an item of a list.
    pub(super) fn offers(&self, path: &[Option<&str>], value: &Value) -> bool {
        let mut nodes = self.expand(vec![&self.schema]);
        for step in path {
            let below = nodes.iter().filter_map(|node| match step {
                Some(key) => node
                    .get("properties")
                    .and_then(|p| p.get(*key))
                    .or(node.get("additionalProperties")),
                None => node.get("items"),
            });
            nodes = self.expand(below.collect());
        }
        nodes.iter().any(|node| {
            let listed =
                node.get("enum").and_then(Value::as_array).is_some_and(|all| all.contains(value));
            listed || node.get("const") == Some(value) || value.is_boolean()
        })
    }

    /// These schemas and those that they refer to or choose between.
    fn expand<'a>(&'a self, mut nodes: Vec<&'a Value>) -> Vec<&'a Value> {
        let mut at = 0;
        while let Some(node) = nodes.get(at).copied() {
            at += 1;
            let mut more: Vec<&Value> = Vec::new();
            for key in ["anyOf", "oneOf", "allOf"] {
                more.extend(node.get(key).and_then(Value::as_array).into_iter().flatten());
            }
            let target =
                node.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
            more.extend(target.and_then(|pointer| self.schema.pointer(pointer)));
            for node in more {
                // Schemas may refer to themselves.
                if !nodes.iter().any(|known| std::ptr::eq(*known, node)) {
                    nodes.push(node);
                }
            }
        }
        nodes
    }
}

/// Lets every leaf be `null`; this one as well if `here`.
fn relax(node: &mut Value, here: bool, depth: usize) -> Result<(), FieldsError> {
    if depth > MAX_DEPTH {
        return Err(FieldsError::Deep);
    }
    let Value::Object(schema) = node else { return Ok(()) };
    for key in ["$defs", "definitions"] {
        if let Some(Value::Object(definitions)) = schema.get_mut(key) {
            for definition in definitions.values_mut() {
                relax(definition, true, depth + 1)?;
            }
        }
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(Value::Array(choices)) = schema.get_mut(key) {
            for choice in choices.iter_mut() {
                relax(choice, false, depth + 1)?;
            }
            if here && !choices.iter().any(allows_null) {
                choices.push(json!({"type": "null"}));
            }
            return Ok(());
        }
    }
    if let Some(Value::Array(all)) = schema.get_mut("allOf") {
        for part in all {
            relax(part, here, depth + 1)?;
        }
    }
    schema.remove("minItems");
    if let Some(items) = schema.get_mut("items") {
        relax(items, false, depth + 1)?;
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        let mut required = Vec::new();
        for (name, property) in properties.iter_mut() {
            relax(property, true, depth + 1)?;
            // What refers to itself may have no end.
            if property.get("$ref").is_none() {
                required.push(Value::from(name.as_str()));
            }
        }
        schema.insert("required".into(), required.into());
    }
    if let Some(additional @ Value::Object(_)) = schema.get_mut("additionalProperties") {
        relax(additional, true, depth + 1)?;
    }
    if here {
        admit_null(schema);
    }
    Ok(())
}

/// Lets a leaf be `null`. Objects and lists stay: they hold nulls, or nothing.
fn admit_null(schema: &mut Map<String, Value>) {
    if let Some(kind) = schema.get_mut("type") {
        let kinds = match &*kind {
            Value::Array(kinds) => kinds.clone(),
            one => vec![one.clone()],
        };
        if kinds.iter().any(|kind| kind == "object" || kind == "array") {
            return;
        }
        if !kinds.contains(&"null".into()) {
            *kind = kinds.into_iter().chain(["null".into()]).collect();
        }
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
}

fn allows_null(schema: &Value) -> bool {
    match schema.get("type") {
        Some(Value::String(kind)) => kind == "null",
        Some(Value::Array(kinds)) => kinds.contains(&"null".into()),
        _ => schema
            .get("enum")
            .and_then(Value::as_array)
            .is_some_and(|all| all.contains(&Value::Null)),
    }
}
