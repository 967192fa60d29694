//! `POST /extract` and `POST /process`: documents in, their text, tables and fields out.

mod request;
mod fetching;
mod reading;
mod asking;
mod response;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event as Sse, KeepAlive, Sse as Stream};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use ::extract::Workers;
use ::extract::checks::Rules;
use ::extract::fields::Fields;

use crate::error::ErrorBody;
use crate::extract::parse;
use crate::prompt::{self, PromptRequest, PromptResponse};
use crate::record::Record;
use crate::{ApiError, App};
use request::{Asked, ExtractRequest, Form as _, ProcessRequest};
use response::ExtractResponse;

/// How documents are read.
#[derive(Debug, Clone)]
pub struct Documents {
    /// Bounds on a document.
    pub limits: ::extract::Limits,
    /// Documents that are read at once.
    pub at_once: usize,
    /// Processes that read them, as many as are read at once; without, that is done in the server's own, which a hostile
    /// document can then end.
    pub workers: Option<Arc<Workers>>,
    /// Whether documents are got from URLs that clients name.
    pub allow_urls: bool,
    /// What fields are checked by.
    pub rules: Arc<Rules>,
}

impl Documents {
    /// With limits as they are unasked, as many at once as there are cores, in this process, and from no URL.
    pub fn new(rules: Rules) -> Self {
        let at_once = available_parallelism().map_or(1, usize::from);
        Documents {
            limits: ::extract::Limits::default(),
            at_once,
            workers: None,
            allow_urls: false,
            rules: Arc::new(rules),
        }
    }
}

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(extract)).routes(routes!(process))
}

/// Paths whose bodies hold documents.
pub(crate) const PATHS: [&str; 2] = ["/extract", "/process"];

/// Checks the form of a body of `/extract`, and that there is a document in it.
///
/// # Errors
/// 400, with the field at fault.
pub(crate) fn check_extract(bytes: &[u8]) -> Result<(), ApiError> {
    check(ExtractRequest::read(bytes)?)
}

/// The same of `/process`.
///
/// # Errors
/// 400, with the field at fault.
pub(crate) fn check_process(bytes: &[u8]) -> Result<(), ApiError> {
    let ProcessRequest { extract, prompt } = ProcessRequest::read(bytes)?;
    prompt_request(&prompt.unwrap_or_default(), "x")?;
    check(extract)
}

fn check(mut request: ExtractRequest) -> Result<(), ApiError> {
    request.wanted()?;
    request.source().map(drop)
}

/// Reads a document: PDF, PNG, JPEG, TIFF, WebP, BMP, DOCX, XLSX, XLS, ODS, CSV, PPTX, HTML, EML, text or Markdown.
///
/// The document comes as `file` of a multipart form, the other fields beside it as parts of their names, or in JSON as
/// `document_base64`, or, if the server was started with `--allow-urls`, as the `document_url` it is to be got from. With `fields` or a `schema`, the model fills in the fields under that schema, in which every value may
/// be `null`. What it says is then looked up in the document: a value that stands there comes with its place in `found`, one
/// that stands nowhere is `null` in `fields` and listed in `ungrounded`. `checks` says which rules (sums, dates, identifiers)
/// the fields pass; nothing is corrected. A document that does not fit the context is read by pages.
///
/// With `stream`, the answer is a stream of server-sent events: `progress`, then one `result` with the same object as
/// without, or one `error`.
#[utoipa::path(
    post,
    path = "/extract",
    tag = "documents",
    request_body(content((ExtractRequest = "application/json"), (ExtractRequest = "multipart/form-data"))),
    responses(
        (status = 200, body = ExtractResponse, description = "What the document holds, or a stream of events"),
        (status = 400, body = ErrorBody, description = "A field that is unknown, missing or makes no sense; `param` names it"),
        (status = 413, body = ErrorBody, description = "The document is larger than is taken, or has more pages"),
        (status = 415, body = ErrorBody, description = "The document is of no kind that is read"),
        (status = 422, body = ErrorBody, description = "The document is damaged, encrypted, or needs OCR where there is none"),
        (status = 502, body = ErrorBody, description = "The server of `document_url` does not give it"),
        (status = 503, body = ErrorBody, description = "The model is not ready, or the server is about to end"),
    )
)]
async fn extract(
    State(app): State<App>,
    asked: Asked<ExtractRequest>,
) -> Result<Response, ApiError> {
    let stream = asked.request.stream.unwrap_or(false);
    let work = move |app: App, progress: Progress| async move {
        extract_one(&app, asked.request, &progress).await
    };
    answer(app, stream, work).await
}

