//! Jobs that outlive the process that took them, in SQLite or PostgreSQL.
//!
//! A job is `queued`, then `running` under a lease, then `succeeded`, `failed` or `cancelled`, which is final. Each taking has a
//! number of its own, the fence; a result is written by whoever holds the latest one, once, and the callback that is owed for it
//! in the same transaction. What this crate does not know: what a job asks for, and how it is answered or told.

mod job;
mod place;
mod error;
mod store;
mod sqlite;
mod postgres;

pub use error::StoreError;
pub use job::{
    Accepted, Callback, CallbackState, CallbackTask, Cancelled, Change, Counts, Deleted, End,
    Event, Expired, Filter, Job, NewJob, Settle, State, Taken, new_id,
};
pub use place::{Place, PlaceError};
pub use store::{Clock, Store};
