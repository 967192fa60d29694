//! The life of a server: it listens, loads, answers, drains, and ends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::time::Duration;
use std::{fmt, io, thread};

use engine::{Engine, EngineError};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot, watch};

use crate::companion::{Beside, Told};
use crate::driver::{Death, Driver, Steps, panic_message};
use crate::router::router_with;
use crate::{
    ApiError, App, Companion, Config, EngineHandle, LoadProgress, Served, connection, jobs,
    operations, shutdown,
};

/// How long answers may take to tell their clients that the engine is dead, or that they were broken off.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long jobs may take to be written and told of, once all answers have ended.
const LAST_JOBS: Duration = Duration::from_secs(5);

/// How long the engine may take to end its last step.
const LAST_STEP: Duration = Duration::from_secs(10);

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Threads for templates, tokens and grammars. Many large prompts at once should not keep the engine from the cores.
const BLOCKING_THREADS: usize = 8;

/// How often histograms are drained.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why a server ended that nobody told to; `E` is what went wrong while loading.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError<E> {
    /// The model could not be loaded.
    #[error("the model could not be loaded")]
    Load(E),
    /// The engine, or its device, failed.
    #[error("the engine stopped: {0}")]
    Engine(EngineError),
    /// A fault of ours.
    #[error("internal error: {0}")]
    Panic(String),
    /// The model is loaded but does not answer.
    #[error("the model is loaded but does not answer: {0}")]
    WarmUp(ApiError),
    /// The system refused a thread, a signal handler, or the socket.
    #[error("cannot start the server: {0}")]
    Io(#[from] io::Error),
    /// A second signal came before the answers had ended.
    #[error("ended by a second {signal} before all answers had ended")]
    Killed {
        /// The signal.
        signal: &'static str,
    },
}

/// What the load of a model is given.
#[derive(Debug)]
pub struct Loading {
    /// To be told how far it is.
    pub progress: LoadProgress,
    /// The way to the engine, for [`Served::engine`].
    pub engine: EngineHandle,
}

/// A server that listens, but does not answer yet.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    signals: mpsc::Receiver<&'static str>,
    app: App,
}

impl Server {
    /// Listens on a port of the host; on any free one if `port` is 0.
    ///
    /// # Errors
    /// [`BindError`]: among them, an address that other machines reach, without a key for them to show.
    pub fn bind(host: Host, port: u16, config: Config) -> Result<Self, BindError> {
        let may_be_open = host.is_loopback() || config.allow_no_key;
        if config.keys.is_empty() && !may_be_open {
            return Err(BindError::NoKey { host });
        }
        let address = SocketAddr::new(host.0, port);
        let refused = |source| BindError::Io { address, source };
        // Handlers only pass things on; the cores belong to the engine.
        let threads = thread::available_parallelism().map_or(2, |n| (n.get() / 4).clamp(2, 4));
        let mut builder = runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).max_blocking_threads(BLOCKING_THREADS);
        let runtime = builder.enable_all().build().map_err(refused)?;
        let listener = runtime.block_on(async { listen(address) }).map_err(refused)?;
        // From here on a signal ends it in order, also before it runs.
        let signals = runtime.block_on(async { shutdown::signals() }).map_err(refused)?;
        let config = Config { is_loopback: host.is_loopback(), ..config };
        let app = App::new(config).map_err(refused)?;
        runtime.block_on(app.jobs().open())?;
        Ok(Server { runtime, listener, signals, app })
    }

    /// Where it listens: `http://127.0.0.1:8000`.
    pub fn url(&self) -> String {
        let address = self.listener.local_addr().map(|address| address.to_string());
        format!("http://{}", address.unwrap_or_default())
    }

    /// Serves until SIGTERM or SIGINT, or until the companion ends. `/health` and `/ready` answer at once; `load` runs on the thread that then runs the
    /// engine.
    ///
    /// # Errors
    /// [`ServeError`]: if the model cannot be loaded, and if the engine dies. By then every open request has been told.
    pub fn run<E: Send + 'static>(
        self,
        load: impl FnOnce(&Loading) -> Result<(Served, Engine), E> + Send + 'static,
        companion: Option<Companion>,
    ) -> Result<(), ServeError<E>> {
        let Server { runtime, listener, signals, app } = self;
        let result = runtime.block_on(serve(app.clone(), listener, load, companion, signals));
        if let Some(spans) = app.spans() {
            spans.end();
        }
        // A load that nobody waits for any more would hold it up.
        runtime.shutdown_background();
        result
    }
}

