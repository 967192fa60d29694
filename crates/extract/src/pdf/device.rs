//! A device that keeps what is needed to find words and tables.

use hayro_interpret::font::{Glyph as PdfGlyph, GlyphRun};
use hayro_interpret::hayro_cmap::BfString;
use hayro_interpret::kurbo::{Affine, BezPath, PathEl, Point, Rect as KurboRect};
use hayro_interpret::{
    BlendMode, ClipPath, Device, DrawMode, DrawProps, Image, ImageDrawProps, SoftMask,
};

use crate::document::Rect;
use crate::layout::Rule;

/// More straight lines than a page's tables can have: a drawing. Those beyond are left out, which costs tables' borders only.
const RULES_MAX: usize = 20_000;
/// A filled rectangle at most this high or wide, in points, is a line.
const RULE_WIDTH_MAX: f64 = 3.0;
/// Lines shorter than this are parts of drawings and letters.
const RULE_LENGTH_MIN: f64 = 4.0;
/// Paths of more elements than this are drawings.
const PATH_ELEMENTS_MAX: usize = 4096;

/// A glyph as it lies on the page; points, from the top left.
#[derive(Debug, Clone)]
pub(crate) struct Glyph {
    /// What it says; more than a character for some ligatures, empty for a space.
    pub(crate) text: GlyphText,
    /// Where it begins on the baseline.
    pub(crate) x: f32,
    pub(crate) y: f32,
    /// From there to where the next one begins, without extra spacing.
    pub(crate) advance: (f32, f32),
    /// Size of the font.
    pub(crate) size: f32,
    /// Which string of the file it was in.
    pub(crate) run: u32,
    pub(crate) bold: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GlyphText {
    Space,
    Char(char),
    String(Box<str>),
}

/// What a page holds.
pub(crate) struct Glyphs {
    width: f32,
    height: f32,
    pub(crate) glyphs: Vec<Glyph>,
    pub(crate) glyphs_max: usize,
    pub(crate) overflowed: bool,
    pub(crate) rules: Vec<Rule>,
    /// Anything but text was drawn.
    pub(crate) drawn: bool,
    pictures: Vec<Rect>,
    unknown: usize,
    runs: u32,
}

impl Glyphs {
    pub(crate) fn new(width: f32, height: f32, glyphs_max: usize) -> Glyphs {
        Glyphs {
            width,
            height,
            glyphs: Vec::new(),
            glyphs_max,
            overflowed: false,
            rules: Vec::new(),
            drawn: false,
            pictures: Vec::new(),
            unknown: 0,
            runs: 0,
        }
    }

    /// How much of the page its largest pictures cover together, at most 1. Scans in strips count as one picture.
    pub(crate) fn pictures_share(&self, width: f32, height: f32) -> f32 {
        let areas = self.pictures.iter().map(|rect| rect.width() * rect.height());
        (areas.sum::<f32>() / (width * height)).min(1.0)
    }

    /// Which share of glyphs has no character.
    pub(crate) fn unknown_share(&self) -> f32 {
        let all = self.glyphs.len().max(1);
        self.unknown as f32 / all as f32
    }

    fn push_glyph(&mut self, glyph: &PdfGlyph<'_>, transform: Affine, run: u32, bold: bool) {
        if self.glyphs.len() >= self.glyphs_max {
            self.overflowed = true;
            return;
        }
        let width = match glyph {
            PdfGlyph::Outline(glyph) => glyph.advance_width(),
            PdfGlyph::Type3(glyph) => glyph.advance_width(),
        };
        let width = f64::from(width.unwrap_or(500.0));
        let origin = transform * Point::ZERO;
        let end = transform * Point::new(width, 0.0);
        let up = transform * Point::new(0.0, 1000.0);
        let size = (up - origin).hypot() as f32;
        let (x, y) = (origin.x as f32, origin.y as f32);
        let inside = x > -1.0 && y > -1.0 && x < self.width + 1.0 && y < self.height + 1.0 + size;
        if !(inside && end.is_finite() && size > 0.1 && size < self.height.max(self.width)) {
            return;
        }
        let text = self.text(glyph.as_unicode());
        let advance = ((end.x - origin.x) as f32, (end.y - origin.y) as f32);
        self.glyphs.push(Glyph { text, x, y, advance, size, run, bold });
    }

    fn text(&mut self, unicode: Option<BfString>) -> GlyphText {
        let printable = |c: char| !c.is_control() && !c.is_whitespace();
        match unicode {
            None => {
                self.unknown += 1;
                GlyphText::Char(char::REPLACEMENT_CHARACTER)
            }
            // A soft hyphen that is drawn is a hyphen.
            Some(BfString::Char('\u{ad}')) => GlyphText::Char('-'),
            Some(BfString::Char(ligature @ '\u{fb00}'..='\u{fb06}')) => {
                let parts = ["ff", "fi", "fl", "ffi", "ffl", "st", "st"];
                GlyphText::String(parts[ligature as usize - 0xfb00].into())
            }
            Some(BfString::Char(c)) if printable(c) => GlyphText::Char(c),
            Some(BfString::Char(_)) => GlyphText::Space,
            Some(BfString::String(text)) => {
                let text: String = text.chars().filter(|c| printable(*c)).collect();
                let mut chars = text.chars();
                match (chars.next(), chars.next()) {
                    (None, _) => GlyphText::Space,
                    (Some(c), None) => GlyphText::Char(c),
                    _ => GlyphText::String(text.into()),
                }
            }
        }
    }

