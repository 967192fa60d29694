//! Bytes at offsets: of a file, of memory, of a part of either, of a compressed member of an archive.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::{Decompress, FlushDecompress, Status};

use crate::error::{ProbeError, Result};
use crate::limits::Budget;

/// Something to read at offsets.
pub(crate) trait Source {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Fills `buffer` with what begins at `offset`.
    ///
    /// # Errors
    ///
    /// When the bytes are not there or cannot be had.
    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Says that this range is wanted later, so that a source that only runs forward keeps it when it passes.
    fn keep(&mut self, _offset: u64, _size: usize) {}
}

impl<S: Source + ?Sized> Source for &mut S {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buffer)
    }

    fn keep(&mut self, offset: u64, size: usize) {
        (**self).keep(offset, size);
    }
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        let bytes = self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// A file. Nothing is mapped, so that a file that shrinks meanwhile is an error and no fault.
#[derive(Debug)]
pub(crate) struct FileSource {
    file: File,
    len: u64,
    position: u64,
}

impl FileSource {
    pub(crate) fn open(path: &Path) -> Result<FileSource> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ProbeError::Unsupported("is not a regular file".into()));
        }
        Ok(FileSource { file, len: metadata.len(), position: 0 })
    }
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.position != offset {
            self.file.seek(SeekFrom::Start(offset))?;
        }
        // Unknown until it succeeds.
        self.position = u64::MAX;
        self.file.read_exact(buffer)?;
        self.position = offset + buffer.len() as u64;
        Ok(())
    }
}

/// A part of another source.
pub(crate) struct Part<S> {
    source: S,
    start: u64,
    len: u64,
}

impl<S: Source> Part<S> {
    /// `len` bytes from `start` on, which must be there.
    pub(crate) fn new(source: S, start: u64, len: u64) -> Result<Part<S>> {
        check_range("a member", start, len, source.len())?;
        Ok(Part { source, start, len })
    }
}

impl<S: Source> Source for Part<S> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.source.read_exact_at(self.start + offset, buffer)
    }
}

/// What deflate makes at most of a byte.
const DEFLATE_RATIO_MAX: u64 = 1032;
const IN_BYTES: usize = 128 << 10;
const OUT_BYTES: usize = 256 << 10;
/// How far behind the newest byte one may still read: names of sections stand just before their headers.
const WINDOW_BYTES: usize = 2 << 20;

/// A deflated part of another source. Reading forward is cheap, reading further back than [`WINDOW_BYTES`] starts again.
pub(crate) struct Inflated<'b, S> {
    source: S,
    len: u64,
    inflate: Decompress,
    /// What was read and not yet unpacked, and how much of it was.
    input: Vec<u8>,
    input_used: usize,
    input_position: u64,
    /// The last bytes unpacked.
    window: Vec<u8>,
    /// Offset of the byte after the window.
    position: u64,
    kept: Option<(u64, Vec<u8>)>,
    budget: &'b Budget,
}

