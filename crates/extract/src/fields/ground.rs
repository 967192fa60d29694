//! Looks up in the document what a model said of it.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Map, Value};

use super::amounts::Values;
use super::words::{Words, normal};
use super::{Fields, Found, Grounded, Ungrounded};
use crate::Document;
use crate::checks::Written;
use crate::values::{Amount, Dates, Decimal, currency_code};

/// Longest text that is looked up, in bytes; a longer one is no field.
const MAX_TEXT: usize = 20_000;

/// A place in the document.
struct Place {
    page: usize,
    words: Range<usize>,
    ambiguous: Option<String>,
}

struct Grounding<'a> {
    fields: &'a Fields,
    pages: Vec<Words<'a>>,
    values: Vec<Values>,
    result: Grounded,
    /// How often each item of a list was taken as standing in the document.
    items: HashMap<String, usize>,
}

/// A step on the way to a value.
#[derive(Clone)]
enum Step {
    Key(String),
    Item(usize),
}

impl Fields {
    /// Looks up everything that was said of a document. What is found nowhere is `null` in the result.
    pub fn ground(&self, document: &Document, said: &Value) -> Grounded {
        let pages: Vec<Words<'_>> = document.pages.iter().map(Words::new).collect();
        let values: Vec<Values> = pages.iter().map(Values::of).collect();
        let result = Grounded {
            fields: Value::Null,
            found: Vec::new(),
            chosen: Vec::new(),
            ungrounded: Vec::new(),
            conflicts: Vec::new(),
            written: Values::written(&values),
        };
        let mut grounding =
            Grounding { fields: self, pages, values, result, items: HashMap::new() };
        let fields = grounding.value(said, &mut Vec::new());
        Grounded { fields, ..grounding.result }
    }
}

impl Grounding<'_> {
    /// The value as far as the document bears it out.
    fn value(&mut self, said: &Value, path: &mut Vec<Step>) -> Value {
        match said {
            Value::Object(fields) => {
                let mut grounded = Map::new();
                for (key, value) in fields {
                    path.push(Step::Key(key.clone()));
                    grounded.insert(key.clone(), self.value(value, path));
                    path.pop();
                }
                Value::Object(grounded)
            }
            Value::Array(items) => {
                let mut grounded = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    path.push(Step::Item(index));
                    grounded.push(self.item(item, path));
                    path.pop();
                }
                // Each list counts its own items.
                self.items.clear();
                Value::Array(grounded)
            }
            Value::Null => Value::Null,
            Value::String(text) if text.trim().is_empty() => Value::Null,
            leaf => self.leaf(leaf, path),
        }
    }

    /// An item of a list. One that is said again has to stand in the document again.
    fn item(&mut self, said: &Value, path: &mut Vec<Step>) -> Value {
        let before = self.result.found.len();
        let counted = std::mem::take(&mut self.items);
        let value = self.value(said, path);
        self.items = counted;
        let times = self.items.entry(said.to_string()).or_default();
        *times += 1;
        let places = self.result.found[before..].iter().map(|found| found.occurrences).max();
        if places.is_none_or(|places| *times <= places) {
            return value;
        }
        self.result.found.truncate(before);
        self.refuse(said, path)
    }

    /// Notes every value below as said and not found.
    fn refuse(&mut self, said: &Value, path: &mut Vec<Step>) -> Value {
        match said {
            Value::Object(fields) => {
                let refused = fields.iter().map(|(key, value)| {
                    path.push(Step::Key(key.clone()));
                    let refused = self.refuse(value, path);
                    path.pop();
                    (key.clone(), refused)
                });
                Value::Object(refused.collect())
            }
            Value::Array(items) => {
                let refused = items.iter().enumerate().map(|(index, value)| {
                    path.push(Step::Item(index));
                    let refused = self.refuse(value, path);
                    path.pop();
                    refused
                });
                Value::Array(refused.collect())
            }
            Value::Null => Value::Null,
            leaf => {
                self.result.ungrounded.push(Ungrounded { path: shown(path), said: leaf.clone() });
                Value::Null
            }
        }
    }

    fn leaf(&mut self, said: &Value, path: &[Step]) -> Value {
        let places = match said {
            Value::String(text) => self.text(text),
            Value::Number(number) => match number.to_string().parse() {
                Ok(number) => self.amount(|amount, written| number_in(amount, written, number)),
                Err(_) => Vec::new(),
            },
            _ => Vec::new(),
        };
        let names = names(path);
        // Of equals the first.
        let best = places.iter().enumerate().max_by_key(|(at, place)| {
            let near = self.pages[place.page].nearness(&place.words, &names);
            (near, std::cmp::Reverse(*at))
        });
        if let Some((_, best)) = best {
            let page = &self.pages[best.page];
            self.result.found.push(Found {
                path: shown(path),
                page: page.page.number,
                boxes: page.boxes(&best.words),
                text: page.text(&best.words),
                word_start: best.words.start,
                word_end: best.words.end,
                occurrences: places.len(),
                ambiguous: best.ambiguous.clone(),
            });
            return said.clone();
        }
        let keys: Vec<Option<&str>> = path
            .iter()
            .map(|step| match step {
                Step::Key(key) => Some(key.as_str()),
                Step::Item(_) => None,
            })
            .collect();
        if self.fields.offers(&keys, said) {
            self.result.chosen.push(shown(path));
            return said.clone();
        }
        self.result.ungrounded.push(Ungrounded { path: shown(path), said: said.clone() });
        Value::Null
    }

    /// Where a text stands: as it is, or else the date, the currency or the amount that it is.
    fn text(&self, text: &str) -> Vec<Place> {
        if text.len() > MAX_TEXT {
            return Vec::new();
        }
        let mut places = Vec::new();
        for (page, words) in self.pages.iter().enumerate() {
            let found = words.find(text);
            places.extend(found.into_iter().map(|words| Place { page, words, ambiguous: None }));
        }
        if places.is_empty()
            && let Some(day) = Dates::parse(text).and_then(|dates| dates.only())
        {
            places = self.date(day);
        }
        if places.is_empty()
            && let Some(code) = currency_code(text)
        {
            places = self.currency(code);
        }
        if places.is_empty() && !has_leading_zero(text) {
            places = match Amount::parse(text) {
                Some(said) => self.amount(|amount, written| text_in(&said, text, amount, written)),
                None => Vec::new(),
            };
        }
        places
    }

    fn amount(&self, is_it: impl Fn(&Amount, Written) -> bool) -> Vec<Place> {
        let written = self.result.written;
        let mut places: Vec<Place> = Vec::new();
        for (page, values) in self.values.iter().enumerate() {
            for (words, amount) in
                values.amounts.iter().filter(|(_, amount)| is_it(amount, written))
            {
                // `EUR 12.50` stands where `12.50` stands.
                let is_known = |place: &Place| {
                    place.page == page
                        && place.words.start < words.end
                        && words.start < place.words.end
                };
                if places.iter().any(is_known) {
                    continue;
                }
                let is_open = written.mark.is_none() && amount.only().is_none();
                let ambiguous =
                    is_open.then(|| "may be a thousandth or a thousandfold of it".to_owned());
                places.push(Place { page, words: words.clone(), ambiguous });
            }
        }
        places
    }

    fn date(&self, day: crate::values::Date) -> Vec<Place> {
        let order = self.result.written.order;
        let mut places: Vec<Place> = Vec::new();
        for (page, values) in self.values.iter().enumerate() {
            for (words, dates) in &values.dates {
                let is_it = match order {
                    Some(order) => dates.value(order) == Some(day),
                    None => dates.values().any(|one| one == day),
                };
                let is_known = |place: &Place| {
                    place.page == page
                        && place.words.start < words.end
                        && words.start < place.words.end
                };
                if !is_it || places.iter().any(is_known) {
                    continue;
                }
                let others: Vec<String> = match (order, dates.only()) {
                    (None, None) => dates.values().map(|day| day.to_string()).collect(),
                    _ => Vec::new(),
                };
                let ambiguous = (!others.is_empty()).then(|| others.join(" or "));
                places.push(Place { page, words: words.clone(), ambiguous });
            }
        }
        places
    }

    fn currency(&self, code: &str) -> Vec<Place> {
        let mut places = Vec::new();
        for (page, values) in self.values.iter().enumerate() {
            for (words, _) in values.currencies.iter().filter(|(_, found)| *found == code) {
                let text = self.pages[page].text(words);
                let is_shared = text.contains(['$', '¥']) && !text.contains(code);
                let ambiguous = is_shared.then(|| format!("{text} may be another currency"));
                places.push(Place { page, words: words.clone(), ambiguous });
            }
        }
        places
    }
}

