//! From bytes to a document, beside everything else that the server does.

use axum::http::StatusCode;

use ::extract::{Document, ErrorKind, Input};

use super::request::ExtractRequest;
use super::{Progress, Told};
use crate::{ApiError, App};

/// Reads the document of a request.
pub(super) async fn read(
    app: &App,
    mut request: ExtractRequest,
    progress: &Progress,
) -> Result<Document, ApiError> {
    let limits = app.config().documents.limits.clone();
    let slot = app.document_slot().await?;
    let told = progress.clone();
    let read = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        let bytes = request.bytes()?;
        let name = request.filename.as_deref().unwrap_or("document");
        let input = Input { bytes: &bytes, name, mime: request.content_type.as_deref() };
        let read = ::extract::read(input, &limits, &mut |at: ::extract::Progress| {
            told.tell(Told::Reading { pages_done: at.pages_done, pages: at.pages });
        });
        read.map_err(|error| refusal(&error))
    });
    let document = read.await.map_err(|error| ApiError::internal(error.to_string()))??;
    let unread: Vec<usize> = document.pages_that_need_ocr().collect();
    if !unread.is_empty() && unread.len() == document.pages.len() {
        // No text is no result.
        let message = "the document is a picture, and this server has no OCR engine; install tesseract-ocr beside it";
        return Err(ApiError::http(StatusCode::UNPROCESSABLE_ENTITY, "needs_ocr", message));
    }
    Ok(document)
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
