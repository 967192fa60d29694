//! Rules as TOML: which fields, which check, how exact.

use std::collections::HashSet;

use serde::Deserialize;

use super::path::Term;
use crate::values::Decimal;

/// Most rules together.
const MAX_RULES: usize = 1000;

/// The sets that are built in.
const BUILT_IN: [&str; 3] = [
    include_str!("../../rules/invoice.toml"),
    include_str!("../../rules/receipt.toml"),
    include_str!("../../rules/statement.toml"),
];

/// Rules that fields are checked by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Its set and its name: `invoice.total`.
    pub(super) name: String,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// What stands left adds up to what stands right.
    Sum { left: Vec<Term>, right: Vec<Term>, tolerance: Decimal },
    /// The product of the factors is the result, in each item by itself.
    Product { factors: Vec<Term>, result: Term, tolerance: Decimal },
    /// Each is a day of the calendar.
    Date { fields: Vec<Term> },
    /// Each is no earlier than the one before it.
    Order { fields: Vec<Term> },
    /// Each is an IBAN.
    Iban { fields: Vec<Term> },
    /// Each is a VAT identification number.
    VatId { fields: Vec<Term> },
}

impl Kind {
    /// The fields that it speaks of.
    pub(super) fn terms(&self) -> impl Iterator<Item = &Term> {
        let (some, others): (&[Term], &[Term]) = match self {
            Kind::Sum { left, right, .. } => (left, right),
            Kind::Product { factors, result, .. } => (factors, std::slice::from_ref(result)),
            Kind::Date { fields }
            | Kind::Order { fields }
            | Kind::Iban { fields }
            | Kind::VatId { fields } => (fields, &[]),
        };
        some.iter().chain(others)
    }
}

/// A set of rules that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rules: {0}")]
pub struct RuleError(String);

/// A set as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    name: String,
    #[serde(default)]
    rule: Vec<Entry>,
}

/// A rule as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    check: CheckName,
    left: Option<Vec<String>>,
    right: Option<Vec<String>>,
    factors: Option<Vec<String>>,
    result: Option<String>,
    fields: Option<Vec<String>>,
    tolerance: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CheckName {
    Sum,
    Product,
    Date,
    Order,
    Iban,
    VatId,
}

impl Rules {
    /// The rules for invoices, receipts and statements of accounts.
    ///
    /// # Errors
    /// Never: a test reads them.
    pub fn built_in() -> Result<Self, RuleError> {
        BUILT_IN.iter().try_fold(Rules { rules: Vec::new() }, |rules, text| rules.and(text))
    }

    /// These and those of a set in TOML; of two with the same name the new one counts.
    ///
    /// # Errors
    /// For a text that is no set of rules; names the rule.
    pub fn and(mut self, text: &str) -> Result<Self, RuleError> {
        let set: Set = toml::from_str(text).map_err(|error| RuleError(error.to_string()))?;
        let mut names = HashSet::new();
        for entry in set.rule {
            let name = format!("{}.{}", set.name, entry.name);
            let kind = entry.kind().map_err(|reason| RuleError(format!("`{name}`: {reason}")))?;
            if !names.insert(name.clone()) {
                return Err(RuleError(format!("`{name}` stands twice")));
            }
            self.rules.retain(|rule| rule.name != name);
            self.rules.push(Rule { name, kind });
        }
        if self.rules.len() > MAX_RULES {
            return Err(RuleError(format!("more than {MAX_RULES} rules")));
        }
        Ok(self)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }
}

impl Entry {
    fn kind(self) -> Result<Kind, String> {
        let tolerance = match &self.tolerance {
            None => Decimal::ZERO,
            Some(text) => text.parse().map_err(|error| format!("tolerance: {error}"))?,
        };
        if tolerance.is_negative() {
            return Err("tolerance is below zero".into());
        }
        let given = [
            ("left", self.left.is_some()),
            ("right", self.right.is_some()),
            ("factors", self.factors.is_some()),
            ("result", self.result.is_some()),
            ("fields", self.fields.is_some()),
            ("tolerance", self.tolerance.is_some()),
        ];
        let takes: &[&str] = match self.check {
            CheckName::Sum => &["left", "right", "tolerance"],
            CheckName::Product => &["factors", "result", "tolerance"],
            _ => &["fields"],
        };
        if let Some((name, _)) = given.iter().find(|(name, given)| *given && !takes.contains(name))
        {
            return Err(format!(
                "`{name}` belongs to another check; this one takes {}",
                takes.join(", ")
            ));
        }
        let one_by_one = |fields| terms("fields", fields, 1);
        Ok(match self.check {
            CheckName::Sum => Kind::Sum {
                left: terms("left", self.left, 1)?,
                right: terms("right", self.right, 1)?,
                tolerance,
            },
            CheckName::Product => Kind::Product {
                factors: terms("factors", self.factors, 2)?,
                result: Term::parse(&self.result.ok_or("`result` is missing")?)?,
                tolerance,
            },
            CheckName::Date => Kind::Date { fields: one_by_one(self.fields)? },
            CheckName::Order => Kind::Order { fields: terms("fields", self.fields, 2)? },
            CheckName::Iban => Kind::Iban { fields: one_by_one(self.fields)? },
            CheckName::VatId => Kind::VatId { fields: one_by_one(self.fields)? },
        })
    }
}

fn terms(name: &str, texts: Option<Vec<String>>, least: usize) -> Result<Vec<Term>, String> {
    let texts = texts.unwrap_or_default();
    if texts.len() < least {
        return Err(format!("`{name}` names {} fields, fewer than {least}", texts.len()));
    }
    texts.iter().map(|text| Term::parse(text)).collect()
}