    fn push_rule(&mut self, rect: KurboRect) {
        let long = rect.width().max(rect.height());
        let thin = rect.width().min(rect.height());
        if self.rules.len() < RULES_MAX
            && rect.is_finite()
            && thin <= RULE_WIDTH_MAX
            && long >= RULE_LENGTH_MIN
        {
            self.rules.push(Rule {
                horizontal: rect.width() > rect.height(),
                at: if rect.width() > rect.height() {
                    rect.center().y as f32
                } else {
                    rect.center().x as f32
                },
                from: if rect.width() > rect.height() { rect.x0 as f32 } else { rect.y0 as f32 },
                to: if rect.width() > rect.height() { rect.x1 as f32 } else { rect.y1 as f32 },
            });
        }
    }

    fn push_stroked(&mut self, path: &BezPath, transform: Affine) {
        let mut start = Point::ZERO;
        let mut last = Point::ZERO;
        for element in path.elements() {
            let next = match *element {
                PathEl::MoveTo(point) => {
                    start = point;
                    last = point;
                    continue;
                }
                PathEl::LineTo(point) => point,
                PathEl::ClosePath => start,
                PathEl::QuadTo(_, point) | PathEl::CurveTo(_, _, point) => {
                    last = point;
                    continue;
                }
            };
            self.push_rule(KurboRect::from_points(transform * last, transform * next));
            last = next;
        }
    }

    fn push_filled(&mut self, path: &BezPath, transform: Affine) {
        // Each part that is a thin rectangle of its own; others have a thick bounding box.
        let mut part: Option<KurboRect> = None;
        for element in path.elements() {
            if let PathEl::MoveTo(point) = element {
                let done =
                    part.replace(KurboRect::from_points(transform * *point, transform * *point));
                done.into_iter().for_each(|rect| self.push_rule(rect));
            } else if let (Some(rect), Some(point)) = (part, element.end_point()) {
                part = Some(rect.union_pt(transform * point));
            }
        }
        part.into_iter().for_each(|rect| self.push_rule(rect));
    }
}

fn is_bold(glyph: &PdfGlyph<'_>) -> bool {
    let PdfGlyph::Outline(glyph) = glyph else { return false };
    glyph.font_data().is_some_and(|font| {
        font.weight.is_some_and(|weight| weight >= 600)
            || font.postscript_name.is_some_and(|name| name.contains("Bold"))
    })
}

impl<'a> Device<'a> for Glyphs {
    fn draw_glyph_run(&mut self, run: &GlyphRun<'_, 'a>, props: DrawProps<'a>, _: &DrawMode) {
        let bold = run.glyphs().first().is_some_and(|glyph| is_bold(glyph));
        for glyph in run.glyphs() {
            self.push_glyph(glyph, props.transform * glyph.transform(), self.runs, bold);
        }
        self.runs += 1;
    }

    fn draw_path(&mut self, path: &BezPath, props: DrawProps<'a>, mode: &DrawMode) {
        self.drawn = true;
        if path.elements().len() > PATH_ELEMENTS_MAX {
            return;
        }
        match mode {
            DrawMode::Stroke(_) => self.push_stroked(path, props.transform),
            _ => self.push_filled(path, props.transform),
        }
    }

    fn draw_image(&mut self, image: Image<'a, '_>, props: ImageDrawProps<'a>) {
        self.drawn = true;
        // The transform maps pixels; a stencil's paint is a picture as well: faxes are stencils.
        let pixels = KurboRect::new(0.0, 0.0, f64::from(image.width()), f64::from(image.height()));
        let shown = props.transform.transform_rect_bbox(pixels);
        let page = KurboRect::new(0.0, 0.0, f64::from(self.width), f64::from(self.height));
        let shown = shown.intersect(page);
        if shown.area() > 0.0 && self.pictures.len() < RULES_MAX {
            self.pictures.push(Rect {
                x0: shown.x0 as f32,
                y0: shown.y0 as f32,
                x1: shown.x1 as f32,
                y1: shown.y1 as f32,
            });
        }
    }

    fn push_clip_path(&mut self, _: &ClipPath) {}
    fn push_clip_rect(&mut self, _: &KurboRect) {}
    fn push_transparency_group(&mut self, _: f32, _: Option<SoftMask<'a>>, _: BlendMode) {}
    fn pop_clip(&mut self) {}
    fn pop_transparency_group(&mut self) {}
}
