//! Values that ask for nothing, and small checks that endpoints share.

use grammar::Spec;
use serde_json::Value;

use super::chat::StreamOptions;
use super::text::Texts;
use crate::ApiError;

pub(super) fn no(value: &Value) -> bool {
    *value == false
}

pub(super) fn yes(value: &Value) -> bool {
    *value == true
}

pub(super) fn zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

pub(super) fn one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

pub(super) fn medium(value: &Value) -> bool {
    value == "medium"
}

pub(super) fn none_or_auto(value: &Value) -> bool {
    value == "none" || value == "auto"
}

pub(super) fn default_tier(value: &Value) -> bool {
    value == "auto" || value == "default"
}

pub(super) fn text_alone(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(|kind| kind == "text"))
}

/// vLLM writes -1 for all.
///
/// # Errors
/// 400 for other negative numbers.
pub(super) fn top_k(k: i64) -> Result<usize, ApiError> {
    usize::try_from(k.max(0)).ok().filter(|_| k >= -1).ok_or_else(|| {
        ApiError::invalid(
            "top_k".to_owned(),
            format!("`top_k` is {k}; it must be at least 1, or 0 or -1 for all"),
        )
    })
}

/// Checks the number of answers.
///
/// # Errors
/// 400 for none or more than `max`.
pub(super) fn choices(n: Option<u32>, max: usize) -> Result<usize, ApiError> {
    let n = n.unwrap_or(1) as usize;
    if (1..=max).contains(&n) {
        return Ok(n);
    }
    Err(ApiError::invalid("n".to_owned(), format!("`n` is {n}; it must be 1 to {max}")))
}

/// Checks the number of tokens that end an answer.
///
/// # Errors
/// 400 for too many.
pub(super) fn stop_token_ids(ids: Option<&[u32]>) -> Result<Vec<u32>, ApiError> {
    const MAX: usize = 128;
    let ids = ids.unwrap_or_default();
    if ids.len() > MAX {
        let message = format!("{} `stop_token_ids` are more than {MAX}", ids.len());
        return Err(ApiError::invalid("stop_token_ids".to_owned(), message));
    }
    Ok(ids.to_vec())
}

/// Checks that options of a stream come with one.
///
/// # Errors
/// 400 for options without a stream.
pub(super) fn stream_options(
    stream: bool,
    options: Option<&StreamOptions>,
) -> Result<(), ApiError> {
    if options.is_some() && !stream {
        let message = "`stream_options` needs `\"stream\": true`";
        return Err(ApiError::invalid("stream_options".to_owned(), message));
    }
    Ok(())
}

/// Checks that nothing breaks off an answer that `param` says is whole: JSON, a choice, calls of tools. A text that a
/// regular expression or a grammar describes may break off.
///
/// # Errors
/// 400 for strings and tokens that end an answer.
pub(super) fn nothing_breaks_off(
    param: &str,
    spec: Option<&Spec>,
    stop: Option<&Texts>,
    stop_token_ids: Option<&[u32]>,
) -> Result<(), ApiError> {
    if matches!(spec, Some(Spec::Regex(_) | Spec::Lark(_))) {
        return Ok(());
    }
    let fields = [
        ("stop", stop.is_some_and(|stop| !stop.as_slice().is_empty())),
        ("stop_token_ids", stop_token_ids.is_some_and(|ids| !ids.is_empty())),
    ];
    match fields.into_iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((field, _)) => {
            let message = format!(
                "`{field}` could break off an answer that has to fit `{param}`; leave it out"
            );
            Err(ApiError::invalid(field.to_owned(), message))
        }
    }
}

/// Checks what cannot be had together with a constraint.
///
/// # Errors
/// 400 for tools and for `ignore_eos`.
pub(super) fn constraint_alone(
    param: &str,
    has_tools: bool,
    ignore_eos: Option<bool>,
) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::invalid(param.to_owned(), message));
    if has_tools {
        return refuse(format!(
            "`{param}` and `tools` cannot both decide the form of an answer; send one, or `\"tool_choice\": \"none\"`"
        ));
    }
    if ignore_eos == Some(true) {
        return refuse(format!(
            "`{param}` ends the answer where it fits; `ignore_eos` cannot be had with it"
        ));
    }
    Ok(())
}
