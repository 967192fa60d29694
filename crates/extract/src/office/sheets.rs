//! XLSX, XLS and ODS: a page for each sheet, on it the table of the rows and columns that hold anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use calamine::{Data, DataRef, ExcelDateTime, Range, Reader, Xls, Xlsx};

use super::archive::Archive;
use super::docx::properties;
use super::{Parts, check_words, damaged, ods};
use crate::error::ErrorKind;
use crate::{Format, Limits, Page, Progress};

/// Cells by row and column.
pub(super) type Cells = BTreeMap<u32, BTreeMap<u32, String>>;

pub(super) fn read(
    format: Format,
    bytes: &[u8],
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Parts, ErrorKind> {
    let mut parts = Parts::default();
    let wrong = |error: &dyn std::fmt::Display| damaged(format, error);
    if format == Format::Xlsx {
        let mut archive = Archive::open(bytes, format, limits)?;
        archive.measure()?;
    }
    match format {
        Format::Xlsx => {
            let mut book: Xlsx<_> = Xlsx::new(Cursor::new(bytes)).map_err(|error| match error {
                calamine::XlsxError::Password => ErrorKind::Encrypted,
                error => wrong(&error),
            })?;
            let names = book.sheet_names();
            for (index, name) in names.iter().enumerate() {
                // Cell by cell: the range of a sheet with a cell in each far corner would fill the memory.
                let mut cells = Cells::new();
                let mut count = 0;
                let mut reader = match book.worksheet_cells_reader(name) {
                    Ok(reader) => reader,
                    // Charts have sheets of their own.
                    Err(_) => {
                        parts.warn(None, format!("sheet `{name}` holds no cells that can be read"));
                        continue;
                    }
                };
                while let Some(cell) = reader.next_cell().map_err(|error| wrong(&error))? {
                    let (row, column) = cell.get_position();
                    count += 1;
                    check_words(count, limits)?;
                    add(&mut cells, row, column, shown_ref(cell.get_value()));
                }
                push(&mut parts, name, cells, limits)?;
                progress(Progress { pages_done: index + 1, pages: names.len() });
            }
            let mut archive = Archive::open(bytes, format, limits)?;
            parts.metadata = properties(&mut archive, format)?;
        }
        Format::Ods => {
            return ods::read(&mut Archive::open(bytes, format, limits)?, limits, progress);
        }
        _ => {
            let mut book: Xls<_> = Xls::new(Cursor::new(bytes)).map_err(|error| match error {
                calamine::XlsError::Password => ErrorKind::Encrypted,
                error => wrong(&error),
            })?;
            push_all(&mut parts, book.worksheets(), limits, progress)?;
        }
    }
    Ok(parts)
}

fn push_all(
    parts: &mut Parts,
    sheets: Vec<(String, Range<Data>)>,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ErrorKind> {
    let pages = sheets.len();
    for (index, (name, range)) in sheets.into_iter().enumerate() {
        let mut cells = Cells::new();
        for (row, column, value) in range.used_cells() {
            add(&mut cells, row as u32, column as u32, shown(value));
        }
        push(parts, &name, cells, limits)?;
        progress(Progress { pages_done: index + 1, pages });
    }
    Ok(())
}

pub(super) fn add(cells: &mut Cells, row: u32, column: u32, text: String) {
    if !text.trim().is_empty() {
        cells.entry(row).or_default().insert(column, text);
    }
}

pub(super) fn push(
    parts: &mut Parts,
    name: &str,
    cells: Cells,
    limits: &Limits,
) -> Result<(), ErrorKind> {
    if parts.pages.len() >= limits.pages_max {
        return Err(ErrorKind::over("sheets", parts.pages.len() + 1, limits.pages_max));
    }
    let columns: BTreeSet<u32> = cells.values().flat_map(|row| row.keys().copied()).collect();
    let area = cells.len().saturating_mul(columns.len());
    if area > limits.words_max {
        return Err(ErrorKind::over("cells of a table", area, limits.words_max));
    }
    let row = |mut row: BTreeMap<u32, String>| -> Vec<String> {
        columns.iter().map(|column| row.remove(column).unwrap_or_default()).collect()
    };
    let rows: Vec<Vec<String>> = cells.into_values().map(row).collect();
    // A sheet does not say which rows are headings.
    let mut page = Page::without_size(parts.pages.len() + 1, Some(name.to_owned()));
    page.push_table(&rows, 0);
    parts.pages.push(page);
    Ok(())
}

fn shown(value: &Data) -> String {
    match value {
        Data::Int(number) => number.to_string(),
        Data::Float(number) => float(*number),
        Data::String(text) => text.clone(),
        Data::Bool(is) => is.to_string(),
        Data::DateTime(date) => date_time(date),
        Data::DateTimeIso(text) | Data::DurationIso(text) => text.clone(),
        Data::Error(error) => error.to_string(),
        Data::Empty => String::new(),
    }
}

fn shown_ref(value: &DataRef<'_>) -> String {
    match value {
        DataRef::SharedString(text) => (*text).to_owned(),
        other => shown(&Data::from(other.clone())),
    }
}

/// A number with the digits that Excel keeps: 15, of which binary numbers show more.
fn float(number: f64) -> String {
    let rounded: f64 = format!("{number:.14e}").parse().unwrap_or(number);
    rounded.to_string()
}

fn date_time(date: &ExcelDateTime) -> String {
    if date.is_duration() {
        let seconds = (date.as_f64() * 86_400.0).round() as i64;
        return format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    }
    let (year, month, day, hour, minute, second, _) = date.to_ymd_hms_milli();
    let days = format!("{year:04}-{month:02}-{day:02}");
    match (hour, minute, second) {
        (0, 0, 0) => days,
        _ => format!("{days} {hour:02}:{minute:02}:{second:02}"),
    }
}
