//! Both stores by the same tests. That of PostgreSQL takes part where `HALFBYTE_TEST_POSTGRES` is the URL of a database in which
//! schemas may be made, as `cargo xtask jobs` has it.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use jobs::{
    Accepted, CallbackState, Cancelled, Clock, Counts, Deleted, End, Filter, Job, NewJob, Place,
    Settle, State, Store, StoreError, Taken, new_id,
};

const START: i64 = 1_000_000;

/// A store whose time is ours.
struct Bench {
    store: Store,
    time: Arc<AtomicI64>,
    place: Place,
    ids: AtomicU64,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// One in a new file, and one in a new schema where there is a PostgreSQL.
    async fn all() -> Vec<Bench> {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::File(folder.path().join("jobs.sqlite"));
        let mut all = vec![Self::open(place, folder).await];
        match env::var("HALFBYTE_TEST_POSTGRES") {
            Ok(url) => {
                let place = schema(&url).await;
                all.push(Self::open(place, tempfile::tempdir().unwrap()).await);
            }
            Err(_) => println!("left out: PostgreSQL; `cargo xtask jobs` has it"),
        }
        all
    }

    async fn open(place: Place, folder: tempfile::TempDir) -> Bench {
        let time = Arc::new(AtomicI64::new(START));
        let store = open(&place, &time).await.unwrap();
        Bench { store, time, place, ids: AtomicU64::new(0), _folder: folder }
    }

    fn pass(&self, ms: i64) {
        self.time.fetch_add(ms, Ordering::Relaxed);
    }

    fn job(&self) -> NewJob {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        NewJob {
            id: new_id(self.time.load(Ordering::Relaxed), [id, 0]),
            endpoint: "/prompt".to_owned(),
            body: "{\"prompt\":\"x\\u0000\"}".to_owned(),
            idempotency_key: None,
            request_hash: "h".to_owned(),
            callback_url: None,
        }
    }

    async fn accepted(&self, job: NewJob) -> Job {
        match self.store.accept(job).await.unwrap() {
            Accepted::New(job) => job,
            other => panic!("{other:?}"),
        }
    }

    async fn take_one(&self) -> Taken {
        let mut taken = self.store.take("me", 1, 1000).await.unwrap();
        assert_eq!(taken.len(), 1);
        taken.remove(0)
    }

    async fn state(&self, id: &str) -> State {
        self.store.get(id).await.unwrap().unwrap().state
    }

    async fn history(&self, id: &str) -> String {
        let events = self.store.events(id, 0).await.unwrap().unwrap();
        let names = events.iter().map(|event| {
            let reason = event.reason.as_ref().map_or("", |_| "*");
            format!("{}{}{reason}", event.state.name(), event.attempts)
        });
        names.collect::<Vec<_>>().join(" ")
    }
}

async fn open(place: &Place, time: &Arc<AtomicI64>) -> Result<Store, StoreError> {
    open_for(place, "demo", time).await
}

async fn open_for(place: &Place, model: &str, time: &Arc<AtomicI64>) -> Result<Store, StoreError> {
    let time = Arc::clone(time);
    let clock: Clock = Arc::new(move || time.load(Ordering::Relaxed));
    Store::open_with(place, model, Some(clock)).await.map(|store| store.unwrap())
}

/// A new schema of the database, as a place.
async fn schema(url: &str) -> Place {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("t_{}_{}_{number}", std::process::id(), since.as_nanos());
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("CREATE SCHEMA {name}")).await.unwrap();
    let divider = if url.contains('?') { '&' } else { '?' };
    format!("{url}{divider}options=-csearch_path%3D{name}").parse().unwrap()
}

fn succeeded() -> End {
    let result = "{\"text\":\"y\\u0000\"}".to_owned();
    End { state: State::Succeeded, status: Some(200), result, reason: None }
}

fn failed() -> End {
    let reason = Some("it\nfailed".to_owned());
    End { state: State::Failed, status: Some(400), result: "{}".to_owned(), reason }
}

fn cancelled() -> End {
    End { state: State::Cancelled, status: None, result: "{}".to_owned(), reason: None }
}

