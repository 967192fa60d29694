//! Requests, and the answers that are believed.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderMap, LINK, RANGE, RETRY_AFTER};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Response, StatusCode, Url};

use crate::{ContentRange, FetchError, root_cause, tls};

/// How much of a file a server that ignores ranges may send before the part that was asked for.
const SKIPPED_MAX: u64 = 16 << 20;

/// Bounds on every request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until a connection stands.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// From the request to the last byte.
    pub total: Duration,
    /// Redirects that are followed.
    pub redirects: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(120),
            redirects: 5,
        }
    }
}

/// A secret for one server.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes the text without the white space around it; `None` if nothing is left, or if it cannot be sent.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        is_plain.then(|| Token(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Fetches files from a server, and from where it redirects to.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    /// The server that may be asked in plain text, and gets the token.
    home: Url,
    token: Option<Token>,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The bytes that were asked for, as far as the file goes.
    pub bytes: Bytes,
    /// Bytes of the whole file, as the server says.
    pub file_len: u64,
}

impl Client {
    /// A client of the server at `home`, whose scheme and host alone matter. The token goes to no other, and plain `http` to no
    /// other that is not this machine.
    ///
    /// # Errors
    /// If `home` is no URL of a server, or the system has no threads or sockets left.
    pub fn new(home: &str, token: Option<Token>, limits: Limits) -> Result<Self, FetchError> {
        let home = parse(home)?;
        let (trusted, redirects) = (Arc::new(home.clone()), limits.redirects);
        let policy = Policy::custom(move |attempt| follow(attempt, &trusted, redirects));
        let http = tls::builder()
            .connect_timeout(limits.connect)
            .read_timeout(limits.idle)
            .timeout(limits.total)
            .redirect(policy)
            .user_agent(concat!("halfbyte/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| failed(home.as_str(), error))?;
        Ok(Client { http, home, token })
    }

    /// A whole file of at most `max` bytes.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn get(&self, url: &str, max: u64) -> Result<Bytes, FetchError> {
        let response = self.send(url, None).await?;
        let announced = response.content_length();
        if announced.is_some_and(|len| len > max) {
            return Err(FetchError::TooLarge { url: url.to_owned(), max });
        }
        let bytes = up_to(url, response, max.saturating_add(1)).await?;
        if bytes.len() as u64 > max {
            return Err(FetchError::TooLarge { url: url.to_owned(), max });
        }
        Ok(bytes)
    }

    /// An answer of at most `max` bytes, and the query of the page that follows it, if its `Link` header names one.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn page(&self, url: &str, max: u64) -> Result<(Bytes, Option<String>), FetchError> {
        let response = self.send(url, None).await?;
        let next = next_page(response.headers());
        let bytes = up_to(url, response, max.saturating_add(1)).await?;
        if bytes.len() as u64 > max {
            return Err(FetchError::TooLarge { url: url.to_owned(), max });
        }
        Ok((bytes, next))
    }

