//! Reading in a process of its own, so that a file made to crash, hang or exhaust its reader takes that process and nothing
//! else. [`Workers`] is the side that asks, [`serve_worker`] the side that reads; `wire` is what passes between them.

mod wire;
mod worker;
mod workers;

pub use worker::serve_worker;
pub use workers::{WorkerCommand, Workers};