/// Listens, with room for a burst of connections.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A port whose last server has just ended would be refused otherwise.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// An address of this machine: an IP address, or `localhost`. No other name: none is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host(IpAddr);

impl Host {
    /// Whether only this machine reaches it.
    pub fn is_loopback(&self) -> bool {
        self.0.is_loopback()
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "localhost" {
            return Ok(Host(Ipv4Addr::LOCALHOST.into()));
        }
        let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let error = |_| format!("`{text}` is neither an IP address nor `localhost`");
        plain.parse().map(Host).map_err(error)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Everybody could use the model.
    #[error(
        "other machines reach {host}, and there is no API key that they would have to show; give keys"
    )]
    NoKey {
        /// The address.
        host: Host,
    },
    /// Jobs cannot be stored where it was said.
    #[error("jobs: {0}")]
    Jobs(#[from] ::jobs::StoreError),
    /// The system refuses.
    #[error("cannot listen on {address}: {source}{}", advice(source))]
    Io {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}

/// What to do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; something else listens there: end it, or take another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root: take another",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

/// How the engine's thread ended.
enum Ended<E> {
    Load(E),
    Died(Death),
    AsTold,
}

/// Serves until a signal comes.
pub(crate) async fn serve<S: Steps, E: Send + 'static>(
    app: App,
    listener: TcpListener,
    load: impl FnOnce(&Loading) -> Result<(Served, S), E> + Send + 'static,
    companion: Option<Companion>,
    mut signals: mpsc::Receiver<&'static str>,
) -> Result<(), ServeError<E>> {
    let (stop, stopped) = watch::channel(false);
    let (routes, beside) = Beside::new(&app, companion);
    let router = router_with(app.clone(), routes);
    let accepting = tokio::spawn(connection::accept(listener, router, app.clone(), stopped));
    let (handle, driver) = EngineHandle::new(app.metrics().clone(), app.config().limits.arrivals);
    let (_, jobs) = Beside::new(&app, Some(jobs::companion()));
    let mut life = Life { app: app.clone(), handle: handle.clone(), beside, jobs };
    let loading = Loading { progress: LoadProgress { app: app.clone() }, engine: handle };
    let (thread_ended, mut ended) = oneshot::channel();
    let (loaded, is_loaded) = oneshot::channel();
    thread::Builder::new().name("engine".to_owned()).spawn(move || {
        let end = engine_thread(&app, driver, &loading, load, loaded);
        // Whoever does not wait any more has ended the process.
        let _ = thread_ended.send(end);
    })?;
    let result = life.until_told(&mut ended, is_loaded, &mut signals).await;
    // Connections that are idle close; those in mid-answer have had their time.
    let _ = stop.send(true);
    if matches!(result, Err(ServeError::Killed { .. })) {
        accepting.abort();
    }
    let _ = accepting.await;
    result
}

/// Loads, then runs the engine.
fn engine_thread<S: Steps, E>(
    app: &App,
    driver: Driver,
    loading: &Loading,
    load: impl FnOnce(&Loading) -> Result<(Served, S), E>,
    loaded: oneshot::Sender<()>,
) -> Ended<E> {
    let result = match catch_unwind(AssertUnwindSafe(|| load(loading))) {
        Err(panic) => Err(Ended::Died(Death::Panic(panic_message(&*panic)))),
        Ok(Err(error)) => Err(Ended::Load(error)),
        Ok(Ok(engine)) => Ok(engine),
    };
    let (served, mut engine) = match result {
        Ok(engine) => engine,
        Err(ended) => return ended,
    };
    app.serve(served);
    let _ = loaded.send(());
    match driver.run(&mut engine) {
        Ok(()) => Ended::AsTold,
        Err(death) => {
            app.health().dead(&death.reason());
            Ended::Died(death)
        }
    }
}

/// What happens to a server from its start to its end.
struct Life {
    app: App,
    handle: EngineHandle,
    beside: Beside,
    /// What answers jobs.
    jobs: Beside,
}

