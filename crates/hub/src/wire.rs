//! A thread's own connections to the hub.

use std::time::Duration;

use bytes::Bytes;
use fetch::{Client, FetchError, Limits};
use tokio::runtime::{Builder, Runtime};

use crate::{Access, HubError, Patience};

/// From a request to the last byte of its part. Whoever takes longer is asked again for what is left.
const TOTAL: Duration = Duration::from_secs(900);

/// A client, and what drives it.
pub(crate) struct Wire {
    runtime: Runtime,
    client: Client,
}

impl Wire {
    pub(crate) fn new(access: &Access, patience: &Patience) -> Result<Self, HubError> {
        let limits = Limits { idle: patience.idle, total: TOTAL, ..Limits::default() };
        let client = Client::new(&access.endpoint, access.token.clone(), limits)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| HubError::System(format!("cannot wait for the network: {error}")))?;
        Ok(Wire { runtime, client })
    }

    /// An answer, and the query of the page after it.
    pub(crate) fn page(&self, url: &str, max: u64) -> Result<(Bytes, Option<String>), FetchError> {
        self.runtime.block_on(self.client.page(url, max))
    }

    /// Runs to the end what uses the client.
    pub(crate) fn run<'a, T, F: Future<Output = T>>(
        &'a self,
        work: impl FnOnce(&'a Client) -> F,
    ) -> T {
        self.runtime.block_on(work(&self.client))
    }
}
