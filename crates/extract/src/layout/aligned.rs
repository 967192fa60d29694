//! Tables without lines: rows whose words keep clear of the same upright corridors.

use super::rows::{Row, SEGMENT_GAP};
use super::{PlacedWord, RawCell, RawTable, Rule};
use crate::document::Rect;

/// A corridor between two columns, in shares of the size of the text: wider than the spaces in a cell.
const CORRIDOR: f32 = 0.5;
/// Rows of a table stand at most this far apart, in sizes.
const PITCH_MAX: f32 = 3.2;
/// Lines of one cell stand at most this far apart, in sizes.
const PITCH_IN_CELL: f32 = 1.45;
/// The same between the head of a table and what may be the first line of its first row.
const PITCH_FIRST: f32 = 2.0;
/// After so many rows a table's columns are known: a row that lies across two of them is none of its own.
const ROWS_SURE: usize = 3;
/// Rows that a table has at most before it is ended and another begins.
const ROWS_MAX: usize = 2000;

/// Of more rows that are no table, it is not looked for one that begins at the second, the third and so on.
const RETRY_ROWS_MAX: usize = 80;

/// Takes tables out of `rows` (from top to bottom); what is left stays in order. Lines across divide rows where there are some.
pub(super) fn tables(rows: Vec<Row>, rules: &[Rule]) -> (Vec<RawTable>, Vec<Row>) {
    let mut tables = Vec::new();
    let mut left = Vec::new();
    let mut rows = rows.into_iter();
    let mut queue: std::collections::VecDeque<Row> = std::collections::VecDeque::new();
    while let Some(first) = queue.pop_front().or_else(|| rows.next()) {
        if segments(&first) < 2 {
            left.push(first);
            continue;
        }
        let mut group = Group::new(first);
        while group.rows.len() < ROWS_MAX {
            let Some(next) = queue.pop_front().or_else(|| rows.next()) else { break };
            if let Err(next) = group.push(next) {
                queue.push_front(next);
                break;
            }
        }
        let after = group.drop_tail();
        for row in after.into_iter().rev() {
            queue.push_front(row);
        }
        match group.table(rules) {
            Ok(table) => tables.push(table),
            Err(back) if back.len() > RETRY_ROWS_MAX => left.extend(back),
            Err(mut back) => {
                // The first row may be what kept the others from being one.
                let first = back.remove(0);
                left.push(first);
                for row in back.into_iter().rev() {
                    queue.push_front(row);
                }
            }
        }
    }
    (tables, left)
}

fn segments(row: &Row) -> usize {
    row.segments().count()
}

/// Rows that may make a table.
struct Group {
    rows: Vec<Row>,
    /// What words cover, ascending and apart.
    covered: Vec<(f32, f32)>,
    size: f32,
}

impl Group {
    fn new(row: Row) -> Group {
        let size = row.size;
        let covered = cover(&[], &row);
        Group { rows: vec![row], covered, size }
    }

    /// Gives the row back if it does not belong.
    fn push(&mut self, row: Row) -> Result<(), Row> {
        let Some(last) = self.rows.last() else { return Err(row) };
        let pitch = (row.baseline - last.baseline) / row.size.max(last.size).max(0.1);
        let before = self.columns().len();
        let covered = cover(&self.covered, &row);
        let after = columns(&covered, self.size).len();
        let alone = segments(&row) < 2;
        let fits = if alone {
            // Below a lone head only what does not begin where the text beside tables does.
            let inner = self.columns().first().is_some_and(|(_, to)| row.bbox.x0 > *to);
            let near = match self.pitch() {
                Some(regular) => pitch <= (1.2 * regular).max(PITCH_IN_CELL),
                None => inner && pitch <= PITCH_FIRST,
            };
            after >= before && near
        } else if self.rows.len() >= ROWS_SURE {
            after >= before
        } else {
            after >= 2 && after * 5 >= before * 3
        };
        if pitch > PITCH_MAX || !fits {
            return Err(row);
        }
        self.covered = covered;
        self.rows.push(row);
        Ok(())
    }

    /// Sizes between the baselines of the first two rows of several segments.
    fn pitch(&self) -> Option<f32> {
        let mut anchors = self.rows.iter().filter(|row| segments(row) >= 2);
        let (a, b) = (anchors.next()?, anchors.next()?);
        Some((b.baseline - a.baseline) / b.size.max(0.1))
    }

    fn columns(&self) -> Vec<(f32, f32)> {
        columns(&self.covered, self.size)
    }

    /// Rows of one segment at the end belong to it only as further lines of the cell above.
    fn drop_tail(&mut self) -> Vec<Row> {
        let Some(last) = self.rows.iter().rposition(|row| segments(row) >= 2) else {
            return Vec::new();
        };
        let mut keep = last + 1;
        while let Some(row) = self.rows.get(keep) {
            let above = &self.rows[keep - 1];
            if (row.baseline - above.baseline) > PITCH_IN_CELL * row.size.max(above.size) {
                break;
            }
            keep += 1;
        }
        self.rows.split_off(keep)
    }

