//! The side that asks: processes that are kept for the next file, and ended at the first sign of trouble.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::wire::{Answer, Request, Task, read_frame, write_frame};
use crate::{Document, ErrorKind, ExtractError, Input, Limits, Picture, Progress};

/// Files after which a worker is replaced, whatever it leaked.
const FILES_MAX: usize = 500;
/// What is kept of what a worker writes to its standard error, to say why it ended.
const STDERR_KEPT: usize = 4096;
/// Time for a worker that has answered nonsense or closed its pipe to end by itself, so that its exit status says why.
const ENDING: Duration = Duration::from_secs(2);

/// The program that calls [`serve_worker`](crate::serve_worker) on its standard input and output.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl WorkerCommand {
    /// The running program, with other arguments: itself, also if its file has been replaced meanwhile.
    ///
    /// # Errors
    /// If the system does not say which that is.
    pub fn of_this_program(arguments: &[&str]) -> io::Result<WorkerCommand> {
        let program = std::env::current_exe()?;
        let program = if program.exists() { program } else { PathBuf::from("/proc/self/exe") };
        Ok(WorkerCommand { program, arguments: arguments.iter().map(OsString::from).collect() })
    }
}

/// Up to a number of worker processes. Cheap to keep; they are started when there is something to read, and end with this.
#[derive(Debug)]
pub struct Workers {
    command: WorkerCommand,
    count_max: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Worker>,
    /// Those at work.
    busy: usize,
}

impl Workers {
    /// At most `count_max` processes (at least one) of `command`; none is started yet.
    #[must_use]
    pub fn new(command: WorkerCommand, count_max: usize) -> Workers {
        let state = Mutex::new(State::default());
        Workers { command, count_max: count_max.max(1), state, freed: Condvar::new() }
    }

    /// As [`read`](crate::read()), in a process of its own. Waits for a worker if all are at work; the document's time
    /// counts from then on.
    ///
    /// # Errors
    /// Those of reading, and what became of a worker: killed in time, crashed, out of memory.
    pub fn read(
        &self,
        input: Input<'_>,
        limits: &Limits,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Document, ExtractError> {
        match self.ask(input, limits, Task::Read, progress) {
            Ok((Answer::Document(document), _)) => Ok(*document),
            Ok(_) => Err(out_of_turn().of(input.name)),
            Err(kind) => Err(kind.of(input.name)),
        }
    }

    /// As [`picture`](crate::picture()), in a process of its own.
    ///
    /// # Errors
    /// As those of reading.
    pub fn picture(
        &self,
        input: Input<'_>,
        page: usize,
        dpi: f32,
        limits: &Limits,
    ) -> Result<Picture, ExtractError> {
        match self.ask(input, limits, Task::Picture { page, dpi }, &mut |_| ()) {
            Ok((Answer::Picture(picture), Some(png))) => Ok(Picture { png, ..picture }),
            Ok(_) => Err(out_of_turn().of(input.name)),
            Err(kind) => Err(kind.of(input.name)),
        }
    }

    fn ask(
        &self,
        input: Input<'_>,
        limits: &Limits,
        task: Task,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Answer, Option<Vec<u8>>), ErrorKind> {
        if input.bytes.len() > limits.bytes_max {
            return Err(ErrorKind::over("bytes", input.bytes.len(), limits.bytes_max));
        }
        let mut turn = self.turn()?;
        let request = Request {
            name: input.name.to_owned(),
            mime: input.mime.map(str::to_owned),
            limits: limits.clone(),
            task,
        };
        let asked = turn.worker_mut()?.ask(&request, input.bytes, progress);
        match asked {
            Ok(answer) => {
                turn.give_back();
                match answer {
                    (Answer::Failed(kind), _) => Err(kind),
                    answer => Ok(answer),
                }
            }
            Err(trouble) => Err(turn.end(trouble, limits)),
        }
    }

    /// A worker of one's own, an idle one or a new one.
    fn turn(&self) -> Result<Turn<'_>, ErrorKind> {
        let mut state = self.state();
        while state.busy >= self.count_max {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.busy += 1;
        let idle = state.idle.pop();
        drop(state);
        // Whoever ended it meanwhile has nothing to do with this document.
        let worker = idle.and_then(Worker::if_alive);
        let mut turn = Turn { workers: self, worker };
        if turn.worker.is_none() {
            turn.worker = Some(Worker::start(&self.command)?);
        }
        Ok(turn)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn out_of_turn() -> ErrorKind {
    ErrorKind::ReaderDied("answered out of turn".into())
}

/// The right to one worker, given back however it is dropped.
struct Turn<'a> {
    workers: &'a Workers,
    worker: Option<Worker>,
}

impl Turn<'_> {
    fn worker_mut(&mut self) -> Result<&mut Worker, ErrorKind> {
        self.worker.as_mut().ok_or_else(out_of_turn)
    }

    fn give_back(mut self) {
        if let Some(worker) = self.worker.take().filter(|worker| worker.files < FILES_MAX) {
            self.workers.state().idle.push(worker);
        }
    }

    /// Ends the worker and says what that means for the document.
    fn end(mut self, trouble: Trouble, limits: &Limits) -> ErrorKind {
        let Some(worker) = self.worker.take() else { return out_of_turn() };
        match trouble {
            Trouble::TimedOut => ErrorKind::TimedOut { seconds: limits.seconds_max },
            Trouble::Ended => worker.why_it_ended(limits),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.workers.state().busy -= 1;
        self.workers.freed.notify_one();
    }
}

/// Why a worker is of no more use.
enum Trouble {
    TimedOut,
    Ended,
}

/// A process, and the threads that read what it writes.
#[derive(Debug)]
struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    frames: Receiver<Vec<u8>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    files: usize,
}

impl Worker {
    fn start(command: &WorkerCommand) -> Result<Worker, ErrorKind> {
        let failed = |error: io::Error| {
            let program = command.program.display();
            ErrorKind::Io(format!("cannot start {program} to read documents: {error}"))
        };
        let mut child = Command::new(&command.program)
            .args(&command.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that the OCR it may have started ends with it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let (sender, frames) = sync_channel(16);
        let stderr = Arc::new(Mutex::new(Vec::new()));
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            let kept = Arc::clone(&stderr);
            thread::spawn(move || forward(out, &sender));
            thread::spawn(move || keep(err, &kept));
        }
        let stdin = child.stdin.take();
        Ok(Worker { child, stdin, frames, stderr, files: 0 })
    }

