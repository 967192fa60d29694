//! Words in any order to words in reading order, with blocks: columns, tables, headings, lists, paragraphs. It knows places and
//! sizes only, so that text of a PDF and of a scan goes the same way.

mod rows;
mod ruled;
mod aligned;
mod order;
mod blocks;

use crate::document::{Block, Rect, Word};

pub(crate) use self::rows::Row;

/// A word before it has its place in the reading order. Points from the top left of the page.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlacedWord {
    pub(crate) text: String,
    pub(crate) bbox: Rect,
    /// Height of the baseline, in the coordinates in which the word stands upright.
    pub(crate) baseline: f32,
    /// Size of the font.
    pub(crate) size: f32,
    pub(crate) bold: bool,
    /// Quarter turns clockwise from upright.
    pub(crate) turn: u8,
    pub(crate) confidence: Option<f32>,
}

/// A straight line that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rule {
    pub(crate) horizontal: bool,
    /// y of a horizontal line, x of a vertical one.
    pub(crate) at: f32,
    pub(crate) from: f32,
    pub(crate) to: f32,
}

/// What is known of a page.
pub(crate) struct Sheet {
    pub(crate) words: Vec<PlacedWord>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) width: f32,
    pub(crate) height: f32,
}

/// A table whose cells hold words that have no number yet, lines of a cell in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawTable {
    pub(crate) rows: Vec<Vec<RawCell>>,
    pub(crate) bbox: Rect,
    pub(crate) header_rows: usize,
}

/// A cell of it: lines of words.
#[derive(Debug, Clone)]
pub(crate) struct RawCell {
    pub(crate) lines: Vec<Vec<PlacedWord>>,
    pub(crate) row_span: usize,
    pub(crate) col_span: usize,
}

impl Default for RawCell {
    fn default() -> RawCell {
        RawCell { lines: Vec::new(), row_span: 1, col_span: 1 }
    }
}

impl RawCell {
    /// The cell's words, sorted into lines.
    fn of(words: Vec<PlacedWord>) -> RawCell {
        let lines = rows::rows(words).into_iter().map(|row| row.words).collect();
        RawCell { lines, ..RawCell::default() }
    }

    fn text(&self) -> String {
        let words = self.lines.iter().flatten().map(|word| word.text.as_str());
        words.collect::<Vec<_>>().join(" ")
    }
}

/// Part of a page that is read as a whole.
pub(crate) enum Atom {
    Row(Row),
    Table(RawTable),
}

impl Atom {
    pub(crate) fn bbox(&self) -> Rect {
        match self {
            Atom::Row(row) => row.bbox,
            Atom::Table(table) => table.bbox,
        }
    }
}

/// The words in reading order and the blocks over them.
pub(crate) fn arrange(sheet: Sheet) -> (Vec<Word>, Vec<Block>) {
    let mut out = blocks::Writer::default();
    let mut directions: [Vec<PlacedWord>; 4] = Default::default();
    for word in sheet.words {
        directions[usize::from(word.turn & 3)].push(word);
    }
    // The direction of most of the text comes first: a page may lie on its side as a whole.
    let mut order = [0, 1, 2, 3];
    order.sort_by_key(|turn| std::cmp::Reverse(directions[*turn as usize].len()));
    for turn in order {
        let words = std::mem::take(&mut directions[turn as usize]);
        if words.is_empty() {
            continue;
        }
        let view = View { turn, width: sheet.width, height: sheet.height };
        let words = words.into_iter().map(|word| view.upright(word)).collect();
        let rules = sheet.rules.iter().map(|rule| view.upright_rule(*rule)).collect();
        let rules = ruled::joined(rules);
        let (tables, words) = ruled::tables(words, &rules);
        let leaves = order::leaves(rows::rows(words), tables, &rules);
        out.write(leaves, view);
    }
    out.finish()
}

/// A page seen so that text of one direction stands upright.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    turn: u8,
    width: f32,
    height: f32,
}

impl View {
    fn upright(self, mut word: PlacedWord) -> PlacedWord {
        if self.turn == 0 {
            return word;
        }
        word.bbox = self.rect(word.bbox, self.turn);
        word.baseline = word.bbox.y1 - 0.22 * word.size;
        word
    }

    /// Back to the page.
    pub(crate) fn back(self, rect: Rect) -> Rect {
        let seen = match self.turn {
            1 | 3 => View { turn: 0, width: self.height, height: self.width },
            _ => self,
        };
        seen.rect(rect, (4 - self.turn) % 4)
    }

    /// Turned by `turn` quarters counterclockwise, within the page.
    fn rect(self, rect: Rect, turn: u8) -> Rect {
        let Rect { x0, y0, x1, y1 } = rect;
        match turn {
            1 => Rect { x0: y0, y0: self.width - x1, x1: y1, y1: self.width - x0 },
            2 => Rect {
                x0: self.width - x1,
                y0: self.height - y1,
                x1: self.width - x0,
                y1: self.height - y0,
            },
            3 => Rect { x0: self.height - y1, y0: x0, x1: self.height - y0, y1: x1 },
            _ => rect,
        }
    }

    fn upright_rule(self, rule: Rule) -> Rule {
        if self.turn == 0 {
            return rule;
        }
        let rect = if rule.horizontal {
            Rect { x0: rule.from, y0: rule.at, x1: rule.to, y1: rule.at }
        } else {
            Rect { x0: rule.at, y0: rule.from, x1: rule.at, y1: rule.to }
        };
        let rect = self.rect(rect, self.turn);
        let horizontal = rule.horizontal == (self.turn == 2);
        if horizontal {
            Rule { horizontal, at: rect.y0, from: rect.x0, to: rect.x1 }
        } else {
            Rule { horizontal, at: rect.x0, from: rect.y0, to: rect.y1 }
        }
    }
}
