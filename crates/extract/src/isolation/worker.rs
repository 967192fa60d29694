//! The side that reads.

use std::io::{self, BufWriter, Read, Write};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::wire::{Answer, Request, Task, read_frame, write_frame};
use crate::{ErrorKind, Input, Progress, picture, read};

/// Seconds of processor time beyond the wall-clock limit: the asking side kills first, if it still lives.
const CPU_GRACE_SECONDS: u64 = 5;

/// Reads what is asked for on `input` until that ends, and answers on `output`. To be called by a process that does nothing
/// else: it bounds its own memory and processor time, and a file may end it.
///
/// # Errors
/// If a pipe breaks, which is when the asking side has gone.
pub fn serve_worker(input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    // A core file would hold people's documents.
    limit(Resource::Core, 0);
    while let Some(request) = read_frame(input)? {
        let request: Request = serde_json::from_slice(&request)?;
        let bytes = read_frame(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        limit(Resource::As, request.limits.memory_bytes_max);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let seconds = request.limits.seconds_max.saturating_add(CPU_GRACE_SECONDS);
        limit(Resource::Cpu, used_seconds().saturating_add(seconds.saturating_mul(cores)));
        let mut output = BufWriter::new(&mut *output);
        answer(&request, &bytes, &mut output)?;
        output.flush()?;
    }
    Ok(())
}

fn answer(request: &Request, bytes: &[u8], output: &mut dyn Write) -> io::Result<()> {
    let input = Input { bytes, name: &request.name, mime: request.mime.as_deref() };
    let mut broken = None;
    let mut pixels = None;
    let answer = match request.task {
        Task::Read => {
            let mut progress = |progress: Progress| {
                let sent = send(output, &Answer::Progress(progress)).and_then(|()| output.flush());
                broken = broken.take().or(sent.err());
            };
            match read(input, &request.limits, &mut progress) {
                Ok(document) => Answer::Document(Box::new(document)),
                Err(error) => Answer::Failed(error.kind),
            }
        }
        Task::Picture { page, dpi } => match picture(input, page, dpi, &request.limits) {
            Ok(mut picture) => {
                pixels = Some(std::mem::take(&mut picture.png));
                Answer::Picture(picture)
            }
            Err(error) => Answer::Failed(error.kind),
        },
    };
    if let Some(error) = broken {
        return Err(error);
    }
    send(output, &answer)?;
    pixels.map_or(Ok(()), |pixels| write_frame(output, &pixels))
}

fn send(output: &mut dyn Write, answer: &Answer) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(answer)?;
    if bytes.len() > u32::MAX as usize >> 2 {
        let kind = ErrorKind::over("bytes of the result", bytes.len(), u32::MAX as usize >> 2);
        bytes = serde_json::to_vec(&Answer::Failed(kind))?;
    }
    write_frame(output, &bytes)
}

/// Lowers the soft limit, or raises it again up to the hard one. A system that refuses leaves the asking side's clock.
fn limit(resource: Resource, value: u64) {
    let maximum = getrlimit(resource).maximum;
    let current = Some(maximum.map_or(value, |maximum| maximum.min(value)));
    let _ = setrlimit(resource, Rlimit { current, maximum });
}

fn used_seconds() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(used).map_or(0, |used| used.as_secs())
}