    /// The bytes `range` of a file of `file_len` bytes, as they come.
    ///
    /// # Errors
    /// See [`FetchError`]; also if the server's file has another length.
    pub async fn stream(
        &self,
        url: &str,
        range: Range<u64>,
        file_len: u64,
    ) -> Result<PartStream, FetchError> {
        let wrong = |what: String| FetchError::Answer { url: url.to_owned(), what };
        if range.is_empty() {
            return Err(wrong("no byte of it was asked for".to_owned()));
        }
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let response = self.send(url, Some(&header)).await?;
        let (range, len) = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let len = expect_range(&response, &range).map_err(wrong)?;
                (range, len)
            }
            // Without a length, the digest decides.
            _ => (0..file_len, response.content_length().unwrap_or(file_len)),
        };
        if len != file_len {
            return Err(wrong(format!("the file has {len} bytes there, not {file_len}")));
        }
        let led_to = (response.url().as_str() != url).then(|| response.url().to_string());
        let expected = range.end - range.start;
        Ok(PartStream { response, url: url.to_owned(), range, expected, led_to })
    }

    /// The bytes `range` of a file, fewer only where the file ends within it. If the server ignores ranges, what lies before it
    /// is read and dropped, what lies behind never read.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn range(&self, url: &str, range: Range<u64>) -> Result<Part, FetchError> {
        let wrong = |what: String| FetchError::Answer { url: url.to_owned(), what };
        if range.is_empty() {
            return Err(wrong("no byte of it was asked for".to_owned()));
        }
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let response = self.send(url, Some(&header)).await?;
        let (skip, file_len) = match response.status() {
            StatusCode::PARTIAL_CONTENT => (0, expect_range(&response, &range).map_err(wrong)?),
            _ => {
                let len = response.content_length();
                let len =
                    len.ok_or_else(|| wrong("it does not say how long the file is".into()))?;
                if range.start > SKIPPED_MAX {
                    return Err(wrong(
                        "it ignores ranges, and the file is too large to read all of it".into(),
                    ));
                }
                (range.start, len)
            }
        };
        let wanted = file_len.min(range.end).saturating_sub(range.start);
        let mut bytes = up_to(url, response, skip + wanted).await?;
        if (bytes.len() as u64) < skip + wanted {
            let (got, expected) = (bytes.len() as u64, skip + wanted);
            return Err(FetchError::Cut { url: url.to_owned(), got, expected });
        }
        Ok(Part { bytes: bytes.split_off(skip as usize), file_len })
    }

    async fn send(&self, url: &str, range: Option<&str>) -> Result<Response, FetchError> {
        let parsed = parse(url)?;
        if !may_ask(&parsed, &self.home) {
            let reason = "plain http is spoken with this machine alone; use https";
            return Err(FetchError::Url { url: url.to_owned(), reason: reason.to_owned() });
        }
        let is_home = parsed.origin() == self.home.origin();
        let asked = parsed.origin();
        let mut request = self.http.get(parsed).header(ACCEPT_ENCODING, "identity");
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        // reqwest takes the token off a redirect to another host.
        if let Some(Token(token)) = self.token.as_ref().filter(|_| is_home) {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|error| failed(url, error))?;
        let url = || url.to_owned();
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT if range.is_some() => Ok(response),
            StatusCode::NOT_FOUND => {
                Err(FetchError::NotFound { url: url(), code: error_code(&response) })
            }
            // Elsewhere it is no word about the token, which is not sent there, but about the redirect.
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
                if response.url().origin() == asked =>
            {
                let (status, code) = (status.as_u16(), error_code(&response));
                Err(FetchError::Denied { url: url(), status, code })
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let what =
                    "it says that the file ends before the part that was asked for".to_owned();
                Err(FetchError::Answer { url: url(), what })
            }
            status => {
                let retry_after = retry_after(response.headers());
                Err(FetchError::Status { url: url(), status: status.as_u16(), retry_after })
            }
        }
    }
}

/// A part of a file on its way.
#[derive(Debug)]
pub struct PartStream {
    response: Response,
    url: String,
    /// What is still to come.
    range: Range<u64>,
    expected: u64,
    led_to: Option<String>,
}

impl PartStream {
    /// The bytes that are still to come: at first those that were asked for, or the whole file if the server ignores ranges.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Where redirects led, which may be asked in place of them for a while. It may be signed, which makes it a secret.
    pub fn led_to(&self) -> Option<&str> {
        self.led_to.as_deref()
    }

