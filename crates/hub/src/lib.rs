//! Repositories of the Hugging Face hub: what they hold, and files of them on disk.
//!
//! A file stands under its final name once its digest is that of the hub, and it is on disk. What is under way lies beside a
//! record of the ranges that are on disk, so that a run that was killed is continued. Bytes, time, attempts and files are
//! bounded; what the hub says of names and sizes is checked before it is used.

mod repository;
mod access;
mod listing;
mod glob;
mod choice;
mod pull;
mod place;
mod lock;
mod owner;
mod download;
mod part;
mod wire;
mod active;
mod coverage;
mod patience;
mod digest;
mod files;
mod error;

pub use access::Access;
pub use choice::{Choice, LeftOut};
pub use download::{Event, Progress};
pub use error::HubError;
pub use listing::{Digest, Entry, Listing};
pub use patience::Patience;
pub use place::Place;
pub use pull::{Inventory, Options, Plan, Report};
pub use repository::Repository;
