//! Deterministic checks of fields: sums, products, dates, identifiers. Rules are data ([`Rules`]); results are told, and
//! nothing is corrected.
//!
//! Amounts are exact decimals. An amount or date that is written so that it can mean two things (`1.234`, `03/04/2026`) is
//! taken as what the rest of the document says its marks mean. Where that says nothing, a check that comes out differently
//! with each meaning is not applicable, and says why.

mod path;
mod rules;
mod amounts;
mod dates;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::values::{DateOrder, DecimalMark, VatCheck, check_iban, check_vat_id};
use path::Found;
use rules::Kind;
pub use rules::{RuleError, Rules};

/// How the amounts and dates of a document are written, as far as it shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// The decimal mark.
    pub mark: Option<DecimalMark>,
    /// What comes first in a date.
    pub order: Option<DateOrder>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The rule holds.
    Passed,
    /// It does not.
    Failed,
    /// It cannot be said: a field is missing, or means two things.
    NotApplicable,
}

/// What a rule says about fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The rule: its set and its name, as `invoice.total`.
    pub rule: String,
    /// How it came out.
    pub status: Status,
    /// What the rule asks for.
    pub expected: Option<String>,
    /// What the fields say.
    pub actual: Option<String>,
    /// Paths of the fields that were compared.
    pub fields: Vec<String>,
    /// Why it failed or is not applicable, in words; or what was not verified.
    pub reason: Option<String>,
}

/// The outcome of a rule, before it is told which rule it was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    status: Status,
    expected: Option<String>,
    actual: Option<String>,
    fields: Vec<String>,
    reason: Option<String>,
}

impl Outcome {
    fn new(status: Status, fields: Vec<String>) -> Self {
        Outcome { status, expected: None, actual: None, fields, reason: None }
    }

    fn because(self, reason: impl Into<String>) -> Self {
        Outcome { reason: Some(reason.into()), ..self }
    }

    fn compared(self, expected: impl ToString, actual: impl ToString) -> Self {
        Outcome { expected: Some(expected.to_string()), actual: Some(actual.to_string()), ..self }
    }
}

impl Rules {
    /// Checks fields by all rules that speak of any field which is there, if only as `null`.
    pub fn check(&self, fields: &Value, written: Written) -> Vec<Check> {
        let mut checks = Vec::new();
        for rule in self.iter() {
            if !rule.kind.terms().any(|term| term.is_named(fields)) {
                continue;
            }
            let outcomes = match &rule.kind {
                Kind::Sum { left, right, tolerance } => {
                    vec![amounts::sum(fields, left, right, *tolerance, written.mark)]
                }
                Kind::Product { factors, result, tolerance } => {
                    amounts::product(fields, factors, result, *tolerance, written.mark)
                }
                Kind::Date { fields: terms } => dates::are_valid(fields, terms),
                Kind::Order { fields: terms } => {
                    vec![dates::are_ordered(fields, terms, written.order)]
                }
                Kind::Iban { fields: terms } => {
                    identifiers(fields, terms, |text| check_iban(text).map(|()| None))
                }
                Kind::VatId { fields: terms } => identifiers(fields, terms, |text| {
                    let form_only =
                        "the form alone was checked: this country's check digits are not";
                    check_vat_id(text).map(|how| (how == VatCheck::FormOnly).then_some(form_only))
                }),
            };
            checks.extend(outcomes.into_iter().map(|outcome| Check {
                rule: rule.name.clone(),
                status: outcome.status,
                expected: outcome.expected,
                actual: outcome.actual,
                fields: outcome.fields,
                reason: outcome.reason,
            }));
        }
        checks
    }
}

/// Checks every identifier of some fields by itself.
fn identifiers(
    fields: &Value,
    terms: &[path::Term],
    check: impl Fn(&str) -> Result<Option<&'static str>, String>,
) -> Vec<Outcome> {
    let found: Vec<Found<'_>> = terms.iter().flat_map(|term| term.find(fields)).collect();
    let one = |found: &Found<'_>| {
        let fields = vec![found.path.clone()];
        match found.value {
            Value::Null => Outcome::new(Status::NotApplicable, fields).because("is null"),
            Value::String(text) => match check(text) {
                Ok(None) => Outcome::new(Status::Passed, fields),
                Ok(Some(but)) => Outcome::new(Status::Passed, fields).because(but),
                Err(wrong) => {
                    let mut outcome = Outcome::new(Status::Failed, fields).because(wrong);
                    outcome.actual = Some(text.clone());
                    outcome
                }
            },
            other => {
                Outcome::new(Status::NotApplicable, fields).because(format!("{other} is no text"))
            }
        }
    };
    found.iter().map(one).collect()
}

#[cfg(test)]
mod tests;
