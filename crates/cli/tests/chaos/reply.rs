//! What a server sent, taken apart.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A response.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
    /// Whether the body is all there.
    pub(crate) is_whole: bool,
}

impl Reply {
    /// The responses in what came over a connection, informational ones left out.
    pub(crate) fn all(mut bytes: &[u8]) -> Result<Vec<Reply>> {
        let mut replies = Vec::new();
        while !bytes.is_empty() {
            let (reply, rest) = Self::first(bytes)?;
            bytes = rest;
            if reply.status >= 200 {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    fn first(bytes: &[u8]) -> Result<(Reply, &[u8])> {
        let show = || String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.with_context(|| format!("no head: {}", show()))?;
        let head = std::str::from_utf8(&bytes[..end])?.to_ascii_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.with_context(|| format!("no status: {}", show()))?;
        let rest = &bytes[end + 4..];
        let mut reply = Reply { status, head, body: String::new(), is_whole: true };
        if status < 200 || status == 204 {
            return Ok((reply, rest));
        }
        let (body, rest) = if reply.header("transfer-encoding") == Some("chunked") {
            let (body, rest) = unchunk(rest)?;
            reply.is_whole = rest.is_some();
            (body, rest.unwrap_or_default())
        } else {
            let length = reply.header("content-length").context("a body of unknown length")?;
            let length: usize = length.parse()?;
            reply.is_whole = rest.len() >= length;
            let (body, rest) = rest.split_at(length.min(rest.len()));
            (body.to_vec(), rest)
        };
        reply.body = String::from_utf8(body)?;
        Ok((reply, rest))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
    }

    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body))
    }

    /// The code of an error, whose form is checked.
    pub(crate) fn error_code(&self) -> Result<String> {
        let json = self.json()?;
        let error = json["error"].as_object().context("no error")?;
        let keys: Vec<&str> = error.keys().map(String::as_str).collect();
        ensure!(keys == ["message", "type", "param", "code"], "another form: {}", self.body);
        ensure!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "no message");
        Ok(error["code"].as_str().unwrap_or_default().to_owned())
    }

    /// The data of the events of a stream; comments, which keep connections alive, left out.
    pub(crate) fn events(&self) -> Vec<Event<'_>> {
        let events = self.body.split("\n\n").filter(|event| !event.is_empty());
        let field = |event: &'_ str, name: &str| -> Option<String> {
            event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
        };
        events
            .filter(|event| !event.starts_with(':'))
            .map(|event| Event {
                name: field(event, "event: ").unwrap_or_default(),
                data: event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or(""),
            })
            .collect()
    }
}

/// An event of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Event<'a> {
    /// Empty where it has none.
    pub(crate) name: String,
    pub(crate) data: &'a str,
}

/// The content of chunks, and what comes after the last; nothing where that is missing.
fn unchunk(mut bytes: &[u8]) -> Result<(Vec<u8>, Option<&[u8]>)> {
    let mut body = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
            return Ok((body, None));
        };
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end])?, 16)?;
        let chunk = &bytes[end + 2..];
        if chunk.len() < size + 2 {
            body.extend(&chunk[..size.min(chunk.len())]);
            return Ok((body, None));
        }
        body.extend(&chunk[..size]);
        bytes = &chunk[size + 2..];
        if size == 0 {
            return Ok((body, Some(bytes)));
        }
    }
}
