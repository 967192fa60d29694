//! A worker of RunPod's serverless platform: it takes jobs, lets the server's own routes answer them, and sends the answers back.
//!
//! The protocol is the one that RunPod's Python SDK 1.12.0 speaks. Nothing here knows a model: whoever starts a worker gives it a
//! [`Service`].

mod place;
mod job;
mod input;
mod service;
mod outcome;
mod control;
mod callback;
mod desk;
mod ping;
mod work;
mod local;

pub use control::{ControlError, unfit};
pub use input::InputError;
pub use job::{Job, JobError};
pub use local::{Local, run_one};
pub use place::{Place, PlaceError};
pub use service::{Capacity, Service};
pub use work::{Ended, Options, work};
