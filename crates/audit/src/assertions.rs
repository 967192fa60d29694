//! Claims, held against a report: `halfbyte audit … --assert FILE`.
//!
//! ```toml
//! [[assert]]
//! claim = "RTX 5090 is compute capability 9.0"
//! path = "gpu.compute_capability"
//! op = "=="
//! value = "9.0"
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A file of claims.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assertions {
    assert: Vec<Claim>,
}

/// One claim: what stands at a place of the report.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    /// In words.
    claim: String,
    /// Keys with points between; a number is an index, `[key=value]` an element of a list.
    path: String,
    op: Op,
    value: toml::Value,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Op {
    #[serde(rename = "==")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = "<")]
    Less,
    #[serde(rename = "<=")]
    LessOrEqual,
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = ">=")]
    GreaterOrEqual,
    /// A list has it, or a text holds it.
    #[serde(rename = "contains")]
    Contains,
    /// It is one of a list.
    #[serde(rename = "in")]
    In,
}

/// What a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// The report does not say.
    Undecidable,
}

/// A claim and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// In words.
    pub claim: String,
    /// The result.
    pub truth: Truth,
    /// The place.
    pub path: String,
    /// What stands there.
    pub found: Value,
    /// The evidence beside it, or beside what is around it.
    pub evidence: Vec<Value>,
}

/// Claims of one file.
const CLAIMS_MAX: usize = 10_000;

impl Assertions {
    /// Reads a file of claims.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Assertions, String> {
        let parsed: Assertions =
            toml::from_str(text).map_err(|error| error.to_string().trim().replace('\n', " "))?;
        match parsed.assert.len() {
            0 => Err("has no [[assert]]".to_owned()),
            n if n > CLAIMS_MAX => Err(format!("has more than {CLAIMS_MAX} claims")),
            _ => Ok(parsed),
        }
    }

    /// Decides each claim by a report, as JSON.
    pub fn check(&self, report: &Value) -> Vec<Outcome> {
        self.assert.iter().map(|claim| claim.check(report)).collect()
    }
}

impl Claim {
    fn check(&self, report: &Value) -> Outcome {
        let mut evidence = Vec::new();
        let found = follow(report, &self.path, &mut evidence).cloned().unwrap_or(Value::Null);
        let expected = serde_json::to_value(&self.value).unwrap_or(Value::Null);
        let truth = match (&found, holds(&found, self.op, &expected)) {
            (Value::Null, _) | (_, None) => Truth::Undecidable,
            (_, Some(true)) => Truth::True,
            (_, Some(false)) => Truth::False,
        };
        let (claim, path) = (self.claim.clone(), self.path.clone());
        Outcome { claim, truth, path, found, evidence }
    }
}

/// The value at a path; the evidence that stands nearest above it is left in `evidence`.
fn follow<'v>(report: &'v Value, path: &str, evidence: &mut Vec<Value>) -> Option<&'v Value> {
    let mut value = report;
    for step in steps(path) {
        if let Some(Value::Array(found)) = value.get("evidence") {
            evidence.clone_from(found);
        }
        value = match step.strip_prefix('[').and_then(|step| step.strip_suffix(']')) {
            Some(condition) => {
                let (key, wanted) = condition.split_once('=')?;
                let list = value.as_array()?;
                list.iter().find(|item| item.get(key).is_some_and(|v| text(v) == wanted))?
            }
            None => match value {
                Value::Array(list) => list.get(step.parse::<usize>().ok()?)?,
                other => other.get(step)?,
            },
        };
    }
    if let Some(Value::Array(found)) = value.get("evidence") {
        evidence.clone_from(found);
    }
    Some(value)
}

/// Points within brackets do not separate.
fn steps(path: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, c) in path.char_indices() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            '.' if !inside => {
                steps.push(&path[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    steps.push(&path[start..]);
    steps
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether it holds; `None` if the two cannot be compared.
fn holds(found: &Value, op: Op, expected: &Value) -> Option<bool> {
    match op {
        Op::Equal => Some(found == expected),
        Op::NotEqual => Some(found != expected),
        Op::Contains => match found {
            Value::Array(list) => Some(list.contains(expected)),
            Value::String(text) => Some(text.contains(expected.as_str()?)),
            _ => None,
        },
        Op::In => Some(expected.as_array()?.contains(found)),
        Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual => {
            let order = order(found, expected)?;
            Some(match op {
                Op::Less => order.is_lt(),
                Op::LessOrEqual => order.is_le(),
                Op::Greater => order.is_gt(),
                _ => order.is_ge(),
            })
        }
    }
}

/// Numbers as numbers, versions part by part.
fn order(found: &Value, expected: &Value) -> Option<std::cmp::Ordering> {
    if let (Some(a), Some(b)) = (found.as_f64(), expected.as_f64()) {
        return a.partial_cmp(&b);
    }
    let version = |value: &Value| value.as_str()?.parse::<pep440_rs::Version>().ok();
    Some(version(found)?.cmp(&version(expected)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(path: &str, op: &str, value: &str, expected: Truth) {
        let report = json!({
            "gpu": {"cc": "12.0", "evidence": [{"file": "table"}]},
            "libraries": [{"path": "a.so", "targets": ["sm_80"], "size": 3}],
            "nothing": null,
        });
        let claims = format!(
            "[[assert]]\nclaim = \"c\"\npath = \"{path}\"\nop = \"{op}\"\nvalue = {value}\n"
        );
        let outcome = &Assertions::parse(&claims).unwrap().check(&report)[0];
        assert_eq!(outcome.truth, expected, "{claims}");
    }

    #[test]
    fn claims_are_true_false_or_undecidable() {
        check("gpu.cc", "==", "\"12.0\"", Truth::True);
        check("gpu.cc", ">=", "\"9.0\"", Truth::True);
        check("gpu.cc", "==", "\"9.0\"", Truth::False);
        check("gpu.cc", "in", "[\"9.0\", \"12.0\"]", Truth::True);
        check("libraries.[path=a.so].targets", "contains", "\"sm_80\"", Truth::True);
        check("libraries.0.size", "<", "3", Truth::False);
        check("nothing", "==", "1", Truth::Undecidable);
        check("no.such", "!=", "1", Truth::Undecidable);
        check("gpu.cc", "<", "true", Truth::Undecidable);
    }

    #[test]
    fn evidence_is_the_nearest() {
        let report = json!({"evidence": ["far"], "gpu": {"cc": "12.0", "evidence": ["near"]}});
        let mut evidence = Vec::new();
        follow(&report, "gpu.cc", &mut evidence);
        assert_eq!(evidence, ["near"]);
    }

    #[test]
    fn files_that_make_no_sense() {
        assert!(Assertions::parse("assert = []").is_err());
        assert!(Assertions::parse("[[assert]]\nclaim = 1").is_err());
    }
}
