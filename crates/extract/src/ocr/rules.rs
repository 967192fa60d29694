//! Lines that a picture shows: long, thin, dark, and with nothing along their sides. Letters are short; where serifs touch,
//! a word's letters stand on their line.

use super::raster::Raster;
use crate::layout::Rule;

/// Darker is ink.
const INK: u8 = 128;
/// Shortest line in pixels of the engine's resolution: longer than what stands upright in a letter of a heading.
const LENGTH_MIN: usize = 90;
/// Thickest line, and longest gap in one: scans fray.
const THICKNESS_MAX: usize = 14;
const GAP_MAX: usize = 3;
/// How far from its edge a line is looked at from, and how much ink may be there.
const BESIDE: usize = 4;
const BESIDE_INK: f32 = 0.2;

/// The lines of a picture that stands upright; `points` is the size of a pixel.
pub(super) fn rules(raster: &Raster, points: f32) -> Vec<Rule> {
    let mut out = Vec::new();
    for horizontal in [true, false] {
        let view = View { raster, horizontal };
        for at in 0..view.across() {
            view.runs(at, &mut |from, to| {
                if view.is_line(at, from, to) {
                    let place = |pixels: usize| (pixels as f32 + 0.5) * points;
                    let (at, from, to) = (place(at), place(from), place(to));
                    out.push(Rule { horizontal, at, from, to });
                }
            });
        }
    }
    out
}

/// A picture along its rows, or along its columns.
struct View<'a> {
    raster: &'a Raster,
    horizontal: bool,
}

impl View<'_> {
    fn along(&self) -> usize {
        if self.horizontal { self.raster.width } else { self.raster.height }
    }

    fn across(&self) -> usize {
        if self.horizontal { self.raster.height } else { self.raster.width }
    }

    fn is_ink(&self, along: usize, across: usize) -> bool {
        let (x, y) = if self.horizontal { (along, across) } else { (across, along) };
        self.raster.pixels[y * self.raster.width + x] < INK
    }

    /// Every stretch of ink that is long enough, with both ends.
    fn runs(&self, at: usize, take: &mut dyn FnMut(usize, usize)) {
        let mut run: Option<(usize, usize)> = None;
        for along in 0..self.along() {
            if !self.is_ink(along, at) {
                continue;
            }
            run = Some(match run {
                Some((from, last)) if along - last <= GAP_MAX + 1 => (from, along),
                ended => {
                    long_enough(ended, take);
                    (along, along)
                }
            });
        }
        long_enough(run, take);
    }

    /// Whether the stretch is thin, and has nothing beside it.
    fn is_line(&self, at: usize, from: usize, to: usize) -> bool {
        let before =
            (1..=THICKNESS_MAX).find(|step| !self.has_ink(at.checked_sub(*step), from, to));
        let after = (1..=THICKNESS_MAX).find(|step| !self.has_ink(at.checked_add(*step), from, to));
        let (Some(before), Some(after)) = (before, after) else { return false };
        before + after <= THICKNESS_MAX + 1
            && !self.has_ink(at.checked_sub(before + BESIDE), from, to)
            && !self.has_ink(at.checked_add(after + BESIDE), from, to)
    }

    /// Whether more than a little ink lies along a stretch; beyond the picture there is none.
    fn has_ink(&self, at: Option<usize>, from: usize, to: usize) -> bool {
        let Some(at) = at.filter(|at| *at < self.across()) else { return false };
        let ink = (from..=to).filter(|along| self.is_ink(*along, at)).count();
        ink as f32 > BESIDE_INK * (to - from + 1) as f32
    }
}

fn long_enough(run: Option<(usize, usize)>, take: &mut dyn FnMut(usize, usize)) {
    if let Some((from, to)) = run.filter(|(from, to)| to - from + 1 >= LENGTH_MIN) {
        take(from, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// White, with black rectangles: x, y, width, height.
    fn picture(boxes: &[[usize; 4]]) -> Raster {
        let (width, height) = (600, 400);
        let mut pixels = vec![255; width * height];
        for &[x, y, w, h] in boxes {
            for row in y..y + h {
                pixels[row * width + x..][..w].fill(0);
            }
        }
        Raster::new(width, height, pixels, 144.0)
    }

    /// Where lines are, in pixels, those of one line once.
    fn found(boxes: &[[usize; 4]]) -> Vec<(bool, usize, usize, usize)> {
        let mut found: Vec<(bool, usize, usize, usize)> = Vec::new();
        for Rule { horizontal, at, from, to } in rules(&picture(boxes), 1.0) {
            let last =
                found.last().is_some_and(|(h, y, ..)| *h == horizontal && at as usize - y <= 20);
            if !last {
                found.push((horizontal, at as usize, from as usize, to as usize));
            }
        }
        found
    }

    #[test]
    fn lines_of_a_grid_are_found() {
        let grid = [[50, 50, 500, 3], [50, 150, 500, 3], [50, 50, 3, 103], [547, 50, 3, 103]];
        let expected = [
            (true, 50, 50, 549),
            (true, 150, 50, 549),
            (false, 50, 50, 152),
            (false, 547, 50, 152),
        ];
        assert_eq!(found(&grid), expected);
        // A line that a scan frayed is whole.
        assert_eq!(found(&[[50, 50, 200, 3], [252, 50, 200, 3]]), [(true, 50, 50, 451)]);
    }

    #[test]
    fn what_is_no_line_is_not_found() {
        // Short, thick, a picture, at the edge of one.
        assert!(found(&[[50, 50, 80, 3]]).is_empty());
        assert!(found(&[[50, 50, 300, 40]]).is_empty());
        assert!(found(&[[50, 50, 300, 200], [50, 252, 300, 2]]).is_empty());
        // Letters whose feet touch.
        let mut word = vec![[50, 80, 300, 3]];
        word.extend((0..20).map(|letter| [50 + 15 * letter, 50, 6, 30]));
        assert!(found(&word).is_empty());
    }
}