    /// Itself, unless it has ended.
    fn if_alive(mut self) -> Option<Worker> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    /// The answer to one request, and the frame after it if it has one.
    fn ask(
        &mut self,
        request: &Request,
        bytes: &[u8],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Answer, Option<Vec<u8>>), Trouble> {
        self.files += 1;
        let deadline = Instant::now() + Duration::from_secs(request.limits.seconds_max);
        let header = serde_json::to_vec(request).map_err(|_| Trouble::Ended)?;
        let mut stdin = self.stdin.take().ok_or(Trouble::Ended)?;
        let (frames, group) = (&self.frames, group(&self.child));
        let (answer, sent) = thread::scope(|scope| {
            // From a thread, so that a worker that reads nothing cannot hold this one beyond the deadline.
            let sending = scope.spawn(move || {
                write_frame(&mut stdin, &header)
                    .and_then(|()| write_frame(&mut stdin, bytes))
                    .map(|()| stdin)
            });
            let answer = receive(frames, deadline, progress);
            if answer.is_err() {
                // Which also frees the sending thread: nobody reads its pipe any more.
                kill(group);
            }
            (answer, sending.join())
        });
        let answer = answer?;
        self.stdin = sent.ok().and_then(Result::ok);
        Ok(answer)
    }

    fn why_it_ended(mut self, limits: &Limits) -> ErrorKind {
        let deadline = Instant::now() + ENDING;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                _ => break None,
            }
        };
        // The thread that keeps it may be a moment behind.
        thread::sleep(Duration::from_millis(20));
        let said = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone();
        explain(status, &String::from_utf8_lossy(&said), limits)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        kill(group(&self.child));
        let _ = self.child.wait();
    }
}

/// Frames up to the one that answers.
fn receive(
    frames: &Receiver<Vec<u8>>,
    deadline: Instant,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Answer, Option<Vec<u8>>), Trouble> {
    let next = || {
        let left = deadline.saturating_duration_since(Instant::now());
        frames.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => Trouble::TimedOut,
            RecvTimeoutError::Disconnected => Trouble::Ended,
        })
    };
    loop {
        let answer: Answer = serde_json::from_slice(&next()?).map_err(|_| Trouble::Ended)?;
        match answer {
            Answer::Progress(so_far) => progress(so_far),
            picture @ Answer::Picture(_) => return Ok((picture, Some(next()?))),
            answer => return Ok((answer, None)),
        }
    }
}

fn explain(status: Option<ExitStatus>, said: &str, limits: &Limits) -> ErrorKind {
    if said.contains("memory allocation of") {
        let found = limits.memory_bytes_max;
        return ErrorKind::OverLimit { what: "bytes of memory".into(), found, limit: found };
    }
    let panic = said.lines().skip_while(|line| !line.contains("panicked at")).take(2);
    let panic: Vec<&str> = panic.map(str::trim).collect();
    let how = if said.contains("overflowed its stack") {
        "overflowed its stack".to_owned()
    } else if !panic.is_empty() {
        format!("panicked ({})", panic.join(" "))
    } else {
        match status.map(|status| (status.signal(), status.code())) {
            // SIGXCPU
            Some((Some(24), _)) => return ErrorKind::TimedOut { seconds: limits.seconds_max },
            Some((Some(signal), _)) => format!("was ended by signal {signal}"),
            Some((None, Some(code))) => format!("ended with exit code {code}"),
            _ => "stopped answering".to_owned(),
        }
    };
    ErrorKind::ReaderDied(how)
}

/// The process group of a worker, which has its id.
fn group(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn kill(group: Option<Pid>) {
    if let Some(group) = group {
        // Gone already is as good.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Passes frames on until the worker or its owner has ended. The channel holds a few, so a worker that floods waits.
fn forward(mut from: impl Read, to: &SyncSender<Vec<u8>>) {
    while let Ok(Some(frame)) = read_frame(&mut from) {
        if to.send(frame).is_err() {
            break;
        }
    }
}

/// Reads to the end, so that the worker never waits, and keeps the last of it.
fn keep(mut from: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..count]);
        let beyond = kept.len().saturating_sub(STDERR_KEPT);
        kept.drain(..beyond);
    }
}
