//! Paths to fields: `totals.net`, `line_items[].amount`; alternatives with `|` between them.

use serde_json::Value;

/// A field, or several names of it, of which the first that is there counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Term {
    alternatives: Vec<Vec<Step>>,
    /// Subtracted where others are added: `-discount`.
    pub(super) is_negative: bool,
    /// Left out where it is not there: `shipping?`.
    pub(super) is_optional: bool,
    /// Taken as a percentage: `rate%`.
    pub(super) is_percent: bool,
    /// As it was written.
    pub(super) text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A property.
    Key(String),
    /// Every item of an array.
    Each,
}

/// A value at its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found<'a> {
    /// Path to it, as `line_items[2].amount`.
    pub(super) path: String,
    /// Indices on the way.
    pub(super) indices: Vec<usize>,
    pub(super) value: &'a Value,
}

impl Term {
    /// Reads `-discount|rebate?`.
    ///
    /// # Errors
    /// A name that is empty.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let rest = text.trim();
        let (is_negative, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (is_optional, rest) = match rest.strip_suffix('?') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (is_percent, rest) = match rest.strip_suffix('%') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let alternatives = rest.split('|').map(steps).collect::<Option<Vec<_>>>();
        let alternatives = alternatives.ok_or_else(|| {
            format!("`{text}` is no path: write `total`, `totals.net|net` or `line_items[].amount`")
        })?;
        Ok(Term { alternatives, is_negative, is_optional, is_percent, text: rest.to_owned() })
    }

    /// The values of the first alternative that is there and not null; else those of the first that is there as null.
    pub(super) fn find<'a>(&self, fields: &'a Value) -> Vec<Found<'a>> {
        let mut nulls = Vec::new();
        for steps in &self.alternatives {
            let mut found = Vec::new();
            walk(
                fields,
                steps,
                Found { path: String::new(), indices: Vec::new(), value: fields },
                &mut found,
            );
            if found.iter().any(|found| !found.value.is_null()) {
                return found;
            }
            if nulls.is_empty() {
                nulls = found;
            }
        }
        nulls
    }

    /// Whether any of its names is there, if only as `null`.
    pub(super) fn is_named(&self, fields: &Value) -> bool {
        !self.find(fields).is_empty()
    }
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for part in path.trim().split('.') {
        let (name, is_each) = match part.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (part, false),
        };
        if name.is_empty() || name.contains(['[', ']', '?', '%']) {
            return None;
        }
        steps.push(Step::Key(name.to_owned()));
        if is_each {
            steps.push(Step::Each);
        }
    }
    Some(steps)
}

fn walk<'a>(value: &'a Value, steps: &[Step], at: Found<'a>, found: &mut Vec<Found<'a>>) {
    match (steps.split_first(), value) {
        (None, value) => found.push(Found { value, ..at }),
        (Some((Step::Key(key), rest)), Value::Object(object)) => {
            if let Some(value) = object.get(key) {
                let dot = if at.path.is_empty() { "" } else { "." };
                let path = format!("{}{dot}{key}", at.path);
                walk(value, rest, Found { path, ..at }, found);
            }
        }
        (Some((Step::Each, rest)), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                let mut indices = at.indices.clone();
                indices.push(index);
                let path = format!("{}[{index}]", at.path);
                walk(item, rest, Found { path, indices, value: item }, found);
            }
        }
        _ => {}
    }
}
