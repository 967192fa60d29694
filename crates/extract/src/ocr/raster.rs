//! Grey pictures, and where their pixels come from.

use std::io::{self, Write};

use super::DPI;
use crate::document::Rect;

/// Pictures are made at most this much larger to come to the engine's resolution.
const SCALE_MAX: f32 = 3.0;
/// Below this resolution enlarging helps more than it costs.
const DPI_ENOUGH: f32 = 260.0;
/// Shares of the darkest and the lightest pixels that are taken for black and white.
const BLACK_SHARE: f32 = 0.005;
const WHITE_SHARE: f32 = 0.35;
/// Share of lone black or white pixels from which on a picture is taken for noisy.
const SPECKLES: f32 = 0.004;

/// A grey picture; 0 is black.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raster {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// `[height, width]`
    pub(crate) pixels: Vec<u8>,
    /// Dots per inch, from the page's size.
    pub(crate) dpi: u32,
}

/// How the pixels of a picture lie in the one it was made of: enlarged, then turned by quarters, then rotated.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    scale: f32,
    turn: u8,
    /// Clockwise, radians; about the middle.
    angle: f32,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Raster {
    /// As a page of `width` points.
    pub(crate) fn new(width: usize, height: usize, pixels: Vec<u8>, points: f32) -> Raster {
        let dpi = (width as f32 * 72.0 / points.max(1.0)).round().clamp(30.0, 2400.0) as u32;
        Raster { width, height, pixels, dpi }
    }

    /// Brought to the engine's resolution and to full contrast, and rid of speckles if it has many.
    pub(super) fn cleared(&self) -> (Raster, Placement) {
        let wanted = DPI / self.dpi as f32;
        let scale = if self.dpi as f32 >= DPI_ENOUGH && wanted > 0.5 {
            1.0
        } else {
            wanted.clamp(0.05, SCALE_MAX)
        };
        let mut raster = self.clone();
        if raster.speckles() > SPECKLES {
            raster = raster.median();
        }
        if scale != 1.0 {
            raster = raster.scaled(scale);
        }
        raster.stretch();
        let (width, height) = (raster.width, raster.height);
        (raster, Placement { scale, turn: 0, angle: 0.0, width, height })
    }

    fn scaled(&self, scale: f32) -> Raster {
        let width = ((self.width as f32 * scale).round() as u32).max(1);
        let height = ((self.height as f32 * scale).round() as u32).max(1);
        let Some(image) =
            image::GrayImage::from_raw(self.width as u32, self.height as u32, self.pixels.clone())
        else {
            return self.clone();
        };
        let filter = image::imageops::FilterType::CatmullRom;
        let pixels = image::imageops::resize(&image, width, height, filter).into_raw();
        Raster { width: width as usize, height: height as usize, pixels, dpi: DPI as u32 }
    }

    /// Spreads what lies between the darkest and the background's grey over all of black to white.
    fn stretch(&mut self) {
        let mut histogram = [0_usize; 256];
        for pixel in &self.pixels {
            histogram[usize::from(*pixel)] += 1;
        }
        let at = |share: f32| {
            let wanted = (self.pixels.len() as f32 * share) as usize;
            let mut sum = 0;
            let level = histogram.iter().position(|count| {
                sum += count;
                sum > wanted
            });
            level.unwrap_or(255) as f32
        };
        // Most of a page is background, so that its lighter part begins well below the middle.
        let (black, white) = (at(BLACK_SHARE), at(WHITE_SHARE));
        if white - black < 20.0 || (black < 10.0 && white > 245.0) {
            return;
        }
        for pixel in &mut self.pixels {
            let level = (f32::from(*pixel) - black) / (white - black);
            *pixel = (level.clamp(0.0, 1.0) * 255.0) as u8;
        }
    }

    /// Share of pixels that differ much from all four beside them, of a sample.
    fn speckles(&self) -> f32 {
        let (mut lone, mut all) = (0_usize, 0_usize);
        for y in (1..self.height.saturating_sub(1)).step_by(3) {
            let at = |x: usize, y: usize| i32::from(self.pixels[y * self.width + x]);
            for x in 1..self.width.saturating_sub(1) {
                let own = at(x, y);
                let others = [at(x - 1, y), at(x + 1, y), at(x, y - 1), at(x, y + 1)];
                let far = others.iter().all(|other| other - own > 90)
                    || others.iter().all(|other| own - other > 90);
                lone += usize::from(far);
                all += 1;
            }
        }
        lone as f32 / all.max(1) as f32
    }

    /// Each pixel as the middle of the nine around it.
    fn median(&self) -> Raster {
        let mut out = self.clone();
        for y in 1..self.height.saturating_sub(1) {
            for x in 1..self.width.saturating_sub(1) {
                let mut nine = [0; 9];
                for (index, value) in nine.iter_mut().enumerate() {
                    *value = self.pixels[(y + index / 3 - 1) * self.width + x + index % 3 - 1];
                }
                nine.sort_unstable();
                out.pixels[y * self.width + x] = nine[4];
            }
        }
        out
    }

    /// Turned clockwise by quarters.
    pub(super) fn turned(&self, turn: u8) -> Raster {
        let (w, h) = (self.width, self.height);
        let (width, height) = if turn.is_multiple_of(2) { (w, h) } else { (h, w) };
        let mut pixels = Vec::with_capacity(w * h);
        for y in 0..height {
            for x in 0..width {
                let (from_x, from_y) = match turn & 3 {
                    0 => (x, y),
                    1 => (y, h - 1 - x),
                    2 => (w - 1 - x, h - 1 - y),
                    _ => (w - 1 - y, x),
                };
                pixels.push(self.pixels[from_y * w + from_x]);
            }
        }
        Raster { width, height, pixels, dpi: self.dpi }
    }

    /// Rotated clockwise by `angle` (radians) about the middle, in the same frame; corners become white.
    pub(super) fn rotated(&self, angle: f32) -> Raster {
        let (sin, cos) = angle.sin_cos();
        let (mid_x, mid_y) = (self.width as f32 / 2.0, self.height as f32 / 2.0);
        let mut pixels = vec![255; self.pixels.len()];
        for y in 0..self.height {
            let dy = y as f32 + 0.5 - mid_y;
            for x in 0..self.width {
                let dx = x as f32 + 0.5 - mid_x;
                let from_x = dx * cos + dy * sin + mid_x - 0.5;
                let from_y = dy * cos - dx * sin + mid_y - 0.5;
                if let Some(value) = self.between(from_x, from_y) {
                    pixels[y * self.width + x] = value;
                }
            }
        }
        Raster { pixels, ..*self }
    }

    /// Grey between four pixels.
    fn between(&self, x: f32, y: f32) -> Option<u8> {
        if x < 0.0 || y < 0.0 {
            return None;
        }
        let (left, top) = (x as usize, y as usize);
        if left + 1 >= self.width || top + 1 >= self.height {
            return None;
        }
        let (right, below) = (x - left as f32, y - top as f32);
        let index = top * self.width + left;
        let row = |at: usize| {
            f32::from(self.pixels[at]) * (1.0 - right) + f32::from(self.pixels[at + 1]) * right
        };
        Some((row(index) * (1.0 - below) + row(index + self.width) * below).round() as u8)
    }

    /// As PGM, which needs no compression on either side.
    pub(super) fn write_pgm(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(format!("P5\n{} {}\n255\n", self.width, self.height).as_bytes())?;
        to.write_all(&self.pixels)
    }
}

