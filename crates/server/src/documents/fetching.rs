//! Documents of other machines, for a server that was told that it may get them. A client must not reach through it what it
//! cannot reach itself: only public addresses are connected to, and redirects go through the same checks.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use fetch::NotPublic;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_TYPE, LOCATION};
use reqwest::{ClientBuilder, Response, Url};

use crate::ApiError;

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 3;

/// Time for the whole, from the first look-up to the last byte.
const TIME: Duration = Duration::from_secs(60);

/// Time for a connection, and between two pieces.
const PATIENCE: Duration = Duration::from_secs(15);

/// A document that was got.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Bytes,
    /// Last part of its path.
    pub(super) name: Option<String>,
    pub(super) content_type: Option<String>,
}

/// Whom a server may ask. Tests ask themselves.
#[derive(Clone, Copy)]
struct Reach {
    client: fn() -> ClientBuilder,
    check: fn(&str) -> Result<Url, NotPublic>,
}

const PUBLIC: Reach = Reach { client: fetch::public_builder, check: fetch::public_url };

/// Gets a document of at most `max` bytes.
///
/// # Errors
/// 400 for what is not asked for, 413 for what is too large, 502 for servers that do not give it.
pub(super) async fn get(url: &str, max: usize) -> Result<Fetched, ApiError> {
    let got = tokio::time::timeout(TIME, get_within(url, max, PUBLIC)).await;
    got.unwrap_or_else(|_| Err(failed(format!("did not send it within {} s", TIME.as_secs()))))
}

async fn get_within(url: &str, max: usize, reach: Reach) -> Result<Fetched, ApiError> {
    let client = (reach.client)().connect_timeout(PATIENCE).read_timeout(PATIENCE).build();
    let client = client.map_err(|error| ApiError::internal(error.to_string()))?;
    let mut url = (reach.check)(url).map_err(refused)?;
    for _ in 0..=REDIRECTS_MAX {
        let request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        let response = request.send().await.map_err(|error| unanswered(&error))?;
        if response.status().is_redirection() {
            let location = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
            let location = location.and_then(|place| url.join(place).ok());
            let location = location.ok_or_else(|| failed("redirects to nowhere".to_owned()))?;
            url = (reach.check)(location.as_str()).map_err(refused)?;
            continue;
        }
        if !response.status().is_success() {
            return Err(failed(format!("answered {}", response.status())));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let content_type = kind.map(str::to_owned);
        let name = url.path_segments().and_then(|mut parts| parts.next_back());
        let name = name.filter(|name| !name.is_empty()).map(str::to_owned);
        return Ok(Fetched { bytes: body(response, max).await?, name, content_type });
    }
    Err(failed(format!("redirects more than {REDIRECTS_MAX} times")))
}

async fn body(mut response: Response, max: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!(
            "the document at document_url is larger than {max} bytes, the most that is taken"
        );
        ApiError::http(StatusCode::PAYLOAD_TOO_LARGE, "document_too_large", message)
    };
    if response.content_length().is_some_and(|len| len > max as u64) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let broke = |error: reqwest::Error| failed(format!("broke off: {}", fetch::root_cause(&error)));
    while let Some(piece) = response.chunk().await.map_err(broke)? {
        if bytes.len() + piece.len() > max {
            return Err(too_large());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

fn refused(error: NotPublic) -> ApiError {
    let message = format!("document_url: {error}");
    ApiError::invalid("document_url".to_owned(), message).with_code("forbidden_url")
}

/// No answer: because nobody may be asked, or because nobody answered.
fn unanswered(error: &reqwest::Error) -> ApiError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<NotPublic>() {
            return refused(error.clone());
        }
        cause = error.source();
    }
    failed(format!("did not answer: {}", fetch::root_cause(error)))
}

fn failed(what: String) -> ApiError {
    let message = format!("the server of document_url {what}");
    ApiError::http(StatusCode::BAD_GATEWAY, "document_url_failed", message)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_not_asked_for_is_refused_before_anybody_is_asked() {
        for (url, word) in [
            ("http://example.org/a.pdf", "not https"),
            ("file:///etc/passwd", "not https"),
            ("https://user:word@example.org/", "password"),
            ("https://127.0.0.1/", "no address of the public network"),
            ("https://2130706433/", "no address of the public network"),
            ("https://localhost/", "no address of the public network"),
            ("nonsense", "no URL"),
        ] {
            let error = get(url, 10).await.unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{url}: {}", error.message);
            assert!(error.message.contains(word), "{url}: {}", error.message);
        }
    }

    /// Answers each path of a server on this machine by the same text.
    async fn serve(answers: Vec<(&'static str, String)>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let len = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..len]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let answer = answers.iter().find(|(at, _)| *at == path);
                let answer = answer.map(|(_, answer)| answer.as_str());
                let none =
                    "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer.unwrap_or(none).as_bytes()).await;
            }
        });
        port
    }

    /// This machine, in plain text, and nothing else.
    const HERE: Reach = Reach {
        client: || fetch::builder().no_proxy().redirect(reqwest::redirect::Policy::none()),
        check: |url| match Url::parse(url) {
            Ok(parsed) if parsed.host_str() == Some("127.0.0.1") => Ok(parsed),
            _ => fetch::public_url(url),
        },
    };

    #[tokio::test]
    async fn redirects_are_checked_again() {
        let to = |place: &str| {
            format!(
                "HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        };
        let body = |text: &str, len: usize| {
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{text}"
            )
        };
        let unsaid = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned() + &"x".repeat(100);
        let port = serve(vec![
            ("/a.csv", body("a;b", 3)),
            ("/to", to("a.csv")),
            ("/private", to("https://10.0.0.1/")),
            ("/metadata", to("http://169.254.169.254/latest")),
            ("/file", to("file:///etc/passwd")),
            ("/loop", to("/loop")),
            ("/large", body("", 1000)),
            ("/unsaid", unsaid),
            ("/short", body("a", 5)),
        ])
        .await;
        let get = async |path: &str| {
            get_within(&format!("http://127.0.0.1:{port}{path}"), 10, HERE).await
        };
        let got = get("/to").await.unwrap();
        assert_eq!((&got.bytes[..], got.name.as_deref()), (&b"a;b"[..], Some("a.csv")));
        assert_eq!(got.content_type.as_deref(), Some("text/csv"));
        for (path, status, word) in [
            ("/private", 400, "no address of the public network"),
            ("/metadata", 400, "not https"),
            ("/file", 400, "not https"),
            ("/loop", 502, "more than 3"),
            ("/large", 413, "larger"),
            ("/unsaid", 413, "larger"),
            ("/short", 502, "broke off"),
            ("/none", 502, "404"),
        ] {
            let error = get(path).await.unwrap_err();
            assert_eq!(error.status.as_u16(), status, "{path}: {}", error.message);
            assert!(error.message.contains(word), "{path}: {}", error.message);
        }
    }
}
