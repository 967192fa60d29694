//! What is asked: JSON with the document in base64, or a form with it as a file.

use axum::body::Bytes;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{StatusCode, header};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use ::extract::fields::Fields;

use super::{fetching, fields_of, wrong};
use crate::extract::{JsonBytes, parse};
use crate::{ApiError, App};

/// Most parts of a form.
const MAX_PARTS: usize = 32;

/// A document, and what is wanted of it.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExtractRequest {
    /// The document; in a form, a file.
    #[serde(skip)]
    pub(super) file: Option<File>,
    /// The document in base64, instead.
    pub(super) document_base64: Option<String>,
    /// Where the document is, instead: `https`, on the public network, and only if the server was told that it may.
    pub(super) document_url: Option<String>,
    /// Its name: tells text formats apart, and stands in errors.
    pub(super) filename: Option<String>,
    /// Its media type; what the content is counts first.
    pub(super) content_type: Option<String>,
    /// A name of the caller's, which comes back with the answer.
    pub(super) document_id: Option<String>,
    /// Fields to fill in, as `["number", "date:date", "total:number"]`; types are string, number, integer, boolean and date.
    pub(super) fields: Option<Vec<String>>,
    /// A JSON Schema to fill in, or an example as `{"total": "number"}`, instead.
    #[schema(value_type = Option<Object>)]
    pub(super) schema: Option<Value>,
    /// Most tokens of an answer with fields; without, a third of the context and at most 2,048.
    pub(super) max_tokens: Option<usize>,
    /// Whether pages list their words with boxes.
    pub(super) words: Option<bool>,
    /// How many of the first pages come as pictures, at most 20; without, none.
    #[schema(maximum = 20)]
    pub(super) pictures: Option<usize>,
    /// Whether the answer comes as server-sent events.
    pub(super) stream: Option<bool>,
}

/// A document, what is wanted of it, and what is asked about it.
#[derive(Debug, Clone, Default, ToSchema)]
pub(super) struct ProcessRequest {
    /// As for `/extract`.
    #[serde(flatten)]
    pub(super) extract: ExtractRequest,
    /// As for `/prompt`.
    #[schema(value_type = Option<Object>)]
    pub(super) prompt: Option<Map<String, Value>>,
}

/// A file of a form.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) bytes: Bytes,
}

/// Where the bytes of a document are to come from.
#[derive(Debug)]
pub(super) enum Source {
    Bytes(Bytes),
    Base64(String),
    Url(String),
}

/// A request in either form.
pub(super) struct Asked<T> {
    pub(super) request: T,
}

/// What a form's file and texts become.
pub(super) trait Form: Sized {
    /// Reads JSON.
    fn read(bytes: &[u8]) -> Result<Self, ApiError>;

    /// Puts the file into it.
    fn set_file(&mut self, file: File);
}

impl Form for ExtractRequest {
    fn read(bytes: &[u8]) -> Result<Self, ApiError> {
        parse(bytes)
    }

    fn set_file(&mut self, file: File) {
        self.file = Some(file);
    }
}

impl Form for ProcessRequest {
    fn read(bytes: &[u8]) -> Result<Self, ApiError> {
        let mut fields: Map<String, Value> = parse(bytes)?;
        let prompt = match fields.remove("prompt") {
            None | Some(Value::Null) => None,
            Some(Value::Object(prompt)) => Some(prompt),
            Some(_) => return Err(wrong("prompt", "must be an object, with what `/prompt` takes")),
        };
        let extract = parse(Value::Object(fields).to_string().as_bytes())?;
        Ok(ProcessRequest { extract, prompt })
    }

    fn set_file(&mut self, file: File) {
        self.extract.file = Some(file);
    }
}

impl<T: Form> FromRequest<App> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind.is_some_and(|kind| kind.trim_start().starts_with("multipart/form-data")) {
            let form = Multipart::from_request(request, app).await;
            let form = form.map_err(|error| unreadable(&error.body_text()))?;
            return Ok(Asked { request: read_form(form).await? });
        }
        let JsonBytes(bytes) = JsonBytes::from_request(request, app).await?;
        Ok(Asked { request: T::read(&bytes)? })
    }
}