impl<'b, S: Source> Inflated<'b, S> {
    /// A source of `len` bytes out of all of `source`.
    pub(crate) fn new(source: S, len: u64, budget: &'b Budget) -> Result<Inflated<'b, S>> {
        if len / DEFLATE_RATIO_MAX > source.len() {
            let packed = source.len();
            return Err(ProbeError::damaged(format!(
                "a member claims to unpack from {packed} to {len} bytes, which deflate cannot do"
            )));
        }
        Ok(Inflated {
            source,
            len,
            inflate: Decompress::new(false),
            input: Vec::new(),
            input_used: 0,
            input_position: 0,
            window: Vec::new(),
            position: 0,
            kept: None,
            budget,
        })
    }

    fn window_start(&self) -> u64 {
        self.position - self.window.len() as u64
    }

    fn restart(&mut self) {
        self.inflate.reset(false);
        self.input.clear();
        (self.input_used, self.input_position, self.position) = (0, 0, 0);
        self.window.clear();
    }

    /// Unpacks the next piece into the window.
    fn advance(&mut self) -> io::Result<()> {
        if self.input_used == self.input.len() {
            let left = self.source.len() - self.input_position;
            let take = left.min(IN_BYTES as u64) as usize;
            self.input.resize(take, 0);
            self.source.read_exact_at(self.input_position, &mut self.input)?;
            self.input_position += take as u64;
            self.input_used = 0;
        }
        // Moved rarely, so that a byte is copied about once.
        if self.window.len() >= 2 * WINDOW_BYTES {
            self.window.drain(..self.window.len() - WINDOW_BYTES);
        }
        self.window.reserve(OUT_BYTES);
        let (before_in, before) = (self.inflate.total_in(), self.window.len());
        let input = &self.input[self.input_used..];
        let status = self.inflate.decompress_vec(input, &mut self.window, FlushDecompress::None);
        let status = status.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.input_used += (self.inflate.total_in() - before_in) as usize;
        let made = self.window.len() - before;
        let used = self.inflate.total_in() != before_in;
        self.position += made as u64;
        self.budget.spend(made as u64).map_err(io::Error::other)?;
        self.remember(before);
        if made == 0 && (!used || matches!(status, Status::StreamEnd)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Copies what is to be kept out of the part of the window that begins at `new`.
    fn remember(&mut self, new: usize) {
        let start = self.position - (self.window.len() - new) as u64;
        let Some((offset, bytes)) = &mut self.kept else { return };
        let from = (*offset).max(start);
        let to = (*offset + bytes.len() as u64).min(self.position);
        if from < to {
            let target = (from - *offset) as usize..(to - *offset) as usize;
            let found = new + (from - start) as usize..new + (to - start) as usize;
            bytes[target].copy_from_slice(&self.window[found]);
        }
    }
}

impl<S: Source> Source for Inflated<'_, S> {
    fn len(&self) -> u64 {
        self.len
    }

    fn keep(&mut self, offset: u64, size: usize) {
        if offset >= self.position && size <= WINDOW_BYTES {
            self.kept = Some((offset, vec![0; size]));
        }
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((start, bytes)) = &self.kept {
            let passed = *start + bytes.len() as u64 <= self.position;
            let from = offset.checked_sub(*start).and_then(|from| usize::try_from(from).ok());
            let found = from.and_then(|from| bytes.get(from..from.checked_add(buffer.len())?));
            if let Some(found) = found.filter(|_| passed) {
                buffer.copy_from_slice(found);
                return Ok(());
            }
        }
        if offset < self.window_start() {
            self.restart();
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            if at >= self.position {
                self.advance()?;
                continue;
            }
            let from = (at - self.window_start()) as usize;
            let take = (self.window.len() - from).min(buffer.len() - done);
            buffer[done..done + take].copy_from_slice(&self.window[from..from + take]);
            done += take;
        }
        Ok(())
    }
}

/// A source, read within a budget, whose errors say what was looked for.
pub(crate) struct Reader<'s, 'b> {
    source: &'s mut dyn Source,
    budget: &'b Budget,
}

impl<'s, 'b> Reader<'s, 'b> {
    pub(crate) fn new(source: &'s mut dyn Source, budget: &'b Budget) -> Self {
        Reader { source, budget }
    }

    pub(crate) fn len(&self) -> u64 {
        self.source.len()
    }

    pub(crate) fn keep(&mut self, offset: u64, size: usize) {
        self.source.keep(offset, size);
    }

    /// `size` bytes at `offset`, which must all be there; they are checked before memory is taken for them.
    pub(crate) fn take(&mut self, what: &'static str, offset: u64, size: usize) -> Result<Vec<u8>> {
        check_range(what, offset, size as u64, self.len())?;
        let mut bytes = vec![0; size];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `buffer` as far as there are bytes, and returns how many.
    pub(crate) fn take_some(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let size = self.len().saturating_sub(offset).min(buffer.len() as u64) as usize;
        self.fill(offset, &mut buffer[..size])?;
        Ok(size)
    }

    fn fill(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.budget.spend(buffer.len() as u64)?;
        Ok(self.source.read_exact_at(offset, buffer)?)
    }
}

/// Whether `size` bytes at `offset` lie within `len`.
pub(crate) fn check_range(what: &'static str, offset: u64, size: u64, len: u64) -> Result<()> {
    match offset.checked_add(size) {
        Some(end) if end <= len => Ok(()),
        _ => Err(ProbeError::PastEnd { what, offset, size, len }),
    }
}

/// The number of `N` bytes, little-endian, at `at`; zero beyond the end, which callers rule out by the size they took.
pub(crate) fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    if let Some(found) = bytes.get(at..at + N) {
        value[..N].copy_from_slice(found);
    }
    u64::from_le_bytes(value)
}
