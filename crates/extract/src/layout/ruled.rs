//! Tables that are drawn: lines that meet make a grid, and words lie in its cells.

use super::{PlacedWord, RawCell, RawTable, Rule, rows};
use crate::document::Rect;

/// Lines this close, in points, are one, and ends this close to a line meet it.
const SNAP: f32 = 2.5;
/// Which share of a cell's side has to be drawn for the side to be there.
const SIDE_DRAWN: f32 = 0.6;
/// A drawing of more lines than this each way is no table that anyone reads.
const LINES_MAX: usize = 400;

/// Tables with lines, and the words that lie in none. `rules` are joined ones.
pub(super) fn tables(words: Vec<PlacedWord>, rules: &[Rule]) -> (Vec<RawTable>, Vec<PlacedWord>) {
    let mut tables = Vec::new();
    let mut words = words;
    for group in touching(rules) {
        let Some(grid) = Grid::of(&group) else { continue };
        let (inside, outside): (Vec<_>, Vec<_>) =
            words.into_iter().partition(|word| grid.holds(word));
        words = outside;
        match grid.table(inside) {
            Ok(table) => tables.push(table),
            Err(back) => words.extend(back),
        }
    }
    (tables, words)
}

/// Pieces of the same line put together, those of tables' cells above all.
pub(super) fn joined(mut rules: Vec<Rule>) -> Vec<Rule> {
    rules.sort_by(|a, b| {
        (b.horizontal, a.at, a.from)
            .partial_cmp(&(a.horizontal, b.at, b.from))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let mut out: Vec<Rule> = Vec::new();
    for rule in rules {
        // Only the last few can be on the same height.
        let same = out.iter_mut().rev().take(64).find(|other| {
            other.horizontal == rule.horizontal
                && (other.at - rule.at).abs() <= SNAP / 2.0
                && rule.from <= other.to + SNAP
                && other.from <= rule.to + SNAP
        });
        match same {
            Some(other) => {
                other.from = other.from.min(rule.from);
                other.to = other.to.max(rule.to);
            }
            None => out.push(rule),
        }
    }
    out
}

/// Groups of lines that meet, each with lines of both directions.
fn touching(rules: &[Rule]) -> Vec<Vec<Rule>> {
    let (horizontal, vertical): (Vec<Rule>, Vec<Rule>) =
        rules.iter().copied().partition(|rule| rule.horizontal);
    if horizontal.is_empty() || vertical.len() < 2 || rules.len() > 4 * LINES_MAX {
        return Vec::new();
    }
    let count = horizontal.len();
    let mut group: Vec<usize> = (0..count + vertical.len()).collect();
    for (i, h) in horizontal.iter().enumerate() {
        for (j, v) in vertical.iter().enumerate() {
            let meet = v.at >= h.from - SNAP
                && v.at <= h.to + SNAP
                && h.at >= v.from - SNAP
                && h.at <= v.to + SNAP;
            if meet {
                let (a, b) = (root(&mut group, i), root(&mut group, count + j));
                group[a.max(b)] = a.min(b);
            }
        }
    }
    let mut groups: Vec<(usize, Vec<Rule>)> = Vec::new();
    for (index, rule) in horizontal.iter().chain(&vertical).enumerate() {
        let id = root(&mut group, index);
        match groups.iter_mut().find(|(other, _)| *other == id) {
            Some((_, rules)) => rules.push(*rule),
            None => groups.push((id, vec![*rule])),
        }
    }
    groups.into_iter().map(|(_, rules)| rules).filter(|rules| rules.len() >= 4).collect()
}

fn root(group: &mut [usize], mut index: usize) -> usize {
    while group[index] != index {
        group[index] = group[group[index]];
        index = group[index];
    }
    index
}

/// Where a table's lines are.
struct Grid {
    /// Ascending, at least two each.
    xs: Vec<f32>,
    ys: Vec<f32>,
    horizontal: Vec<Rule>,
    vertical: Vec<Rule>,
}

impl Grid {
    fn of(rules: &[Rule]) -> Option<Grid> {
        let (horizontal, vertical): (Vec<Rule>, Vec<Rule>) =
            rules.iter().copied().partition(|rule| rule.horizontal);
        // A table may be open at its sides: then the lines of the other direction end there.
        let ends =
            |rules: &[Rule]| rules.iter().flat_map(|rule| [rule.from, rule.to]).collect::<Vec<_>>();
        let xs = distinct(vertical.iter().map(|rule| rule.at), &ends(&horizontal));
        let ys = distinct(horizontal.iter().map(|rule| rule.at), &ends(&vertical));
        let enough = xs.len() >= 3 && ys.len() >= 2 && xs.len() < LINES_MAX && ys.len() < LINES_MAX;
        enough.then_some(Grid { xs, ys, horizontal, vertical })
    }

    fn bbox(&self) -> Rect {
        Rect {
            x0: self.xs[0],
            y0: self.ys[0],
            x1: self.xs[self.xs.len() - 1],
            y1: self.ys[self.ys.len() - 1],
        }
    }

    fn holds(&self, word: &PlacedWord) -> bool {
        let (x, y) = center(word);
        let bbox = self.bbox();
        x > bbox.x0 && x < bbox.x1 && y > bbox.y0 && y < bbox.y1
    }

    /// Whether a line is drawn between a cell and the one at its right.
    fn wall_right(&self, row: usize, column: usize) -> bool {
        drawn(&self.vertical, self.xs[column + 1], self.ys[row], self.ys[row + 1])
    }

    fn wall_below(&self, row: usize, column: usize) -> bool {
        drawn(&self.horizontal, self.ys[row + 1], self.xs[column], self.xs[column + 1])
    }

    /// Gives the words back if they make no table.
    fn table(&self, words: Vec<PlacedWord>) -> Result<RawTable, Vec<PlacedWord>> {
        let (rows, columns) = (self.ys.len() - 1, self.xs.len() - 1);
        let spans = self.spans(rows, columns);
        let mut cells: Vec<Vec<PlacedWord>> = vec![Vec::new(); rows * columns];
        let whole = words.clone();
        for word in words {
            let (x, y) = center(&word);
            let column = self.xs.partition_point(|at| *at <= x).clamp(1, columns) - 1;
            let row = self.ys.partition_point(|at| *at <= y).clamp(1, rows) - 1;
            cells[spans[row * columns + column].owner].push(word);
        }
        let filled = cells.iter().filter(|cell| !cell.is_empty()).count();
        let owners = spans.iter().enumerate().filter(|(index, span)| span.owner == *index).count();
        if filled < 2 || owners < 3 || 4 * filled < owners {
            return Err(whole);
        }
        let mut table: Vec<Vec<RawCell>> = Vec::with_capacity(rows);
        let mut cells = cells.into_iter();
        for row in 0..rows {
            let line = (0..columns).zip(cells.by_ref()).map(|(column, words)| {
                let span = &spans[row * columns + column];
                let mut cell = RawCell::of(words);
                let owns = span.owner == row * columns + column;
                (cell.row_span, cell.col_span) =
                    if owns { (span.rows, span.columns) } else { (0, 0) };
                cell
            });
            table.push(line.collect());
        }
        let rows = without_empty(split_rows(table));
        let header_rows = super::aligned::header_rows(&rows);
        Ok(RawTable { rows, bbox: self.bbox(), header_rows })
    }

    /// For each place of the grid, the cell it belongs to: those without a line between them are one, if they make a
    /// rectangle.
    fn spans(&self, rows: usize, columns: usize) -> Vec<Span> {
        let mut spans: Vec<Span> =
            (0..rows * columns).map(|owner| Span { owner, rows: 1, columns: 1 }).collect();
        let mut taken = vec![false; rows * columns];
        for row in 0..rows {
            for column in 0..columns {
                if taken[row * columns + column] {
                    continue;
                }
                let mut right = column;
                while right + 1 < columns
                    && !taken[row * columns + right + 1]
                    && !self.wall_right(row, right)
                {
                    right += 1;
                }
                let open_below = |below: usize| {
                    (column..=right)
                        .all(|c| !self.wall_below(below, c) && !taken[(below + 1) * columns + c])
                        && (column..right).all(|c| !self.wall_right(below + 1, c))
                };
                let mut bottom = row;
                while bottom + 1 < rows && open_below(bottom) {
                    bottom += 1;
                }
                let owner = row * columns + column;
                for r in row..=bottom {
                    for c in column..=right {
                        taken[r * columns + c] = true;
                        spans[r * columns + c].owner = owner;
                    }
                }
                spans[owner].rows = bottom - row + 1;
                spans[owner].columns = right - column + 1;
            }
        }
        spans
    }
}

/// Which cell a place of the grid belongs to, and how far that one reaches (in its own first place).
struct Span {
    owner: usize,
    rows: usize,
    columns: usize,
}

fn center(word: &PlacedWord) -> (f32, f32) {
    ((word.bbox.x0 + word.bbox.x1) / 2.0, (word.bbox.y0 + word.bbox.y1) / 2.0)
}

fn drawn(rules: &[Rule], at: f32, from: f32, to: f32) -> bool {
    let covered: f32 = rules
        .iter()
        .filter(|rule| (rule.at - at).abs() <= SNAP)
        .map(|rule| (rule.to.min(to) - rule.from.max(from)).max(0.0))
        .sum();
    covered >= SIDE_DRAWN * (to - from)
}

/// Places of lines, and the outermost ends of those across if nothing is drawn there.
fn distinct(lines: impl Iterator<Item = f32>, ends: &[f32]) -> Vec<f32> {
    let least = ends.iter().copied().fold(f32::INFINITY, f32::min);
    let most = ends.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut all: Vec<f32> = lines.chain([least, most]).filter(|at| at.is_finite()).collect();
    all.sort_by(f32::total_cmp);
    let mut out: Vec<f32> = Vec::new();
    for at in all {
        if out.last().is_none_or(|last| at - last > SNAP) {
            out.push(at);
        }
    }
    out
}

/// A table that is ruled between its columns only has all of its body in one row; each line that fills two cells or more
/// begins a row of its own.
fn split_rows(table: Vec<Vec<RawCell>>) -> Vec<Vec<RawCell>> {
    if table.len() > 3 {
        return table;
    }
    table.into_iter().flat_map(split_row).collect()
}

fn split_row(row: Vec<RawCell>) -> Vec<Vec<RawCell>> {
    let plain = row.iter().all(|cell| cell.row_span == 1 && cell.col_span == 1);
    let lines = rows::rows(row.iter().flat_map(|cell| cell.lines.concat()).collect());
    let starts: Vec<f32> = lines
        .iter()
        .filter(|line| {
            let holds = |cell: &&RawCell| {
                cell.lines.iter().flatten().any(|word| same_line(word.baseline, line))
            };
            row.iter().filter(holds).count() >= 2
        })
        .map(|line| line.baseline - 0.5 * line.size)
        .collect();
    if !plain || starts.len() < 3 || starts.len() * 2 < lines.len() {
        return vec![row];
    }
    let mut out = vec![vec![RawCell::default(); row.len()]; starts.len()];
    for (column, cell) in row.into_iter().enumerate() {
        for line in cell.lines {
            let baseline = line[0].baseline;
            let index = starts.partition_point(|start| *start <= baseline).max(1) - 1;
            out[index][column].lines.push(line);
        }
    }
    out
}

fn same_line(baseline: f32, line: &rows::Row) -> bool {
    (baseline - line.baseline).abs() < 0.4 * line.size
}

/// Rows and columns that hold nothing at all are spacing.
fn without_empty(mut table: Vec<Vec<RawCell>>) -> Vec<Vec<RawCell>> {
    let plain = |cell: &RawCell| cell.lines.is_empty() && cell.row_span == 1 && cell.col_span == 1;
    table.retain(|row| !row.iter().all(plain));
    let columns = table.first().map_or(0, Vec::len);
    for column in (0..columns).rev() {
        if table.iter().all(|row| plain(&row[column])) {
            for row in &mut table {
                row.remove(column);
            }
        }
    }
    table
}
