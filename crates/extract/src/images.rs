//! PNG, JPEG, TIFF (with all its pages), WebP and BMP: what is on them is for OCR to say.

use std::borrow::Cow;
use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use crate::document::{Metadata, Page, PageSource, Warning};
use crate::ocr::{self, Raster, Scan, Tesseract};
use crate::{Document, ErrorKind, Format, Input, Limits, Progress};

/// Length in points of the longer side of a picture: it is taken for a page of A4, whatever resolution it claims, for those
/// of photos mean nothing.
const LONG_SIDE: f32 = 842.0;

/// Bytes that every decoder may take, for tables and buffers of its own.
const ALLOCATION_MIN: u64 = 64 << 20;

/// What is said of a page that no engine could read.
pub(crate) const NO_ENGINE: &str = "not read: it is a picture and needs OCR, and no Tesseract was found; install it \
    (Debian: tesseract-ocr) or name it in HALFBYTE_TESSERACT";

pub(crate) fn read(
    input: Input<'_>,
    format: Format,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Document, ErrorKind> {
    let count = count(input.bytes, format)?;
    if count > limits.pages_max {
        return Err(ErrorKind::over("pages", count, limits.pages_max));
    }
    let mut document =
        Document { format, pages: Vec::new(), metadata: Metadata::default(), warnings: Vec::new() };
    let mut index = 0;
    let engine = Tesseract::find();
    let mut next = || -> Result<Option<Scan>, ErrorKind> {
        if index == count {
            return Ok(None);
        }
        let image = decode(input.bytes, format, index, limits)?;
        index += 1;
        let (width, height) = points(image.width(), image.height());
        document.pages.push(Page {
            number: index,
            width: Some(width),
            height: Some(height),
            label: None,
            source: PageSource::NeedsOcr,
            words: Vec::new(),
            blocks: Vec::new(),
        });
        let (wide, high) = (image.width() as usize, image.height() as usize);
        let raster = Raster::new(wide, high, on_white(image), width);
        Ok(Some(Scan { number: index, raster, width, height }))
    };
    let recognized = match engine {
        Some(engine) => {
            let mut done = |pages_done| progress(Progress { pages_done, pages: count });
            ocr::recognize_all(engine, limits, &mut next, &mut done)?
        }
        None => {
            // Decoded all the same: what is broken is broken without an engine too.
            while next()?.is_some() {}
            Vec::new()
        }
    };
    for page in recognized {
        let place = &mut document.pages[page.number - 1];
        (place.words, place.blocks, place.source) = (page.words, page.blocks, PageSource::Ocr);
    }
    let unread = document
        .pages_that_need_ocr()
        .map(|number| Warning { page: Some(number), message: NO_ENGINE.to_owned() });
    document.warnings = unread.collect();
    Ok(document)
}

/// Grey, transparent parts as on white paper.
fn on_white(image: DynamicImage) -> Vec<u8> {
    if !image.color().has_alpha() {
        return image.into_luma8().into_raw();
    }
    let image = image.into_luma_alpha8();
    let blended = image.pixels().map(|pixel| {
        let [grey, alpha] = pixel.0.map(u32::from);
        ((grey * alpha + 255 * (255 - alpha)) / 255) as u8
    });
    blended.collect()
}

/// Size in points.
pub(crate) fn points(width: u32, height: u32) -> (f32, f32) {
    let scale = LONG_SIDE / width.max(height).max(1) as f32;
    (width as f32 * scale, height as f32 * scale)
}

/// How many pictures a file holds.
pub(crate) fn count(bytes: &[u8], format: Format) -> Result<usize, ErrorKind> {
    if format == Format::Tiff { Ok(directories(bytes)?.len()) } else { Ok(1) }
}

/// Picture `index` (from 0), as it is looked at.
pub(crate) fn decode(
    bytes: &[u8],
    format: Format,
    index: usize,
    limits: &Limits,
) -> Result<DynamicImage, ErrorKind> {
    let kind = match format {
        Format::Png => ImageFormat::Png,
        Format::Jpeg => ImageFormat::Jpeg,
        Format::Tiff => ImageFormat::Tiff,
        Format::WebP => ImageFormat::WebP,
        _ => ImageFormat::Bmp,
    };
    let damaged = |error: image::ImageError| match error {
        image::ImageError::Limits(_) => {
            ErrorKind::over("pixels", usize::MAX, limits.pixels_max as usize)
        }
        error => ErrorKind::Damaged { format, message: error.to_string() },
    };
    let bytes = if format == Format::Tiff { beginning_at(bytes, index)? } else { bytes.into() };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), kind);
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some(limits.pixels_max.saturating_mul(8).max(ALLOCATION_MIN));
    reader.limits(bounds);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.pixels_max {
        return Err(ErrorKind::over("pixels", pixels as usize, limits.pixels_max as usize));
    }
    if width == 0 || height == 0 {
        return Err(ErrorKind::Damaged { format, message: "it has no pixels".into() });
    }
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Where the directories of a TIFF lie, one for each picture (TIFF 6.0, section 2).
fn directories(bytes: &[u8]) -> Result<Vec<u32>, ErrorKind> {
    let damaged =
        |message: &str| ErrorKind::Damaged { format: Format::Tiff, message: message.to_owned() };
    let little = bytes.first() == Some(&b'I');
    let word = |at: usize| -> Option<u32> {
        let bytes: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let half = |at: usize| -> Option<u16> {
        let bytes: [u8; 2] = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let mut found = Vec::new();
    let mut next = word(4).ok_or_else(|| damaged("it ends in its header"))?;
    while next != 0 {
        if found.contains(&next) || found.len() >= 10_000 {
            return Err(damaged("its pictures follow each other in a circle"));
        }
        found.push(next);
        let at = next as usize;
        let after = half(at).and_then(|entries| word(at + 2 + 12 * usize::from(entries)));
        next = after.ok_or_else(|| damaged("a directory of its pictures lies beyond its end"))?;
    }
    if found.is_empty() { Err(damaged("it has no picture")) } else { Ok(found) }
}

/// The same file with picture `index` as its first: the decoder takes that one.
fn beginning_at(bytes: &[u8], index: usize) -> Result<Cow<'_, [u8]>, ErrorKind> {
    let directories = directories(bytes)?;
    let (Some(at), true) = (directories.get(index), index > 0) else { return Ok(bytes.into()) };
    let little = bytes.first() == Some(&b'I');
    let mut bytes = bytes.to_vec();
    bytes[4..8].copy_from_slice(&if little { at.to_le_bytes() } else { at.to_be_bytes() });
    Ok(bytes.into())
}