/// Reads a document as `/extract` does and asks the model about it as `/prompt` does, in one call.
///
/// `prompt` is what `/prompt` takes, without `stream`. Its own `prompt` may be left out: the model reads that text, an empty
/// line, and the document as Markdown. With `context.stage` it is the document that the stage works on.
#[utoipa::path(
    post,
    path = "/process",
    tag = "documents",
    request_body(content((ProcessRequest = "application/json"), (ProcessRequest = "multipart/form-data"))),
    responses(
        (status = 200, body = ProcessResponse, description = "What the document holds and what the model answered, or a stream of events"),
        (status = 400, body = ErrorBody, description = "A field that is unknown, missing or makes no sense; `param` names it"),
        (status = 413, body = ErrorBody, description = "The document is larger than is taken, or has more pages"),
        (status = 415, body = ErrorBody, description = "The document is of no kind that is read"),
        (status = 422, body = ErrorBody, description = "The document is damaged, encrypted, or needs OCR where there is none"),
        (status = 502, body = ErrorBody, description = "The server of `document_url` does not give it"),
        (status = 503, body = ErrorBody, description = "The model is not ready, or the server is about to end"),
    )
)]
async fn process(
    State(app): State<App>,
    asked: Asked<ProcessRequest>,
) -> Result<Response, ApiError> {
    let stream = asked.request.extract.stream.unwrap_or(false);
    let work = move |app: App, progress: Progress| async move {
        let ProcessRequest { extract, prompt } = asked.request;
        let prompt = prompt.unwrap_or_default();
        // Before the document is read: mistakes come up early.
        prompt_request(&prompt, "x")?;
        let extracted = extract_one(&app, extract, &progress).await?;
        progress.tell(Told::Prompt);
        let body = prompt_request(&prompt, &extracted.markdown)?;
        let start = Instant::now();
        let (frame, answer) = prompt::begin(&app, body, start).await?;
        Ok(ProcessResponse { extract: extracted, prompt: frame.whole(answer).await? })
    };
    answer(app, stream, work).await
}

/// What `/process` answers.
#[derive(Debug, Serialize, ToSchema)]
struct ProcessResponse {
    /// What the document holds, as `/extract` says it.
    extract: ExtractResponse,
    /// What the model answered, as `/prompt` says it.
    #[serde(flatten)]
    prompt: PromptResponse,
}

/// What is asked of the model about a document.
fn prompt_request(prompt: &Map<String, Value>, document: &str) -> Result<PromptRequest, ApiError> {
    let mut prompt = prompt.clone();
    let text = match prompt.get("prompt") {
        None | Some(Value::Null) => document.to_owned(),
        Some(Value::String(text)) if text.is_empty() => document.to_owned(),
        Some(Value::String(text)) => format!("{text}\n\n{document}"),
        Some(_) => return Err(wrong("prompt.prompt", "must be a text")),
    };
    if prompt.get("stream").is_some_and(|stream| *stream != Value::Bool(false)) {
        return Err(wrong("prompt.stream", "stands beside `prompt`, not in it"));
    }
    prompt.insert("prompt".to_owned(), text.into());
    let bytes = Value::Object(prompt).to_string();
    parse::<PromptRequest>(bytes.as_bytes()).map_err(|mut error| {
        error.param =
            Some(error.param.map_or("prompt".to_owned(), |param| format!("prompt.{param}")));
        error
    })
}

