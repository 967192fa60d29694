//! What tests share: an engine that follows a script, a server on a free port, and a client that can misbehave.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use backend::BackendError;
use engine::{
    Completion, EngineError, Event, FinishReason, GeneratedToken, Request, RequestId, Stats,
    StepReport,
};
use grammar::{TokenText, Vocabulary};
use model::{ChatTemplate, Checkpoint, GenerationConfig, Tokenizer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::driver::Steps;
use crate::run::{Loading, ServeError, serve};
use ::extract::checks::Rules;

use crate::{
    App, Config, Documents, EngineHandle, JobsConfig, Keys, Limits, MemoryPlan, Served, Stages,
};

/// An engine without a model: to each request it gives the same token until `max_tokens`, all at once in a step.
#[derive(Debug)]
pub(crate) struct Scripted {
    /// Requests that share a step.
    pub(crate) slots: usize,
    /// Requests that wait at most.
    pub(crate) max_waiting: usize,
    /// How long a step takes.
    pub(crate) step_time: Duration,
    /// Text of each token.
    pub(crate) text: String,
    /// After so many tokens of all requests together, it dies.
    pub(crate) dies_after: Option<(u64, Fate)>,
    /// What it holds. Tests leave these alone.
    pub(crate) held: Held,
}

/// What a scripted engine holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    waiting: VecDeque<(RequestId, Request)>,
    running: Vec<(RequestId, Request, Vec<u32>)>,
    computed: Vec<(RequestId, usize)>,
    last_id: u64,
    generated: u64,
}

/// How a scripted engine dies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// The device fails.
    Device,
    /// There is a fault in the program.
    Panic,
}

impl Default for Scripted {
    fn default() -> Self {
        Scripted {
            slots: 4,
            max_waiting: 4,
            step_time: Duration::from_millis(1),
            text: "word ".to_owned(),
            dies_after: None,
            held: Held::default(),
        }
    }
}

impl Steps for Scripted {
    fn submit(&mut self, request: Request) -> Result<RequestId, EngineError> {
        if request.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if self.held.waiting.len() >= self.max_waiting {
            return Err(EngineError::QueueFull { waiting: self.held.waiting.len() });
        }
        self.held.last_id += 1;
        self.held.waiting.push_back((RequestId(self.held.last_id), request));
        Ok(RequestId(self.held.last_id))
    }

    fn cancel(&mut self, id: RequestId) {
        self.held.waiting.retain(|(waiting, _)| *waiting != id);
        self.held.running.retain(|(running, ..)| *running != id);
    }

    fn has_work(&self) -> bool {
        !self.held.waiting.is_empty() || !self.held.running.is_empty()
    }

    fn step(
        &mut self,
        now: Duration,
        on_event: &mut (dyn FnMut(RequestId, Event) + Send),
    ) -> Result<StepReport, EngineError> {
        self.held.running.retain(|(id, request, _)| {
            let is_late = request.deadline.is_some_and(|deadline| deadline <= now);
            if is_late {
                on_event(*id, Event::Failed(EngineError::Deadline));
            }
            !is_late
        });
        if !self.step_time.is_zero() {
            thread::sleep(self.step_time);
        }
        let mut tokens = 0;
        self.held.computed.clear();
        while self.held.running.len() < self.slots
            && let Some((id, request)) = self.held.waiting.pop_front()
        {
            tokens += request.prompt.len();
            let total = request.prompt.len();
            on_event(id, Event::Prefill { done: total, total, cached: 0 });
            self.held.computed.push((id, total));
            self.held.running.push((id, request, Vec::new()));
        }
        let sequences = self.held.running.len();
        for (id, _, answer) in &mut self.held.running {
            answer.push(7);
            let text = self.text.clone();
            let token = GeneratedToken { token: 7, logprob: -0.5, top_logprobs: Vec::new(), text };
            on_event(*id, Event::Token(token));
            self.held.computed.push((*id, 1));
            self.held.generated += 1;
        }
        if let Some((count, fate)) = self.dies_after
            && self.held.generated >= count
        {
            let error = || EngineError::from(BackendError::Device("the card fell out".to_owned()));
            if matches!(fate, Fate::Panic) {
                panic!("a fault on purpose");
            }
            for (id, ..) in self.held.running.drain(..) {
                on_event(id, Event::Failed(error()));
            }
            return Err(error());
        }
        let text = &self.text;
        self.held.running.retain(|(id, request, answer)| {
            let goes_on = answer.len() < request.max_tokens;
            if !goes_on {
                let completion = Completion {
                    text: text.repeat(answer.len()),
                    tokens: answer.clone(),
                    finish_reason: FinishReason::Length,
                    prompt_tokens: request.prompt.len(),
                    cached_tokens: 0,
                    completion_tokens: answer.len(),
                };
                on_event(*id, Event::Finished(completion));
            }
            goes_on
        });
        Ok(StepReport { tokens: tokens + sequences, sequences, generated: sequences })
    }

    fn computed(&self) -> &[(RequestId, usize)] {
        &self.held.computed
    }

