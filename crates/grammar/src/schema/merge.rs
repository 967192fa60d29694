//! What two schemas allow both, and whether two can allow the same.

use serde_json::Value;

use super::node::{Additional, Array, Bound, Node, Number, Object, Text};
use super::read::Reader;

/// Why a merge is refused.
pub(super) type Refusal = String;

/// What both allow.
pub(super) fn intersect(reader: &mut Reader<'_>, a: &Node, b: &Node) -> Result<Node, Refusal> {
    reader.count_merge()?;
    Ok(match (a, b) {
        (Node::Any, other) | (other, Node::Any) => other.clone(),
        (Node::Never(reason), _) | (_, Node::Never(reason)) => Node::Never(reason.clone()),
        (Node::Ref(i), Node::Ref(j)) if i == j => Node::Ref(*i),
        (Node::Ref(index), other) => {
            let resolved = reader.resolve(*index)?;
            intersect(reader, &resolved, other)?
        }
        (other, Node::Ref(index)) => {
            let resolved = reader.resolve(*index)?;
            intersect(reader, other, &resolved)?
        }
        (Node::AnyOf(options), other) => {
            let each = options.iter().map(|option| intersect(reader, option, other));
            Node::any_of(each.collect::<Result<_, _>>()?)
        }
        (other, Node::AnyOf(options)) => {
            let each = options.iter().map(|option| intersect(reader, other, option));
            Node::any_of(each.collect::<Result<_, _>>()?)
        }
        (Node::Enum(values), other) | (other, Node::Enum(values)) => {
            let mut kept = Vec::new();
            for value in values {
                if fits(reader, value, other)? {
                    kept.push(value.clone());
                }
            }
            if kept.is_empty() { Node::never("none of its values fits") } else { Node::Enum(kept) }
        }
        (Node::Null, Node::Null) => Node::Null,
        (Node::Boolean, Node::Boolean) => Node::Boolean,
        (Node::Number(a), Node::Number(b)) => number(a, b),
        (Node::String(a), Node::String(b)) => text(a, b),
        (Node::Array(a), Node::Array(b)) => array(reader, a, b)?,
        (Node::Object(a), Node::Object(b)) => object(reader, a, b)?,
        _ => Node::never("no value has both types"),
    })
}

fn number(a: &Number, b: &Number) -> Node {
    let mut multiple_of = a.multiple_of.clone();
    multiple_of.extend(b.multiple_of.iter().filter(|m| !a.multiple_of.contains(m)));
    let merged = Number {
        integer: a.integer || b.integer,
        min: tighter(a.min, b.min, |a, b| a > b),
        max: tighter(a.max, b.max, |a, b| a < b),
        multiple_of,
    };
    match merged.contradiction() {
        Some(reason) => Node::never(reason),
        None => Node::Number(merged),
    }
}

fn tighter(a: Option<Bound>, b: Option<Bound>, beats: fn(f64, f64) -> bool) -> Option<Bound> {
    match (a, b) {
        (Some(a), Some(b)) if a.value == b.value => {
            Some(Bound { value: a.value, exclusive: a.exclusive || b.exclusive })
        }
        (Some(a), Some(b)) => Some(if beats(a.value, b.value) { a } else { b }),
        (a, b) => a.or(b),
    }
}