/// Whether an amount is a number, with the marks that the document uses.
fn number_in(amount: &Amount, written: Written, number: Decimal) -> bool {
    let is_it =
        |value: Decimal| value == number || amount.is_percent && value.hundredth() == Some(number);
    match written.mark {
        Some(mark) => amount.value(mark).is_some_and(is_it),
        None => amount.values().any(is_it),
    }
}

/// Whether an amount is the one that a text says. A text of digits alone may be a number of something else: it is no
/// amount with a fraction.
fn text_in(said: &Amount, text: &str, amount: &Amount, written: Written) -> bool {
    let Some(number) = said.dot.or(said.comma) else { return false };
    let agrees = said.currency.is_none() || said.currency == amount.currency;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let has_fraction = amount.mark().is_some() || amount.currency.is_some() || amount.is_percent;
    agrees
        && said.is_percent == amount.is_percent
        && !(is_plain && has_fraction)
        && number_in(amount, written, number)
}

/// `0417` is a number of something, no amount.
fn has_leading_zero(text: &str) -> bool {
    let mut digits = text.trim().bytes();
    digits.next() == Some(b'0') && digits.next().is_some_and(|byte| byte.is_ascii_digit())
}

/// `line_items[2].amount`
fn shown(path: &[Step]) -> String {
    let mut shown = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !shown.is_empty() {
                    shown.push('.');
                }
                shown.push_str(key);
            }
            Step::Item(index) => shown.push_str(&format!("[{index}]")),
        }
    }
    shown
}

/// Words of the field's name: `due_date` and `dueDate` are `due` and `date`.
fn names(path: &[Step]) -> Vec<String> {
    let key = path.iter().rev().find_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Item(_) => None,
    });
    let mut parted = String::new();
    for c in key.unwrap_or_default().chars() {
        if c.is_uppercase() {
            parted.push(' ');
        }
        parted.push(if c.is_alphanumeric() { c } else { ' ' });
    }
    parted.split_whitespace().map(normal).collect()
}
