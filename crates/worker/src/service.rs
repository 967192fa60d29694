//! What answers the jobs.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use server::App;

use crate::input::{Call, Pieces};
use crate::outcome::Outcome;

/// Most bytes of an answer: beyond it the platform takes nothing anyway, and warns from 20 MB on.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How many more jobs can begin; asked before each time that jobs are taken.
pub type Capacity = Arc<dyn Fn(usize) -> usize + Send + Sync>;

/// The routes that answer, and how much they can take.
#[derive(Clone)]
pub struct Service {
    /// The routes, with all that surrounds them.
    pub router: Router,
    /// From the jobs in progress: how many more can begin now.
    pub capacity: Capacity,
    /// Name of the one model, for those who do not name it.
    pub model: Arc<dyn Fn() -> Option<String> + Send + Sync>,
}

impl Service {
    /// The routes of a server, and as many jobs as its engine has room for.
    pub fn of(app: &App) -> Self {
        let (router, app, named) = (server::router(app.clone()), app.clone(), app.clone());
        let capacity = move |running| app.job_room(running);
        let model = move || named.served().ok().map(|served| served.name.clone());
        Service { router, capacity: Arc::new(capacity), model: Arc::new(model) }
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// What a call gave.
enum Given {
    /// All of it.
    Whole(Value),
    /// Piece by piece.
    Pieces(BoxStream<'static, Result<Value, Refusal>>),
}

/// A call that failed, as the service says it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    /// HTTP status; 0 in the middle of a stream.
    pub(crate) status: u16,
    /// `{message, type, param, code}`.
    pub(crate) error: Value,
}

impl Refusal {
    /// A fault of ours.
    pub(crate) fn internal(message: String) -> Self {
        let error = json!({ "message": message, "type": "server_error", "param": null, "code": "internal_error" });
        Refusal { status: 500, error }
    }

    fn of(status: u16, body: &Value) -> Self {
        let error = match body.get("error") {
            Some(error @ Value::Object(_)) => error.clone(),
            _ => {
                json!({ "message": body.to_string(), "type": "server_error", "param": null, "code": null })
            }
        };
        Refusal { status, error }
    }
}

impl Service {
    /// What an input comes to. Pieces of it go to `on_piece` as they come, and together into the result.
    pub(crate) async fn answer(
        &self,
        id: &str,
        call: &Call,
        on_piece: impl Fn(Value) -> BoxFuture<'static, Result<(), Refusal>>,
    ) -> Outcome {
        let whole = |result| Outcome { result, is_stream: false };
        let mut pieces = match self.call(call, id).await {
            Ok(Given::Whole(value)) => return whole(Ok(value)),
            Err(refusal) => return whole(Err(refusal)),
            Ok(Given::Pieces(pieces)) => pieces,
        };
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            let taken = match piece {
                Ok(piece) => on_piece(piece.clone()).await.map(|()| all.push(piece)),
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = taken {
                return Outcome { result: Err(refusal), is_stream: true };
            }
        }
        Outcome { result: Ok(Value::Array(all)), is_stream: true }
    }

    /// Calls one of the routes. Who drops what comes back cancels the request.
    async fn call(&self, call: &Call, job: &str) -> Result<Given, Refusal> {
        let mut request = Request::builder().uri(&call.path).header("x-request-id", job);
        if let Some(key) = &call.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let mut body = call.body.clone();
        if let (false, Some(Value::Object(fields))) = (call.names_model, &mut body) {
            fields.insert("model".to_owned(), (self.model)().into());
        }
        let request = match &body {
            Some(body) => request
                .method("POST")
                .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(Body::from(body.to_string())),
            None => request.method("GET").body(Body::empty()),
        };
        let request = request.map_err(|error| Refusal::internal(error.to_string()))?;
        let Ok(response) = self.router.clone().oneshot(request).await;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if response.status().is_success()
            && kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
        {
            return Ok(Given::Pieces(pieces(response, call.pieces)));
        }
        let status = response.status();
        let bytes = whole(response).await?;
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        match status.is_success() {
            true => Ok(Given::Whole(value)),
            false => Err(Refusal::of(status.as_u16(), &value)),
        }
    }
}

async fn whole(response: Response<Body>) -> Result<Vec<u8>, Refusal> {
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let collected = limited.collect().await;
    let collected =
        collected.map_err(|error| Refusal::internal(format!("the answer broke off: {error}")))?;
    Ok(collected.to_bytes().to_vec())
}

/// The events of a stream. An error ends it.
fn pieces(response: Response<Body>, form: Pieces) -> BoxStream<'static, Result<Value, Refusal>> {
    let data = response.into_body().into_data_stream();
    let events = futures_util::stream::unfold(
        (data, Events::default(), false),
        |(mut data, mut events, ended)| async move {
            if ended {
                return None;
            }
            loop {
                if let Some(event) = events.next() {
                    return Some((Ok(event), (data, events, false)));
                }
                match data.next().await {
                    Some(Ok(bytes)) => events.buffer.extend_from_slice(&bytes),
                    Some(Err(error)) => {
                        let refusal = Refusal::internal(format!("the answer broke off: {error}"));
                        return Some((Err(refusal), (data, events, true)));
                    }
                    None => return None,
                }
            }
        },
    );
    let piece = move |event: Result<Event, Refusal>| match event {
        Ok(event) => event.piece(form),
        Err(refusal) => Some(Err(refusal)),
    };
    events.filter_map(move |event| std::future::ready(piece(event))).boxed()
}

/// Server-sent events in the making.
#[derive(Default)]
struct Events {
    buffer: Vec<u8>,
}

/// One server-sent event.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
    /// As it came, with the empty line at its end.
    text: String,
}

