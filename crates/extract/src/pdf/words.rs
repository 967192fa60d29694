//! Glyphs to words. A page's text may run in four directions; each is turned upright, made into words there, and turned back.

use super::device::{Glyph, GlyphText, Glyphs};
use crate::document::Rect;
use crate::layout::{PlacedWord, Rule};

/// Glyphs whose baselines differ by less than this share of their size stand on one line.
const BASELINE_TOLERANCE: f32 = 0.2;
/// A gap of this share of the size divides words where a string has no spaces of its own (spaces are 0.2 to 0.33 wide,
/// kerning stays below 0.1).
const GAP: f32 = 0.15;
/// The same within a string that has spaces, where letters may be spread.
const GAP_WITH_SPACES: f32 = 0.5;
/// A drawn space divides words unless the glyphs beside it touch.
const GAP_AT_SPACE: f32 = 0.04;
/// The same glyph drawn again this close, in shares of its size, is a shadow that makes it bold.
const SHADOW: f32 = 0.12;
/// What fonts reach above and below the baseline, in shares of their size.
const ASCENT: f32 = 0.78;
const DESCENT: f32 = 0.22;

/// Which way text runs, clockwise from upright.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    None,
    Right,
    Half,
    Left,
}

/// All words of a page, those of upright text first, and the rules as they are.
pub(super) fn words(glyphs: Glyphs) -> (Vec<PlacedWord>, Vec<Rule>) {
    let rules = glyphs.rules;
    let mut directions: [Vec<Glyph>; 4] = Default::default();
    for glyph in glyphs.glyphs {
        directions[turn(glyph.advance) as usize].push(glyph);
    }
    let mut words = Vec::new();
    for (direction, glyphs) in
        [Turn::None, Turn::Right, Turn::Half, Turn::Left].into_iter().zip(directions)
    {
        let upright = glyphs.into_iter().map(|glyph| turned(glyph, direction)).collect();
        let found = upright_words(upright);
        words.extend(found.into_iter().map(|word| turned_back(word, direction)));
    }
    (words, rules)
}

fn turn((dx, dy): (f32, f32)) -> Turn {
    if dx.abs() >= dy.abs() {
        if dx >= 0.0 { Turn::None } else { Turn::Half }
    } else if dy > 0.0 {
        Turn::Right
    } else {
        Turn::Left
    }
}

/// The glyph in coordinates in which its text runs to the right.
fn turned(mut glyph: Glyph, turn: Turn) -> Glyph {
    let point = |(x, y): (f32, f32)| match turn {
        Turn::None => (x, y),
        Turn::Right => (y, -x),
        Turn::Half => (-x, -y),
        Turn::Left => (-y, x),
    };
    (glyph.x, glyph.y) = point((glyph.x, glyph.y));
    glyph.advance = point(glyph.advance);
    glyph
}

fn turned_back(mut word: PlacedWord, turn: Turn) -> PlacedWord {
    let Rect { x0, y0, x1, y1 } = word.bbox;
    word.bbox = match turn {
        Turn::None => word.bbox,
        Turn::Right => Rect { x0: -y1, y0: x0, x1: -y0, y1: x1 },
        Turn::Half => Rect { x0: -x1, y0: -y1, x1: -x0, y1: -y0 },
        Turn::Left => Rect { x0: y0, y0: -x1, x1: y1, y1: -x0 },
    };
    word.turn = turn as u8;
    word
}

fn upright_words(mut glyphs: Vec<Glyph>) -> Vec<PlacedWord> {
    let spread = Spread::of(&glyphs);
    glyphs.sort_by(|a, b| a.y.total_cmp(&b.y));
    let mut words = Vec::new();
    let mut rest = glyphs.as_mut_slice();
    while let Some(first) = rest.first() {
        // Anchored at its first glyph, so that lines of neighbouring columns cannot chain into one.
        let (anchor, tolerance) = (first.y, BASELINE_TOLERANCE * first.size);
        let count = rest.partition_point(|glyph| glyph.y - anchor <= tolerance);
        let (line, others) = std::mem::take(&mut rest).split_at_mut(count);
        line.sort_by(|a, b| a.x.total_cmp(&b.x).then(a.run.cmp(&b.run)));
        line_words(line, &spread, &mut words);
        rest = others;
    }
    words
}

