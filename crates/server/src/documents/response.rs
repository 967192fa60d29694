//! What is answered.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use ::extract::checks::Check;
use ::extract::fields::Grounded;
use ::extract::{Document, Format, Metadata, PageSource, Picture, Rect, Warning, Word};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What a document holds.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExtractResponse {
    /// The caller's name for the document.
    pub(super) document_id: Option<String>,
    /// What the document is: `pdf`, `docx`, …
    #[schema(value_type = String)]
    pub(super) format: Format,
    /// What the file says of itself; nothing of it was checked.
    #[schema(value_type = Object)]
    pub(super) metadata: Metadata,
    /// All of it as Markdown.
    pub(super) markdown: String,
    /// All of it as text.
    pub(super) text: String,
    /// Its pages, sheets, slides or messages.
    pub(super) pages: Vec<PageResponse>,
    /// Its tables.
    pub(super) tables: Vec<TableResponse>,
    /// The first pages as pictures, if they were asked for and the document has such.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) pictures: Vec<PictureResponse>,
    /// What was left out or could not be read.
    #[schema(value_type = Vec<Object>)]
    pub(super) warnings: Vec<Warning>,
    /// What the model filled in, if anything was asked for.
    #[serde(flatten)]
    pub(super) filled: Option<Filled>,
    /// Name of the model.
    pub(super) model: String,
    /// The build of the server.
    pub(super) build: String,
    /// Seconds from the request's arrival to the answer.
    pub(super) processing_time_seconds: f64,
}

/// A page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PageResponse {
    /// From 1.
    pub(super) number: usize,
    /// Width in points; `null` where there are no pages.
    pub(super) width: Option<f32>,
    /// Height in points.
    pub(super) height: Option<f32>,
    /// Name of the sheet, slide or attachment.
    pub(super) label: Option<String>,
    /// `text`, `ocr`, or `needs_ocr`: a picture that was not read.
    #[schema(value_type = String)]
    pub(super) source: PageSource,
    /// Words with their boxes, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub(super) words: Option<Vec<Word>>,
}

/// A page as a picture.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PictureResponse {
    /// Number of the page, from 1.
    page: usize,
    /// Pixels.
    width: u32,
    /// Pixels.
    height: u32,
    /// Width of the page in points, in which boxes are given.
    page_width: f32,
    /// Its height in points.
    page_height: f32,
    /// The picture, PNG in base64.
    png_base64: String,
}

impl PictureResponse {
    pub(super) fn of(page: usize, picture: &Picture) -> Self {
        PictureResponse {
            page,
            width: picture.width,
            height: picture.height,
            page_width: picture.page_width,
            page_height: picture.page_height,
            png_base64: STANDARD.encode(&picture.png),
        }
    }
}

/// A table.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TableResponse {
    /// Number of its page.
    pub(super) page: usize,
    /// Where it stands there, in points from the top left.
    #[schema(value_type = Option<Object>)]
    pub(super) bbox: Option<Rect>,
    /// How many of the first rows are headings.
    pub(super) header_rows: usize,
    /// Texts of its cells.
    #[schema(value_type = Vec<Vec<String>>)]
    pub(super) rows: Value,
}

/// Fields as the document bears them out.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Filled {
    /// `fields`, `found`, `chosen`, `ungrounded` and `conflicts`.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub(super) grounded: Grounded,
    /// How the fields pass the rules.
    #[schema(value_type = Vec<Object>)]
    pub(super) checks: Vec<Check>,
    /// In how many parts the model read the document.
    pub(super) parts: usize,
    /// `stop`, or `length` where a budget closed an answer early: lists may lack items.
    pub(super) finish_reason: &'static str,
    /// Tokens of the questions.
    pub(super) prompt_tokens: usize,
    /// Tokens of the answers.
    pub(super) completion_tokens: usize,
}

impl ExtractResponse {
    /// What was read, without what is known of the request.
    pub(super) fn of(document: &Document, with_words: bool) -> Self {
        let page = |page: &::extract::Page| PageResponse {
            number: page.number,
            width: page.width,
            height: page.height,
            label: page.label.clone(),
            source: page.source,
            words: with_words.then(|| page.words.clone()),
        };
        let table = |(page, table): (usize, &::extract::Table)| TableResponse {
            page,
            bbox: table.bbox,
            header_rows: table.header_rows,
            rows: table.json(),
        };
        ExtractResponse {
            document_id: None,
            format: document.format,
            metadata: document.metadata.clone(),
            markdown: document.markdown(),
            text: document.text(),
            pages: document.pages.iter().map(page).collect(),
            tables: document.tables().map(table).collect(),
            pictures: Vec::new(),
            warnings: document.warnings.clone(),
            filled: None,
            model: String::new(),
            build: String::new(),
            processing_time_seconds: 0.0,
        }
    }
}
