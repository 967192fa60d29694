//! CSV: one table.

use csv::ReaderBuilder;

use super::{Parts, damaged, decode, warn_of_encoding};
use crate::error::ErrorKind;
use crate::{Format, Input, Limits, Page};

/// Lines by which the separator is chosen.
const SAMPLE_LINES: usize = 50;

pub(super) fn read(input: &Input<'_>, limits: &Limits) -> Result<Parts, ErrorKind> {
    let (text, encoding) = decode(input.bytes);
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter(text))
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut rows: Vec<Vec<String>> = Vec::new();
    let (mut columns, mut cells) = (0, 0);
    for record in reader.records() {
        let record = record.map_err(|error| damaged(Format::Csv, error))?;
        columns = columns.max(record.len());
        cells += record.len();
        // Rows are filled up to the longest.
        let area = cells.max(columns * (rows.len() + 1));
        if area > limits.words_max {
            return Err(ErrorKind::over("cells", area, limits.words_max));
        }
        rows.push(record.iter().map(str::to_owned).collect());
    }
    let mut page = Page::without_size(1, None);
    page.push_table(&rows, 1);
    let mut parts = Parts::of(vec![page]);
    warn_of_encoding(&mut parts, encoding);
    Ok(parts)
}

/// The separator that parts most lines into the same number of fields, more than one.
fn delimiter(text: &str) -> u8 {
    let sample: Vec<&str> =
        text.lines().filter(|line| !line.is_empty()).take(SAMPLE_LINES).collect();
    let score = |delimiter: u8| {
        let counts = sample.iter().map(|line| separators(line, delimiter));
        let first = sample.first().map_or(0, |line| separators(line, delimiter));
        if first == 0 { 0 } else { counts.filter(|count| *count == first).count() }
    };
    // Of equals the first: a comma parts amounts in Europe as well.
    let mut best = (b',', 0);
    for delimiter in [b';', b'\t', b',', b'|'] {
        let score = score(delimiter);
        if score > best.1 {
            best = (delimiter, score);
        }
    }
    best.0
}

fn separators(line: &str, delimiter: u8) -> usize {
    let mut in_quotes = false;
    line.bytes()
        .filter(|byte| {
            in_quotes ^= *byte == b'"';
            !in_quotes && *byte == delimiter
        })
        .count()
}
