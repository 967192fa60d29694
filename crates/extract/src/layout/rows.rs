//! Words to rows: what stands on one baseline, and the segments that wide gaps divide it into.

use super::PlacedWord;
use crate::document::Rect;

/// Baselines that differ by less than this share of the size are one row.
const TOLERANCE: f32 = 0.35;
/// A gap wider than this share of the size divides a row into segments. Spaces, also of justified text, are narrower.
pub(crate) const SEGMENT_GAP: f32 = 1.0;

/// A mark of a list stands at most this far before its item, in sizes.
const MARK_GAP: f32 = 3.5;

const BULLETS: [&str; 12] = ["•", "◦", "▪", "■", "●", "○", "‣", "–", "—", "-", "*", "·"];

/// If a word is the mark of an item of a list: its number, if it has one.
pub(crate) fn mark(text: &str) -> Option<Option<u32>> {
    if BULLETS.contains(&text) {
        return Some(None);
    }
    let digits = text.strip_suffix(['.', ')'])?;
    let plain = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok())
}

/// Words on one baseline, from left to right.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) words: Vec<PlacedWord>,
    pub(crate) bbox: Rect,
    /// Size of the largest word, marks of lists aside.
    pub(crate) size: f32,
    pub(crate) baseline: f32,
}

impl Row {
    /// A row of at least one word.
    pub(crate) fn of(words: Vec<PlacedWord>) -> Row {
        let first = words.first().map_or(Rect::default(), |word| word.bbox);
        let bbox = words.iter().fold(first, |all, word| all.union(word.bbox));
        // Bullets are often set larger than what they stand before.
        let texts = words.iter().filter(|word| words.len() == 1 || mark(&word.text).is_none());
        let size = texts.map(|word| word.size).fold(0.0, f32::max);
        let size = if size > 0.0 { size } else { words.first().map_or(1.0, |word| word.size) };
        let baseline = words.first().map_or(0.0, |word| word.baseline);
        Row { words, bbox, size, baseline }
    }

    /// Parts of the row with wide gaps between them.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &[PlacedWord]> {
        self.words.chunk_by(|left, right| {
            let gap = (right.bbox.x0 - left.bbox.x1) / left.size.min(right.size).max(0.1);
            gap <= SEGMENT_GAP || gap <= MARK_GAP && mark(&left.text).is_some()
        })
    }

    /// The same, each as a row.
    pub(crate) fn into_segments(self) -> Vec<Row> {
        self.segments().map(|words| Row::of(words.to_vec())).collect()
    }
}

/// Rows from top to bottom.
pub(crate) fn rows(mut words: Vec<PlacedWord>) -> Vec<Row> {
    words.sort_by(|a, b| a.baseline.total_cmp(&b.baseline));
    let mut rows = Vec::new();
    let mut row: Vec<PlacedWord> = Vec::new();
    let close = |mut row: Vec<PlacedWord>, rows: &mut Vec<Row>| {
        row.sort_by(|a, b| a.bbox.x0.total_cmp(&b.bbox.x0));
        rows.push(Row::of(row));
    };
    for word in words {
        // Anchored at the row's first word: the rows of two columns that are out of step must not chain.
        let apart = row.first().is_some_and(|first| {
            word.baseline - first.baseline > TOLERANCE * first.size.min(word.size)
        });
        if apart {
            close(std::mem::take(&mut row), &mut rows);
        }
        row.push(word);
    }
    if !row.is_empty() {
        close(row, &mut rows);
    }
    rows
}
