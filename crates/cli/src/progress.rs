//! Progress on stderr: shown on a terminal, and only for what takes longer than a moment.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const COUNT: &str = "{prefix} {wide_bar} {pos}/{len} {per_sec}, {eta} left";
const BYTES: &str =
    "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left";

/// A bar that counts `unit`s, as `layers` or `tokens`.
pub(crate) fn count(what: &'static str, len: u64) -> ProgressBar {
    bar(what, len, COUNT)
}

/// A bar that counts bytes.
pub(crate) fn bytes(what: &'static str, len: u64) -> ProgressBar {
    bar(what, len, BYTES)
}

fn bar(what: &'static str, len: u64, template: &str) -> ProgressBar {
    // indicatif hides the bar where stderr is no terminal.
    let bar = ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr_with_hz(10));
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