    /// The table, or the rows again.
    fn table(self, rules: &[Rule]) -> Result<RawTable, Vec<Row>> {
        let columns = self.columns();
        let anchors = self.rows.iter().filter(|row| segments(row) >= 2).count();
        if columns.len() < 2 || anchors < 2 || !self.is_table(&columns) {
            return Err(self.rows);
        }
        let bbox = self.rows.iter().fold(self.rows[0].bbox, |all, row| all.union(row.bbox));
        let lines: Vec<Line> = self.rows.into_iter().map(|row| Line::of(row, &columns)).collect();
        let dividers = dividers(&lines, bbox, rules);
        let starts = if dividers.is_empty() { starts(&lines) } else { divided(&lines, &dividers) };
        let mut out: Vec<Vec<RawCell>> = Vec::new();
        for (line, starts) in lines.into_iter().zip(starts) {
            if starts || out.is_empty() {
                out.push(vec![RawCell::default(); columns.len()]);
            }
            if let Some(row) = out.last_mut() {
                for (cell, words) in row.iter_mut().zip(line.cells) {
                    cell.lines.extend((!words.is_empty()).then_some(words));
                }
            }
        }
        let header_rows = header_rows(&out);
        Ok(RawTable { rows: out, bbox, header_rows })
    }

    /// Whether the columns are a table's and not those of a page or of two addresses.
    fn is_table(&self, columns: &[(f32, f32)]) -> bool {
        let grid: Vec<Vec<Vec<PlacedWord>>> =
            self.rows.iter().map(|row| split(row.words.clone(), columns)).collect();
        let column = |index: usize| grid.iter().map(move |row| &row[index]);
        let texts =
            |index: usize| column(index).filter(|cell| !cell.is_empty()).map(|cell| text(cell));
        let prose = (0..columns.len()).any(|index| {
            let width = columns[index].1 - columns[index].0;
            let cells: Vec<&Vec<PlacedWord>> =
                column(index).filter(|cell| !cell.is_empty()).collect();
            let full = cells.iter().filter(|cell| {
                cell.len() >= 4 && cell[cell.len() - 1].bbox.x1 - cell[0].bbox.x0 >= 0.8 * width
            });
            cells.len() >= 3 && full.count() * 10 >= cells.len() * 6
        });
        if prose {
            return false;
        }
        let share = |index: usize, holds: &dyn Fn(&str) -> bool| {
            let (mut all, mut good) = (0, 0);
            for text in texts(index) {
                all += 1;
                good += usize::from(holds(&text));
            }
            all >= 2 && good * 10 >= all * 6
        };
        // Wide gaps of justified text may fall together in two lines; those of a table divide most of its rows.
        if columns.len() >= 3 && self.rows.iter().filter(|row| segments(row) >= 3).count() >= 2 {
            return true;
        }
        share(1, &is_amount) || share(0, &|text| text.ends_with(':'))
    }
}

/// A line of a table, its words by column.
struct Line {
    cells: Vec<Vec<PlacedWord>>,
    baseline: f32,
    size: f32,
}

impl Line {
    fn of(row: Row, columns: &[(f32, f32)]) -> Line {
        Line { baseline: row.baseline, size: row.size, cells: split(row.words, columns) }
    }

    fn filled(&self) -> usize {
        self.cells.iter().filter(|cell| !cell.is_empty()).count()
    }

    /// The one column that it fills.
    fn only(&self) -> Option<usize> {
        let index = self.cells.iter().position(|cell| !cell.is_empty())?;
        (self.filled() == 1).then_some(index)
    }
}

/// Heights of lines that are drawn across most of a table, between its rows; none if they do not divide most of them.
fn dividers(lines: &[Line], bbox: Rect, rules: &[Rule]) -> Vec<f32> {
    let across = |rule: &&Rule| {
        let covered = rule.to.min(bbox.x1) - rule.from.max(bbox.x0);
        rule.horizontal && covered >= 0.8 * bbox.width() && rule.at > bbox.y0 && rule.at < bbox.y1
    };
    let mut heights: Vec<f32> = rules.iter().filter(across).map(|rule| rule.at).collect();
    heights.sort_by(f32::total_cmp);
    let anchors = lines.iter().filter(|line| line.filled() * 2 > line.cells.len()).count();
    if heights.len() >= 2 && (heights.len() + 1) * 10 >= anchors * 7 { heights } else { Vec::new() }
}

