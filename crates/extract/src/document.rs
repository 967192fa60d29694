//! What a document is, whatever it came as.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::Format;

/// A document that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// What the bytes are.
    pub format: Format,
    /// In order. A format without pages has one for each part it has (sheet, slide, message, attachment), else one.
    pub pages: Vec<Page>,
    /// What the file says of itself.
    pub metadata: Metadata,
    /// What was left out or could not be read; empty when all was.
    pub warnings: Vec<Warning>,
}

/// What a file says of itself; nothing here was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Its title.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    /// Who wrote it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub author: Option<String>,
    /// The program that wrote the file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub producer: Option<String>,
    /// When it was made, as RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub created: Option<String>,
}

/// Something that a reader of the result should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The page it is about, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub page: Option<usize>,
    /// One line.
    pub message: String,
}

/// A page, or a part of a document without pages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// From 1, without gaps.
    pub number: usize,
    /// Width in points as the page is looked at; `None` where there are no pages.
    pub width: Option<f32>,
    /// Height in points as the page is looked at.
    pub height: Option<f32>,
    /// Name of the part this page is (of): sheet, slide or attachment.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<String>,
    /// Where the words come from.
    pub source: PageSource,
    /// All words, in reading order; each belongs to one block.
    pub words: Vec<Word>,
    /// In reading order. Their words are those of the page, in order and without gaps.
    pub blocks: Vec<Block>,
}

/// Where a page's words come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageSource {
    /// The file holds them as text.
    Text,
    /// They were recognized in a picture.
    Ocr,
    /// The page is a picture, and no OCR engine could be asked: it has no words, and that says nothing about the page.
    NeedsOcr,
}

/// A word: what stands between white space, or alone in its own column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// Its characters, never empty and without white space.
    pub text: String,
    /// Where it stands; `None` in formats without places.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bbox: Option<Rect>,
    /// How sure the OCR engine is, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub confidence: Option<f32>,
}

/// A rectangle in points, from the top left corner of the page as it is looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rect {
    /// Left.
    pub x0: f32,
    /// Top.
    pub y0: f32,
    /// Right, `>= x0`.
    pub x1: f32,
    /// Bottom, `>= y0`.
    pub y1: f32,
}

/// A part of a page's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Block {
    /// A heading.
    Heading {
        /// From 1, the largest, to 6.
        level: u8,
        /// What it says.
        #[serde(flatten)]
        passage: Passage,
    },
    /// Lines that belong together.
    Paragraph {
        /// What they say.
        #[serde(flatten)]
        passage: Passage,
    },
    /// An item of a list.
    ListItem {
        /// From 0, the outermost.
        depth: u8,
        /// Its number, for a list that has them (`3` of `3.`).
        #[serde(skip_serializing_if = "Option::is_none", default)]
        number: Option<u32>,
        /// What it says, without its bullet or number; where those are drawn they are the first of its words.
        #[serde(flatten)]
        passage: Passage,
    },
    /// Rows and columns.
    Table(Table),
}

/// Text and the words it is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// The words with the white space between them: spaces, and `\n` where the document has a new line.
    pub text: String,
    /// Indices into the page's words.
    pub words: Range<usize>,
}

/// A table, as a full grid.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Rows of cells, all equally long. A cell that lies under another's span is there, empty, with spans of 0.
    pub rows: Vec<Vec<Cell>>,
    /// How many of the first rows head the columns.
    pub header_rows: usize,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bbox: Option<Rect>,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// What it says.
    #[serde(flatten)]
    pub passage: Passage,
    /// Rows it covers; 0 under another's span.
    pub row_span: usize,
    /// Columns it covers; 0 under another's span.
    pub col_span: usize,
}

impl Default for Cell {
    fn default() -> Cell {
        Cell { passage: Passage::default(), row_span: 1, col_span: 1 }
    }
}

impl Cell {
    /// What lies under another cell's span.
    #[must_use]
    pub fn covered() -> Cell {
        Cell { passage: Passage::default(), row_span: 0, col_span: 0 }
    }
}