impl Events {
    /// The next whole event.
    fn next(&mut self) -> Option<Event> {
        let end = self.buffer.windows(2).position(|two| two == b"\n\n")? + 2;
        let text: Vec<u8> = self.buffer.drain(..end).collect();
        let text = String::from_utf8_lossy(&text).into_owned();
        let field = |name: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            lines
                .map(|value| value.strip_prefix(' ').unwrap_or(value))
                .collect::<Vec<_>>()
                .join("\n")
        };
        Some(Event { name: field("event"), data: field("data"), text })
    }
}

impl Event {
    /// What of it goes to the platform; nothing of comments, which keep connections alive.
    fn piece(self, form: Pieces) -> Option<Result<Value, Refusal>> {
        if self.data.is_empty() {
            return None;
        }
        let value = serde_json::from_str::<Value>(&self.data).ok();
        let error =
            value.as_ref().filter(|value| self.name == "error" || value["error"].is_object());
        if let Some(value) = error {
            return Some(Err(Refusal::of(0, value)));
        }
        match (form, value) {
            (Pieces::Text, _) => Some(Ok(Value::String(self.text))),
            // OpenAI's mark of the end says nothing that the end does not.
            (Pieces::Data, None) => (self.data != "[DONE]").then_some(Ok(Value::String(self.data))),
            (Pieces::Data, Some(value)) => Some(Ok(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use axum::routing::{get, post};

    use super::*;

    fn service() -> Service {
        let router = Router::new()
            .route("/whole", post(|body: String| async move { body }))
            .route("/name", get(|request: Request<Body>| async move {
                let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
                axum::Json(json!([header("x-request-id"), header("authorization")]))
            }))
            .route("/refused", get(|| async {
                let body = json!({"success": false, "error": {"message": "no", "type": "t", "param": "p", "code": "c"}});
                (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
            }))
            .route("/stream", get(|| async {
                let text = ": alive\n\ndata: {\"a\": 1}\n\nevent: delta\ndata: plain\n\ndata: [DONE]\n\n";
                let kind = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
                // In pieces of three bytes, as a network may cut them.
                let chunks = text.as_bytes().chunks(3).map(|c| Ok::<_, std::convert::Infallible>(c.to_vec()));
                (kind, Body::from_stream(futures_util::stream::iter(chunks.collect::<Vec<_>>())))
            }))
            .route("/broken", get(|| async {
                let kind = [(header::CONTENT_TYPE, "text/event-stream")];
                (kind, "data: 1\n\nevent: error\ndata: {\"error\": {\"message\": \"late\"}}\n\n")
            }));
        let model = Arc::new(|| Some("m".to_owned()));
        Service { router, capacity: Arc::new(|_| 1), model }
    }

    async fn call(path: &str, body: Option<Value>, pieces: Pieces) -> Result<Given, Refusal> {
        let call = Call {
            path: path.to_owned(),
            body,
            key: Some("k".to_owned()),
            pieces,
            names_model: true,
            callback: None,
        };
        let nameless = Call { names_model: false, ..call.clone() };
        if let (Some(Value::Object(_)), Ok(Given::Whole(whole))) =
            (&call.body, service().call(&nameless, "job-1").await)
        {
            assert_eq!(whole["model"], "m");
        }
        service().call(&call, "job-1").await
    }

    async fn stream(path: &str, form: Pieces) -> Vec<Result<Value, Refusal>> {
        match call(path, None, form).await {
            Ok(Given::Pieces(pieces)) => pieces.collect().await,
            _ => panic!("no stream"),
        }
    }

    #[tokio::test]
    async fn answers_come_whole_or_in_pieces() {
        let Ok(Given::Whole(whole)) = call("/whole", Some(json!({"x": [1]})), Pieces::Data).await
        else {
            panic!("not whole")
        };
        assert_eq!(whole, json!({"x": [1]}));
        let Ok(Given::Whole(name)) = call("/name", None, Pieces::Data).await else {
            panic!("not whole")
        };
        assert_eq!(name, json!(["job-1", "Bearer k"]));
        assert_eq!(
            stream("/stream", Pieces::Data).await,
            [Ok(json!({"a": 1})), Ok(json!("plain"))]
        );
        let texts = ["data: {\"a\": 1}\n\n", "event: delta\ndata: plain\n\n", "data: [DONE]\n\n"];
        assert_eq!(stream("/stream", Pieces::Text).await, texts.map(|text| Ok(json!(text))));
    }

    #[tokio::test]
    async fn refusals_keep_their_words() {
        let Err(refusal) = call("/refused", None, Pieces::Data).await else {
            panic!("not refused")
        };
        assert_eq!((refusal.status, refusal.error["param"].clone()), (400, json!("p")));
        let Err(refusal) = call("/absent", None, Pieces::Data).await else { panic!("not refused") };
        assert_eq!(refusal.status, 404);
        let late = stream("/broken", Pieces::Data).await;
        assert_eq!(late[0], Ok(json!(1)));
        assert_eq!(late[1].as_ref().unwrap_err().error["message"], "late");
    }
}
