//! Bytes that only run forward: archives, packed or not, and files within them.

use std::collections::BTreeMap;
use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

use super::source::Source;
use super::tar::{Archive, Member};
use super::zstd::Frames;
use crate::error::{ProbeError, Result};
use crate::limits::Budget;

/// Something that is read from its beginning to its end.
pub(crate) trait Stream {
    /// Reads some bytes; 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize>;

    /// Passes over bytes.
    ///
    /// # Errors
    ///
    /// When there are fewer.
    fn skip(&mut self, bytes: u64) -> Result<()>;
}

impl<S: Stream + ?Sized> Stream for Box<S> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        (**self).read(buffer)
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        (**self).skip(bytes)
    }
}

/// Fills the buffer.
///
/// # Errors
///
/// When the stream ends before.
pub(crate) fn fill(stream: &mut dyn Stream, buffer: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match stream.read(&mut buffer[done..])? {
            0 => return Err(cut_off()),
            read => done += read,
        }
    }
    Ok(())
}

fn cut_off() -> ProbeError {
    ProbeError::damaged("the archive is cut off")
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// By the first bytes.
    pub(crate) fn of(head: &[u8]) -> Packing {
        if head.starts_with(&[0x1f, 0x8b]) {
            Packing::Gzip
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Packing::Zstd
        } else {
            Packing::None
        }
    }
}

/// A source from its beginning on; passing over bytes costs nothing.
pub(crate) struct Plain<'b, S> {
    source: S,
    position: u64,
    budget: &'b Budget,
}

impl<'b, S: Source> Plain<'b, S> {
    pub(crate) fn new(source: S, budget: &'b Budget) -> Self {
        Plain { source, position: 0, budget }
    }
}

impl<S: Source> Stream for Plain<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.source.len().saturating_sub(self.position);
        let size = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.budget.spend(size as u64)?;
        self.source.read_exact_at(self.position, &mut buffer[..size])?;
        self.position += size as u64;
        Ok(size)
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let position = self.position.checked_add(bytes).filter(|at| *at <= self.source.len());
        self.position = position.ok_or_else(cut_off)?;
        Ok(())
    }
}

/// A packed stream, unpacked as it passes.
pub(crate) struct Unpacked<'b> {
    reader: Box<dyn Read + 'b>,
    budget: &'b Budget,
    scratch: Vec<u8>,
}

const PIECE: usize = 128 << 10;

impl<'b> Unpacked<'b> {
    pub(crate) fn new(stream: impl Stream + 'b, packing: Packing, budget: &'b Budget) -> Self {
        let packed = io::BufReader::with_capacity(PIECE, AsRead(stream));
        let reader: Box<dyn Read + 'b> = match packing {
            Packing::None => Box::new(packed),
            Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Packing::Zstd => Box::new(Frames::new(packed)),
        };
        Unpacked { reader, budget, scratch: Vec::new() }
    }
}

impl Stream for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Ok(read) => {
                    self.budget.spend(read as u64)?;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(PIECE, 0);
        while bytes > 0 {
            let take = bytes.min(PIECE as u64) as usize;
            match self.read(&mut scratch[..take])? {
                0 => return Err(cut_off()),
                read => bytes -= read as u64,
            }
        }
        self.scratch = scratch;
        Ok(())
    }
}

struct AsRead<S>(S);

impl<S: Stream> Read for AsRead<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(io::Error::other)
    }
}

/// How far behind the newest byte one may still read.
const WINDOW_BYTES: usize = 2 << 20;
/// Reads of up to this many bytes are remembered, all of a file's together at most the second.
const REMEMBERED_READ_MAX: usize = 1 << 20;
const REMEMBERED_MAX: usize = 16 << 20;

/// What was read of a file on earlier passes, by its offset.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pieces: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
}

impl Memory {
    fn find(&self, offset: u64, size: usize) -> Option<&[u8]> {
        let (start, bytes) = self.pieces.range(..=offset).next_back()?;
        let from = usize::try_from(offset - start).ok()?;
        bytes.get(from..from.checked_add(size)?)
    }