impl Rect {
    /// The smallest that holds both.
    #[must_use]
    pub fn union(self, other: Rect) -> Rect {
        Rect {
            x0: self.x0.min(other.x0),
            y0: self.y0.min(other.y0),
            x1: self.x1.max(other.x1),
            y1: self.y1.max(other.y1),
        }
    }

    /// Width in points.
    #[must_use]
    pub fn width(&self) -> f32 {
        self.x1 - self.x0
    }

    /// Height in points.
    #[must_use]
    pub fn height(&self) -> f32 {
        self.y1 - self.y0
    }
}

impl Block {
    /// The block's words, as indices into the page's.
    #[must_use]
    pub fn words(&self) -> Range<usize> {
        match self {
            Block::Heading { passage, .. }
            | Block::Paragraph { passage }
            | Block::ListItem { passage, .. } => passage.words.clone(),
            Block::Table(table) => {
                let mut cells = table
                    .rows
                    .iter()
                    .flatten()
                    .map(|cell| &cell.passage.words)
                    .filter(|words| !words.is_empty());
                let first = cells.next().cloned().unwrap_or(0..0);
                cells.fold(first, |all, words| all.start.min(words.start)..all.end.max(words.end))
            }
        }
    }
}

impl Page {
    /// A page without a size, for formats that have none.
    #[must_use]
    pub fn without_size(number: usize, label: Option<String>) -> Page {
        Page {
            number,
            width: None,
            height: None,
            label,
            source: PageSource::Text,
            words: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Splits `text` at white space, adds its words without places, and returns them as a passage with that text. The
    /// block with this passage is to be added next: blocks hold the page's words in order.
    pub fn passage(&mut self, text: &str) -> Passage {
        let start = self.words.len();
        self.words.extend(text.split_whitespace().map(|word| Word {
            text: word.to_owned(),
            bbox: None,
            confidence: None,
        }));
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
        Passage { text: lines.join("\n"), words: start..self.words.len() }
    }

    /// Adds a paragraph of `text` without places; nothing if it has no words.
    pub fn push_paragraph(&mut self, text: &str) {
        let passage = self.passage(text);
        if !passage.words.is_empty() {
            self.blocks.push(Block::Paragraph { passage });
        }
    }

    /// Adds a heading without places; nothing if it has no words. `level` is held between 1 and 6.
    pub fn push_heading(&mut self, level: u8, text: &str) {
        let passage = self.passage(text);
        if !passage.words.is_empty() {
            self.blocks.push(Block::Heading { level: level.clamp(1, 6), passage });
        }
    }

    /// Adds a table without places from its cells' texts, shorter rows filled up with empty cells; nothing if it has no words.
    pub fn push_table(&mut self, rows: &[Vec<String>], header_rows: usize) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let start = self.words.len();
        let rows: Vec<Vec<Cell>> = rows
            .iter()
            .map(|row| {
                let texts = row.iter().map(String::as_str).chain(std::iter::repeat(""));
                let cells = texts.take(columns);
                cells.map(|text| Cell { passage: self.passage(text), ..Cell::default() }).collect()
            })
            .collect();
        if self.words.len() > start {
            let header_rows = header_rows.min(rows.len());
            self.blocks.push(Block::Table(Table { rows, header_rows, bbox: None }));
        }
    }
}

impl Document {
    /// Numbers of the pages that are pictures nobody could read.
    pub fn pages_that_need_ocr(&self) -> impl Iterator<Item = usize> + '_ {
        let pages = self.pages.iter().filter(|page| page.source == PageSource::NeedsOcr);
        pages.map(|page| page.number)
    }

    /// All tables with the numbers of their pages, in reading order.
    pub fn tables(&self) -> impl Iterator<Item = (usize, &Table)> {
        self.pages.iter().flat_map(|page| {
            page.blocks.iter().filter_map(|block| match block {
                Block::Table(table) => Some((page.number, table)),
                _ => None,
            })
        })
    }
}
