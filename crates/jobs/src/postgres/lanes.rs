//! Connections to a PostgreSQL: a few that share the statements, and one that listens.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::StoreError;
use crate::place::cause;

/// Connections that share the statements: each has one commit in progress.
const LANES: usize = 4;

/// How long a connection may take to be made, and a statement to be answered.
const CONNECT_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// How long to wait before listening again, after the connection broke.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// What a connection is told first. Accepted is on disk, whatever the database is told elsewhere; what others hold up ends.
const SESSION: &str = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'; \
    SET statement_timeout = '15s'; SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '15s'; \
    SET default_transaction_isolation = 'read committed'";

/// Connections to a PostgreSQL.
pub(super) struct Lanes {
    way: Arc<Way>,
    lanes: Vec<Mutex<Option<Arc<Client>>>>,
    next: AtomicUsize,
    /// What listens; it ends with this.
    listening: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// How connections are made.
struct Way {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").finish_non_exhaustive()
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        let listening = self.listening.get_mut();
        if let Ok(Some(listening)) = listening.map(Option::take) {
            listening.abort();
        }
    }
}

/// A failed statement; whether it was done is unknown where the connection broke.
pub(super) fn unavailable(error: &tokio_postgres::Error) -> StoreError {
    StoreError::Unavailable(cause(error))
}

impl Lanes {
    /// None is connected yet.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let mut config: Config = url.parse().map_err(|error| cause(&error))?;
        config.connect_timeout(CONNECT_TIME).keepalives_idle(Duration::from_secs(30));
        config.tcp_user_timeout(ANSWER_TIME);
        if config.get_application_name().is_none() {
            config.application_name("halfbyte");
        }
        let is_local = config.get_hosts().iter().all(|host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => ["localhost", "127.0.0.1", "::1"].contains(&name.as_str()),
        });
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => fetch::client_config().map(MakeRustlsConnect::new),
        };
        if !is_local && config.get_ssl_mode() != SslMode::Require {
            tracing::warn!(
                "the PostgreSQL of jobs may be spoken to without encryption; add `sslmode=require` to its URL"
            );
        }
        let lanes = (0..LANES).map(|_| Mutex::new(None)).collect();
        let listening = std::sync::Mutex::new(None);
        let way = Arc::new(Way { config, tls });
        Ok(Lanes { way, lanes, next: AtomicUsize::new(0), listening })
    }

    /// A statement with its parameters; it is a transaction by itself.
    pub(super) async fn query(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, StoreError> {
        let client = self.client().await?;
        let answer = tokio::time::timeout(ANSWER_TIME, client.query_typed(sql, values)).await;
        answer.map_err(|_| late())?.map_err(|error| unavailable(&error))
    }

    /// Statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        let answer = tokio::time::timeout(ANSWER_TIME, client.batch_execute(sql)).await;
        answer.map_err(|_| late())?.map_err(|error| unavailable(&error))
    }

    /// The next connection in turn, made anew if it has broken.
    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len();
        let mut lane = self.lanes[at].lock().await;
        if let Some(client) = lane.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        *lane = None;
        let client = Arc::new(self.way.connect(|_| {}).await?.0);
        *lane = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Tells `on_message` what comes through a channel, as long as this lives. What comes while a broken connection is made
    /// anew is missed.
    pub(super) fn listen(
        &self,
        channel: &'static str,
        on_message: impl Fn(&str) + Clone + Send + 'static,
    ) {
        let way = Arc::clone(&self.way);
        let listening = tokio::spawn(async move {
            loop {
                if let Err(error) = way.hear(channel, on_message.clone()).await {
                    tracing::warn!(error = %error, "not listening to the PostgreSQL of jobs; asking it instead");
                }
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
        });
        if let Ok(mut place) = self.listening.lock() {
            *place = Some(listening);
        }
    }
}

fn late() -> StoreError {
    StoreError::Unavailable(format!("no answer within {} s", ANSWER_TIME.as_secs()))
}

impl Way {
    /// A connection, ready for statements, and what keeps it going.
    async fn connect(
        &self,
        on_message: impl Fn(&str) + Send + 'static,
    ) -> Result<(Client, JoinHandle<()>), StoreError> {
        let made = async {
            let (client, running) = match &self.tls {
                Some(tls) => {
                    let (client, connection) = self.config.connect(tls.clone()).await?;
                    (client, tokio::spawn(run(connection, on_message)))
                }
                None => {
                    let (client, connection) = self.config.connect(NoTls).await?;
                    (client, tokio::spawn(run(connection, on_message)))
                }
            };
            client.batch_execute(SESSION).await?;
            Ok((client, running))
        };
        let made = tokio::time::timeout(CONNECT_TIME * 2, made).await;
        made.map_err(|_| late())?.map_err(|error| unavailable(&error))
    }

    async fn hear(
        &self,
        channel: &str,
        on_message: impl Fn(&str) + Send + 'static,
    ) -> Result<(), StoreError> {
        let (client, running) = self.connect(on_message).await?;
        let heard = client.batch_execute(&format!("LISTEN {channel}")).await;
        heard.map_err(|error| unavailable(&error))?;
        // The connection lives as long as its client.
        let _ = running.await;
        drop(client);
        Ok(())
    }
}

/// Keeps a connection going until it breaks, or nobody needs it any more.
async fn run<T>(mut connection: Connection<Socket, T>, on_message: impl Fn(&str))
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notification(notification)) => on_message(notification.payload()),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(
                    error = cause(&error),
                    "a connection to the PostgreSQL of jobs broke"
                );
                return;
            }
        }
    }
}
