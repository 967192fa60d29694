//! How much lines of text lean: the angle at which the rows of a picture differ most from each other.

use super::raster::Raster;

/// A picture is looked at with about so many pixels on its longer side.
const SIDE: usize = 1000;
/// Largest angle looked for, in radians (6 degrees): a page laid askew, not a rotated one.
const ANGLE_MAX: f32 = 0.105;
/// Below this, in radians (0.1 degrees), a line of text leans by less than a pixel's blur.
pub(super) const ANGLE_MIN: f32 = 0.0018;
/// Pixels darker than this are ink.
const INK: u8 = 128;
/// More points than are needed to tell.
const POINTS_MAX: usize = 60_000;

/// Clockwise, in radians.
pub(super) fn angle(raster: &Raster) -> f32 {
    let ink = ink(raster);
    if ink.len() < 50 {
        return 0.0;
    }
    let best = |center: f32, step: f32, count: i32| {
        let angles = (-count..=count).map(|index| center + index as f32 * step);
        let scored = angles.map(|angle| (sharpness(&ink, angle), angle));
        // Between equal ones, the one that turns the page less.
        scored.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.abs().total_cmp(&a.1.abs())))
    };
    let coarse = best(0.0, ANGLE_MAX / 24.0, 24).map_or(0.0, |found| found.1);
    let fine = best(coarse, ANGLE_MAX / 120.0, 5).map_or(0.0, |found| found.1);
    best(fine, ANGLE_MAX / 600.0, 5).map_or(0.0, |found| found.1)
}

/// Whether lines of text run upright rather than across.
pub(super) fn is_sideways(raster: &Raster) -> bool {
    let ink = ink(raster);
    let across = (-6..=6).map(|index| sharpness(&ink, index as f32 * ANGLE_MAX / 12.0));
    let swapped: Vec<(f32, f32)> = ink.iter().map(|(x, y)| (*y, *x)).collect();
    let upright = (-6..=6).map(|index| sharpness(&swapped, index as f32 * ANGLE_MAX / 12.0));
    let most = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
    let (mut across, mut upright) = (across, upright);
    most(&mut upright) > 1.3 * most(&mut across)
}

/// Where ink is, on a coarser grid.
fn ink(raster: &Raster) -> Vec<(f32, f32)> {
    let step = (raster.width.max(raster.height) / SIDE).max(1);
    let mut points = Vec::new();
    for y in (0..raster.height).step_by(step) {
        for x in (0..raster.width).step_by(step) {
            if raster.pixels[y * raster.width + x] < INK {
                points.push(((x / step) as f32, (y / step) as f32));
            }
        }
    }
    let every = points.len().div_ceil(POINTS_MAX).max(1);
    points.into_iter().step_by(every).collect()
}

/// Sum of squares of the differences between neighbouring rows, seen at an angle.
fn sharpness(ink: &[(f32, f32)], angle: f32) -> f32 {
    let slope = angle.tan();
    let rows = ink.iter().map(|(x, y)| (y - x * slope).round() as i32);
    let least = rows.clone().min().unwrap_or(0);
    let most = rows.clone().max().unwrap_or(0);
    let mut counts = vec![0.0_f32; (most - least) as usize + 2];
    for row in rows {
        counts[(row - least) as usize] += 1.0;
    }
    counts.windows(2).map(|pair| (pair[1] - pair[0]).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of "text": dashes on white.
    fn page() -> Raster {
        let (width, height) = (800, 1000);
        let ink =
            |x: usize, y: usize| y % 25 < 8 && (60..700).contains(&x) && !(x / 9).is_multiple_of(4);
        let pixels = (0..width * height)
            .map(|index| if ink(index % width, index / width) { 0 } else { 255 })
            .collect();
        Raster { width, height, pixels, dpi: 100 }
    }

    #[test]
    fn angles_are_found() {
        for degrees in [-4.0_f32, -1.0, -0.3, 0.0, 0.5, 2.0, 5.0] {
            let found = angle(&page().rotated(degrees.to_radians())).to_degrees();
            assert!((found - degrees).abs() < 0.15, "{degrees}: {found}");
        }
    }

    #[test]
    fn sideways_pages_are_told_apart() {
        assert!(!is_sideways(&page()));
        assert!(is_sideways(&page().turned(1)));
    }
}
