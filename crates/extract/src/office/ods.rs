//! ODS: cells as they are shown. The readers of spreadsheets give values, and nothing at all for a cell that has a text but
//! no type, which programs do write. OpenDocument 1.3, part 3, chapter 9.

use super::archive::Archive;
use super::sheets::{Cells, add, push};
use super::xml::{self, Attributes, Node};
use super::{Parts, check_words, damaged};
use crate::error::ErrorKind;
use crate::{Format, Limits, Progress};

/// Attributes that hold a value where no text shows it.
const VALUES: [&str; 5] = ["string-value", "value", "date-value", "time-value", "boolean-value"];

pub(super) fn read(
    archive: &mut Archive<'_>,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Parts, ErrorKind> {
    let manifest = archive.text("META-INF/manifest.xml")?.unwrap_or_default();
    if manifest.contains("encryption-data") {
        return Err(ErrorKind::Encrypted);
    }
    let content = archive.text("content.xml")?;
    let content = content.ok_or_else(|| damaged(Format::Ods, "it has no content.xml"))?;
    let mut parts = Parts::default();
    let mut sheet = Sheet::default();
    xml::walk(&content, Format::Ods, |node| match node {
        Node::Start(name, attributes) => {
            sheet.start(name, &attributes);
            Ok(())
        }
        Node::Text(text) => {
            sheet.text(text);
            Ok(())
        }
        Node::End(name) => {
            if sheet.end(name, limits)? {
                let Sheet { name, cells, .. } = std::mem::take(&mut sheet);
                push(&mut parts, &name, cells, limits)?;
                let done = parts.pages.len();
                progress(Progress { pages_done: done, pages: done });
            }
            Ok(())
        }
    })?;
    Ok(parts)
}

/// The sheet that is being read, and where.
#[derive(Default)]
struct Sheet {
    name: String,
    cells: Cells,
    count: usize,
    /// Tables within tables: only the outermost is a sheet.
    tables: usize,
    row: u32,
    column: u32,
    /// Cells of the row, to be repeated with it.
    columns: Vec<(u32, String)>,
    row_repeats: u32,
    cell: Option<Cell>,
    /// Notes and drawings on a cell, which are not its text.
    beside: usize,
}

struct Cell {
    text: String,
    /// What it holds, if no text says so.
    value: Option<String>,
    repeats: u32,
    in_paragraph: bool,
}

impl Sheet {
    fn start(&mut self, name: &str, attributes: &Attributes<'_>) {
        let repeats = |name: &str| {
            attributes.get(name).and_then(|count| count.parse().ok()).unwrap_or(1_u32).max(1)
        };
        match name {
            "annotation" | "shapes" | "frame" => self.beside += 1,
            _ if self.beside > 0 => {}
            "table" => {
                self.tables += 1;
                if self.tables == 1 {
                    self.name = attributes.get("name").unwrap_or_default();
                }
            }
            _ if self.tables != 1 => {}
            "table-row" => {
                (self.column, self.row_repeats) = (0, repeats("number-rows-repeated"));
            }
            "table-cell" | "covered-table-cell" => {
                let value = VALUES.iter().find_map(|name| attributes.get(name));
                let repeats = repeats("number-columns-repeated");
                let text = String::new();
                self.cell = Some(Cell { text, value, repeats, in_paragraph: false });
            }
            "p" | "h" => {
                if let Some(cell) = &mut self.cell {
                    if !cell.text.is_empty() {
                        cell.text.push('\n');
                    }
                    cell.in_paragraph = true;
                }
            }
            "s" => {
                // More spaces than a line has are a bomb.
                let count = repeats("c").min(1000) as usize;
                self.text(&" ".repeat(count));
            }
            "tab" => self.text("\t"),
            "line-break" => self.text("\n"),
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(cell) = self.cell.as_mut().filter(|cell| cell.in_paragraph)
            && self.beside == 0
        {
            cell.text.push_str(text);
        }
    }

    /// Whether the sheet has ended.
    fn end(&mut self, name: &str, limits: &Limits) -> Result<bool, ErrorKind> {
        match name {
            "annotation" | "shapes" | "frame" => self.beside = self.beside.saturating_sub(1),
            _ if self.beside > 0 => {}
            "table" => {
                self.tables = self.tables.saturating_sub(1);
                return Ok(self.tables == 0);
            }
            _ if self.tables != 1 => {}
            "p" | "h" => {
                if let Some(cell) = &mut self.cell {
                    cell.in_paragraph = false;
                }
            }
            "table-cell" | "covered-table-cell" => self.end_cell(limits)?,
            "table-row" => self.end_row(limits)?,
            _ => {}
        }
        Ok(false)
    }

    fn end_cell(&mut self, limits: &Limits) -> Result<(), ErrorKind> {
        let Some(Cell { text, value, repeats, .. }) = self.cell.take() else { return Ok(()) };
        let text = if text.trim().is_empty() { value.unwrap_or_default() } else { text };
        if !text.trim().is_empty() {
            check_words(self.columns.len().saturating_add(repeats as usize), limits)?;
            let last = self.column.saturating_add(repeats);
            self.columns.extend((self.column..last).map(|column| (column, text.clone())));
        }
        self.column = self.column.saturating_add(repeats);
        Ok(())
    }

    fn end_row(&mut self, limits: &Limits) -> Result<(), ErrorKind> {
        let columns = std::mem::take(&mut self.columns);
        if !columns.is_empty() {
            self.count += columns.len().saturating_mul(self.row_repeats as usize);
            check_words(self.count, limits)?;
            for row in self.row..self.row.saturating_add(self.row_repeats) {
                for (column, text) in &columns {
                    add(&mut self.cells, row, *column, text.clone());
                }
            }
        }
        self.row = self.row.saturating_add(self.row_repeats);
        Ok(())
    }
}
