//! Pings, on a thread of their own: a worker whose cores are all at work must not seem dead.

use std::io;
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

use crate::control::Control;
use crate::desk::Desk;

/// Pings until `ended` says so, or is gone.
///
/// # Errors
/// If the system has no thread left.
pub(crate) fn start(control: Control, desk: Desk, ended: watch::Receiver<bool>) -> io::Result<()> {
    if control.place.ping_url(&[]).is_none() {
        tracing::info!("the platform asks for no pings");
        return Ok(());
    }
    thread::Builder::new().name("ping".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(ping(control, desk, ended)),
            Err(error) => tracing::error!(error = %error, "no pings are sent"),
        }
    })?;
    Ok(())
}

async fn ping(control: Control, desk: Desk, mut ended: watch::Receiver<bool>) {
    let mut beat = tokio::time::interval(control.place.ping_interval);
    // A ping that was late is not made up for.
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            _ = ended.wait_for(|ended| *ended) => return,
        }
        // One that hangs holds up none of the next.
        let (control, jobs) = (control.clone(), desk.running());
        tokio::spawn(async move {
            if let Err(error) = control.ping(&jobs).await {
                tracing::warn!(error = %error, "a ping was not answered");
            }
        });
    }
}

/// Pauses until the platform may be asked again.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_secs(1);
