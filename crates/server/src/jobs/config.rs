//! How jobs are taken, answered and told of.

use std::time::Duration;

use jobs::Place;

use super::WebhookSecrets;

/// How jobs are taken, answered and told of.
#[derive(Debug, Clone)]
pub struct JobsConfig {
    /// Name of the model, whose jobs are answered here; those of others are left to their servers.
    pub model: String,
    /// Where they are stored.
    pub place: Place,
    /// Whether nobody asked for that place: the server then starts without it, too.
    pub is_default: bool,
    /// What callbacks are signed with.
    pub secrets: WebhookSecrets,
    /// Whether callbacks may go to private networks, to this machine, and by plain HTTP.
    pub allow_private: bool,
    /// Jobs that may wait.
    pub queue: u64,
    /// Bytes of bodies that may wait.
    pub queue_bytes: u64,
    /// How long a job is known after its end.
    pub retention: Duration,
    /// How often a job may be begun whose process ends.
    pub attempts: u32,
    /// How long the jobs of a server that does not answer any more stay with it.
    pub lease: Duration,
    /// Bytes of an answer.
    pub result_bytes: usize,
}

impl Default for JobsConfig {
    fn default() -> Self {
        JobsConfig {
            model: String::new(),
            place: Place::Off,
            is_default: false,
            secrets: WebhookSecrets::default(),
            allow_private: false,
            queue: 10_000,
            queue_bytes: 4 << 30,
            retention: Duration::from_secs(7 * 86_400),
            attempts: 3,
            lease: Duration::from_secs(30),
            result_bytes: 32 << 20,
        }
    }
}