    fn stats(&self) -> Stats {
        Stats {
            waiting: self.held.waiting.len(),
            running: self.held.running.len(),
            used_blocks: self.held.running.len(),
            total_blocks: 64,
            generated_tokens: self.held.generated,
            ..Stats::default()
        }
    }
}

/// The text side of the demo model, before an engine.
pub(crate) fn served(engine: EngineHandle) -> Served {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let files = checkpoint.files();
    let bytes = (0..=255).map(|byte| TokenText::Bytes(vec![byte]));
    let tokens = bytes.chain([TokenText::Special("</s>".to_owned())]).collect();
    Served {
        name: "demo".to_owned(),
        aliases: vec!["other".to_owned()],
        tokenizer: Arc::new(Tokenizer::load(files).unwrap()),
        template: ChatTemplate::load(files).unwrap(),
        generation: GenerationConfig::load(files, checkpoint.config()).unwrap(),
        vocabulary: Arc::new(Vocabulary::new(tokens, 257, &[256]).unwrap()),
        context: 1 << 20,
        max_tokens_limit: None,
        device: "a script".to_owned(),
        plan: MemoryPlan { weights_bytes: 1, kv_bytes: 2, kv_tokens: 1024, workspace_bytes: 3 },
        created: 1,
        engine,
    }
}

/// A configuration for tests.
pub(crate) fn config() -> Config {
    Config {
        build: "0.0.0+test".to_owned(),
        keys: Keys::default(),
        allow_no_key: false,
        is_loopback: true,
        cors_origins: vec!["https://books.example".to_owned()],
        drain: Duration::from_secs(5),
        stages: Arc::new(Stages::load(None).unwrap()),
        collector: None,
        documents: Documents::new(Rules::built_in().unwrap()),
        jobs: JobsConfig::default(),
        limits: Limits::default(),
    }
}

/// A server on a free port, with a scripted engine.
pub(crate) struct TestServer {
    pub(crate) app: App,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) signals: mpsc::Sender<&'static str>,
    pub(crate) ended: JoinHandle<Result<(), ServeError<String>>>,
}

impl TestServer {
    /// Starts one that is still loading; what is sent to `release` ends that.
    pub(crate) async fn loading(
        config: Config,
        engine: Scripted,
    ) -> (Self, oneshot::Sender<Result<(), String>>) {
        let (release, released) = oneshot::channel();
        let load = move |loading: &Loading| {
            loading.progress.layers(1, 3);
            released.blocking_recv().unwrap_or_else(|_| Err("never released".to_owned()))?;
            Ok((served(loading.engine.clone()), engine))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = App::new(config).unwrap();
        app.jobs().open().await.unwrap();
        let (signals, receiver) = mpsc::channel(2);
        let ended = tokio::spawn(serve(app.clone(), listener, load, None, receiver));
        (TestServer { app, address, signals, ended }, release)
    }

    /// Starts one and waits until it is ready.
    pub(crate) async fn start(config: Config, engine: Scripted) -> Self {
        let (server, release) = Self::loading(config, engine).await;
        release.send(Ok(())).unwrap();
        server.until("/ready", |answer| answer.status == 200).await;
        server
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
        for _ in 0..500 {
            let reply = self.get(path).await;
            if wanted(&reply) {
                return reply;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} does not become what is wanted: {:?}", self.get(path).await);
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Reply {
        self.send(&post(path, body)).await
    }

    /// Sends what may be no HTTP at all, and reads to the end.
    pub(crate) async fn send(&self, bytes: &str) -> Reply {
        let mut stream = self.open(bytes).await;
        let mut answer = Vec::new();
        // A connection that the server cut off has said what it will.
        let _ =
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        Reply::parse(&answer)
    }

    /// Sends, and leaves the rest to the caller.
    pub(crate) async fn open(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    /// Waits until the engine holds nothing any more.
    pub(crate) async fn until_idle(&self) {
        for _ in 0..500 {
            let stats = self.app.loaded().unwrap().engine.stats();
            if (stats.waiting, stats.running, stats.used_blocks) == (0, 0, 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the engine still holds {:?}", self.app.loaded().unwrap().engine.stats());
    }
}

/// A request with a JSON body.
pub(crate) fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A streaming request for so many tokens.
pub(crate) fn stream(max_tokens: usize) -> String {
    let body = serde_json::json!({
        "prompt": "Hello", "raw": true, "stream": true, "max_tokens": max_tokens,
    });
    post("/prompt", &body.to_string())
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// 0 where it was no HTTP, or nothing.
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Status and code of an error, whose form is checked.
    #[track_caller]
    pub(crate) fn error(&self) -> (u16, String) {
        let json = self.json();
        let error = &json["error"];
        let keys: Vec<_> = error.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        (self.status, error["code"].as_str().unwrap_or_default().to_owned())
    }
}

/// A collector of spans that keeps what it gets.
pub(crate) async fn collector() -> (String, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 1 << 16];
            let mut len = 0;
            loop {
                len += stream.read(&mut bytes[len..]).await.unwrap();
                let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
                let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let wanted: usize = length.unwrap().parse().unwrap();
                let start = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
                if len >= start + wanted {
                    break;
                }
            }
            bytes.truncate(len);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            sender.send(bytes).await.unwrap();
        }
    });
    (url, receiver)
}