/// For each line, whether it begins a row: the first below a divider does. Above all dividers and below all of them may be
/// rows that are not divided, as a sum's.
fn divided(lines: &[Line], dividers: &[f32]) -> Vec<bool> {
    let band = |line: &Line| dividers.partition_point(|at| *at < line.baseline);
    let bands: Vec<usize> = lines.iter().map(band).collect();
    let mut begins = starts(lines);
    for index in 1..lines.len() {
        let outside = bands[index] == 0 || bands[index] == dividers.len();
        let crossed = bands[index] != bands[index - 1];
        begins[index] = crossed || outside && begins[index];
    }
    begins
}

/// For each line, whether it begins a row, without anything drawn: a line that fills few columns and follows closely goes on
/// what is above it; lines above and below one that leaves their column empty are a cell set in the middle of its row.
fn starts(lines: &[Line]) -> Vec<bool> {
    let mut starts: Vec<bool> = (0..lines.len())
        .map(|index| {
            let line = &lines[index];
            let Some(above) = index.checked_sub(1).map(|above| &lines[above]) else { return true };
            let pitch = line.baseline - above.baseline;
            let tight = pitch <= PITCH_IN_CELL * line.size.max(above.size);
            // What a row is called stands in its first column; a line that has but a further one has no row of its own.
            let hangs = line.only().is_some_and(|only| only > 0 && !above.cells[only].is_empty());
            if hangs && pitch <= PITCH_FIRST * line.size.max(above.size) {
                return false;
            }
            let amount = line.cells.iter().skip(1).any(|cell| is_amount(&text(cell)));
            !(tight && !amount && line.filled() * 2 <= line.cells.len())
        })
        .collect();
    for index in 1..lines.len().saturating_sub(1) {
        let [above, line, below] = [&lines[index - 1], &lines[index], &lines[index + 1]];
        let (up, down) = (line.baseline - above.baseline, below.baseline - line.baseline);
        let centered = above.only().is_some()
            && above.only() == below.only()
            && above.only().is_some_and(|column| line.cells[column].is_empty())
            && (up - down).abs() <= 0.1 * (up + down)
            && up + down <= 2.0 * line.size.max(above.size);
        if centered {
            (starts[index - 1], starts[index], starts[index + 1]) = (true, false, false);
        }
    }
    starts
}

fn text(words: &[PlacedWord]) -> String {
    words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
}

/// Words by the column their middle is nearest to.
fn split(words: Vec<PlacedWord>, columns: &[(f32, f32)]) -> Vec<Vec<PlacedWord>> {
    let mut cells = vec![Vec::new(); columns.len()];
    for word in words {
        let x = (word.bbox.x0 + word.bbox.x1) / 2.0;
        let index = columns.partition_point(|(from, _)| *from <= x).max(1) - 1;
        cells[index].push(word);
    }
    cells
}

/// `covered` with the words of a row.
fn cover(covered: &[(f32, f32)], row: &Row) -> Vec<(f32, f32)> {
    let mut all: Vec<(f32, f32)> = covered.to_vec();
    // A gap as wide as a space is no corridor, whatever is above it.
    for segment in row.words.chunk_by(|a, b| b.bbox.x0 - a.bbox.x1 < CORRIDOR * a.size) {
        all.push((segment[0].bbox.x0, segment[segment.len() - 1].bbox.x1));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut out: Vec<(f32, f32)> = Vec::new();
    for (from, to) in all {
        match out.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => out.push((from, to)),
        }
    }
    out
}

/// Columns: what is covered, where the gaps between are corridors.
fn columns(covered: &[(f32, f32)], size: f32) -> Vec<(f32, f32)> {
    let mut out: Vec<(f32, f32)> = Vec::new();
    for (from, to) in covered {
        match out.last_mut() {
            Some(last) if from - last.1 < CORRIDOR * SEGMENT_GAP * size => last.1 = *to,
            _ => out.push((*from, *to)),
        }
    }
    out
}

/// Whether a cell holds a number, an amount or a date: digits above all.
pub(super) fn is_amount(text: &str) -> bool {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    digits > 0 && letters <= 3
}

/// How many rows head the columns: one, if it has no amounts where others do, or stands out as bold.
pub(super) fn header_rows(rows: &[Vec<RawCell>]) -> usize {
    let [first, rest @ ..] = rows else { return 0 };
    let bold = |row: &[RawCell]| {
        let mut words = row.iter().flat_map(|cell| cell.lines.iter().flatten()).peekable();
        words.peek().is_some() && words.all(|word| word.bold)
    };
    let amounts = |row: &[RawCell]| row.iter().any(|cell| is_amount(&cell.text()));
    let filled = first.iter().filter(|cell| !cell.lines.is_empty()).count();
    let plain = filled >= 2 && !amounts(first) && rest.iter().any(|row| amounts(row));
    usize::from(!rest.is_empty() && (plain || bold(first) && !rest.iter().all(|row| bold(row))))
}