/// Reads a document, and fills in its fields.
async fn extract_one(
    app: &App,
    request: ExtractRequest,
    progress: &Progress,
) -> Result<ExtractResponse, ApiError> {
    let start = Instant::now();
    let served = Arc::clone(app.served()?);
    let fields = request.wanted()?;
    let (document_id, max_tokens) = (request.document_id.clone(), request.max_tokens);
    let with_words = request.words.unwrap_or(false);
    let grammar = match &fields {
        Some(fields) => Some(asking::grammar(app, &served, fields).await?),
        None => None,
    };
    let read = reading::read(app, request, progress).await?;
    let document = Arc::new(read.document);
    let filled = match fields.zip(grammar) {
        Some((fields, grammar)) => {
            let asking = asking::Asking { app, served: &served, fields: Arc::new(fields), grammar };
            Some(asking.fill(&document, max_tokens, progress).await?)
        }
        None => None,
    };
    let response = ExtractResponse {
        document_id,
        pictures: read.pictures,
        filled,
        model: served.name.clone(),
        build: app.build().to_owned(),
        processing_time_seconds: start.elapsed().as_secs_f64(),
        ..ExtractResponse::of(&document, with_words)
    };
    Ok(response)
}

/// What happens on the way.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "stage", rename_all = "snake_case")]
enum Told {
    /// Pages are read.
    Reading {
        /// That are done.
        pages_done: usize,
        /// That there are.
        pages: usize,
    },
    /// The model fills in fields.
    Fields {
        /// Parts of the document that are done.
        parts_done: usize,
        /// Parts that there are.
        parts: usize,
    },
    /// The model answers the prompt.
    Prompt,
}

/// Where it is told. Whoever does not listen fast enough misses some of it.
#[derive(Debug, Clone)]
struct Progress(mpsc::Sender<Told>);

impl Progress {
    fn tell(&self, told: Told) {
        let _ = self.0.try_send(told);
    }
}

/// Runs work to its end, telling how far it has come if that is wanted.
async fn answer<
    T: Serialize + Send + 'static,
    F: Future<Output = Result<T, ApiError>> + Send + 'static,
>(
    app: App,
    stream: bool,
    work: impl FnOnce(App, Progress) -> F,
) -> Result<Response, ApiError> {
    let (sender, told) = mpsc::channel(64);
    let work = work(app, Progress(sender));
    if !stream {
        drop(told);
        return Ok(Json(work.await?).into_response());
    }
    // The stream outlives the handler, whose task knows the request.
    let work = Box::pin(Record::current().scope(work));
    let state = (Some(work), told);
    let events = stream::unfold(state, |(mut work, mut told)| async move {
        let running = work.as_mut()?;
        let event = tokio::select! {
            biased;
            Some(told) = told.recv() => event("progress", &told),
            result = running => {
                work = None;
                match result {
                    Ok(result) => event("result", &result),
                    Err(error) => event("error", &error.body()),
                }
            }
        };
        Some((event, (work, told)))
    });
    Ok((prompt::STREAM_HEADERS, Stream::new(events).keep_alive(KeepAlive::default()))
        .into_response())
}

fn event(name: &str, data: &impl Serialize) -> Result<Sse, axum::Error> {
    Sse::default().event(name).json_data(data)
}

/// A field that makes no sense.
fn wrong(param: &str, message: impl Into<String>) -> ApiError {
    ApiError::invalid(param.to_owned(), format!("{param} {}", message.into()))
}

/// The fields that a request names.
fn fields_of(names: Option<&[String]>, schema: Option<&Value>) -> Result<Option<Fields>, ApiError> {
    let refused = |param: &str, error: String| {
        ApiError::invalid(param.to_owned(), error).with_code("unsupported_schema")
    };
    match (names, schema) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(wrong("schema", "and `fields` say the same thing; leave one out"))
        }
        (Some(names), None) => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Fields::from_names(&names)
                .map(Some)
                .map_err(|error| refused("fields", error.to_string()))
        }
        (None, Some(schema)) => {
            let example = grammar::example_to_schema(schema)
                .map_err(|error| refused("schema", format!("schema: {error}")))?;
            let schema = example.unwrap_or_else(|| schema.clone());
            Fields::from_schema(schema)
                .map(Some)
                .map_err(|error| refused("schema", error.to_string()))
        }
    }
}
