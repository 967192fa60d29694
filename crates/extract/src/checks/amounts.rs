//! Sums and products.

use serde_json::Value;

use super::path::{Found, Term};
use super::{Outcome, Status};
use crate::values::{Amount, Decimal, DecimalMark};

/// Most significant digits that a JSON number keeps: it may have been read as a binary one.
const NUMBER_DIGITS: usize = 15;

/// An amount at its place.
struct At {
    path: String,
    indices: Vec<usize>,
    amount: Amount,
}

/// Whether the terms of both sides add up to the same.
pub(super) fn sum(
    fields: &Value,
    left: &[Term],
    right: &[Term],
    tolerance: Decimal,
    mark: Option<DecimalMark>,
) -> Outcome {
    let read = |terms: &[Term]| -> Result<Vec<(bool, At)>, Outcome> {
        let mut amounts = Vec::new();
        for term in terms {
            let of_term = read(term, fields)?;
            amounts.extend(of_term.into_iter().map(|at| (term.is_negative, at)));
        }
        Ok(amounts)
    };
    let (left, right) = match (read(left), read(right)) {
        (Ok(left), Ok(right)) => (left, right),
        (Err(outcome), _) | (_, Err(outcome)) => return outcome,
    };
    let paths = left.iter().chain(&right).map(|(_, at)| at.path.clone()).collect();
    if left.is_empty() || right.is_empty() {
        return Outcome::new(Status::NotApplicable, paths).because("one side has no amounts");
    }
    let add = |amounts: &[(bool, At)], mark| {
        amounts.iter().try_fold(Decimal::ZERO, |sum, (is_negative, at)| {
            let value = at.amount.value(mark)?;
            if *is_negative { sum.checked_sub(value) } else { sum.checked_add(value) }
        })
    };
    let amounts = || left.iter().chain(&right).map(|(_, at)| &at.amount);
    decide(paths, marks(mark, amounts()), |mark| {
        let (left, right) = (add(&left, mark)?, add(&right, mark)?);
        Some((left.checked_sub(right)?.abs() <= tolerance, left, right))
    })
}

/// Whether the factors' product is the result, in each item by itself.
pub(super) fn product(
    fields: &Value,
    factors: &[Term],
    result: &Term,
    tolerance: Decimal,
    mark: Option<DecimalMark>,
) -> Vec<Outcome> {
    let mut columns: Vec<(bool, Vec<At>)> = Vec::new();
    for term in factors {
        match read_some(term, fields) {
            Ok(column) => columns.push((term.is_percent, column)),
            Err(outcome) => return vec![outcome],
        }
    }
    let results = match read_some(result, fields) {
        Ok(results) => results,
        Err(outcome) => return vec![outcome],
    };
    let all = columns.iter().flat_map(|(_, column)| column).chain(&results);
    let marks = marks(mark, all.map(|at| &at.amount));
    let mut outcomes = Vec::new();
    for result in &results {
        // An item without quantity or price has nothing to be checked.
        let factor = |(is_percent, column): &(bool, Vec<At>)| {
            let at = column.iter().position(|at| at.indices == result.indices)?;
            Some((*is_percent, at))
        };
        let Some(at) = columns.iter().map(factor).collect::<Option<Vec<_>>>() else { continue };
        let factors: Vec<(bool, &At)> = at
            .iter()
            .zip(&columns)
            .map(|((is_percent, at), (_, column))| (*is_percent, &column[*at]))
            .collect();
        let paths =
            factors.iter().map(|(_, at)| at.path.clone()).chain([result.path.clone()]).collect();
        outcomes.push(decide(paths, marks.clone(), |mark| {
            let one = Decimal::new(1, 0)?;
            let expected = factors.iter().try_fold(one, |product, (is_percent, at)| {
                product.checked_mul(factor_of(&at.amount, *is_percent, mark)?)
            })?;
            let actual = result.amount.value(mark)?;
            Some((expected.checked_sub(actual)?.abs() <= tolerance, expected, actual))
        }));
    }
    if outcomes.is_empty() {
        let paths = results.iter().map(|at| at.path.clone()).collect();
        return vec![
            Outcome::new(Status::NotApplicable, paths).because("no item has all of the fields"),
        ];
    }
    // Items that are right are one line.
    if outcomes.iter().all(|outcome| outcome.status == Status::Passed) {
        let paths = outcomes.into_iter().flat_map(|outcome| outcome.fields).collect();
        return vec![Outcome::new(Status::Passed, paths)];
    }
    outcomes.retain(|outcome| outcome.status != Status::Passed);
    outcomes
}

