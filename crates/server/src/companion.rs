//! What lives beside a server, and shares its life: a worker that takes jobs elsewhere and lets the server's routes answer them.

use std::fmt;
use std::future::pending;
use std::time::Duration;

use axum::Router;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::App;

/// How long a companion may take to tell others that the engine is dead.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// What a companion is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// To work: the server answers.
    Work,
    /// To take nothing more, and to end with what it has begun.
    Drain,
    /// That nothing answers any more, and why.
    Dead(String),
}

type Routes = Box<dyn FnOnce(&App) -> Router<App> + Send>;
type Run = Box<dyn FnOnce(App, watch::Receiver<Told>) -> BoxFuture<'static, ()> + Send>;

/// Runs beside a server, from when it is ready to when it ends. If it ends by itself, so does the server.
pub struct Companion {
    routes: Routes,
    run: Run,
}

impl Companion {
    /// One that does this.
    pub fn new(
        run: impl FnOnce(App, watch::Receiver<Told>) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Self {
        Companion { routes: Box::new(|_| Router::new()), run: Box::new(run) }
    }

    /// The same with routes besides the server's own, within all that surrounds those.
    #[must_use]
    pub fn with_routes(self, routes: impl FnOnce(&App) -> Router<App> + Send + 'static) -> Self {
        Companion { routes: Box::new(routes), ..self }
    }
}

impl fmt::Debug for Companion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Companion").finish_non_exhaustive()
    }
}

/// A companion, or none, in the course of its life.
pub(crate) struct Beside {
    waiting: Option<Run>,
    running: Option<JoinHandle<()>>,
    told: watch::Sender<Told>,
}

impl Beside {
    /// The routes, and what is to be started.
    pub(crate) fn new(app: &App, companion: Option<Companion>) -> (Router<App>, Self) {
        let (routes, waiting) = match companion {
            Some(Companion { routes, run }) => (routes(app), Some(run)),
            None => (Router::new(), None),
        };
        (routes, Beside { waiting, running: None, told: watch::Sender::new(Told::Work) })
    }

    /// The server is ready.
    pub(crate) fn start(&mut self, app: &App) {
        if let Some(run) = self.waiting.take() {
            self.running = Some(tokio::spawn(run(app.clone(), self.told.subscribe())));
        }
    }

    /// Waits until it has ended; for ever if there is none.
    pub(crate) async fn ended(&mut self) {
        match &mut self.running {
            Some(running) => {
                if let Err(error) = running.await {
                    tracing::error!(error = %error, "internal error beside the server");
                }
                self.running = None;
            }
            None => pending().await,
        }
    }

    /// Tells it to end, and waits for that within `time`.
    pub(crate) async fn drain(&mut self, time: Duration) {
        self.tell(Told::Drain, time).await;
    }

    /// Tells it that the engine is dead.
    pub(crate) async fn dead(&mut self, reason: String) {
        self.tell(Told::Dead(reason), LAST_WORDS).await;
    }

    /// Tells it something, without waiting for what comes of it.
    pub(crate) fn say(&self, what: Told) {
        self.told.send_replace(what);
    }

    async fn tell(&mut self, what: Told, time: Duration) {
        self.say(what);
        if self.running.is_some() && tokio::time::timeout(time, self.ended()).await.is_err() {
            tracing::warn!("what runs beside the server did not end in time");
        }
    }
}