#[tokio::test]
async fn a_job_is_taken_in_begun_and_answered() {
    for bench in Bench::all().await {
        let job = bench.accepted(bench.job()).await;
        assert_eq!((job.state, job.attempts, job.created_at), (State::Queued, 0, START));
        bench.pass(10);
        let counts = Counts { queued: 1, queued_bytes: 20, oldest_ms: 10, ..Counts::default() };
        assert_eq!(bench.store.counts().await.unwrap(), counts);
        let taken = bench.take_one().await;
        assert_eq!((&taken.id, taken.attempt), (&job.id, 1));
        assert_eq!(taken.body, "{\"prompt\":\"x\\u0000\"}");
        assert_eq!(bench.store.counts().await.unwrap(), Counts { running: 1, ..Counts::default() });
        assert!(bench.store.take("me", 1, 1000).await.unwrap().is_empty());
        assert!(bench.store.finish(&job.id, taken.fence, succeeded()).await.unwrap());
        let job = bench.store.get(&job.id).await.unwrap().unwrap();
        assert_eq!((job.state, job.status), (State::Succeeded, Some(200)));
        assert_eq!(job.result.as_deref(), Some("{\"text\":\"y\\u0000\"}"));
        assert_eq!((job.started_at, job.finished_at), (Some(START + 10), Some(START + 10)));
        assert_eq!(bench.history(&job.id).await, "queued0 running1 succeeded1");
        let later = bench.store.events(&job.id, 2).await.unwrap().unwrap();
        assert_eq!(later.iter().map(|event| event.number).collect::<Vec<_>>(), [3]);
        assert_eq!(bench.store.events("job_none", 0).await.unwrap(), None);
        assert_eq!(bench.store.counts().await.unwrap(), Counts::default());
    }
}

#[tokio::test]
async fn the_same_key_is_the_same_job() {
    for bench in Bench::all().await {
        let with = |hash: &str| NewJob {
            idempotency_key: Some("order-1".to_owned()),
            request_hash: hash.to_owned(),
            ..bench.job()
        };
        let first = bench.accepted(with("a")).await;
        let same = bench.store.accept(with("a")).await.unwrap();
        assert!(matches!(same, Accepted::Same(job) if job.id == first.id));
        assert_eq!(bench.store.accept(with("b")).await.unwrap(), Accepted::Conflict);
        assert_eq!(bench.store.counts().await.unwrap().queued, 1);
        // Also after its end, as long as it is there.
        let taken = bench.take_one().await;
        bench.store.finish(&first.id, taken.fence, succeeded()).await.unwrap();
        let same = bench.store.accept(with("a")).await.unwrap();
        assert!(matches!(same, Accepted::Same(job) if job.state == State::Succeeded));
        assert_eq!(bench.store.delete(&first.id).await.unwrap(), Deleted::Done);
        bench.accepted(with("b")).await;
    }
}

#[tokio::test]
async fn many_at_once_with_one_key_are_one_job() {
    for bench in Bench::all().await {
        let with = || NewJob { idempotency_key: Some("k".to_owned()), ..bench.job() };
        let all = (0..16).map(|_| bench.store.accept(with()));
        let all = futures_util::future::join_all(all).await;
        let new = all.iter().filter(|accepted| matches!(accepted, Ok(Accepted::New(_))));
        assert_eq!(new.count(), 1, "{all:?}");
        let same = all.iter().filter(|accepted| matches!(accepted, Ok(Accepted::Same(_))));
        assert_eq!(same.count(), 15, "{all:?}");
    }
}

#[tokio::test]
async fn only_the_latest_taking_writes_and_only_once() {
    for bench in Bench::all().await {
        let job = bench.accepted(bench.job()).await;
        let first = bench.take_one().await;
        bench.pass(1001);
        let expired = bench.store.expire(3, failed()).await.unwrap();
        assert_eq!((expired.queued.as_slice(), expired.failed.len()), (&[job.id.clone()][..], 0));
        let second = bench.take_one().await;
        assert_eq!((second.attempt, second.fence > first.fence), (2, true));
        let store = &bench.store;
        assert!(!store.finish(&job.id, first.fence, failed()).await.unwrap());
        assert!(!store.release(&job.id, first.fence, 0, true, "x").await.unwrap());
        assert!(store.finish(&job.id, second.fence, succeeded()).await.unwrap());
        assert!(!store.finish(&job.id, second.fence, failed()).await.unwrap());
        assert_eq!(bench.state(&job.id).await, State::Succeeded);
        assert_eq!(bench.history(&job.id).await, "queued0 running1 queued1* running2 succeeded2");
    }
}

