//! The log: lines to stderr, by a thread of its own, so that whoever reads them slowly holds up no request.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written at most; those beyond are counted, not kept.
const LINES: usize = 4096;

/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Forms of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object on each line.
    Json,
}

/// Sends the log to stderr from here on. `filter` is a list of `target=level`, or a level; `info` if it is empty.
///
/// # Errors
/// In words: if the filter makes no sense, the system refuses a thread, or there is a log already.
pub fn log(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = if filter.is_empty() { "info" } else { filter };
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("log filter `{filter}`: {e}"))?;
    let lines = start(io::stderr()).map_err(|e| e.to_string())?;
    let sender = lines.sender.clone();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(lines);
    let done = match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    done.map_err(|e| e.to_string())?;
    // There is one log.
    let _ = LOG.set(sender);
    Ok(())
}

/// Waits, but not for ever, until what was logged is written. To be called before the process ends.
pub fn flush_log() {
    if let Some(sender) = LOG.get() {
        flush(sender);
    }
}

static LOG: OnceLock<SyncSender<Message>> = OnceLock::new();

/// Lines that were not kept.
static LOST: AtomicU64 = AtomicU64::new(0);

enum Message {
    Line(Vec<u8>),
    /// To be answered when all before it is written.
    Flush(SyncSender<()>),
}

/// Where lines go.
#[derive(Clone)]
struct Lines {
    sender: SyncSender<Message>,
}

fn start(out: impl Write + Send + 'static) -> io::Result<Lines> {
    let (sender, receiver) = sync_channel(LINES);
    thread::Builder::new().name("log".to_owned()).spawn(move || write(&receiver, out))?;
    Ok(Lines { sender })
}

fn write(receiver: &Receiver<Message>, mut out: impl Write) {
    for message in receiver {
        // Should stderr be closed, there is nobody to tell.
        match message {
            Message::Line(line) => {
                let lost = LOST.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(
                        out,
                        "{{\"level\":\"WARN\",\"message\":\"{lost} lines of the log were lost\"}}"
                    );
                }
                let _ = out.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = out.flush();
                let _ = done.send(());
            }
        }
    }
}

fn flush(sender: &SyncSender<Message>) {
    let (done, is_done) = sync_channel(1);
    let mut message = Message::Flush(done);
    // A full queue is given the same time.
    for _ in 0..100 {
        match sender.try_send(message) {
            Ok(()) => {
                let _ = is_done.recv_timeout(LAST_LINES);
                return;
            }
            Err(TrySendError::Full(back)) => message = back,
            Err(TrySendError::Disconnected(_)) => return,
        }
        thread::sleep(LAST_LINES / 100);
    }
}

impl Write for Lines {
    /// Takes a whole line: so the subscriber writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Message::Line(line.to_vec())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::time::Instant;

    /// A reader that can stop reading.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<Vec<u8>>>);

    impl Pipe {
        fn hold(&self) -> MutexGuard<'_, Vec<u8>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.hold().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stops_holds_nobody_up_and_is_told_what_it_missed() {
        let pipe = Pipe::default();
        let mut lines = start(pipe.clone()).unwrap();
        let held = pipe.hold();
        let start = Instant::now();
        for i in 0..LINES + 100 {
            lines.write_all(format!("line {i}\n").as_bytes()).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(5));
        drop(held);
        flush(&lines.sender);
        lines.write_all(b"the last\n").unwrap();
        flush(&lines.sender);
        let text = String::from_utf8(pipe.hold().clone()).unwrap();
        // The loss may be told before any line, where the thread began late.
        assert!(text.contains("line 0\n") && text.ends_with("the last\n"));
        assert!(text.contains("lines of the log were lost"), "{}", &text[text.len() - 200..]);
    }
}