impl Life {
    async fn until_told<E>(
        &mut self,
        ended: &mut oneshot::Receiver<Ended<E>>,
        is_loaded: oneshot::Receiver<()>,
        signals: &mut mpsc::Receiver<&'static str>,
    ) -> Result<(), ServeError<E>> {
        let mut upkeep = tokio::time::interval(UPKEEP);
        let warmed_up = warm_up(self.app.clone(), is_loaded);
        tokio::pin!(warmed_up);
        let mut is_warm = false;
        loop {
            tokio::select! {
                end = &mut *ended => return self.dead(end).await,
                Some(signal) = signals.recv() => return self.drain(signal, ended, signals).await,
                warm = &mut warmed_up, if !is_warm => match warm {
                    Ok(()) => {
                        is_warm = true;
                        self.beside.start(&self.app);
                        self.jobs.start(&self.app);
                    }
                    // Where the engine died of it, its own words say more.
                    Err(error) => match tokio::time::timeout(FAREWELL, &mut *ended).await {
                        Ok(end) => return self.dead(end).await,
                        Err(_) => return Err(ServeError::WarmUp(error)),
                    },
                },
                () = self.jobs.ended() => return self.drain("what answers jobs", ended, signals).await,
                () = self.beside.ended() => return self.drain("its worker", ended, signals).await,
                _ = upkeep.tick() => self.app.metrics().upkeep(),
            }
        }
    }

    /// The engine's thread has ended by itself.
    async fn dead<E>(
        &mut self,
        end: Result<Ended<E>, oneshot::error::RecvError>,
    ) -> Result<(), ServeError<E>> {
        let error = match end {
            Ok(Ended::Load(error)) => return Err(ServeError::Load(error)),
            Ok(Ended::Died(Death::Engine(error))) => ServeError::Engine(error),
            Ok(Ended::Died(Death::Panic(what))) => ServeError::Panic(what),
            Ok(Ended::AsTold) | Err(_) => ServeError::Panic("the engine ended untold".to_owned()),
        };
        tracing::error!(error = %error, "the engine is dead");
        let _ = tokio::time::timeout(FAREWELL, self.app.in_flight().none()).await;
        tokio::join!(self.jobs.dead(error.to_string()), self.beside.dead(error.to_string()));
        Err(error)
    }

    /// Takes nothing more, and gives what has begun its time to end.
    async fn drain<E>(
        &mut self,
        signal: &'static str,
        ended: &mut oneshot::Receiver<Ended<E>>,
        signals: &mut mpsc::Receiver<&'static str>,
    ) -> Result<(), ServeError<E>> {
        let time = self.app.config().drain;
        let app = self.app.clone();
        let in_flight = app.in_flight();
        tracing::info!(signal, open = in_flight.count(), seconds = time.as_secs_f64(), "draining");
        // First: what it has begun is still to be answered.
        tokio::select! {
            () = self.beside.drain(time) => {}
            Some(signal) = signals.recv() => return Err(ServeError::Killed { signal }),
        }
        // Those that run end within the same time as all other requests.
        self.jobs.say(Told::Drain);
        self.app.health().draining();
        self.handle.close(self.app.health().refusal().unwrap_or_else(ApiError::engine_gone));
        tokio::select! {
            () = in_flight.none() => {}
            () = tokio::time::sleep(time) => {
                tracing::warn!(open = in_flight.count(), "breaking off answers");
                self.handle.abort("the server is shutting down and could not wait for the answer's end");
                let _ = tokio::time::timeout(FAREWELL, in_flight.none()).await;
            }
            end = &mut *ended => return self.dead(end).await,
            Some(signal) = signals.recv() => return Err(ServeError::Killed { signal }),
        }
        // What became of them is written, and told.
        self.jobs.drain(LAST_JOBS).await;
        // While the model is being loaded, there is no step to wait for.
        if self.app.loaded().is_some() {
            self.handle.end();
            let _ = tokio::time::timeout(LAST_STEP, ended).await;
        }
        tracing::info!("ended");
        Ok(())
    }
}

/// Waits until the model is loaded and has answered once.
async fn warm_up(app: App, is_loaded: oneshot::Receiver<()>) -> Result<(), ApiError> {
    if is_loaded.await.is_err() {
        // The load failed; the thread's end says why.
        return std::future::pending().await;
    }
    let Some(served) = app.loaded() else { return Err(ApiError::engine_gone()) };
    operations::warm_up(&app, served).await?;
    app.health().ready();
    tracing::info!(model = served.name, device = served.device, "ready");
    Ok(())
}
