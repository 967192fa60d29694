//! Paragraphs and tables as they come in WordprocessingML and DrawingML, which call them by the same local names.

use super::check_words;
use super::xml::{Attributes, Node};
use crate::error::ErrorKind;
use crate::{Block, Cell, Limits, Page, Table};

/// Most columns that a cell may cover.
const MAX_SPAN: usize = 1000;

/// Elements whose text is not the document's: deleted, instructions of fields, what stands in for newer drawings.
const SKIPPED: [&str; 7] =
    ["delText", "instrText", "delInstrText", "Fallback", "moveFrom", "rubyPr", "pict"];

/// Builds the blocks of a page.
pub(super) struct Flow<'a> {
    pub(super) page: Page,
    limits: &'a Limits,
    /// Paragraphs that have begun: one within another is a text box.
    paragraphs: Vec<Paragraph>,
    /// Tables that have begun, the innermost last.
    tables: Vec<Grid>,
    /// Whether text is read: inside of `t`.
    in_text: bool,
    /// The element whose content is skipped, and how often it has begun inside of itself.
    skipped: Option<(String, usize)>,
    /// Kind of the placeholder that the shape fills, on slides.
    pub(super) is_title: bool,
    /// The run is hidden.
    is_hidden: bool,
}

#[derive(Default)]
struct Paragraph {
    text: String,
    heading: Option<u8>,
    list_depth: Option<u8>,
}

#[derive(Default)]
struct Grid {
    rows: Vec<Vec<GridCell>>,
    header_rows: usize,
    is_first_row_head: bool,
}

#[derive(Clone, Default)]
struct GridCell {
    text: String,
    col_span: usize,
    /// Continues the cell above.
    is_below: bool,
    /// Lies under the cell to the left.
    is_right: bool,
}

impl<'a> Flow<'a> {
    pub(super) fn new(page: Page, limits: &'a Limits) -> Self {
        Flow {
            page,
            limits,
            paragraphs: Vec::new(),
            tables: Vec::new(),
            in_text: false,
            skipped: None,
            is_title: false,
            is_hidden: false,
        }
    }

    /// Takes the next part.
    pub(super) fn visit(&mut self, node: Node<'_>) -> Result<(), ErrorKind> {
        if let Some((name, depth)) = &mut self.skipped {
            match node {
                Node::Start(inner, _) if inner == name => *depth += 1,
                Node::End(inner) if inner == name => *depth -= 1,
                _ => {}
            }
            if *depth == 0 {
                self.skipped = None;
            }
            return Ok(());
        }
        match node {
            Node::Start(name, _) if SKIPPED.contains(&name) => {
                self.skipped = Some((name.to_owned(), 1));
            }
            Node::Start(name, attributes) => self.start(name, &attributes),
            Node::End(name) => self.end(name)?,
            Node::Text(text) if self.in_text && !self.is_hidden => self.add(text),
            Node::Text(_) => {}
        }
        Ok(())
    }

    fn add(&mut self, text: &str) {
        if let Some(paragraph) = self.paragraphs.last_mut() {
            paragraph.text.push_str(text);
        }
    }

    fn start(&mut self, name: &str, attributes: &Attributes<'_>) {
        match name {
            "p" => self
                .paragraphs
                .push(Paragraph { heading: self.is_title.then_some(1), ..Paragraph::default() }),
            "r" => self.is_hidden = false,
            "vanish" => self.is_hidden = attributes.is_on("val"),
            "t" => self.in_text = true,
            "tab" | "ptab" if !self.paragraphs.is_empty() => self.add("\t"),
            "br" | "cr" => self.add("\n"),
            "noBreakHyphen" => self.add("\u{2011}"),
            "pStyle" => {
                let level = attributes.get("val").and_then(|style| heading_level(&style));
                if let Some(paragraph) = self.paragraphs.last_mut() {
                    paragraph.heading = level;
                }
            }
            "outlineLvl" => {
                let level = attributes.get("val").and_then(|level| level.parse::<u8>().ok());
                if let (Some(paragraph), Some(level @ 0..=5)) = (self.paragraphs.last_mut(), level)
                {
                    paragraph.heading = Some(level + 1);
                }
            }
            "ilvl" => {
                let depth = attributes.get("val").and_then(|depth| depth.parse::<u8>().ok());
                if let Some(paragraph) = self.paragraphs.last_mut() {
                    paragraph.list_depth = Some(depth.unwrap_or(0).min(8));
                }
            }
            _ => self.start_in_table(name, attributes),
        }
    }

