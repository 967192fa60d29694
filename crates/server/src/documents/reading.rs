//! From bytes to a document, beside everything else that the server does.

use axum::body::Bytes;
use axum::http::StatusCode;

use ::extract::{Document, ErrorKind, ExtractError, Input};

use super::request::{ExtractRequest, Source, from_base64};
use super::response::PictureResponse;
use super::{Documents, Progress, Told, fetching, wrong};
use crate::{ApiError, App};

/// Most pages that come as pictures.
const PICTURES_MAX: usize = 20;

/// Dots per inch of such a picture: enough to read ten-point print on a screen.
const PICTURE_DPI: f32 = 110.0;

/// A document, and its first pages as pictures.
pub(super) struct Read {
    pub(super) document: Document,
    pub(super) pictures: Vec<PictureResponse>,
}

/// Reads the document of a request.
pub(super) async fn read(
    app: &App,
    mut request: ExtractRequest,
    progress: &Progress,
) -> Result<Read, ApiError> {
    let documents = app.config().documents.clone();
    let wanted = request.pictures.unwrap_or(0);
    if wanted > PICTURES_MAX {
        return Err(wrong("pictures", format!("is at most {PICTURES_MAX}")));
    }
    let document = match request.source()? {
        Source::Bytes(bytes) => Ok(bytes),
        Source::Base64(text) => Err(text),
        Source::Url(url) => Ok(fetched(&documents, &mut request, &url).await?),
    };
    let slot = app.document_slot().await?;
    let told = progress.clone();
    let read = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        let bytes = document.or_else(|text| from_base64(&text))?;
        let name = request.filename.as_deref().unwrap_or("document");
        let input = Input { bytes: &bytes, name, mime: request.content_type.as_deref() };
        let document = documents.read(input, &mut |at: ::extract::Progress| {
            told.tell(Told::Reading { pages_done: at.pages_done, pages: at.pages });
        });
        let document = document.map_err(|error| refusal(&error))?;
        require_text(&document)?;
        let pictures = (1..=wanted.min(document.pages.len())).map(|page| {
            let picture = documents.picture(input, page);
            picture.map(|picture| PictureResponse::of(page, &picture))
        });
        let pictures = match pictures.collect() {
            // Of what has no pages there are no pictures.
            Err(ExtractError { kind: ErrorKind::NoPicture(_), .. }) => Vec::new(),
            pictures => pictures.map_err(|error| refusal(&error))?,
        };
        Ok(Read { document, pictures })
    });
    read.await.map_err(|error| ApiError::internal(error.to_string()))?
}

/// The document at a URL, which describes itself where the request does not.
async fn fetched(
    documents: &Documents,
    request: &mut ExtractRequest,
    url: &str,
) -> Result<Bytes, ApiError> {
    if !documents.allow_urls {
        let message = "this server gets no documents from URLs: send the document itself, or start the server with --allow-urls";
        let refused = ApiError::invalid("document_url".to_owned(), message);
        return Err(refused.with_code("urls_not_allowed"));
    }
    Ok(request.describe(fetching::get(url, documents.limits.bytes_max).await?))
}

impl Documents {
    fn read(
        &self,
        input: Input<'_>,
        progress: &mut dyn FnMut(::extract::Progress),
    ) -> Result<Document, ExtractError> {
        match &self.workers {
            Some(workers) => workers.read(input, &self.limits, progress),
            None => ::extract::read(input, &self.limits, progress),
        }
    }

    fn picture(&self, input: Input<'_>, page: usize) -> Result<::extract::Picture, ExtractError> {
        match &self.workers {
            Some(workers) => workers.picture(input, page, PICTURE_DPI, &self.limits),
            None => ::extract::picture(input, page, PICTURE_DPI, &self.limits),
        }
    }
}

fn require_text(document: &Document) -> Result<(), ApiError> {
    let unread = document.pages_that_need_ocr().count();
    if unread == 0 || unread < document.pages.len() {
        return Ok(());
    }
    // No text is no result.
    let message = "the document is a picture, and this server has no OCR engine; install tesseract-ocr beside it";
    Err(ApiError::http(StatusCode::UNPROCESSABLE_ENTITY, "needs_ocr", message))
}

/// What an error of a document means to a client.
fn refusal(error: &::extract::ExtractError) -> ApiError {
    let message = error.to_string();
    let (status, code) = match &error.kind {
        ErrorKind::Unknown(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_document"),
        ErrorKind::Damaged { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "damaged_document"),
        ErrorKind::NoPage { .. } | ErrorKind::NoPicture(_) => {
            (StatusCode::NOT_FOUND, "no_such_page")
        }
        ErrorKind::Encrypted => (StatusCode::UNPROCESSABLE_ENTITY, "encrypted_document"),
        ErrorKind::OverLimit { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "document_too_large"),
        ErrorKind::TimedOut { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "document_timeout"),
        ErrorKind::ReaderDied(_) => (StatusCode::UNPROCESSABLE_ENTITY, "document_reader_died"),
        ErrorKind::Ocr(_) | ErrorKind::Io(_) => return ApiError::internal(message),
    };
    ApiError::http(status, code, message)
}
