//! What the keywords of single types say.

use llguidance::derivre::{RegexAst, RegexBuilder};
use serde_json::{Map, Value};

use super::merge::intersect;
use super::node::{Additional, Array, Bound, Node, Number, Object, Text};
use super::read::{Read, Reader};
use super::words::{
    FORMATS, MAX_COUNT, MAX_ENUM, MAX_LENGTH, names_string, pointer, type_of_keyword,
};
use crate::GrammarError;

impl Reader<'_> {
    /// What the keywords but those that combine schemas say.
    pub(super) fn own(&mut self, keys: &Map<String, Value>, path: &str) -> Read<Node> {
        for keyword in ["$defs", "definitions"] {
            let Some(Value::Object(definitions)) = keys.get(keyword) else { continue };
            for name in definitions.keys() {
                let at = pointer(&pointer(path, keyword), name);
                self.define(&at, &at)?;
            }
        }
        let types = self.types(keys, path)?;
        let mut options = Vec::new();
        for name in &types {
            options.push(self.typed(name, keys, path)?);
        }
        let mut node = if types.is_empty() { Node::Any } else { Node::any_of(options) };
        self.check(&node, path)?;
        for keyword in ["enum", "const"] {
            let Some(value) = keys.get(keyword) else { continue };
            let at = pointer(path, keyword);
            let values = match keyword {
                "const" => vec![value.clone()],
                _ => self.list(value, &at)?.to_vec(),
            };
            if values.len() > MAX_ENUM {
                let message = format!("{}{at}: more than {MAX_ENUM} values", self.prefix);
                return Err(GrammarError::TooLarge(message));
            }
            for value in &values {
                self.constant(value, &at)?;
            }
            let merged = intersect(self, &node, &Node::any_of(vec![Node::Enum(values)]));
            node = merged.map_err(|reason| self.refuse(&at, reason))?;
        }
        Ok(node)
    }

    /// The types that a schema speaks of.
    fn types(&self, keys: &Map<String, Value>, path: &str) -> Read<Vec<&'static str>> {
        const TYPES: [&str; 7] =
            ["null", "boolean", "integer", "number", "string", "array", "object"];
        let at = pointer(path, "type");
        let known = |value: &Value| {
            let found = value.as_str().and_then(|name| TYPES.into_iter().find(|t| *t == name));
            found.ok_or_else(|| {
                self.refuse(&at, format!("{value} is no type: {}", TYPES.join(", ")))
            })
        };
        let said = match keys.get("type") {
            Some(Value::Array(types)) if types.is_empty() => {
                return Err(self.refuse(&at, "there has to be a type"));
            }
            Some(Value::Array(types)) => types.iter().map(known).collect::<Read<Vec<_>>>()?,
            Some(one) => vec![known(one)?],
            None => Vec::new(),
        };
        if !said.is_empty() {
            self.check_applies(keys, &said, path)?;
            return Ok(said);
        }
        let mut implied = Vec::new();
        for name in ["number", "string", "array", "object"] {
            if keys.keys().any(|key| type_of_keyword(key) == Some(name)) {
                implied.push(name);
            }
        }
        Ok(implied)
    }

    /// Refuses keywords that speak of none of the types.
    fn check_applies(&self, keys: &Map<String, Value>, types: &[&str], path: &str) -> Read<()> {
        let number = types.iter().any(|name| ["integer", "number"].contains(name));
        for key in keys.keys() {
            let Some(name) = type_of_keyword(key) else { continue };
            let number_format = key == "format" && number && !types.contains(&"string");
            if types.contains(&name) || name == "number" && number || number_format {
                continue;
            }
            let reason = format!("`{key}` says nothing about the type {}", types.join(", "));
            return Err(self.refuse(&pointer(path, key), reason));
        }
        Ok(())
    }

    fn typed(&mut self, name: &str, keys: &Map<String, Value>, path: &str) -> Read<Node> {
        Ok(match name {
            "null" => Node::Null,
            "boolean" => Node::Boolean,
            "integer" => self.number(keys, true, path)?,
            "number" => self.number(keys, false, path)?,
            "string" => self.text(keys, path)?,
            "array" => self.array(keys, path)?,
            _ => self.object(keys, path)?,
        })
    }

    fn number(&mut self, keys: &Map<String, Value>, integer: bool, path: &str) -> Read<Node> {
        let mut number = Number { integer, ..Number::default() };
        (number.min, number.max) = self.bounds(keys, path)?;
        if let Some(value) = keys.get("multipleOf") {
            let at = pointer(path, "multipleOf");
            let step = value.as_f64().filter(|step| *step > 0.0);
            let step = step.ok_or_else(|| self.refuse(&at, "it has to be a number above 0"))?;
            // llguidance counts in 32 bits, of digits without the point.
            let digits = format!("{step}").replace('.', "");
            if !(1e-9..=1e9).contains(&step) || digits.trim_start_matches('0').len() > 9 {
                return Err(self.refuse(&at, "it may have nine digits"));
            }
            number.multiple_of.push(step);
        }
        if let Some(format) = keys.get("format").filter(|_| !names_string(keys)) {
            let at = pointer(path, "format");
            let (low, high) = match format.as_str() {
                Some("int32") => (-2_147_483_648.0, 2_147_483_647.0),
                Some("int64") => (-1e18, 1e18),
                Some("float" | "double") => return Ok(Node::Number(number)),
                _ => {
                    return Err(
                        self.refuse(&at, format!("{format} is no format of numbers that is known"))
                    );
                }
            };
            let within = |value| Some(Bound { value, exclusive: false });
            let limits =
                Number { integer, min: within(low), max: within(high), multiple_of: vec![] };
            return intersect(self, &Node::Number(number), &Node::Number(limits))
                .map_err(|reason| self.refuse(&at, reason));
        }
        Ok(match number.contradiction() {
            Some(reason) => Node::never(reason),
            None => Node::Number(number),
        })
    }

    /// The least and the greatest number.
    fn bounds(
        &self,
        keys: &Map<String, Value>,
        path: &str,
    ) -> Read<(Option<Bound>, Option<Bound>)> {
        let mut ends = [None, None];
        let names = [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")];
        for (end, (inclusive, exclusive)) in ends.iter_mut().zip(names) {
            if let Some(value) = keys.get(inclusive) {
                *end = Some(Bound {
                    value: self.finite(value, &pointer(path, inclusive))?,
                    exclusive: false,
                });
            }
            match (keys.get(exclusive), end.as_mut()) {
                (None | Some(Value::Bool(false)), _) => {}
                // As draft 4 has it.
                (Some(Value::Bool(true)), Some(end)) => end.exclusive = true,
                (Some(value), _) => {
                    let value = self.finite(value, &pointer(path, exclusive))?;
                    let beats = end.is_none_or(|end: Bound| {
                        if inclusive == "minimum" { value >= end.value } else { value <= end.value }
                    });
                    if beats {
                        *end = Some(Bound { value, exclusive: true });
                    }
                }
            }
        }
        Ok((ends[0], ends[1]))
    }

    fn finite(&self, value: &Value, at: &str) -> Read<f64> {
        // Beyond this neither doubles nor llguidance's integers are exact.
        match value.as_f64() {
            Some(number) if number.abs() <= 1e18 => Ok(number),
            Some(_) => Err(self.refuse(at, "it may be 10^18 at most")),
            None => Err(self.refuse(at, "it has to be a number")),
        }
    }

    fn text(&mut self, keys: &Map<String, Value>, path: &str) -> Read<Node> {
        let mut text = Text {
            min: self.count(keys, "minLength", path)?.unwrap_or(0),
            max: self.count(keys, "maxLength", path)?,
            ..Text::default()
        };
        if text.min > MAX_LENGTH {
            let at = pointer(path, "minLength");
            let message = format!("{}{at}: it may be {MAX_LENGTH} at most", self.prefix);
            return Err(GrammarError::TooLarge(message));
        }
        text.max = text.max.map(|max| max.min(MAX_LENGTH));
        if let Some(pattern) = keys.get("pattern") {
            let at = pointer(path, "pattern");
            let pattern =
                pattern.as_str().ok_or_else(|| self.refuse(&at, "it has to be a text"))?;
            self.regex(pattern, &at)?;
            text.patterns.push(pattern.into());
        }
        if let Some(format) = keys.get("format") {
            let known = FORMATS.iter().find(|name| format.as_str() == Some(name));
            text.formats.push(known.ok_or_else(|| {
                let known = FORMATS.join(", ");
                self.refuse(
                    &pointer(path, "format"),
                    format!("{format} is not enforced; these are: {known}"),
                )
            })?);
        }
        Ok(match text.contradiction() {
            Some(reason) => Node::never(reason),
            None => Node::String(text),
        })
    }

    /// Refuses a regular expression that llguidance does not know.
    fn regex(&self, pattern: &str, at: &str) -> Read<()> {
        let ast = RegexAst::SearchRegex(llguidance::regex_to_lark(pattern, "dw"));
        let made = crate::failure::quiet("the pattern", || {
            RegexBuilder::new().mk(&ast).map(|_| ()).map_err(|e| e.to_string())
        });
        made.map_err(|error| match error {
            GrammarError::Failed(reason) => self.refuse(at, reason),
            error => error,
        })
    }

    fn array(&mut self, keys: &Map<String, Value>, path: &str) -> Read<Node> {
        let mut array = Array {
            min: self.count(keys, "minItems", path)?.unwrap_or(0),
            max: self.count(keys, "maxItems", path)?,
            ..Array::default()
        };
        // Until 2019 `items` could be a list, with `additionalItems` after it.
        let old = matches!(keys.get("items"), Some(Value::Array(_)));
        let (prefix, items) =
            if old { ("items", "additionalItems") } else { ("prefixItems", "items") };
        if !old && keys.contains_key("additionalItems") {
            let at = pointer(path, "additionalItems");
            return Err(self.refuse(&at, "it says nothing without a list of `items`"));
        }
        if old && keys.contains_key("prefixItems") {
            let at = pointer(path, "items");
            return Err(self.refuse(&at, "beside `prefixItems` it has to be a schema"));
        }
        if let Some(schemas) = keys.get(prefix) {
            let at = pointer(path, prefix);
            for (index, schema) in self.list(schemas, &at)?.iter().enumerate() {
                array.prefix.push(self.schema(schema, &pointer(&at, &index.to_string()))?);
            }
        }
        if let Some(schema) = keys.get(items) {
            array.items = Some(Box::new(self.schema(schema, &pointer(path, items))?));
        }
        Ok(match array.contradiction() {
            Some(reason) => Node::never(reason),
            None => Node::Array(array),
        })
    }

    fn object(&mut self, keys: &Map<String, Value>, path: &str) -> Read<Node> {
        let mut object = Object {
            min: self.count(keys, "minProperties", path)?.unwrap_or(0),
            max: self.count(keys, "maxProperties", path)?,
            at: format!("{}{path}", self.prefix),
            ..Object::default()
        };
        for keyword in ["properties", "patternProperties"] {
            let Some(schemas) = keys.get(keyword) else { continue };
            let at = pointer(path, keyword);
            let Value::Object(schemas) = schemas else {
                return Err(self.refuse(&at, "it has to be an object of schemas"));
            };
            for (name, schema) in schemas {
                let at = pointer(&at, name);
                let node = self.schema(schema, &at)?;
                if keyword == "properties" {
                    object.properties.push((name.clone(), node));
                } else {
                    self.regex(name, &at)?;
                    object.patterns.push((name.clone(), node));
                }
            }
        }
        if let Some(names) = keys.get("required") {
            let at = pointer(path, "required");
            let Value::Array(names) = names else {
                return Err(self.refuse(&at, "it has to be a list of names"));
            };
            for name in names {
                let name = name.as_str();
                let name = name.ok_or_else(|| self.refuse(&at, "it has to be a list of names"))?;
                if !object.requires(name) {
                    object.required.push(name.into());
                }
            }
        }
        if let Some(schema) = keys.get("additionalProperties") {
            let node = self.schema(schema, &pointer(path, "additionalProperties"))?;
            object.additional = match node {
                Node::Never(_) => Additional::None,
                node => Additional::Of(Box::new(node)),
            };
        }
        Ok(match object.contradiction() {
            Some(reason) => Node::never(reason),
            None => Node::Object(object),
        })
    }

    /// Refuses a constant that cannot be written.
    fn constant(&self, value: &Value, at: &str) -> Read<()> {
        match value {
            Value::String(text) => {
                // These would need `\u` escapes.
                let unwritable = |c: char| {
                    c < ' ' && !['\n', '\r', '\t', '\u{8}', '\u{c}'].contains(&c) || c == '\u{7f}'
                };
                if text.chars().any(unwritable) {
                    return Err(self.refuse(at, format!("{value} has control characters")));
                }
                Ok(())
            }
            Value::Number(number) => {
                let exact = match number.as_f64() {
                    Some(n) if n.fract() == 0.0 => n.abs() <= 9_007_199_254_740_992.0,
                    Some(n) => n.abs() >= 1e-6,
                    None => false,
                };
                if exact {
                    Ok(())
                } else {
                    Err(self.refuse(at, format!("{value} is beyond what is exact")))
                }
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.constant(item, at)),
            Value::Object(fields) => fields.values().try_for_each(|field| self.constant(field, at)),
            Value::Null | Value::Bool(_) => Ok(()),
        }
    }

    pub(super) fn list<'v>(&self, value: &'v Value, at: &str) -> Read<&'v [Value]> {
        match value {
            Value::Array(list) if !list.is_empty() => Ok(list),
            _ => Err(self.refuse(at, "it has to be a list with something in it")),
        }
    }

    fn count(&self, keys: &Map<String, Value>, key: &str, path: &str) -> Read<Option<usize>> {
        let Some(value) = keys.get(key) else { return Ok(None) };
        // `2.0` is an integer too.
        let whole = value.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0);
        let at = pointer(path, key);
        let whole =
            whole.ok_or_else(|| self.refuse(&at, "it has to be a whole number, 0 or more"))?;
        if whole > MAX_COUNT as f64 {
            return Err(GrammarError::TooLarge(format!(
                "{}{at}: it may be {MAX_COUNT} at most",
                self.prefix
            )));
        }
        Ok(Some(whole as usize))
    }
}
