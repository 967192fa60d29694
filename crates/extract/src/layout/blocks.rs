//! Lines to blocks: what is a heading, an item of a list, a paragraph.

use std::collections::HashMap;

use super::order::Leaf;
use super::rows::{self, Row};
use super::{Atom, PlacedWord, RawTable, View};
use crate::document::{Block, Cell, Passage, Rect, Table, Word};

/// White between lines, in sizes from baseline to baseline, that ends a paragraph even where lines are set wide.
const PITCH_MAX: f32 = 1.75;
/// What ends it in any case is this much more than the usual.
const PITCH_GROWTH: f32 = 1.25;
/// Text this much larger than most of the page is a heading, by level.
const HEADINGS: [(f32, u8); 3] = [(1.7, 1), (1.35, 2), (1.12, 3)];
/// Words a heading has at most.
const HEADING_WORDS_MAX: usize = 25;
/// The same if nothing but bold type makes it one.
const BOLD_HEADING_WORDS_MAX: usize = 10;

/// Collects a page's words and blocks.
#[derive(Default)]
pub(super) struct Writer {
    words: Vec<Word>,
    blocks: Vec<Block>,
}

impl Writer {
    pub(super) fn write(&mut self, leaves: Vec<Leaf>, view: View) {
        let body = body_size(&leaves);
        for leaf in leaves {
            let usual = usual_pitch(&leaf);
            let mut lines: Vec<Row> = Vec::new();
            for atom in leaf {
                match atom {
                    Atom::Row(row) => {
                        if lines.last().is_some_and(|last| ends(last, &row, usual)) {
                            self.lines(std::mem::take(&mut lines), body, view);
                        }
                        lines.push(row);
                    }
                    Atom::Table(table) => {
                        self.lines(std::mem::take(&mut lines), body, view);
                        self.table(table, view);
                    }
                }
            }
            self.lines(lines, body, view);
        }
    }

    pub(super) fn finish(self) -> (Vec<Word>, Vec<Block>) {
        (self.words, self.blocks)
    }

    fn lines(&mut self, lines: Vec<Row>, body: f32, view: View) {
        if lines.is_empty() {
            return;
        }
        let count: usize = lines.iter().map(|line| line.words.len()).sum();
        let level = heading_level(&lines, count, body);
        let marker = marker(&lines[0]);
        let lines: Vec<Vec<PlacedWord>> = lines.into_iter().map(|line| line.words).collect();
        let mut passage = self.passage(lines, view);
        self.blocks.push(match (level, marker) {
            (Some(level), _) => Block::Heading { level, passage },
            (None, Some((number, length))) => {
                passage.text = passage.text[length..].trim_start().to_owned();
                Block::ListItem { depth: 0, number, passage }
            }
            (None, None) => Block::Paragraph { passage },
        });
    }

    fn table(&mut self, table: RawTable, view: View) {
        let rows = table.rows.into_iter().map(|row| {
            let cells = row.into_iter().map(|cell| Cell {
                passage: self.passage(cell.lines, view),
                row_span: cell.row_span,
                col_span: cell.col_span,
            });
            cells.collect()
        });
        let rows = rows.collect();
        let bbox = Some(rounded(view.back(table.bbox)));
        self.blocks.push(Block::Table(Table { rows, header_rows: table.header_rows, bbox }));
    }

    fn passage(&mut self, lines: Vec<Vec<PlacedWord>>, view: View) -> Passage {
        let start = self.words.len();
        let mut texts = Vec::with_capacity(lines.len());
        for line in lines {
            let words: Vec<&str> = line.iter().map(|word| word.text.as_str()).collect();
            texts.push(words.join(" "));
            self.words.extend(line.into_iter().map(|word| Word {
                bbox: Some(rounded(view.back(word.bbox))),
                text: word.text,
                confidence: word.confidence,
            }));
        }
        Passage { text: texts.join("\n"), words: start..self.words.len() }
    }
}

/// To hundredths of a point: finer than anything that is printed, and short as JSON.
fn rounded(rect: Rect) -> Rect {
    let round = |x: f32| (x * 100.0).round() / 100.0;
    Rect { x0: round(rect.x0), y0: round(rect.y0), x1: round(rect.x1), y1: round(rect.y1) }
}

/// Size of most of the text.
fn body_size(leaves: &[Leaf]) -> f32 {
    let mut sizes: HashMap<u32, usize> = HashMap::new();
    let mut count = |word: &PlacedWord| {
        *sizes.entry((word.size * 4.0).round() as u32).or_default() += word.text.len();
    };
    for atom in leaves.iter().flatten() {
        match atom {
            Atom::Row(row) => row.words.iter().for_each(&mut count),
            Atom::Table(table) => {
                table
                    .rows
                    .iter()
                    .flatten()
                    .flat_map(|c| c.lines.iter().flatten())
                    .for_each(&mut count);
            }
        }
    }
    let most = sizes.into_iter().max_by_key(|(size, count)| (*count, *size));
    most.map_or(10.0, |(size, _)| size as f32 / 4.0)
}

/// Baseline to baseline in sizes, for most lines of a stretch.
fn usual_pitch(leaf: &Leaf) -> f32 {
    let pairs = leaf.windows(2).filter_map(|pair| match pair {
        [Atom::Row(a), Atom::Row(b)] => Some(pitch(a, b)),
        _ => None,
    });
    let mut pitches: Vec<f32> = pairs.collect();
    pitches.sort_by(f32::total_cmp);
    pitches.get(pitches.len() / 2).copied().unwrap_or(1.2)
}

fn pitch(above: &Row, below: &Row) -> f32 {
    (below.baseline - above.baseline) / above.size.max(below.size).max(0.1)
}

/// Whether a paragraph ends between two lines.
fn ends(above: &Row, below: &Row, usual: f32) -> bool {
    let limit = (PITCH_GROWTH * usual).clamp(1.3, PITCH_MAX);
    let sizes = below.size / above.size.max(0.1);
    let bold = |row: &Row| row.words.iter().all(|word| word.bold);
    pitch(above, below) > limit
        || !(0.92..=1.08).contains(&sizes)
        || bold(above) != bold(below)
        || marker(below).is_some()
}

fn heading_level(lines: &[Row], words: usize, body: f32) -> Option<u8> {
    let size = lines.iter().map(|line| line.size).fold(0.0, f32::max);
    let letters = lines
        .iter()
        .flat_map(|line| &line.words)
        .any(|word| word.text.chars().any(char::is_alphabetic));
    if lines.len() > 3 || words > HEADING_WORDS_MAX || !letters {
        return None;
    }
    let by_size = HEADINGS.iter().find(|(ratio, _)| size >= ratio * body).map(|(_, level)| *level);
    let bold = lines.len() == 1
        && words <= BOLD_HEADING_WORDS_MAX
        && lines[0].words.iter().all(|word| word.bold)
        && size >= 0.98 * body;
    by_size.or(bold.then_some(4))
}

/// If a line begins as an item of a list: its number, and how many bytes of the line's text the mark takes.
fn marker(line: &Row) -> Option<(Option<u32>, usize)> {
    let [first, _, ..] = line.words.as_slice() else { return None };
    rows::mark(&first.text).map(|number| (number, first.text.len()))
}