    fn start_in_table(&mut self, name: &str, attributes: &Attributes<'_>) {
        if name == "tbl" {
            self.tables.push(Grid::default());
            return;
        }
        let Some(grid) = self.tables.last_mut() else { return };
        let number = |name| attributes.get(name).and_then(|n| n.parse::<usize>().ok());
        let span = |name| number(name).unwrap_or(1).clamp(1, MAX_SPAN);
        let cell = grid.rows.last_mut().and_then(|row: &mut Vec<GridCell>| row.last_mut());
        match (name, cell) {
            ("tr", _) => grid.rows.push(Vec::new()),
            ("tc", _) => {
                // Slides say spans here, texts in elements of their own.
                let cell = GridCell {
                    col_span: span("gridSpan"),
                    is_right: attributes.get("hMerge").is_some_and(|on| on == "1"),
                    is_below: attributes.get("vMerge").is_some_and(|on| on == "1"),
                    ..GridCell::default()
                };
                if let Some(row) = grid.rows.last_mut() {
                    row.push(cell);
                }
            }
            ("gridSpan", Some(cell)) => cell.col_span = span("val"),
            ("vMerge", Some(cell)) => {
                cell.is_below = attributes.get("val").is_none_or(|value| value == "continue");
            }
            ("tblHeader", _) if attributes.is_on("val") => grid.header_rows = grid.rows.len(),
            ("tblLook" | "tblPr", _) => {
                grid.is_first_row_head |= attributes.get("firstRow").is_some_and(|on| on == "1");
            }
            _ => {}
        }
    }

    fn end(&mut self, name: &str) -> Result<(), ErrorKind> {
        match name {
            "t" => self.in_text = false,
            "p" => {
                if let Some(paragraph) = self.paragraphs.pop() {
                    self.finish(&paragraph);
                }
            }
            "tbl" => {
                if let Some(grid) = self.tables.pop() {
                    self.finish_table(grid);
                }
            }
            _ => return Ok(()),
        }
        check_words(self.page.words.len(), self.limits)
    }

    fn finish(&mut self, paragraph: &Paragraph) {
        let in_cell = self.tables.last_mut().and_then(|grid| grid.rows.last_mut()?.last_mut());
        if let Some(cell) = in_cell {
            if !cell.text.is_empty() {
                cell.text.push('\n');
            }
            cell.text.push_str(paragraph.text.trim());
            return;
        }
        match (paragraph.heading, paragraph.list_depth) {
            (Some(level), _) => self.page.push_heading(level, &paragraph.text),
            (None, Some(depth)) => {
                let passage = self.page.passage(&paragraph.text);
                if !passage.words.is_empty() {
                    self.page.blocks.push(Block::ListItem { depth, number: None, passage });
                }
            }
            (None, None) => self.page.push_paragraph(&paragraph.text),
        }
    }

    fn finish_table(&mut self, grid: Grid) {
        // A table within a cell is part of the cell's text.
        if let Some(cell) =
            self.tables.last_mut().and_then(|outer| outer.rows.last_mut()?.last_mut())
        {
            for row in &grid.rows {
                let texts: Vec<&str> = row.iter().map(|cell| cell.text.as_str()).collect();
                cell.text.push('\n');
                cell.text.push_str(&texts.join("\t"));
            }
            return;
        }
        let first = usize::from(grid.is_first_row_head);
        let header_rows = grid.header_rows.max(first).min(grid.rows.len());
        let start = self.page.words.len();
        let rows = laid_out(&mut self.page, grid.rows);
        if self.page.words.len() > start {
            self.page.blocks.push(Block::Table(Table { rows, header_rows, bbox: None }));
        }
    }
}

/// The full grid of a table's cells.
fn laid_out(page: &mut Page, rows: Vec<Vec<GridCell>>) -> Vec<Vec<Cell>> {
    let mut laid: Vec<Vec<Cell>> = Vec::with_capacity(rows.len());
    for row in rows {
        let mut line: Vec<Cell> = Vec::new();
        let mut explained = 0;
        for cell in row {
            let column = line.len();
            if cell.is_right {
                // On slides the cells that lie under another stand there as well.
                if explained > 0 {
                    explained -= 1;
                } else {
                    line.push(Cell::covered());
                }
                continue;
            }
            explained = cell.col_span - 1;
            if cell.is_below {
                let above = laid.iter_mut().rev().filter_map(|row| row.get_mut(column));
                // The upper cell does not say in texts how far down it goes, so the lower ones count.
                if let Some(above) = above.into_iter().find(|above| above.row_span > 0) {
                    above.row_span += 1;
                }
                line.extend((0..cell.col_span).map(|_| Cell::covered()));
                continue;
            }
            let passage = page.passage(&cell.text);
            line.push(Cell { passage, row_span: 1, col_span: cell.col_span });
            line.extend((1..cell.col_span).map(|_| Cell::covered()));
        }
        laid.push(line);
    }
    let columns = laid.iter().map(Vec::len).max().unwrap_or(0);
    for line in &mut laid {
        line.resize_with(columns, Cell::default);
    }
    laid
}

/// `Heading1`, `Title`, and what they are called in German and French.
fn heading_level(style: &str) -> Option<u8> {
    let style = style.to_lowercase().replace([' ', '-', '_'], "");
    if ["title", "titel", "titre"].contains(&style.as_str()) {
        return Some(1);
    }
    let names = ["heading", "überschrift", "berschrift", "titre", "título", "titolo", "kop"];
    let level = names.iter().find_map(|name| style.strip_prefix(name))?;
    level.parse().ok().filter(|level| (1..=9).contains(level))
}
