//! Ctrl-C: the first ends the answer at the next token, the second the program.

use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C is a request; until then it ends the program at once.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler = || {
            if REQUESTED.swap(true, Ordering::Relaxed) {
                // 128 + SIGINT, as a shell reports a program that the signal ended.
                process::exit(130);
            }
        };
        // Without a handler Ctrl-C still ends the program.
        let _ = ctrlc::set_handler(handler);
    });
}

/// Whether Ctrl-C was pressed since [`clear`].
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Forgets a request that was honoured.
pub(crate) fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
}
