//! PDF. The content of a page is interpreted once, by a device that keeps where each glyph and each straight rule lies and
//! draws nothing; `words` makes words of the glyphs, and `layout` puts them in order. Nothing depends on the order in which a
//! file draws.

mod device;
mod words;

use hayro::RenderCache;
use hayro_interpret::hayro_syntax::object::DateTime;
use hayro_interpret::hayro_syntax::page::Page as PdfPage;
use hayro_interpret::hayro_syntax::{DecryptionError, LoadPdfError, Pdf};
use hayro_interpret::util::TransformExt;
use hayro_interpret::{Context, InterpreterCache, InterpreterSettings, interpret_page};

use self::device::Glyphs;
use crate::document::{Metadata, Page, PageSource, Warning};
use crate::error::ErrorKind;
use crate::layout::{self, Sheet};
use crate::ocr::{self, Scan, Tesseract};
use crate::{Document, Format, Input, Limits, Progress, images, picture};

/// From this share of glyphs without a meaning on, a page's text is no text.
const UNKNOWN_SHARE_MAX: f32 = 0.3;
/// From this share of the page on, pictures on a page with next to no text make it a scan.
const SCAN_SHARE_MIN: f32 = 0.5;
/// Words that a scan may have beside the picture: a stamp or a page number.
const SCAN_WORDS_MAX: usize = 10;
/// From this share of the page on, a picture beside text is worth a warning: its text was not read.
const PICTURE_SHARE_WARNED: f32 = 0.25;
/// A page larger than this many points a side (200 inches, which is PDF's own limit) is a mistake or an attack.
const SIDE_MAX: f32 = 14_400.0;

pub(crate) fn read(
    input: Input<'_>,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Document, ErrorKind> {
    let pdf = open(input.bytes)?;
    let pages = pdf.pages();
    if pages.len() > limits.pages_max {
        return Err(ErrorKind::over("pages", pages.len(), limits.pages_max));
    }
    let mut document = Document {
        format: Format::Pdf,
        pages: Vec::with_capacity(pages.len()),
        metadata: metadata(&pdf),
        warnings: Vec::new(),
    };
    let cache = InterpreterCache::new();
    let (mut words, mut scans) = (0, 0);
    for (index, page) in pages.iter().enumerate() {
        let (read, warning) = read_page(page, index + 1, &cache, limits)?;
        scans += usize::from(read.source == PageSource::NeedsOcr);
        words += read.words.len();
        if words > limits.words_max {
            return Err(ErrorKind::over("words", words, limits.words_max));
        }
        document.pages.push(read);
        document.warnings.extend(warning);
        progress(Progress { pages_done: index + 1 - scans, pages: pages.len() });
    }
    if scans > 0 {
        read_scans(&pdf, &mut document, limits, progress)?;
    }
    Ok(document)
}

