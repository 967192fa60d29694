//! Telling whoever asked for it of a job's end, until they have taken it.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jobs::{CallbackTask, Settle, Store};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url, header};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::response::JobCallback;
use super::{Jobs, JobsConfig};
use crate::{App, random_seed};

/// How long a receiver may take, and how long it stays with one server that may have died.
const TIME: Duration = Duration::from_secs(15);
const LEASE_MS: i64 = 20_000;

/// Callbacks on their way at once.
const AT_ONCE: usize = 16;

/// How often the store is asked for what is due.
const POLL: Duration = Duration::from_millis(500);

/// Attempts, and the waits between them: a second, four times as long each time, at most four hours; 25 hours in all.
const ATTEMPTS: u32 = 14;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(4 * 3600);

/// The URL of a callback, if it may be asked.
///
/// # Errors
/// Why not, in words.
pub(super) fn url(url: &str, allow_private: bool) -> Result<Url, String> {
    if !allow_private {
        let advice = "; the operator can allow such callbacks (--allow-private-callbacks)";
        return fetch::public_url(url).map_err(|error| match error {
            fetch::NotPublic::Scheme { .. } | fetch::NotPublic::Address { .. } => {
                format!("{error}{advice}")
            }
            other => other.to_string(),
        });
    }
    let parsed = Url::parse(url).map_err(|error| format!("is no URL: {error}"))?;
    if !["http", "https"].contains(&parsed.scheme()) {
        return Err(format!("`{}` is neither http nor https", parsed.scheme()));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(fetch::NotPublic::Password.to_string());
    }
    Ok(parsed)
}

/// What asks receivers: no redirects are followed, no proxy is used, and names are looked up and checked at each connection.
fn client(config: &JobsConfig, build: &str) -> reqwest::Result<Client> {
    let builder = match config.allow_private {
        true => fetch::builder().redirect(Policy::none()).no_proxy(),
        false => fetch::public_builder(),
    };
    builder.timeout(TIME).user_agent(format!("halfbyte/{build}")).build()
}

/// Tells of ends as they come, until `is_over`; then once more what is due.
pub(super) async fn tell_all(app: App, mut is_over: watch::Receiver<bool>) {
    let Ok(store) = app.jobs().store() else { return };
    let client = match client(app.jobs().config(), app.build()) {
        Ok(client) => client,
        Err(error) => return tracing::error!(error = %error, "no callbacks can be made"),
    };
    let mut on_their_way = JoinSet::new();
    let mut changes = store.changes();
    let mut poll = tokio::time::interval(POLL);
    loop {
        let is_last = *is_over.borrow();
        let is_empty = match take(store, AT_ONCE - on_their_way.len()).await {
            Ok(tasks) => {
                let is_empty = tasks.is_empty();
                for task in tasks {
                    let (app, client) = (app.clone(), client.clone());
                    on_their_way.spawn(async move { tell(&app, &client, task).await });
                }
                is_empty
            }
            Err(error) => {
                tracing::warn!(error = %error, "callbacks cannot be taken");
                true
            }
        };
        if is_last && is_empty && on_their_way.is_empty() {
            return;
        }
        loop {
            tokio::select! {
                Some(_) = on_their_way.join_next() => break,
                _ = poll.tick() => break,
                changed = is_over.changed(), if !is_last => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                change = changes.recv() => match change {
                    Ok(change) if !change.state.is_final() => {}
                    _ => break,
                },
            }
        }
    }
}

async fn take(store: &Store, most: usize) -> Result<Vec<CallbackTask>, jobs::StoreError> {
    match u32::try_from(most) {
        Ok(most) if most > 0 => store.take_callbacks(most, LEASE_MS).await,
        _ => Ok(Vec::new()),
    }
}

async fn tell(app: &App, client: &Client, task: CallbackTask) {
    let (id, fence, attempt) = (task.job.id.clone(), task.fence, task.attempt);
    let sent = send(app.jobs(), client, task).await;
    let settle = settle(sent, attempt);
    let (outcome, why) = match &settle {
        Settle::Delivered => ("delivered", ""),
        Settle::Retry(_, why) => ("failed", why.as_str()),
        Settle::Dead(why) => ("dead", why.as_str()),
    };
    app.metrics().job_callback(outcome);
    // Its URL may hold what is secret.
    tracing::info!(job = id, attempt, outcome, why, "callback");
    let Ok(store) = app.jobs().store() else { return };
    if let Err(error) = store.settle_callback(&id, fence, settle).await {
        tracing::warn!(job = id, error = %error, "how a callback went is not written down: it is made again");
    }
}

