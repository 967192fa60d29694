//! Dates: days of the calendar, in their order.

use serde_json::Value;

use super::path::{Found, Term};
use super::{Outcome, Status};
use crate::values::{Date, DateOrder, Dates};

/// Whether each field is a day of the calendar.
pub(super) fn are_valid(fields: &Value, terms: &[Term]) -> Vec<Outcome> {
    let found = terms.iter().flat_map(|term| term.find(fields));
    found.map(|found| is_valid(&found)).collect()
}

fn is_valid(found: &Found<'_>) -> Outcome {
    let paths = vec![found.path.clone()];
    let Value::String(text) = found.value else {
        let reason = if found.value.is_null() { "is null" } else { "is no text" };
        return Outcome::new(Status::NotApplicable, paths).because(reason);
    };
    match Dates::parse(text) {
        Some(dates) if dates.only().is_some() => Outcome::new(Status::Passed, paths),
        Some(dates) => {
            let days: Vec<String> = dates.values().map(|day| day.to_string()).collect();
            Outcome::new(Status::Passed, paths)
                .because(format!("ambiguous: {text} is {}", days.join(" or ")))
        }
        None => {
            let reason = if Dates::has_form(text) { "no day of the calendar" } else { "no date" };
            let mut outcome = Outcome::new(Status::Failed, paths).because(reason);
            outcome.actual = Some(text.clone());
            outcome
        }
    }
}

/// Whether each date is no earlier than the one before it.
pub(super) fn are_ordered(fields: &Value, terms: &[Term], order: Option<DateOrder>) -> Outcome {
    let mut dates = Vec::new();
    let mut paths = Vec::new();
    for term in terms {
        let found = term.find(fields);
        let [found] = &found[..] else {
            let reason = format!("there is no `{}`, or several", term.text);
            return Outcome::new(Status::NotApplicable, vec![term.text.clone()]).because(reason);
        };
        paths.push(found.path.clone());
        match found.value.as_str().and_then(Dates::parse) {
            Some(date) => dates.push(date),
            None if term.is_optional && found.value.is_null() => {}
            None => {
                let reason = format!("`{}` is {}, no date", found.path, found.value);
                return Outcome::new(Status::NotApplicable, paths).because(reason);
            }
        }
    }
    let shown: Vec<DateOrder> = dates.iter().filter_map(Dates::order).collect();
    let both = [DateOrder::DayFirst, DateOrder::MonthFirst];
    let possible = |candidate: &DateOrder| match order {
        Some(order) => order == *candidate,
        None => shown.iter().all(|shown| shown == candidate),
    };
    let mut readings: Vec<Vec<Date>> = both
        .into_iter()
        .filter(possible)
        .filter_map(|order| dates.iter().map(|date| date.value(order)).collect())
        .collect();
    readings.dedup();
    let is_ordered = |days: &Vec<Date>| days.is_sorted();
    match &readings[..] {
        [] => Outcome::new(Status::NotApplicable, paths)
            .because("the dates are written with the day first and with the month first"),
        all if all.iter().all(is_ordered) => Outcome::new(Status::Passed, paths),
        [first, ..] if !readings.iter().any(is_ordered) => {
            let days: Vec<String> = first.iter().map(Date::to_string).collect();
            Outcome::new(Status::Failed, paths)
                .compared("each no earlier than the one before", days.join(", "))
        }
        _ => Outcome::new(Status::NotApplicable, paths)
            .because("day or month may come first in a date, and that decides"),
    }
}
