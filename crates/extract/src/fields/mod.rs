//! Fields: what is wanted of a document, what a model is asked, and whether what it said stands in the document.
//!
//! A model fills in a schema in which every value may be `null` ([`Fields::schema`]). Whatever it says is then looked up in
//! the document's words ([`Fields::ground`]): a text as it stands there, an amount or a date by its value. What is found
//! comes with its place. What is found nowhere is set to `null` and told of. So no value gets through that the document
//! does not hold.
//!
//! - A text counts as found whatever its letter case, its white space, its kinds of quotes and dashes, and if a hyphen at the
//!   end of a line parts it. It must begin and end where words do: `417` is not found in `RE-2026/0417`.
//! - A number is found where an amount of that value stands, its sign included; 19 % is 19 or 0.19. A text that is an amount
//!   or a date, and is not found as it is, is looked up by its value as well.
//! - A code of a currency is found in its sign.
//! - `true`, `false`, and the values of an `enum` or `const` are a choice that whoever wrote the schema offers; they need not
//!   stand in the document, and are listed as chosen unless they do.

mod shape;
mod parts;
mod words;
mod amounts;
mod ground;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Rect;
use crate::checks::Written;

pub use parts::{Part, TooLong};
pub use shape::FieldsError;

/// What is wanted of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Fields {
    /// What the answer fits: every leaf may be `null`.
    schema: Value,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The field, as `line_items[2].amount`.
    pub path: String,
    /// Number of the page.
    pub page: usize,
    /// Boxes around it in points from the top left, one for each line; empty in formats without places.
    pub boxes: Vec<Rect>,
    /// The words as they stand there.
    pub text: String,
    /// The first of them, as an index into the page's words.
    pub word_start: usize,
    /// The one behind the last.
    pub word_end: usize,
    /// In how many places it stands; this is the one nearest to words of the field's name, or the first.
    pub occurrences: usize,
    /// What makes it less than certain: `03/04/2026` may be another day.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ambiguous: Option<String>,
}

/// What the model said that stands nowhere in the document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ungrounded {
    /// The field; it is `null` in the result.
    pub path: String,
    /// What the model said.
    pub said: Value,
}

/// Two parts of a document that say different things.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// The field; it holds what the first of the parts says.
    pub path: String,
    /// What a later part says.
    pub also: Value,
}

/// Fields as the document bears them out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grounded {
    /// The values that stand in the document or were chosen; all others are `null`.
    pub fields: Value,
    /// Where they stand.
    pub found: Vec<Found>,
    /// Paths of values that are a choice of the schema's and do not stand in the document.
    pub chosen: Vec<String>,
    /// What was said and stands nowhere.
    pub ungrounded: Vec<Ungrounded>,
    /// What the parts of a document that was read in parts disagree about.
    pub conflicts: Vec<Conflict>,
    /// How the document writes amounts and dates.
    #[serde(skip)]
    pub written: Written,
}

#[cfg(test)]
mod tests;