#[tokio::test]
async fn a_lease_is_extended_by_its_owner_alone() {
    for bench in Bench::all().await {
        let job = bench.accepted(bench.job()).await;
        let taken = bench.take_one().await;
        bench.pass(900);
        assert!(bench.store.extend("other", 1000).await.unwrap().is_empty());
        let held = bench.store.extend("me", 1000).await.unwrap();
        assert_eq!(held, [(job.id.clone(), taken.fence)]);
        bench.pass(900);
        assert_eq!(bench.store.expire(3, failed()).await.unwrap(), jobs::Expired::default());
        bench.pass(200);
        assert_eq!(bench.store.expire(3, failed()).await.unwrap().queued, [job.id]);
        assert!(bench.store.extend("me", 1000).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_job_that_ends_its_processes_fails_in_the_end() {
    for bench in Bench::all().await {
        let url = Some("https://example.org/".to_owned());
        let job = bench.accepted(NewJob { callback_url: url, ..bench.job() }).await;
        for _ in 0..2 {
            bench.take_one().await;
            bench.pass(1001);
            assert_eq!(bench.store.expire(3, failed()).await.unwrap().queued.len(), 1);
        }
        bench.take_one().await;
        bench.pass(1001);
        assert_eq!(bench.store.expire(3, failed()).await.unwrap().failed, [job.id.as_str()]);
        let job = bench.store.get(&job.id).await.unwrap().unwrap();
        assert_eq!((job.state, job.attempts), (State::Failed, 3));
        assert_eq!(job.reason.as_deref(), Some("it failed"));
        assert_eq!(job.callback.unwrap().state, CallbackState::Pending);
    }
}

#[tokio::test]
async fn what_is_put_back_waits_and_need_not_count() {
    for bench in Bench::all().await {
        let job = bench.accepted(bench.job()).await;
        let taken = bench.take_one().await;
        assert!(bench.store.release(&job.id, taken.fence, 500, false, "busy").await.unwrap());
        assert!(bench.store.take("me", 1, 1000).await.unwrap().is_empty());
        bench.pass(500);
        let again = bench.take_one().await;
        assert_eq!((again.attempt, again.fence), (1, taken.fence + 1));
        assert!(bench.store.release(&job.id, again.fence, 0, true, "died").await.unwrap());
        assert_eq!(bench.take_one().await.attempt, 2);
        let history = "queued0 running1 queued0* running1 queued1* running2";
        assert_eq!(bench.history(&job.id).await, history);
    }
}

#[tokio::test]
async fn a_history_is_bounded_and_keeps_its_end() {
    for bench in Bench::all().await {
        let job = bench.accepted(bench.job()).await;
        for _ in 0..100 {
            let taken = bench.take_one().await;
            bench.store.release(&job.id, taken.fence, 0, false, "busy").await.unwrap();
        }
        let taken = bench.take_one().await;
        bench.store.finish(&job.id, taken.fence, succeeded()).await.unwrap();
        let events = bench.store.events(&job.id, 0).await.unwrap().unwrap();
        assert_eq!(events.len(), 65);
        assert_eq!(events[64].state, State::Succeeded);
    }
}

#[tokio::test]
async fn cancelled_is_final() {
    for bench in Bench::all().await {
        let (waiting, running) =
            (bench.accepted(bench.job()).await, bench.accepted(bench.job()).await);
        let cancel = |id: String| {
            let store = &bench.store;
            async move { store.cancel(&id, cancelled()).await.unwrap() }
        };
        assert_eq!(cancel(waiting.id.clone()).await, Cancelled::Done);
        let taken = bench.take_one().await;
        assert_eq!(taken.id, running.id);
        let early = bench.store.delete(&running.id).await.unwrap();
        assert_eq!(early, Deleted::NotFinal(State::Running));
        assert_eq!(cancel(running.id.clone()).await, Cancelled::Done);
        assert!(!bench.store.finish(&running.id, taken.fence, succeeded()).await.unwrap());
        assert_eq!(cancel(running.id.clone()).await, Cancelled::Final(State::Cancelled));
        assert_eq!(cancel("job_none".to_owned()).await, Cancelled::Unknown);
        assert_eq!(bench.store.delete("job_none").await.unwrap(), Deleted::Unknown);
        assert_eq!(bench.store.delete(&running.id).await.unwrap(), Deleted::Done);
        assert_eq!(bench.store.get(&running.id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn callbacks_are_owed_with_the_result_and_told_until_taken() {
    for bench in Bench::all().await {
        let url = Some("https://example.org/".to_owned());
        let job = bench.accepted(NewJob { callback_url: url, ..bench.job() }).await;
        let store = &bench.store;
        assert!(store.take_callbacks(9, 1000).await.unwrap().is_empty());
        let taken = bench.take_one().await;
        store.finish(&job.id, taken.fence, succeeded()).await.unwrap();
        let task = store.take_callbacks(9, 1000).await.unwrap().remove(0);
        assert_eq!((task.attempt, task.url.as_str()), (1, "https://example.org/"));
        assert_eq!(task.job.result.as_deref(), Some("{\"text\":\"y\\u0000\"}"));
        assert!(store.take_callbacks(9, 1000).await.unwrap().is_empty());
        // Whoever had it is dead.
        bench.pass(1000);
        let again = store.take_callbacks(9, 1000).await.unwrap().remove(0);
        assert!(!store.settle_callback(&job.id, task.fence, Settle::Delivered).await.unwrap());
        let retry = Settle::Retry(5000, "it answers 500".to_owned());
        assert!(store.settle_callback(&job.id, again.fence, retry).await.unwrap());
        assert!(store.take_callbacks(9, 1000).await.unwrap().is_empty());
        let callback = store.get(&job.id).await.unwrap().unwrap().callback.unwrap();
        assert_eq!((callback.state, callback.attempts), (CallbackState::Pending, 2));
        assert_eq!(callback.reason.as_deref(), Some("it answers 500"));
        bench.pass(5000);
        let last = store.take_callbacks(9, 1000).await.unwrap().remove(0);
        let dead = Settle::Dead("gone".to_owned());
        assert!(store.settle_callback(&job.id, last.fence, dead).await.unwrap());
        assert_eq!(store.counts().await.unwrap().callbacks_dead, 1);
        let dead = Filter { callback: Some(CallbackState::Dead), limit: 9, ..Filter::default() };
        assert_eq!(store.list(dead).await.unwrap().len(), 1);
        assert!(store.redeliver(&job.id).await.unwrap());
        assert!(!store.redeliver("job_none").await.unwrap());
        let task = store.take_callbacks(9, 1000).await.unwrap().remove(0);
        assert_eq!(task.attempt, 1);
        assert!(store.settle_callback(&job.id, task.fence, Settle::Delivered).await.unwrap());
        assert_eq!(store.counts().await.unwrap(), Counts::default());
    }
}

#[tokio::test]
async fn jobs_are_listed_in_parts_and_forgotten_in_time() {
    for bench in Bench::all().await {
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(bench.accepted(bench.job()).await.id);
            bench.pass(1);
        }
        ids.reverse();
        let store = &bench.store;
        let list = |filter: Filter| async move {
            let jobs = store.list(filter).await.unwrap();
            jobs.into_iter().map(|job| job.id).collect::<Vec<_>>()
        };
        let first = list(Filter { limit: 2, ..Filter::default() }).await;
        assert_eq!(first, ids[..2]);
        let after = Some(first[1].clone());
        assert_eq!(list(Filter { limit: 9, after, ..Filter::default() }).await, ids[2..]);
        let taken = bench.take_one().await;
        assert_eq!(taken.id, ids[4]);
        let running = Filter { state: Some(State::Running), limit: 9, ..Filter::default() };
        assert_eq!(list(running).await, ids[4..]);
        store.finish(&taken.id, taken.fence, failed()).await.unwrap();
        assert_eq!(store.purge(1000, 100).await.unwrap(), 0);
        bench.pass(1001);
        assert_eq!(store.purge(1000, 100).await.unwrap(), 1);
        assert_eq!(list(Filter { limit: 9, ..Filter::default() }).await, ids[..4]);
    }
}

#[tokio::test]
async fn what_is_owed_is_not_forgotten() {
    for bench in Bench::all().await {
        let url = Some("https://example.org/".to_owned());
        let job = bench.accepted(NewJob { callback_url: url, ..bench.job() }).await;
        bench.store.cancel(&job.id, cancelled()).await.unwrap();
        bench.pass(5000);
        assert_eq!(bench.store.purge(1000, 100).await.unwrap(), 0);
        let task = bench.store.take_callbacks(9, 1000).await.unwrap().remove(0);
        bench.store.settle_callback(&job.id, task.fence, Settle::Delivered).await.unwrap();
        assert_eq!(bench.store.purge(1000, 100).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn changes_are_told() {
    for bench in Bench::all().await {
        let mut changes = bench.store.changes();
        let job = bench.accepted(bench.job()).await;
        bench.take_one().await;
        let mut states = Vec::new();
        while !states.contains(&State::Running) {
            let change = changes.recv().await.unwrap();
            assert_eq!(change.id, job.id);
            states.push(change.state);
        }
        assert_eq!(states[0], State::Queued);
    }
}

#[tokio::test]
async fn a_store_is_found_as_it_was_left() {
    for bench in Bench::all().await {
        let (done, open) = (bench.accepted(bench.job()).await, bench.accepted(bench.job()).await);
        let taken = bench.store.take("me", 2, 1000).await.unwrap();
        bench.store.finish(&done.id, taken[0].fence, succeeded()).await.unwrap();
        let Bench { store, time, place, _folder, .. } = bench;
        drop(store);
        // The thread that has the file ends on its own time.
        let store = reopen(&place, "demo", &time).await;
        if matches!(place, Place::Postgres(_)) {
            time.fetch_add(1001, Ordering::Relaxed);
        }
        assert_eq!(store.expire(3, failed()).await.unwrap().queued, [open.id.as_str()]);
        let taken = store.take("you", 2, 1000).await.unwrap();
        assert_eq!(taken.iter().map(|job| &job.id).collect::<Vec<_>>(), [&open.id]);
        assert_eq!(store.get(&done.id).await.unwrap().unwrap().state, State::Succeeded);
    }
}

async fn reopen(place: &Place, model: &str, time: &Arc<AtomicI64>) -> Store {
    loop {
        match open_for(place, model, time).await {
            Ok(store) => return store,
            Err(StoreError::InUse { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn no_other_model_answers() {
    for bench in Bench::all().await {
        let job = bench.accepted(bench.job()).await;
        assert_eq!(job.model, "demo");
        let Bench { store, time, place, _folder, .. } = bench;
        drop(store);
        let other = reopen(&place, "other", &time).await;
        assert!(other.take("me", 9, 1000).await.unwrap().is_empty());
        assert_eq!(other.counts().await.unwrap(), Counts::default());
        assert_eq!(other.get(&job.id).await.unwrap().unwrap().state, State::Queued);
        drop(other);
        let same = reopen(&place, "demo", &time).await;
        assert_eq!(same.take("me", 9, 1000).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_file_has_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::File(folder.path().join("deep/jobs.sqlite"));
    let _first = Store::open(&place, "demo").await.unwrap().unwrap();
    let mode =
        |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
    for file in ["deep/jobs.sqlite", "deep/jobs.sqlite-wal"] {
        assert_eq!(mode(file) & 0o777, 0o600, "{file}");
    }
    let error = Store::open(&place, "demo").await.unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("in use by another server"), "{error}");
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.sqlite");
    std::fs::write(&file, "no database, but a text that is long enough to be looked at").unwrap();
    let error = Store::open(&Place::File(file.clone()), "demo").await.unwrap_err();
    assert!(error.to_string().contains("not a database"), "{error}");
    let below = Place::File(file.join("jobs.sqlite"));
    let error = Store::open(&below, "demo").await.unwrap_err();
    assert!(error.to_string().contains("cannot open"), "{error}");
    assert!(Store::open(&Place::Off, "demo").await.unwrap().is_none());
    let nobody = "postgres://nobody:secret@127.0.0.1:1/none".parse().unwrap();
    let error = Store::open(&nobody, "demo").await.unwrap_err().to_string();
    assert!(error.contains("refused") && !error.contains("secret"), "{error}");
}
