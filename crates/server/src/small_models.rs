//! A server with a small model, without a socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use backend::{Cpu, Precision};
use engine::{Engine, EngineConfig, ModelRunner, Runner};
use http_body_util::BodyExt;
use model::{
    ChatTemplate, Checkpoint, GenerationConfig, ModelWeights, QuantizePolicy, Tokenizer,
    Transformer,
};
use serde_json::Value;
use tower::ServiceExt;

use crate::testing::config;
use crate::{App, Config, EngineHandle, MemoryPlan, Served, Stages, router};

/// Most tokens of a request to the tiny models of `fixtures/models`, which are random: any number will do.
const CONTEXT: usize = 8192;

/// A server that answers.
pub(crate) struct TestServer {
    pub(crate) app: App,
    router: axum::Router,
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where the demo model is.
pub(crate) fn demo() -> PathBuf {
    root().join("demo/model")
}

/// Where a tiny random model is.
pub(crate) fn random(name: &str) -> PathBuf {
    root().join("fixtures/models").join(name)
}

/// A model on the CPU, as exact as can be, with room for so many tokens.
pub(crate) fn load(checkpoint: &Checkpoint, context: usize) -> Box<dyn ModelRunner> {
    let weights = ModelWeights::load(checkpoint, &QuantizePolicy::keep(), |_| {}).unwrap();
    let cpu = Cpu::new(1, Precision::F32).unwrap();
    let model = Transformer::load(checkpoint.config(), weights, &cpu, |_| {}).unwrap();
    Box::new(Runner::new(cpu, model, context, Cpu::LIMITS).unwrap())
}

impl TestServer {
    /// With the demo model.
    pub(crate) fn demo() -> Self {
        Self::demo_with(|_| {})
    }

    /// The same, with a configuration that is changed.
    pub(crate) fn demo_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { is_loopback: false, ..config() };
        change(&mut config);
        Self::start(&demo(), config, None)
    }

    /// With a tiny random model.
    pub(crate) fn random(name: &str, stages: Stages) -> Self {
        let config = Config { is_loopback: false, stages: Arc::new(stages), ..config() };
        Self::start(&random(name), config, Some(CONTEXT))
    }

    fn start(folder: &Path, config: Config, context: Option<usize>) -> Self {
        let app = App::new(config).unwrap();
        let (handle, driver) = EngineHandle::new(Arc::clone(app.metrics()), 1024);
        let checkpoint = Checkpoint::open(folder).unwrap();
        let config = checkpoint.config();
        let context = context.unwrap_or(config.max_position_embeddings);
        let files = checkpoint.files();
        let tokenizer = Arc::new(Tokenizer::load(files).unwrap());
        let generation = GenerationConfig::load(files, config).unwrap();
        let vocabulary =
            engine::vocabulary(&tokenizer, config.vocab_size, &generation.eos_token_id).unwrap();
        let runner = load(&checkpoint, 2 * context);
        let bounds = EngineConfig {
            context,
            max_num_seqs: 16,
            max_num_batched_tokens: 256,
            max_waiting: 256,
            prefix_cache: true,
        };
        let mut engine = Engine::new(runner, Arc::clone(&tokenizer), bounds);
        app.serve(Served {
            name: "test".to_owned(),
            aliases: Vec::new(),
            tokenizer,
            template: ChatTemplate::load(files).unwrap(),
            generation,
            vocabulary: Arc::new(vocabulary),
            context,
            max_tokens_limit: None,
            device: "cpu".to_owned(),
            plan: MemoryPlan {
                weights_bytes: 1,
                kv_bytes: 2,
                kv_tokens: 2 * context,
                workspace_bytes: 3,
            },
            created: 0,
            engine: handle,
        });
        app.health().ready();
        // It ends with the last handle.
        thread::spawn(move || driver.run(&mut engine));
        TestServer { router: router(app.clone()), app }
    }

    /// Sends JSON, or whatever text is given.
    pub(crate) async fn post(&self, path: &str, body: impl ToString) -> Response {
        let request = Request::post(path).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    /// The answer to any request.
    pub(crate) async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Status and JSON of an answer to JSON.
    pub(crate) async fn json(&self, path: &str, body: impl ToString) -> (StatusCode, Value) {
        let response = self.post(path, body).await;
        let status = response.status();
        (status, serde_json::from_str(&text(response).await).unwrap())
    }

    /// The answer to a GET.
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }
}

/// The body as text.
pub(crate) async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}
