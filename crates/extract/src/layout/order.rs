//! Which part of a page is read after which. A page is cut into strips by the white between its lines. Strips one below the
//! other that keep the same corridor clear are one band, and a band is read column by column; others line by line. A column
//! is a smaller page.

use super::rows::{Row, rows};
use super::{Atom, RawTable, Rule, aligned};

/// Columns within columns: more is a drawing.
const DEPTH_MAX: usize = 6;
/// Width of a corridor in sizes of the text.
const CORRIDOR: f32 = 1.0;
/// White between strips, in sizes, beyond which a short strip no longer belongs to the columns above.
const BREAK: f32 = 1.3;
/// The same where both are columns.
const BREAK_OF_COLUMNS: f32 = 2.5;
/// Strips with text on both sides from which on columns are those of a page.
const PROSE_STRIPS: usize = 4;

/// A stretch of lines and tables from top to bottom.
pub(super) type Leaf = Vec<Atom>;

pub(super) fn leaves(rows: Vec<Row>, tables: Vec<RawTable>, rules: &[Rule]) -> Vec<Leaf> {
    let mut out = Vec::new();
    part(rows, tables, rules, 0, &mut out);
    out
}

fn part(
    rows: Vec<Row>,
    mut tables: Vec<RawTable>,
    rules: &[Rule],
    depth: usize,
    out: &mut Vec<Leaf>,
) {
    let (found, rows) = aligned::tables(rows, rules);
    tables.extend(found);
    let segments = rows.into_iter().flat_map(Row::into_segments).map(Atom::Row);
    let atoms: Vec<Atom> = segments.chain(tables.into_iter().map(Atom::Table)).collect();
    for band in bands(strips(atoms)) {
        if band.corridors.is_empty() || band.strips.len() == 1 || depth == DEPTH_MAX {
            leaf(band, out);
        } else {
            columns(band, rules, depth, out);
        }
    }
}

/// Appends lines to the last leaf if that was cut off by a band only.
fn leaf(band: Band, out: &mut Vec<Leaf>) {
    let mut atoms = Vec::new();
    for strip in band.strips {
        let mut words = Vec::new();
        for atom in strip.atoms {
            match atom {
                Atom::Row(row) => words.extend(row.words),
                table @ Atom::Table(_) => atoms.push(table),
            }
        }
        atoms.extend(rows(words).into_iter().map(Atom::Row));
    }
    atoms.sort_by(|a, b| a.bbox().y0.total_cmp(&b.bbox().y0));
    out.push(atoms);
}

fn columns(band: Band, rules: &[Rule], depth: usize, out: &mut Vec<Leaf>) {
    let count = band.corridors.len() + 1;
    let mut words: Vec<Vec<super::PlacedWord>> = vec![Vec::new(); count];
    let mut tables: Vec<Vec<RawTable>> = vec![Vec::new(); count];
    for atom in band.strips.into_iter().flat_map(|strip| strip.atoms) {
        let bbox = atom.bbox();
        let x = (bbox.x0 + bbox.x1) / 2.0;
        let column = band.corridors.partition_point(|(from, to)| (from + to) / 2.0 < x);
        match atom {
            Atom::Row(row) => words[column].extend(row.words),
            Atom::Table(table) => tables[column].push(table),
        }
    }
    for (words, tables) in words.into_iter().zip(tables) {
        part(rows(words), tables, rules, depth + 1, out);
    }
}

/// What overlaps in height.
struct Strip {
    atoms: Vec<Atom>,
    top: f32,
    bottom: f32,
    size: f32,
}

fn strips(atoms: Vec<Atom>) -> Vec<Strip> {
    // Of a row, what all its letters fill: lines set tightly touch otherwise.
    let extent = |atom: &Atom| match atom {
        Atom::Row(row) => (row.baseline - 0.5 * row.size, row.baseline, row.size),
        Atom::Table(table) => (table.bbox.y0, table.bbox.y1, 0.0),
    };
    let mut atoms: Vec<((f32, f32, f32), Atom)> =
        atoms.into_iter().map(|atom| (extent(&atom), atom)).collect();
    atoms.sort_by(|a, b| a.0.0.total_cmp(&b.0.0));
    let mut strips: Vec<Strip> = Vec::new();
    for ((top, bottom, size), atom) in atoms {
        match strips.last_mut() {
            Some(strip) if top < strip.bottom => {
                strip.bottom = strip.bottom.max(bottom);
                strip.size = strip.size.max(size);
                strip.atoms.push(atom);
            }
            _ => strips.push(Strip { atoms: vec![atom], top, bottom, size }),
        }
    }
    strips
}

/// Strips that are read together.
struct Band {
    strips: Vec<Strip>,
    /// Upright corridors that all of it keeps clear, ascending; none: it is read line by line.
    corridors: Vec<(f32, f32)>,
    /// How many of its strips have text on both sides of one.
    both: usize,
}

fn bands(strips: Vec<Strip>) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    for strip in strips {
        let own = corridors(&strip);
        let Some(band) = bands.last_mut() else {
            bands.push(Band {
                both: usize::from(!own.is_empty()),
                corridors: own,
                strips: vec![strip],
            });
            continue;
        };
        let last = &band.strips[band.strips.len() - 1];
        let white = (strip.top - last.bottom) / strip.size.max(last.size).max(1.0);
        let clear = clear(&band.corridors, &strip);
        let goes_on = if band.corridors.is_empty() {
            own.is_empty()
        } else if clear.is_empty() {
            false
        } else if band.both >= PROSE_STRIPS {
            true
        } else if own.is_empty() {
            white <= BREAK
        } else {
            white <= BREAK_OF_COLUMNS
        };
        if goes_on {
            band.both += usize::from(!own.is_empty());
            band.corridors = clear;
            band.strips.push(strip);
        } else {
            bands.push(Band {
                both: usize::from(!own.is_empty()),
                corridors: own,
                strips: vec![strip],
            });
        }
    }
    bands
}

/// Gaps between what stands in a strip.
fn corridors(strip: &Strip) -> Vec<(f32, f32)> {
    let mut spans: Vec<(f32, f32)> =
        strip.atoms.iter().map(|atom| (atom.bbox().x0, atom.bbox().x1)).collect();
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut out = Vec::new();
    let mut end = spans.first().map_or(0.0, |span| span.1);
    for (from, to) in spans {
        if from - end >= CORRIDOR * strip.size.max(1.0) {
            out.push((end, from));
        }
        end = end.max(to);
    }
    out
}

/// What a strip leaves of corridors.
fn clear(corridors: &[(f32, f32)], strip: &Strip) -> Vec<(f32, f32)> {
    let mut left = corridors.to_vec();
    for atom in &strip.atoms {
        let bbox = atom.bbox();
        left = left
            .into_iter()
            .flat_map(|(from, to)| [(from, to.min(bbox.x0)), (from.max(bbox.x1), to)])
            .filter(|(from, to)| to - from >= CORRIDOR * strip.size.max(1.0))
            .collect();
        left.dedup();
    }
    left
}