fn lower(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn text(a: &Text, b: &Text) -> Node {
    let mut merged = a.clone();
    merged.min = a.min.max(b.min);
    merged.max = lower(a.max, b.max);
    merged.patterns.extend(b.patterns.iter().filter(|p| !a.patterns.contains(p)).cloned());
    merged.formats.extend(b.formats.iter().filter(|f| !a.formats.contains(f)));
    match merged.contradiction() {
        Some(reason) => Node::never(reason),
        None => Node::String(merged),
    }
}

fn array(reader: &mut Reader<'_>, a: &Array, b: &Array) -> Result<Node, Refusal> {
    let mut prefix = Vec::new();
    for at in 0..a.prefix.len().max(b.prefix.len()) {
        prefix.push(intersect(reader, a.item(at), b.item(at))?);
    }
    let items = match (&a.items, &b.items) {
        (Some(a), Some(b)) => Some(Box::new(intersect(reader, a, b)?)),
        (a, b) => a.clone().or(b.clone()),
    };
    let merged = Array { prefix, items, min: a.min.max(b.min), max: lower(a.max, b.max) };
    Ok(match merged.contradiction() {
        Some(reason) => Node::never(reason),
        None => Node::Array(merged),
    })
}

fn object(reader: &mut Reader<'_>, a: &Object, b: &Object) -> Result<Node, Refusal> {
    if !(a.patterns.is_empty() && b.patterns.is_empty()) && a.patterns != b.patterns {
        return Err("`patternProperties` cannot be merged with another schema".into());
    }
    let mut properties = Vec::new();
    for (name, node) in &a.properties {
        properties.push((name.clone(), intersect(reader, node, &b.value_of(name))?));
    }
    for (name, node) in &b.properties {
        if a.property(name).is_none() {
            properties.push((name.clone(), intersect(reader, &a.value_of(name), node)?));
        }
    }
    let additional = match (&a.additional, &b.additional) {
        (Additional::Unsaid, other) | (other, Additional::Unsaid) => other.clone(),
        (Additional::None, _) | (_, Additional::None) => Additional::None,
        (Additional::Of(a), Additional::Of(b)) => {
            Additional::Of(Box::new(intersect(reader, a, b)?))
        }
    };
    let mut required = a.required.clone();
    required.extend(b.required.iter().filter(|name| !a.requires(name)).cloned());
    let merged = Object {
        at: a.at.clone(),
        properties,
        patterns: a.patterns.clone(),
        required,
        additional,
        min: a.min.max(b.min),
        max: lower(a.max, b.max),
    };
    Ok(match merged.contradiction() {
        Some(reason) => Node::never(reason),
        None => Node::Object(merged),
    })
}

impl Number {
    pub(super) fn contradiction(&self) -> Option<String> {
        let (Some(min), Some(max)) = (self.min, self.max) else { return None };
        let empty = if self.integer {
            min.first_integer(1.0) > max.first_integer(-1.0)
        } else {
            min.value > max.value || min.value == max.value && (min.exclusive || max.exclusive)
        };
        empty.then(|| "no number lies between `minimum` and `maximum`".into())
    }

    fn holds(&self, value: f64) -> bool {
        let above = |b: Bound| if b.exclusive { value > b.value } else { value >= b.value };
        let below = |b: Bound| if b.exclusive { value < b.value } else { value <= b.value };
        (!self.integer || value.fract() == 0.0)
            && self.min.is_none_or(above)
            && self.max.is_none_or(below)
            && self.multiple_of.iter().all(|m| {
                let times = value / m;
                (times - times.round()).abs() < 1e-9 * times.abs().max(1.0)
            })
    }
}

impl Bound {
    /// The integer nearest to the bound, within it; `step` points inwards.
    fn first_integer(self, step: f64) -> f64 {
        let nearest = if step > 0.0 { self.value.ceil() } else { self.value.floor() };
        if self.exclusive && nearest == self.value { nearest + step } else { nearest }
    }
}

impl Text {
    pub(super) fn contradiction(&self) -> Option<String> {
        self.max
            .is_some_and(|max| self.min > max)
            .then(|| "`minLength` is greater than `maxLength`".into())
    }
}

impl Array {
    /// What the item at an index has to be.
    fn item(&self, at: usize) -> &Node {
        const ANY: &Node = &Node::Any;
        self.prefix.get(at).or(self.items.as_deref()).unwrap_or(ANY)
    }

    pub(super) fn contradiction(&self) -> Option<String> {
        if self.max.is_some_and(|max| self.min > max) {
            return Some("`minItems` is greater than `maxItems`".into());
        }
        let impossible = (0..self.min.min(self.prefix.len() + 1))
            .find(|&at| matches!(self.item(at), Node::Never(_)))?;
        Some(format!("`minItems` asks for an item {impossible} that nothing fits"))
    }
}

impl Object {
    /// What the value of a property has to be, named or not. A name that is not known yet is free until the object is closed,
    /// which is after all merges.
    fn value_of(&self, name: &str) -> Node {
        match (self.property(name), &self.additional) {
            (Some(node), _) => node.clone(),
            (None, Additional::Unsaid) => Node::Any,
            (None, Additional::None) => Node::Never(None),
            (None, Additional::Of(node)) => (**node).clone(),
        }
    }

    pub(super) fn contradiction(&self) -> Option<String> {
        for name in &self.required {
            let by_pattern = self.property(name).is_none() && !self.patterns.is_empty();
            if !by_pattern && let Node::Never(reason) = self.value_of(name) {
                let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                return Some(format!("the required property {name:?} can have no value{why}"));
            }
        }
        let least = self.required.len().max(self.min);
        self.max
            .filter(|&max| max < least)
            .map(|max| format!("at least {least} properties are asked for, and at most {max}"))
    }
}

/// Whether a constant fits a schema.
fn fits(reader: &mut Reader<'_>, value: &Value, node: &Node) -> Result<bool, Refusal> {
    reader.count_merge()?;
    Ok(match (node, value) {
        (Node::Any, _) | (Node::Null, Value::Null) | (Node::Boolean, Value::Bool(_)) => true,
        (Node::Enum(values), _) => values.contains(value),
        (Node::AnyOf(options), _) => {
            for option in options {
                if fits(reader, value, option)? {
                    return Ok(true);
                }
            }
            false
        }
        (Node::Ref(index), _) => {
            let resolved = reader.look_up(*index)?;
            fits(reader, value, &resolved)?
        }
        (Node::Number(number), Value::Number(n)) => n.as_f64().is_some_and(|n| number.holds(n)),
        (Node::String(text), Value::String(s)) => {
            if !text.patterns.is_empty() || !text.formats.is_empty() {
                return Err("constants beside `pattern` or `format` are not supported".into());
            }
            let length = s.chars().count();
            length >= text.min && text.max.is_none_or(|max| length <= max)
        }
        (Node::Array(array), Value::Array(items)) => {
            for (at, item) in items.iter().enumerate() {
                if !fits(reader, item, &array.item(at).clone())? {
                    return Ok(false);
                }
            }
            items.len() >= array.min && array.max.is_none_or(|max| items.len() <= max)
        }
        (Node::Object(object), Value::Object(fields)) => {
            if !object.patterns.is_empty() {
                return Err("constants beside `patternProperties` are not supported".into());
            }
            for (name, field) in fields {
                if !fits(reader, field, &object.value_of(name))? {
                    return Ok(false);
                }
            }
            object.required.iter().all(|name| fields.contains_key(name))
                && fields.len() >= object.min
                && object.max.is_none_or(|max| fields.len() <= max)
        }
        _ => false,
    })
}

/// Whether an object, once closed, lacks something that another requires.
fn lacks(object: &Object, other: &Object) -> bool {
    let named = |name: &String| object.property(name).is_some() || object.requires(name);
    !object.is_open(false)
        && object.patterns.is_empty()
        && other.required.iter().any(|name| !named(name))
}

/// Whether no value fits both, as far as types, constants, ranges and required properties tell. `closed`: objects that say
/// nothing of other properties have none.
pub(super) fn are_disjoint(
    reader: &mut Reader<'_>,
    a: &Node,
    b: &Node,
    closed: bool,
    depth: usize,
) -> Result<bool, Refusal> {
    reader.count_merge()?;
    if depth > 8 {
        return Ok(false);
    }
    Ok(match (a, b) {
        (Node::Never(_), _) | (_, Node::Never(_)) => true,
        (Node::Any, _) | (_, Node::Any) => false,
        (Node::Ref(index), other) | (other, Node::Ref(index)) => {
            let resolved = reader.look_up(*index)?;
            are_disjoint(reader, &resolved, other, closed, depth + 1)?
        }
        (Node::AnyOf(options), other) | (other, Node::AnyOf(options)) => {
            for option in options {
                if !are_disjoint(reader, option, other, closed, depth + 1)? {
                    return Ok(false);
                }
            }
            true
        }
        (Node::Enum(values), other) | (other, Node::Enum(values)) => {
            for value in values {
                // A constant that cannot be judged may fit.
                if fits(reader, value, other).unwrap_or(true) {
                    return Ok(false);
                }
            }
            true
        }
        (Node::Number(a), Node::Number(b)) => matches!(number(a, b), Node::Never(_)),
        (Node::String(a), Node::String(b)) => matches!(text(a, b), Node::Never(_)),
        (Node::Object(a), Node::Object(b)) => {
            for name in a.required.iter().chain(&b.required) {
                let (a, b) = (a.value_of(name), b.value_of(name));
                if are_disjoint(reader, &a, &b, closed, depth + 1)? {
                    return Ok(true);
                }
            }
            // Each requires what the other, once closed, does not have.
            closed && lacks(a, b) && lacks(b, a)
        }
        (Node::Array(a), Node::Array(b)) => {
            a.max.is_some_and(|max| max < b.min) || b.max.is_some_and(|max| max < a.min)
        }
        (a, b) => std::mem::discriminant(a) != std::mem::discriminant(b),
    })
}