/// Why a receiver has not taken a callback.
struct Refused {
    why: String,
    /// It asks not to be asked again.
    is_gone: bool,
    /// It says when to ask again.
    after: Option<Duration>,
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Refused { why, is_gone: false, after: None }
    }
}

async fn send(jobs: &Jobs, client: &Client, task: CallbackTask) -> Result<(), Refused> {
    let config = jobs.config();
    if config.secrets.is_empty() {
        return Err("this server has no secret to sign it with (HALFBYTE_WEBHOOK_SECRET)"
            .to_owned()
            .into());
    }
    // What was allowed when the job came may not be any more.
    let url = url(&task.url, config.allow_private)?;
    let id = task.job.id.replacen("job_", "msg_", 1);
    let body = serde_json::to_vec(&JobCallback::of(task.job)).map_err(|error| error.to_string())?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let timestamp = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let request = client
        .post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .header("webhook-signature", config.secrets.sign(&id, timestamp, &body))
        .header("webhook-timestamp", timestamp)
        .header("webhook-id", id)
        .body(body);
    // What it says besides is not read.
    let response = request.send().await.map_err(|error| Refused::from(in_words(error)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    Err(Refused {
        why: format!("it answers {status}"),
        is_gone: status == StatusCode::GONE,
        after: after.and_then(|value| value.parse().ok()).map(Duration::from_secs),
    })
}

/// An error with what caused it, without the URL.
fn in_words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source: Option<&dyn Error> = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn settle(sent: Result<(), Refused>, attempt: u32) -> Settle {
    let Err(refused) = sent else { return Settle::Delivered };
    if refused.is_gone || attempt >= ATTEMPTS {
        return Settle::Dead(refused.why);
    }
    let wait =
        wait(attempt, random_seed()).max(refused.after.unwrap_or_default().min(LONGEST_WAIT));
    Settle::Retry(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX), refused.why)
}

/// How long to wait after an attempt: up to a quarter more than planned, so that not all come at once.
fn wait(attempt: u32, random: u64) -> Duration {
    let planned = 4_u32.checked_pow(attempt.saturating_sub(1)).map(|times| FIRST_WAIT * times);
    let planned = planned.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    planned + planned.mul_f64((random % 1024) as f64 / 4096.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_for_a_day() {
        let waits: Vec<u64> = (1..ATTEMPTS).map(|attempt| wait(attempt, 0).as_secs()).collect();
        assert_eq!(waits[..8], [1, 4, 16, 64, 256, 1024, 4096, 14400]);
        let hours = waits.iter().sum::<u64>() / 3600;
        assert!((24..30).contains(&hours), "{hours}");
        assert_eq!(wait(u32::MAX, 0), LONGEST_WAIT);
        let most = wait(2, 1023);
        assert!(most > Duration::from_secs(4) && most < Duration::from_secs(5), "{most:?}");
    }

    #[test]
    fn what_is_gone_or_tried_too_often_is_dead() {
        let refused = |is_gone, after| Err(Refused { why: "no".to_owned(), is_gone, after });
        assert_eq!(settle(Ok(()), 1), Settle::Delivered);
        assert_eq!(settle(refused(true, None), 1), Settle::Dead("no".to_owned()));
        assert_eq!(settle(refused(false, None), ATTEMPTS), Settle::Dead("no".to_owned()));
        let after = Some(Duration::from_secs(100));
        assert_eq!(settle(refused(false, after), 1), Settle::Retry(100_000, "no".to_owned()));
        assert!(matches!(settle(refused(false, None), 1), Settle::Retry(1000..=1250, _)));
    }

    #[test]
    fn private_places_are_asked_where_it_is_allowed() {
        let inside = ["http://127.0.0.1:9000/hook", "https://10.0.0.1/", "http://hooks.internal/"];
        for text in inside {
            let refused = url(text, false).unwrap_err();
            assert!(refused.contains("--allow-private-callbacks"), "{refused}");
            assert!(url(text, true).is_ok(), "{text}");
        }
        assert!(url("https://example.org/hook", false).is_ok());
        for wrong in ["ftp://a/", "no url", "http://user:secret@a/"] {
            assert!(url(wrong, true).is_err() && url(wrong, false).is_err(), "{wrong}");
        }
    }
}
