//! The amounts and dates that stand on a page.

use std::ops::Range;

use super::words::{Words, is_one_line};
use crate::checks::Written;
use crate::values::{Amount, DateOrder, Dates, Decimal, DecimalMark, currency_code};

/// Most words of an amount: a sign, a currency and groups of digits.
const AMOUNT_WORDS: usize = 5;

/// Most words of a date, with the day of the week.
const DATE_WORDS: usize = 4;

/// Widest gap between two words of an amount, as a share of their height. Columns of a table stand further apart.
const GAP_MAX: f32 = 0.7;

/// What stands on a page.
pub(super) struct Values {
    pub(super) amounts: Vec<(Range<usize>, Amount)>,
    pub(super) dates: Vec<(Range<usize>, Dates)>,
    /// Codes and signs of currencies.
    pub(super) currencies: Vec<(Range<usize>, &'static str)>,
}

impl Values {
    pub(super) fn of(words: &Words<'_>) -> Self {
        let mut values = Values { amounts: Vec::new(), dates: Vec::new(), currencies: Vec::new() };
        let count = words.page.words.len();
        for start in 0..count {
            for len in 1..=AMOUNT_WORDS.min(count - start) {
                let range = start..start + len;
                if len > 1 && !follows(words, range.end - 1) {
                    break;
                }
                let text = words.text(&range);
                // A currency alone, or what no number can begin with, ends no amount.
                if let Some(amount) = amount(&text) {
                    if let Some(currency) = amount.currency {
                        values.currencies.push((range.clone(), currency));
                    }
                    values.amounts.push((range, amount));
                }
            }
            for len in 1..=DATE_WORDS.min(count - start) {
                let range = start..start + len;
                if !words.is_one_passage(&range) {
                    break;
                }
                if let Some(dates) = dates(&words.text(&range)) {
                    values.dates.push((range, dates));
                }
            }
            let trimmed = trim(&words.page.words[start].text);
            if let Some(code) = currency_code(trimmed) {
                values.currencies.push((start..start + 1, code));
            }
        }
        values.drop_groups(words);
        values
    }

    /// `1 443,35` is neither 1 nor 443,35. Where words have no places, who can say; both stay.
    fn drop_groups(&mut self, words: &Words<'_>) {
        let long: Vec<(Range<usize>, Amount)> = {
            let has_places = |range: &Range<usize>| words.page.words[range.start].bbox.is_some();
            let is_long =
                |(range, _): &&(Range<usize>, Amount)| range.len() > 1 && has_places(range);
            self.amounts.iter().filter(is_long).cloned().collect()
        };
        let size = |amount: &Amount| -> Vec<_> { amount.values().map(Decimal::abs).collect() };
        self.amounts.retain(|(range, amount)| {
            let is_group = |(outer, whole): &(Range<usize>, Amount)| {
                outer.len() > range.len()
                    && outer.start <= range.start
                    && range.end <= outer.end
                    && size(whole) != size(amount)
            };
            !long.iter().any(is_group)
        });
    }

    /// What the amounts and dates show of how a document is written.
    pub(super) fn written(all: &[Values]) -> Written {
        let mut marks = all.iter().flat_map(|v| &v.amounts).filter_map(|(_, amount)| amount.mark());
        let mut orders = all.iter().flat_map(|v| &v.dates).filter_map(|(_, dates)| dates.order());
        let mark: Option<DecimalMark> = marks.next();
        let order: Option<DateOrder> = orders.next();
        Written {
            mark: mark.filter(|first| marks.all(|mark| mark == *first)),
            order: order.filter(|first| orders.all(|order| order == *first)),
        }
    }
}

/// Whether a word continues the one before it: in one paragraph or cell, in one line, a space apart.
fn follows(words: &Words<'_>, at: usize) -> bool {
    if !words.is_one_passage(&(at - 1..at + 1)) {
        return false;
    }
    match (words.page.words[at - 1].bbox, words.page.words[at].bbox) {
        (Some(a), Some(b)) => {
            let gap = b.x0 - a.x1;
            is_one_line(&a, &b) && gap >= -a.height() && gap <= GAP_MAX * a.height().max(b.height())
        }
        _ => true,
    }
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| ".,;:!?\"'„“”*".contains(c))
}

/// An amount with punctuation around it, or behind a name: `Total:12.50`.
fn amount(text: &str) -> Option<Amount> {
    let trimmed = text.trim_start_matches(|c: char| ".,;:*\"".contains(c));
    let trimmed = trimmed.trim_end_matches(|c: char| ".,;:*\"".contains(c));
    // `12.-` ends in a mark of its own.
    Amount::parse(trimmed)
        .or_else(|| Amount::parse(text))
        .or_else(|| {
            let unclosed = trimmed.strip_prefix('(').filter(|rest| !rest.contains(')'));
            let unopened = trimmed.strip_suffix(')').filter(|rest| !rest.contains('('));
            Amount::parse(unclosed.or(unopened)?)
        })
        .or_else(|| {
            let (name, value) = trimmed.split_once([':', '='])?;
            // Behind a space a word of its own begins.
            let is_name = !name.is_empty()
                && !value.starts_with(' ')
                && name.chars().all(|c| c.is_alphabetic() || ".-_".contains(c));
            is_name.then(|| Amount::parse(value)).flatten()
        })
}

fn dates(text: &str) -> Option<Dates> {
    let trimmed = text.trim_matches(|c: char| ",;:()\"".contains(c));
    let without_dot = trimmed.trim_end_matches('.');
    Dates::parse(without_dot).or_else(|| {
        let (name, value) = without_dot.split_once(':')?;
        let is_name =
            !name.is_empty() && !value.starts_with(' ') && name.chars().all(char::is_alphabetic);
        is_name.then(|| Dates::parse(value)).flatten()
    })
}
