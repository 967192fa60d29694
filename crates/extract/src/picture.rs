//! Pages as pictures, to be read or to be looked at.

use std::io::Cursor;

use hayro::hayro_interpret::InterpreterSettings;
use hayro::hayro_syntax::page::Page as PdfPage;
use hayro::vello_cpu::color::palette::css::WHITE;
use hayro::{PixmapSettings, RenderCache, RenderSettings, render};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use serde::{Deserialize, Serialize};

use crate::ocr::Raster;
use crate::{ErrorKind, ExtractError, Format, Input, Limits, images, pdf};

/// A page as a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// PNG.
    #[serde(skip)]
    pub png: Vec<u8>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Size of the page in points, in which boxes are given.
    pub page_width: f32,
    /// As the width.
    pub page_height: f32,
    /// How many pages the document has.
    pub pages: usize,
}

/// Page `page` (from 1) of a PDF or picture at `dpi` dots per inch, or fewer if it would pass the limit of pixels.
///
/// # Errors
/// Those of [`read`](crate::read()), `NoPicture` for formats without pages, and `NoPage`.
pub fn picture(
    input: Input<'_>,
    page: usize,
    dpi: f32,
    limits: &Limits,
) -> Result<Picture, ExtractError> {
    picture_kind(input, page, dpi, limits).map_err(|kind| kind.of(input.name))
}

fn picture_kind(
    input: Input<'_>,
    page: usize,
    dpi: f32,
    limits: &Limits,
) -> Result<Picture, ErrorKind> {
    if input.bytes.len() > limits.bytes_max {
        return Err(ErrorKind::over("bytes", input.bytes.len(), limits.bytes_max));
    }
    let format = Format::detect(&input)?;
    let missing = |pages| ErrorKind::NoPage { page, pages };
    if format == Format::Pdf {
        let document = pdf::open(input.bytes)?;
        let pages = document.pages().len();
        let found = page.checked_sub(1).and_then(|index| document.pages().get(index));
        let found = found.ok_or_else(|| missing(pages))?;
        let (page_width, page_height) = found.render_dimensions();
        let (width, height, rgba) = rendered(found, &RenderCache::new(), dpi, limits)?;
        let png = png(&rgba, width, height)?;
        return Ok(Picture { png, width, height, page_width, page_height, pages });
    }
    if !format.is_image() {
        return Err(ErrorKind::NoPicture(format));
    }
    let pages = images::count(input.bytes, format)?;
    let index = page.checked_sub(1).filter(|index| *index < pages).ok_or_else(|| missing(pages))?;
    let image = images::decode(input.bytes, format, index, limits)?;
    let (page_width, page_height) = images::points(image.width(), image.height());
    let scale = (dpi / 72.0 * page_width / image.width() as f32).clamp(0.01, 1.0);
    let size = |pixels: u32| ((pixels as f32 * scale).round() as u32).max(1);
    let image = image.thumbnail(size(image.width()), size(image.height())).to_rgba8();
    let (width, height) = image.dimensions();
    let png = png(image.as_raw(), width, height)?;
    Ok(Picture { png, width, height, page_width, page_height, pages })
}

fn png(rgba: &[u8], width: u32, height: u32) -> Result<Vec<u8>, ErrorKind> {
    let mut out = Cursor::new(Vec::new());
    PngEncoder::new(&mut out)
        .write_image(rgba, width, height, ExtendedColorType::Rgba8)
        .map_err(|error| ErrorKind::Io(format!("cannot encode a picture: {error}")))?;
    Ok(out.into_inner())
}

/// A page on white: width, height, RGBA.
fn rendered<'a>(
    page: &'a PdfPage<'a>,
    cache: &RenderCache<'a>,
    dpi: f32,
    limits: &Limits,
) -> Result<(u32, u32, Vec<u8>), ErrorKind> {
    let (width, height) = page.render_dimensions();
    let area = f64::from(width) * f64::from(height);
    let affordable = (limits.pixels_max as f64 / area.max(1.0)).sqrt() as f32;
    // The renderer counts pixels of a side in 16 bits.
    let side = f32::from(u16::MAX - 1) / width.max(height).max(1.0);
    let scale = (dpi / 72.0).clamp(0.01, affordable.min(side).max(0.01));
    if width * scale < 1.0 || height * scale < 1.0 {
        let message = format!("a page of {width} x {height} points");
        return Err(ErrorKind::Damaged { format: Format::Pdf, message });
    }
    let settings = PixmapSettings { x_scale: scale, y_scale: scale, bg_color: WHITE };
    let pixmap =
        render(page, cache, &InterpreterSettings::default(), &RenderSettings::default(), &settings);
    let (width, height) = (u32::from(pixmap.width()), u32::from(pixmap.height()));
    // On white nothing is transparent, so premultiplied is plain.
    Ok((width, height, pixmap.data_as_u8_slice().to_vec()))
}

/// A page in grey, at `dpi`.
pub(crate) fn grey<'a>(
    page: &'a PdfPage<'a>,
    cache: &RenderCache<'a>,
    dpi: f32,
    limits: &Limits,
) -> Result<Raster, ErrorKind> {
    let (width, height, rgba) = rendered(page, cache, dpi, limits)?;
    let luma = |pixel: &[u8]| {
        let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
        // ITU-R BT.601, in 1/1024.
        ((306 * red + 601 * green + 117 * blue) >> 10) as u8
    };
    let pixels = rgba.chunks_exact(4).map(luma).collect();
    Ok(Raster::new(width as usize, height as usize, pixels, page.render_dimensions().0))
}
