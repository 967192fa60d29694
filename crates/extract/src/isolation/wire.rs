//! Frames on a pipe: four bytes of length, little endian, then so many bytes.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::{Document, ErrorKind, Limits, Picture, Progress};

/// Longest frame that is believed; a longer one is a fault.
const FRAME_MAX: usize = 1 << 30;

/// What a worker is to do; the file's bytes follow as a frame of their own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) name: String,
    pub(super) mime: Option<String>,
    pub(super) limits: Limits,
    pub(super) task: Task,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Task {
    Read,
    Picture { page: usize, dpi: f32 },
}

/// What a worker says: progress any number of times, then one of the others.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Progress(Progress),
    Document(Box<Document>),
    /// Its pixels follow as a frame of their own.
    Picture(Picture),
    Failed(ErrorKind),
}

pub(super) fn write_frame(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= FRAME_MAX);
    let length = length.ok_or_else(|| io::Error::other("a frame of more than 1 GiB"))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(bytes)
}

/// The next frame, or `None` where the other side has ended between two.
pub(super) fn read_frame(from: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        match from.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err(io::Error::other("a frame of more than 1 GiB"));
    }
    let mut bytes = Vec::new();
    // Grows with what comes, so that a false length takes no memory.
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(bytes))
}