/// What is known of each string of the file: whether it has spaces, and how far its letters stand apart.
struct Spread {
    runs: Vec<(bool, f32)>,
}

impl Spread {
    fn of(glyphs: &[Glyph]) -> Spread {
        let mut runs =
            vec![(false, 0.0); glyphs.iter().map(|g| g.run as usize + 1).max().unwrap_or(0)];
        for run in glyphs.chunk_by(|a, b| a.run == b.run) {
            let spaces = run.iter().any(|glyph| glyph.text == GlyphText::Space);
            let gaps = run.windows(2).map(|pair| (pair[1].x - end(&pair[0])) / pair[0].size);
            let mut gaps: Vec<f32> = gaps.collect();
            gaps.sort_by(f32::total_cmp);
            let median = gaps.get(gaps.len() / 2).copied().unwrap_or(0.0);
            // Two letters far apart are two words; that several are evenly so is a style.
            let median = if gaps.len() >= 3 { median.max(0.0) } else { 0.0 };
            runs[run[0].run as usize] = (spaces, median);
        }
        Spread { runs }
    }

    /// From which gap on, in points, two glyphs are of different words.
    fn gap(&self, left: &Glyph, right: &Glyph) -> f32 {
        let size = left.size.max(right.size);
        if left.run != right.run {
            return GAP * size;
        }
        match self.runs[left.run as usize] {
            (true, median) => (GAP_WITH_SPACES + median) * size,
            (false, median) => (GAP + median) * size,
        }
    }
}

fn end(glyph: &Glyph) -> f32 {
    glyph.x + glyph.advance.0.max(0.0)
}

/// Appends the words of a line's glyphs, which are sorted by x.
fn line_words(line: &[Glyph], spread: &Spread, words: &mut Vec<PlacedWord>) {
    let mut word: Option<Open> = None;
    let mut space = false;
    for glyph in line {
        if glyph.text == GlyphText::Space {
            space = true;
            continue;
        }
        if let Some(open) = &mut word {
            if open.shadows(glyph) {
                continue;
            }
            let gap = glyph.x - end(open.last);
            let size = glyph.size.max(open.last.size);
            if gap < spread.gap(open.last, glyph) && !(space && gap > GAP_AT_SPACE * size) {
                open.push(glyph);
                space = false;
                continue;
            }
        }
        words.extend(word.replace(Open::new(glyph)).map(Open::close));
        space = false;
    }
    words.extend(word.map(Open::close));
}

/// A word that may go on.
struct Open<'a> {
    text: String,
    bbox: Rect,
    size: f32,
    bold: bool,
    baseline: f32,
    last: &'a Glyph,
    before: Option<&'a Glyph>,
}

impl<'a> Open<'a> {
    fn new(glyph: &'a Glyph) -> Open<'a> {
        let mut word = Open {
            text: String::new(),
            bbox: bbox(glyph),
            size: glyph.size,
            bold: glyph.bold,
            baseline: glyph.y,
            last: glyph,
            before: None,
        };
        word.push_text(glyph);
        word
    }

    fn push(&mut self, glyph: &'a Glyph) {
        self.bbox = self.bbox.union(bbox(glyph));
        self.size = self.size.max(glyph.size);
        self.before = Some(self.last);
        self.last = glyph;
        self.push_text(glyph);
    }

    fn push_text(&mut self, glyph: &Glyph) {
        match &glyph.text {
            GlyphText::Char(c) => self.text.push(*c),
            GlyphText::String(text) => self.text += text,
            GlyphText::Space => {}
        }
    }

    /// Whether `glyph` is one of the last two drawn again.
    fn shadows(&self, glyph: &Glyph) -> bool {
        [Some(self.last), self.before].into_iter().flatten().any(|last| {
            last.text == glyph.text
                && last.run != glyph.run
                && (last.x - glyph.x).abs() < SHADOW * glyph.size
        })
    }

    fn close(self) -> PlacedWord {
        PlacedWord {
            text: self.text,
            bbox: self.bbox,
            baseline: self.baseline,
            size: self.size,
            bold: self.bold,
            turn: 0,
            confidence: None,
        }
    }
}

fn bbox(glyph: &Glyph) -> Rect {
    Rect {
        x0: glyph.x,
        y0: glyph.y - ASCENT * glyph.size,
        x1: end(glyph),
        y1: glyph.y + DESCENT * glyph.size,
    }
}
