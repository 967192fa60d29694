//! The way out: files of other machines, whole or in part, for commands that were asked to get them.
//!
//! Time, bytes and redirects are bounded, and no answer is believed before it fits itself: a server that ignores ranges,
//! lies about lengths or breaks off gives an error, never other bytes than those that were asked for.

mod client;
mod public;
mod error;
mod range;
mod tls;

pub use client::{Client, Limits, Part, PartStream, Token};
pub use error::{FetchError, root_cause};
pub use public::{NotPublic, is_public, public_builder, public_url};
pub use range::ContentRange;
pub use tls::{builder, client_config};