/// Reads the pages that are pictures, if there is an engine.
fn read_scans(
    pdf: &Pdf,
    document: &mut Document,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ErrorKind> {
    let numbers: Vec<usize> = document.pages_that_need_ocr().collect();
    let Some(engine) = Tesseract::find() else {
        let unread = numbers
            .iter()
            .map(|number| Warning { page: Some(*number), message: images::NO_ENGINE.to_owned() });
        document.warnings.extend(unread);
        return Ok(());
    };
    let (cache, pages) = (RenderCache::new(), pdf.pages());
    let mut waiting = numbers.iter();
    let mut next = || -> Result<Option<Scan>, ErrorKind> {
        let Some(number) = waiting.next() else { return Ok(None) };
        let page = &pages[number - 1];
        let raster = picture::grey(page, &cache, ocr::DPI, limits)?;
        let (width, height) = page.render_dimensions();
        Ok(Some(Scan { number: *number, raster, width, height }))
    };
    let texts = document.pages.len() - numbers.len();
    let mut done =
        |scans| progress(Progress { pages_done: texts + scans, pages: texts + numbers.len() });
    for page in ocr::recognize_all(engine, limits, &mut next, &mut done)? {
        let place = &mut document.pages[page.number - 1];
        (place.words, place.blocks, place.source) = (page.words, page.blocks, PageSource::Ocr);
    }
    Ok(())
}

/// The file, if it is one and opens without a password (an empty one is tried).
pub(crate) fn open(bytes: &[u8]) -> Result<Pdf, ErrorKind> {
    let damaged =
        |message: &str| ErrorKind::Damaged { format: Format::Pdf, message: message.to_owned() };
    let pdf = Pdf::new(bytes.to_vec()).map_err(|error| match error {
        LoadPdfError::Decryption(DecryptionError::PasswordProtected) => ErrorKind::Encrypted,
        LoadPdfError::Decryption(DecryptionError::UnsupportedAlgorithm) => {
            damaged("it is encrypted by an algorithm that PDF does not define")
        }
        LoadPdfError::Decryption(_) => damaged("what says how it is encrypted is incomplete"),
        LoadPdfError::Invalid => damaged("no list of pages was found"),
    })?;
    if pdf.pages().is_empty() {
        return Err(damaged("it has no pages"));
    }
    Ok(pdf)
}

fn read_page<'a>(
    page: &PdfPage<'a>,
    number: usize,
    cache: &InterpreterCache<'a>,
    limits: &Limits,
) -> Result<(Page, Option<Warning>), ErrorKind> {
    let (width, height) = page.render_dimensions();
    if !(width > 0.0 && height > 0.0 && width <= SIDE_MAX && height <= SIDE_MAX) {
        let message = format!("page {number} measures {width} x {height} points");
        return Err(ErrorKind::Damaged { format: Format::Pdf, message });
    }
    let transform = page.initial_transform(true).to_kurbo();
    let bbox = hayro_interpret::kurbo::Rect::new(0.0, 0.0, f64::from(width), f64::from(height));
    let settings = InterpreterSettings::default();
    let mut context = Context::new(transform, bbox, cache, page.xref(), settings);
    let mut glyphs = Glyphs::new(width, height, limits.words_max.saturating_mul(20));
    interpret_page(page, &mut context, &mut glyphs);
    if glyphs.overflowed {
        return Err(ErrorKind::over("characters of a page", glyphs.glyphs_max, glyphs.glyphs_max));
    }
    let drawn = glyphs.drawn;
    let pictures = glyphs.pictures_share(width, height);
    let unknown = glyphs.unknown_share();
    let (words, rules) = words::words(glyphs);
    let scan = words.len() <= SCAN_WORDS_MAX && pictures >= SCAN_SHARE_MIN;
    let outlines = words.is_empty() && drawn;
    let mut result = Page {
        number,
        width: Some(width),
        height: Some(height),
        label: None,
        source: PageSource::NeedsOcr,
        words: Vec::new(),
        blocks: Vec::new(),
    };
    if scan || outlines || unknown > UNKNOWN_SHARE_MAX {
        return Ok((result, None));
    }
    result.source = PageSource::Text;
    (result.words, result.blocks) = layout::arrange(Sheet { words, rules, width, height });
    let warning = (pictures >= PICTURE_SHARE_WARNED).then(|| Warning {
        page: Some(number),
        message: format!(
            "pictures cover {:.0} % of the page; text in them was not read",
            pictures * 100.0
        ),
    });
    Ok((result, warning))
}

fn metadata(pdf: &Pdf) -> Metadata {
    let metadata = pdf.metadata();
    let text = |bytes: &Option<Box<[u8]>>| {
        bytes.as_deref().map(text_string).filter(|text| !text.is_empty())
    };
    Metadata {
        title: text(&metadata.title),
        author: text(&metadata.author),
        producer: text(&metadata.producer).or_else(|| text(&metadata.creator)),
        created: metadata.creation_date.as_ref().map(rfc3339),
    }
}

fn rfc3339(date: &DateTime) -> String {
    let DateTime { year, month, day, hour, minute, second, .. } = date;
    let offset = match (date.utc_offset_hour, date.utc_offset_minute) {
        (0, 0) => "Z".to_owned(),
        (hours, minutes) => format!("{hours:+03}:{minutes:02}"),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{offset}")
}

/// A text string of PDF 32000, 7.9.2.2: UTF-16 or UTF-8 with a mark, else (nearly) Latin-1.
fn text_string(bytes: &[u8]) -> String {
    let text = match bytes {
        [0xfe, 0xff, rest @ ..] => {
            let units = rest.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => bytes.iter().map(|byte| char::from(*byte)).collect::<String>(),
    };
    text.chars().filter(|c| !c.is_control()).take(1000).collect::<String>().trim().to_owned()
}