    /// What came next; `None` when all is there. Never more than was to come.
    ///
    /// # Errors
    /// If the connection breaks, stalls, or ends before the part does.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        let left = self.range.end - self.range.start;
        if left == 0 {
            return Ok(None);
        }
        let chunk = self.response.chunk().await.map_err(|error| failed(&self.url, error))?;
        let Some(mut chunk) = chunk else {
            let (got, expected) = (self.expected - left, self.expected);
            return Err(FetchError::Cut { url: self.url.clone(), got, expected });
        };
        chunk.truncate(left.min(chunk.len() as u64) as usize);
        self.range.start += chunk.len() as u64;
        Ok(Some(chunk))
    }
}

/// What the hub calls its refusals, as `GatedRepo`.
fn error_code(response: &Response) -> Option<String> {
    let code = response.headers().get("x-error-code")?.to_str().ok()?;
    let is_word = code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    is_word.then(|| code.to_owned())
}

/// How long a server asks to be left alone; the form with a date is not read, nor used where it matters here.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The query of `<https://host/path?query>; rel="next"`: the path is known, and no other host is asked.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let next = link.split(',').find(|link| link.contains("rel=\"next\""))?;
    let url = next.trim().strip_prefix('<')?.split('>').next()?;
    url.split_once('?').map(|(_, query)| query.to_owned())
}

/// The length of the file, if the answer holds what was asked for.
fn expect_range(response: &Response, wanted: &Range<u64>) -> Result<u64, String> {
    let header = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let header = header.ok_or("it sends a part without saying which")?;
    let ContentRange { bytes, file_len } = ContentRange::parse(header)
        .ok_or_else(|| format!("`{header:.100}` is no range of a file"))?;
    if bytes != (wanted.start..wanted.end.min(file_len)) {
        return Err(format!(
            "it sends bytes {}-{} of {file_len} where {}-{} were asked for",
            bytes.start,
            bytes.end - 1,
            wanted.start,
            wanted.end - 1
        ));
    }
    Ok(file_len)
}

/// The first bytes of an answer, at most `max`; fewer if there are no more.
async fn up_to(url: &str, mut response: Response, max: u64) -> Result<Bytes, FetchError> {
    let mut bytes = BytesMut::new();
    while (bytes.len() as u64) < max {
        let chunk = response.chunk().await.map_err(|error| failed(url, error))?;
        let Some(mut chunk) = chunk else { break };
        chunk.truncate((max - bytes.len() as u64).min(chunk.len() as u64) as usize);
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn parse(text: &str) -> Result<Url, FetchError> {
    let wrong = |reason: String| FetchError::Url { url: text.to_owned(), reason };
    let url = Url::parse(text).map_err(|error| wrong(format!("is no URL: {error}")))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(wrong("is no URL of a web server, as https://example.com".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let reason = "has a name or password in it, which would be seen; use a token";
        return Err(FetchError::Url { url: "the URL".to_owned(), reason: reason.to_owned() });
    }
    Ok(url)
}

/// Whether a URL may be asked: over TLS, or plainly on this machine or the one that was named.
fn may_ask(url: &Url, home: &Url) -> bool {
    url.scheme() == "https" || is_loopback(url) || url.origin() == home.origin()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Follows a redirect, never from TLS to plain text.
fn follow(attempt: Attempt<'_>, home: &Url, redirects: usize) -> reqwest::redirect::Action {
    if attempt.previous().len() > redirects {
        return attempt.error("it redirects again and again");
    }
    let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if was_secure && attempt.url().scheme() != "https" || !may_ask(attempt.url(), home) {
        return attempt.error("it redirects to a place in plain http");
    }
    attempt.follow()
}

fn failed(url: &str, error: reqwest::Error) -> FetchError {
    let url = url.to_owned();
    if error.is_timeout() {
        return FetchError::Timeout { url };
    }
    // The innermost reason is the one that says something; the outer ones repeat the URL.
    let error = error.without_url();
    let mut reason = root_cause(&error);
    if url.starts_with("https") && !tls::has_roots() {
        reason += "; this system trusts no authority: install ca-certificates, or name a file of them in SSL_CERT_FILE";
    }
    FetchError::Failed { url, reason }
}
