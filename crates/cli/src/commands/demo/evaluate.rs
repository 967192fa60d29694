//! How often a model fills in the fields as expected, over many documents.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Reader;
use super::task::{self, FIELDS};
use crate::commands::prompt::read_file;
use crate::output::{self, CliError};
use crate::{build, interrupt, progress};

/// A document and what is in it.
#[derive(Debug, Deserialize)]
pub(super) struct Document {
    text: String,
    our_business: String,
    expected: Map<String, Value>,
}

/// Reads a JSON Lines file.
pub(super) fn read_split(file: &Path) -> Result<Vec<Document>> {
    let text = read_file("evaluate", file)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let documents = lines.map(|(i, line)| {
        serde_json::from_str(line).map_err(|e| {
            let message = format!(
                "{}: line {}: {e}; expected {{text, our_business, expected}}",
                file.display(),
                i + 1
            );
            CliError::bad_input("evaluate", message)
        })
    });
    let documents: Vec<Document> = documents.collect::<Result<_, _>>()?;
    if documents.is_empty() {
        let message = format!("{}: holds no document", file.display());
        return Err(CliError::bad_input("evaluate", message).into());
    }
    Ok(documents)
}

/// What was right.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    documents: usize,
    /// Answers that are no JSON object with the seven fields; everything in them counts as wrong.
    invalid: usize,
    /// Answers with every field right.
    whole: usize,
    fields: [usize; FIELDS.len()],
}

impl Tally {
    fn add(&mut self, answer: Option<&Map<String, Value>>, expected: &Map<String, Value>) {
        self.documents += 1;
        let Some(answer) = answer else {
            self.invalid += 1;
            return;
        };
        let right = FIELDS.map(|name| answer.get(name) == expected.get(name));
        self.whole += usize::from(right.iter().all(|right| *right));
        for (count, right) in self.fields.iter_mut().zip(right) {
            *count += usize::from(right);
        }
    }

    fn share(&self, count: usize) -> f64 {
        count as f64 / self.documents.max(1) as f64
    }

    /// Share of all fields of all documents.
    fn mean(&self) -> f64 {
        self.share(self.fields.iter().sum()) / FIELDS.len() as f64
    }

    fn json(&self) -> Value {
        let fields = FIELDS.iter().zip(self.fields);
        let fields: Map<String, Value> =
            fields.map(|(name, count)| ((*name).to_owned(), self.share(count).into())).collect();
        json!({
            "documents": self.documents,
            "invalid": self.invalid,
            "exact_match": { "document": self.share(self.whole), "all_fields": self.mean(), "fields": fields },
        })
    }

    fn table(&self) -> String {
        let line = |name: &str, share: f64| format!("{name:<14} {:6.2} %\n", 100.0 * share);
        let fields = FIELDS.iter().zip(self.fields);
        let fields: String = fields.map(|(name, count)| line(name, self.share(count))).collect();
        format!(
            "exact match over {} documents ({} answers were not the JSON object asked for)\n{fields}{}{}",
            self.documents,
            self.invalid,
            line("all fields", self.mean()),
            line("whole document", self.share(self.whole)),
        )
    }
}

/// Reads every document and reports.
pub(super) fn run(reader: &mut Reader, documents: &[Document], json: bool) -> Result<()> {
    let mut tally = Tally::default();
    let bar = progress::count("documents", documents.len() as u64);
    interrupt::listen();
    for Document { text, our_business, expected } in documents {
        let answer = reader.read(our_business, text)?;
        if answer.completion.finish_reason == engine::FinishReason::Cancelled {
            return Err(CliError::Failed("cut off by Ctrl-C".to_owned()).into());
        }
        tally.add(task::fields(&answer.completion.text).as_ref(), expected);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if !json {
        return Ok(output::print(&tally.table())?);
    }
    let mut report = tally.json();
    report["model"] = reader.model.as_str().into();
    report["device"] = reader.device.as_str().into();
    report["build"] = build::name().into();
    Ok(output::print_json(&report)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_counts_only_if_it_is_exactly_as_expected() {
        let object = |total: &str, date: Value| {
            let mut object: Map<String, Value> =
                FIELDS.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
            object["total"] = total.into();
            object["date"] = date;
            object
        };
        let expected = object("1.00", Value::Null);
        let mut tally = Tally::default();
        tally.add(Some(&expected), &expected);
        tally.add(Some(&object("1.0", Value::Null)), &expected);
        tally.add(Some(&object("1.00", "2026-01-01".into())), &expected);
        tally.add(None, &expected);
        assert_eq!((tally.documents, tally.invalid, tally.whole), (4, 1, 1));
        assert_eq!(tally.fields, [3, 3, 3, 3, 2, 3, 2]);
        assert_eq!(tally.mean(), 19.0 / 28.0);
    }
}