    fn add(&mut self, offset: u64, bytes: &[u8]) {
        let known = self.pieces.get(&offset).map_or(0, Vec::len);
        let room = bytes.len() <= REMEMBERED_READ_MAX && self.bytes + bytes.len() <= REMEMBERED_MAX;
        if bytes.len() > known && room {
            self.bytes += bytes.len() - known;
            self.pieces.insert(offset, bytes.to_vec());
        }
    }
}

/// A member of an archive as it passes, to be read at offsets.
///
/// What lies further back than [`WINDOW_BYTES`] is gone: such a read fails and sets [`Passing::is_behind`]. All that was read until
/// then is in the [`Memory`], so that on the next pass the same reads cost nothing, and the one that failed is ahead.
pub(crate) struct Passing<'p, S> {
    archive: &'p mut Archive<S>,
    member: &'p Member,
    memory: &'p mut Memory,
    window: Vec<u8>,
    /// Offset of the byte after the window.
    position: u64,
    kept: Option<(u64, Vec<u8>)>,
    pub(crate) is_behind: bool,
}

impl<'p, S: Stream> Passing<'p, S> {
    pub(crate) fn new(
        archive: &'p mut Archive<S>,
        member: &'p Member,
        memory: &'p mut Memory,
    ) -> Self {
        Passing {
            archive,
            member,
            memory,
            window: Vec::new(),
            position: 0,
            kept: None,
            is_behind: false,
        }
    }

    fn advance(&mut self) -> Result<()> {
        // Moved rarely, so that a byte is copied about once.
        if self.window.len() >= 2 * WINDOW_BYTES {
            self.window.drain(..self.window.len() - WINDOW_BYTES);
        }
        let before = self.window.len();
        self.window.resize(before + PIECE, 0);
        let read = self.archive.read(self.member, &mut self.window[before..]);
        self.window.truncate(before + *read.as_ref().unwrap_or(&0));
        if read? == 0 {
            return Err(ProbeError::damaged("a member of an archive is shorter than it says"));
        }
        self.position += (self.window.len() - before) as u64;
        self.remember(before);
        Ok(())
    }

    /// Copies what is to be kept out of the part of the window that begins at `new`.
    fn remember(&mut self, new: usize) {
        let start = self.position - (self.window.len() - new) as u64;
        let Some((offset, bytes)) = &mut self.kept else { return };
        let end = *offset + bytes.len() as u64;
        let (from, to) = ((*offset).max(start), end.min(self.position));
        if from < to {
            let target = (from - *offset) as usize..(to - *offset) as usize;
            let found = new + (from - start) as usize..new + (to - start) as usize;
            bytes[target].copy_from_slice(&self.window[found]);
        }
        if end <= self.position
            && let Some((offset, bytes)) = self.kept.take()
        {
            self.memory.add(offset, &bytes);
        }
    }
}

impl<S: Stream> Source for Passing<'_, S> {
    fn len(&self) -> u64 {
        self.member.size
    }

    fn keep(&mut self, offset: u64, size: usize) {
        let Some(behind) = self.position.checked_sub(offset) else {
            if size <= REMEMBERED_READ_MAX {
                self.kept = Some((offset, vec![0; size]));
            }
            return;
        };
        let from = (self.window.len() as u64).checked_sub(behind).map(|from| from as usize);
        if let Some(found) = from.and_then(|from| self.window.get(from..from.checked_add(size)?)) {
            self.memory.add(offset, found);
        }
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.member.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(found) = self.memory.find(offset, buffer.len()) {
            buffer.copy_from_slice(found);
            return Ok(());
        }
        if offset < self.position - self.window.len() as u64 {
            self.is_behind = true;
            return Err(io::Error::other("lies behind"));
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            if at >= self.position {
                self.advance().map_err(io::Error::other)?;
                continue;
            }
            let from = (at - (self.position - self.window.len() as u64)) as usize;
            let take = (self.window.len() - from).min(buffer.len() - done);
            buffer[done..done + take].copy_from_slice(&self.window[from..from + take]);
            done += take;
        }
        self.memory.add(offset, buffer);
        Ok(())
    }
}