fn unreadable(message: &str) -> ApiError {
    ApiError::http(StatusCode::BAD_REQUEST, "unreadable_body", message)
}

/// Parts of a form become the fields of the same names: numbers, lists and objects are written as JSON, lists of fields also
/// with commas.
async fn read_form<T: Form>(mut form: Multipart) -> Result<T, ApiError> {
    let mut fields = Map::new();
    let mut file = None;
    let mut parts = 0;
    while let Some(part) =
        form.next_field().await.map_err(|error| unreadable(&error.body_text()))?
    {
        parts += 1;
        if parts > MAX_PARTS {
            return Err(unreadable(&format!("the form has more than {MAX_PARTS} parts")));
        }
        let name = part.name().unwrap_or_default().to_owned();
        let (filename, kind) =
            (part.file_name().map(str::to_owned), part.content_type().map(str::to_owned));
        let bytes = part.bytes().await.map_err(|error| unreadable(&error.body_text()))?;
        if name == "file" {
            if file.replace(File { bytes }).is_some() {
                return Err(wrong("file", "comes twice; send a document at a time"));
            }
            // What the form says of its file yields to what a part says.
            for (key, value) in [("filename", filename), ("content_type", kind)] {
                if let Some(value) = value {
                    fields.entry(key).or_insert(value.into());
                }
            }
            continue;
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong(&name, "is not UTF-8"))?;
        let value = match name.as_str() {
            "filename" | "content_type" | "document_id" | "document_base64" | "document_url" => {
                text.into()
            }
            "fields" if !text.trim_start().starts_with('[') => {
                text.split(',').map(|name| Value::from(name.trim())).collect()
            }
            _ => serde_json::from_str(text)
                .map_err(|error| wrong(&name, format!("is no JSON: {error}")))?,
        };
        fields.insert(name, value);
    }
    let mut request = T::read(Value::Object(fields).to_string().as_bytes())?;
    if let Some(file) = file {
        request.set_file(file);
    }
    Ok(request)
}

/// Base64 with or without `=` at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl ExtractRequest {
    /// The fields that are wanted, if any are.
    pub(super) fn wanted(&self) -> Result<Option<Fields>, ApiError> {
        fields_of(self.fields.as_deref(), self.schema.as_ref())
    }

    /// Where the document is, once that is known to be one place.
    pub(super) fn source(&mut self) -> Result<Source, ApiError> {
        let file = self.file.take().map(|file| Source::Bytes(file.bytes));
        let base64 = self.document_base64.take().map(Source::Base64);
        let url = self.document_url.take().map(Source::Url);
        let mut sources = [file, base64, url].into_iter().flatten();
        match (sources.next(), sources.next()) {
            (Some(source), None) => Ok(source),
            (None, _) => {
                let message =
                    "there is no document: send it as `file` of a form, or as `document_base64`";
                Err(ApiError::invalid("file".to_owned(), message).with_code("missing_parameter"))
            }
            (Some(_), Some(other)) => {
                let name = if matches!(other, Source::Url(_)) {
                    "document_url"
                } else {
                    "document_base64"
                };
                Err(wrong(name, "comes beside another document; send one of them"))
            }
        }
    }

    /// Takes over what the server of a URL said of its document, where the request says nothing.
    pub(super) fn describe(&mut self, fetched: fetching::Fetched) -> Bytes {
        self.filename = self.filename.take().or(fetched.name);
        self.content_type = self.content_type.take().or(fetched.content_type);
        fetched.bytes
    }
}

/// The bytes of a document in base64.
pub(super) fn from_base64(text: &str) -> Result<Bytes, ApiError> {
    // Lines of 76 characters, and the beginning that browsers write.
    let text = match text.split_once(";base64,") {
        Some((kind, rest)) if kind.starts_with("data:") => rest,
        _ => text,
    };
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = BASE64.decode(text.as_bytes());
    bytes
        .map(Bytes::from)
        .map_err(|error| wrong("document_base64", format!("is no base64: {error}")))
}