impl Placement {
    /// Of this picture turned by quarters, which is `turned`.
    pub(super) fn turned(&self, turn: u8, turned: &Raster) -> Placement {
        Placement { turn, width: turned.width, height: turned.height, ..self.clone() }
    }

    /// Of this picture rotated so that lines that lean by `angle` are level.
    pub(super) fn rotated(&self, angle: f32) -> Placement {
        Placement { angle, ..self.clone() }
    }

    /// A rectangle of the finished picture, in units of `1 / unit` pixels, on the page, where a pixel of the original
    /// measures `to_x` by `to_y` points.
    pub(super) fn back(&self, rect: Rect, unit: f32, to_x: f32, to_y: f32) -> Rect {
        let corners =
            [(rect.x0, rect.y0), (rect.x1, rect.y0), (rect.x0, rect.y1), (rect.x1, rect.y1)];
        let points = corners.map(|(x, y)| self.point(x * unit, y * unit));
        let least =
            |get: fn(&(f32, f32)) -> f32| points.iter().map(get).fold(f32::INFINITY, f32::min);
        let most =
            |get: fn(&(f32, f32)) -> f32| points.iter().map(get).fold(f32::NEG_INFINITY, f32::max);
        let round = |x: f32| (x * 100.0).round() / 100.0;
        Rect {
            x0: round(least(|p| p.0) * to_x).max(0.0),
            y0: round(least(|p| p.1) * to_y).max(0.0),
            x1: round(most(|p| p.0) * to_x).max(0.0),
            y1: round(most(|p| p.1) * to_y).max(0.0),
        }
    }