/// A rate as a factor: `19` and `19 %` are 0.19, as is `0.19` without a sign.
fn factor_of(amount: &Amount, is_percent: bool, mark: DecimalMark) -> Option<Decimal> {
    let value = amount.value(mark)?;
    let is_fraction = value.abs() < Decimal::new(1, 0)? && !amount.is_percent;
    if is_percent && !is_fraction { value.hundredth() } else { Some(value) }
}

/// The decimal marks that amounts can have been written with.
fn marks<'a>(
    known: Option<DecimalMark>,
    amounts: impl Iterator<Item = &'a Amount>,
) -> Vec<DecimalMark> {
    if let Some(mark) = known {
        return vec![mark];
    }
    let shown: Vec<DecimalMark> = amounts.filter_map(Amount::mark).collect();
    let both = [DecimalMark::Dot, DecimalMark::Comma];
    let consistent = both.into_iter().filter(|mark| shown.iter().all(|shown| shown == mark));
    consistent.collect()
}

/// Compares under each mark; where that makes a difference, nothing is said.
fn decide(
    paths: Vec<String>,
    marks: Vec<DecimalMark>,
    compare: impl Fn(DecimalMark) -> Option<(bool, Decimal, Decimal)>,
) -> Outcome {
    let mut results: Vec<(bool, Decimal, Decimal)> =
        marks.into_iter().filter_map(compare).collect();
    results.dedup();
    match &results[..] {
        [] => Outcome::new(Status::NotApplicable, paths).because(
            "the amounts are written with different decimal marks, or have too many digits",
        ),
        [(is_right, expected, actual)] => {
            let status = if *is_right { Status::Passed } else { Status::Failed };
            Outcome::new(status, paths).compared(expected, actual)
        }
        // Whatever is meant, it holds (or does not).
        [(true, expected, actual), (true, ..)] => {
            Outcome::new(Status::Passed, paths).compared(expected, actual)
        }
        [(false, a, b), (false, c, d), ..] => Outcome::new(Status::Failed, paths)
            .compared(format!("{a} or {c}"), format!("{b} or {d}")),
        _ => Outcome::new(Status::NotApplicable, paths)
            .because("`.` or `,` may be a decimal mark or part thousands, and that decides"),
    }
}

/// The amounts of a term, all of which have to be there unless it is optional.
fn read(term: &Term, fields: &Value) -> Result<Vec<At>, Outcome> {
    let found = term.find(fields);
    let null = found.iter().find(|found| found.value.is_null());
    match null {
        _ if term.is_optional => {
            found.iter().filter(|found| !found.value.is_null()).map(amount).collect()
        }
        Some(null) => {
            let outcome = Outcome::new(Status::NotApplicable, vec![null.path.clone()]);
            Err(outcome.because(format!("`{}` is null", null.path)))
        }
        None if found.is_empty() => {
            let outcome = Outcome::new(Status::NotApplicable, vec![term.text.clone()]);
            Err(outcome.because(format!("there is no `{}`", term.text)))
        }
        None => found.iter().map(amount).collect(),
    }
}

/// The amounts of a term that are there.
fn read_some(term: &Term, fields: &Value) -> Result<Vec<At>, Outcome> {
    let found = term.find(fields);
    if found.is_empty() {
        let outcome = Outcome::new(Status::NotApplicable, vec![term.text.clone()]);
        return Err(outcome.because(format!("there is no `{}`", term.text)));
    }
    found.iter().filter(|found| !found.value.is_null()).map(amount).collect()
}

fn amount(found: &Found<'_>) -> Result<At, Outcome> {
    let outcome = |reason: String| {
        Outcome::new(Status::NotApplicable, vec![found.path.clone()])
            .because(format!("`{}`: {reason}", found.path))
    };
    let amount = match found.value {
        Value::Number(number) => {
            let text = number.to_string();
            let digits =
                text.trim_start_matches(['-', '0', '.']).bytes().filter(u8::is_ascii_digit);
            // What was an integer stays one.
            if !(number.is_i64() || number.is_u64()) && digits.count() > NUMBER_DIGITS {
                return Err(outcome(format!(
                    "{text} has more digits than a JSON number keeps; ask for a string"
                )));
            }
            text.parse().ok().map(Amount::exact)
        }
        Value::String(text) => Amount::parse(text),
        _ => None,
    };
    match amount {
        Some(amount) => Ok(At { path: found.path.clone(), indices: found.indices.clone(), amount }),
        None => Err(outcome(format!("{} is no amount", found.value))),
    }
}
