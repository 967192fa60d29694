//! One streamed completion, timed.

use std::time::Instant;

use anyhow::Result;
use futures_util::StreamExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

use crate::output::CliError;

/// Words of the text whose tokens prompts are made of.
const WORDS: usize = 4000;

/// A server.
pub(in crate::commands::bench) struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<String>,
}

/// When the parts of an answer came, in seconds since it was asked for.
#[derive(Debug)]
pub(in crate::commands::bench) struct Timed {
    /// The end of the answer. Not every token has a text, so it may lie well after the last piece.
    pub(super) end: f64,
    /// Pieces of text.
    pub(super) pieces: Vec<f64>,
    pub(super) completion_tokens: u64,
    pub(super) cached_tokens: u64,
}

impl Timed {
    /// The first piece of text.
    pub(in crate::commands::bench) fn first(&self) -> f64 {
        self.pieces.first().copied().unwrap_or(self.end)
    }

    /// Between pieces of text.
    pub(super) fn gaps(&self) -> impl Iterator<Item = f64> {
        self.pieces.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// Tokens after the first, per second.
    pub(super) fn decode_rate(&self) -> Option<f64> {
        let seconds = self.end - self.first();
        (self.completion_tokens > 1 && seconds > 0.0)
            .then(|| (self.completion_tokens - 1) as f64 / seconds)
    }
}

fn failed(what: impl std::fmt::Display) -> CliError {
    CliError::Failed(what.to_string())
}

impl Client {
    pub(in crate::commands::bench) fn new(url: &str) -> Result<Self> {
        if !url.starts_with("http://") {
            let message =
                format!("{url} does not begin with http://, which is all that bench speaks");
            return Err(CliError::bad_input("url", message).into());
        }
        // One connection for each stream, which must not wait for others.
        let http = fetch::builder().no_proxy().build().map_err(failed)?;
        let key = std::env::var("HALFBYTE_API_KEY").ok();
        Ok(Client { http, url: url.trim_end_matches('/').to_owned(), key })
    }

    fn with_key(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let response = self.with_key(request).send().await;
        let response = response.map_err(|e| failed(format!("{}: {e}", self.url)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, url) = (response.status(), response.url().clone());
        let body: String = response.text().await.unwrap_or_default().chars().take(500).collect();
        Err(failed(format!("{url} answered {status}: {body}")).into())
    }

    fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    async fn json(&self, request: reqwest::RequestBuilder) -> Result<Value> {
        let bytes = self.send(request).await?.bytes().await.map_err(failed)?;
        Ok(serde_json::from_slice(&bytes).map_err(failed)?)
    }

    /// Whether the server says that it answers.
    pub(in crate::commands::bench) async fn is_ready(&self) -> bool {
        let response = self.http.get(format!("{}/ready", self.url)).send().await;
        response.is_ok_and(|response| response.status().is_success())
    }

    /// The name of the model that the server has.
    pub(super) async fn model(&self) -> Result<String> {
        let models = self.json(self.http.get(format!("{}/v1/models", self.url))).await?;
        let name = models["data"][0]["id"].as_str();
        Ok(name.ok_or_else(|| failed(format!("{}/v1/models names no model", self.url)))?.to_owned())
    }

    /// Ids that the model's tokenizer gives random words.
    pub(super) async fn tokens(&self) -> Result<Vec<u32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let word = |rng: &mut ChaCha8Rng| -> String {
            let letters = 3 + rng.next_u32() % 6;
            (0..letters).map(|_| char::from(b'a' + (rng.next_u32() % 26) as u8)).collect()
        };
        let text = (0..WORDS).map(|_| word(&mut rng)).collect::<Vec<_>>().join(" ");
        let body = json!({ "text": text, "add_special_tokens": false });
        let answer = self.json(self.post("/tokenize", &body)).await?;
        let ids: Vec<u32> = answer["tokens"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
            .collect();
        if ids.is_empty() {
            return Err(failed(format!("{}/tokenize gives no tokens", self.url)).into());
        }
        Ok(ids)
    }

    /// One completion.
    pub(in crate::commands::bench) async fn complete(&self, body: &Value) -> Result<Timed> {
        let start = Instant::now();
        let response = self.send(self.post("/v1/completions", body)).await?;
        let mut stream = response.bytes_stream();
        let (mut held, mut times, mut usage) = (Vec::new(), Vec::new(), Value::Null);
        while let Some(bytes) = stream.next().await {
            held.extend_from_slice(&bytes.map_err(failed)?);
            let now = start.elapsed().as_secs_f64();
            while let Some(end) = held.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = held.drain(..=end).collect();
                let Some(data) = line.strip_prefix(b"data: ") else { continue };
                let Ok(event) = serde_json::from_slice::<Value>(data) else { continue };
                if let Some(error) = event.get("error") {
                    return Err(failed(format!("the server broke off: {error}")).into());
                }
                if event["usage"].is_object() {
                    usage = event["usage"].clone();
                }
                if event["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()) {
                    times.push(now);
                }
            }
        }
        let tokens = usage["completion_tokens"].as_u64();
        Ok(Timed {
            end: start.elapsed().as_secs_f64(),
            pieces: times,
            completion_tokens: tokens.ok_or_else(|| failed("the server counted no tokens"))?,
            cached_tokens: usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0),
        })
    }
}