    fn point(&self, x: f32, y: f32) -> (f32, f32) {
        let (sin, cos) = self.angle.sin_cos();
        let (mid_x, mid_y) = (self.width as f32 / 2.0, self.height as f32 / 2.0);
        let (dx, dy) = (x - mid_x, y - mid_y);
        // The picture was rotated by minus the angle.
        let (x, y) = (dx * cos - dy * sin + mid_x, dy * cos + dx * sin + mid_y);
        let (w, h) = (self.width as f32, self.height as f32);
        let (x, y) = match self.turn & 3 {
            0 => (x, y),
            1 => (y, w - x),
            2 => (w - x, h - y),
            _ => (h - y, x),
        };
        (x / self.scale, y / self.scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A white picture with one black rectangle.
    fn marked(width: usize, height: usize, mark: Rect) -> Raster {
        let inside = |x: usize, y: usize| {
            let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
            x > mark.x0 && x < mark.x1 && y > mark.y0 && y < mark.y1
        };
        let pixels = (0..width * height)
            .map(|index| if inside(index % width, index / width) { 0 } else { 255 })
            .collect();
        Raster { width, height, pixels, dpi: 300 }
    }

    fn mark_of(raster: &Raster) -> Rect {
        let dark = (0..raster.pixels.len()).filter(|index| raster.pixels[*index] < 128);
        let places = dark.map(|index| {
            let (x, y) = ((index % raster.width) as f32, (index / raster.width) as f32);
            Rect { x0: x, y0: y, x1: x + 1.0, y1: y + 1.0 }
        });
        places.reduce(Rect::union).unwrap()
    }

    #[test]
    fn places_lead_back_to_the_page() {
        let mark = Rect { x0: 40.0, y0: 20.0, x1: 60.0, y1: 26.0 };
        let raster = marked(200, 120, mark);
        let whole = Placement { scale: 1.0, turn: 0, angle: 0.0, width: 200, height: 120 };
        for turn in 0..4 {
            let turned = raster.turned(turn);
            let placement = whole.turned(turn, &turned);
            assert_eq!(placement.back(mark_of(&turned), 1.0, 1.0, 1.0), mark, "{turn}");
            let angle: f32 = 0.05;
            let leaning = turned.rotated(-angle);
            let back = placement.rotated(angle).back(mark_of(&leaning), 1.0, 1.0, 1.0);
            for (found, expected) in
                [(back.x0, mark.x0), (back.y0, mark.y0), (back.x1, mark.x1), (back.y1, mark.y1)]
            {
                // A leaning rectangle's box is larger than it by its length times the angle.
                assert!((found - expected).abs() < 3.0, "{turn}: {back:?}");
            }
        }
    }

    #[test]
    fn contrast_and_speckles() {
        let mut faint = marked(100, 100, Rect { x0: 10.0, y0: 10.0, x1: 30.0, y1: 30.0 });
        for pixel in &mut faint.pixels {
            *pixel = 120 + *pixel / 4;
        }
        faint.stretch();
        assert_eq!((faint.pixels[15 * 100 + 15], faint.pixels[0]), (0, 255));
        let mut noisy = marked(100, 100, Rect::default());
        for index in (0..10_000).step_by(67) {
            noisy.pixels[index] = 0;
        }
        assert!(noisy.speckles() > SPECKLES);
        assert_eq!(noisy.median().speckles(), 0.0);
    }
}
