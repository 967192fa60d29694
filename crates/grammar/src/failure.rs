//! Errors and panics of the libraries below, as errors of ours.

use std::panic::AssertUnwindSafe;

use llguidance::panic_utils::catch_unwind;

use crate::GrammarError;

/// Runs what calls llguidance. Its errors are kept to one line; a panic of its becomes an error as well.
///
/// # Errors
/// [`GrammarError::Failed`], which names `what`.
pub(crate) fn quiet<T>(
    what: &str,
    call: impl FnOnce() -> Result<T, String>,
) -> Result<T, GrammarError> {
    match catch_unwind(AssertUnwindSafe(|| Ok(call()))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(message)) => Err(GrammarError::Failed(format!("{what}: {}", one_line(&message)))),
        Err(_) => Err(GrammarError::Failed(format!("{what}: an assertion did not hold"))),
    }
}

/// The part of a message of llguidance's that is for people: it appends states, grammars and backtraces.
pub(crate) fn one_line(message: &str) -> String {
    let end = ["<state>", "<non-verbose/>", "<backtrace>", "<grammar>"]
        .iter()
        .filter_map(|mark| message.find(mark))
        .min()
        .unwrap_or(message.len());
    let line = message[..end].lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>();
    let mut line = line.join(" ");
    if line.len() > 400 {
        let cut = (0..=400).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line.truncate(cut);
        line.push('…');
    }
    line
}
