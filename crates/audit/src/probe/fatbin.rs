//! GPU code in a library: containers of machine code (cubins) and PTX for several architectures, back to back in sections.
//!
//! The layout is not documented; it was worked out from released libraries, and is held against `cuobjdump` by
//! `crates/audit/compare.py`. A container is a header of 16 bytes (magic, version, size of the header, size of what follows)
//! and entries, each a header of 64 or more bytes and a payload.

use super::payload::Packing;
use super::source::{Reader, number};
use crate::error::{ProbeError, Result};
use crate::facts::Target;

/// The first bytes of a container, little-endian.
pub(crate) const MAGIC: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();

const CONTAINER_HEADER: u64 = 16;
const ENTRY_HEADER: u64 = 64;
const HEADER_MAX: u64 = 4_096;
const ENTRIES_MAX: usize = 10_000;
/// Containers lie on boundaries of so many bytes.
const ALIGNMENT: u64 = 8;
/// Read at a time while a container is looked for.
const SEARCH_BYTES: usize = 256 << 10;

const KIND_PTX: u64 = 1;
const KIND_CUBIN: u64 = 2;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
/// An `a` variant. Compilers of CUDA 13 say it here and no more in the cubin, those of 12 there.
const FLAG_ACCELERATED: u64 = 0x10_0000;

/// Packed bytes that are read to see the head of a cubin, and of a PTX text: its version and target stand below comments.
const CUBIN_PACKED: usize = 1 << 10;
const PTX_PACKED: usize = 4 << 10;
const CUBIN_HEAD: usize = 64;
const PTX_HEAD: usize = 8 << 10;
/// zstd packs blocks of up to 128 KiB; before one is whole nothing comes out.
const ZSTD_BLOCK: usize = 132 << 10;

/// A piece of GPU code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where its header stands in the file.
    pub(crate) offset: u64,
    pub(crate) code: Code,
    pub(crate) packing: Packing,
    /// Bytes that it takes in the file.
    pub(crate) size: u64,
}

/// What kind of code, for which architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Code {
    Cubin(Target),
    Ptx {
        target: Target,
        /// Of the language, as 8.3.
        version: (u32, u32),
        /// CUDA of the compiler that wrote it, if the text says so.
        cuda: Option<String>,
    },
    /// Something that a device does not run as it is, as intermediate code for link-time optimization.
    Other(u64),
}

/// A container and its pieces.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) entries: Vec<Entry>,
}

/// Finds all containers in `start..end`, and hands each over.
///
/// # Errors
///
/// When the file cannot be read. What only looks like a container is passed by; one whose entries are damaged is an error, for
/// then nothing that is said about the library would be complete.
pub(crate) fn scan(
    reader: &mut Reader,
    start: u64,
    end: u64,
    found: &mut dyn FnMut(Container) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; SEARCH_BYTES];
    let mut at = start.next_multiple_of(ALIGNMENT);
    // Containers follow each other: looks a few bytes ahead first, and far when there is nothing.
    let mut ahead = 64;
    while at + CONTAINER_HEADER <= end {
        let size = (end - at).min(ahead as u64) as usize;
        reader.take_some(at, &mut buffer[..size])?;
        match search(&buffer[..size]) {
            Some(from) => {
                let offset = at + from as u64;
                match container(reader, offset, end)? {
                    Some((container, next)) => {
                        found(container)?;
                        at = next.next_multiple_of(ALIGNMENT);
                    }
                    None => at = offset + ALIGNMENT,
                }
                ahead = 64;
            }
            None => {
                at += size as u64;
                ahead = SEARCH_BYTES;
            }
        }
        at = at.next_multiple_of(ALIGNMENT);
    }
    Ok(())
}

/// Where in `bytes`, which begin on a boundary, the magic stands on a boundary.
fn search(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find_iter(bytes, &MAGIC).find(|at| (*at as u64).is_multiple_of(ALIGNMENT))
}

/// The container at `offset`, and where it ends; `None` if this is not one.
fn container(reader: &mut Reader, offset: u64, end: u64) -> Result<Option<(Container, u64)>> {
    if offset + CONTAINER_HEADER + ENTRY_HEADER > end {
        return Ok(None);
    }
    let header = reader.take("a container", offset, CONTAINER_HEADER as usize)?;
    let (version, header_size) = (number::<2>(&header, 4), number::<2>(&header, 6));
    let size = number::<8>(&header, 8);
    let plausible = version == 1 && (CONTAINER_HEADER..=HEADER_MAX).contains(&header_size);
    let stop = offset.checked_add(header_size).and_then(|at| at.checked_add(size));
    let Some(stop) = stop.filter(|_| plausible && size >= ENTRY_HEADER) else { return Ok(None) };
    let mut at = offset + header_size;
    if stop > end {
        // A constant that happens to look so is no damage; a first entry that makes sense is.
        return match entry(reader, at, end) {
            Ok(_) => Err(ProbeError::PastEnd { what: "GPU code", offset, size, len: end }),
            Err(ProbeError::Io(error)) => Err(error.into()),
            Err(_) => Ok(None),
        };
    }
    let mut entries = Vec::new();
    while at + ENTRY_HEADER <= stop {
        let (entry, next) = match entry(reader, at, stop) {
            Ok(entry) => entry,
            Err(ProbeError::Damaged(_)) if entries.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        };
        entries.push(entry);
        if entries.len() > ENTRIES_MAX {
            let max = ENTRIES_MAX as u64;
            return Err(ProbeError::TooMuch { what: "pieces of GPU code in a container", max });
        }
        at = next;
    }
    Ok(Some((Container { entries }, stop)))
}

/// The entry at `offset`, and where the next one begins.
fn entry(reader: &mut Reader, offset: u64, stop: u64) -> Result<(Entry, u64)> {
    let damaged = |what: &str| {
        Err(ProbeError::damaged(format!("the GPU code at offset {offset} has {what}")))
    };
    let header = reader.take("GPU code", offset, ENTRY_HEADER as usize)?;
    let kind = number::<2>(&header, 0);
    let header_size = number::<4>(&header, 4);
    let payload = number::<8>(&header, 8);
    let packed = number::<4>(&header, 16);
    let architecture = number::<4>(&header, 28) as u32;
    let flags = number::<8>(&header, 40);
    if !(ENTRY_HEADER..=HEADER_MAX).contains(&header_size) || !(1..0x200).contains(&kind) {
        return damaged("a header that makes no sense");
    }
    let start = offset + header_size;
    let Some(next) = start.checked_add(payload).filter(|next| *next <= stop) else {
        return damaged("a payload that reaches beyond its container");
    };
    let packing = match (flags & FLAG_LZ4 != 0, flags & FLAG_ZSTD != 0) {
        (true, _) => Packing::Lz4,
        (false, true) => Packing::Zstd,
        (false, false) => Packing::Plain,
    };
    // Padding is not part of what was packed.
    let stored =
        if packing == Packing::Plain || packed == 0 { payload } else { packed.min(payload) };
    let code = match kind {
        KIND_CUBIN => {
            let head = head(reader, start, stored, packing, CUBIN_PACKED, CUBIN_HEAD)?;
            let mut target = cubin_target(&head).unwrap_or(Target::plain(architecture));
            if flags & FLAG_ACCELERATED != 0 {
                target.suffix = Some('a');
            }
            Code::Cubin(target)
        }
        KIND_PTX => {
            let head = head(reader, start, stored, packing, PTX_PACKED, PTX_HEAD)?;
            let text = String::from_utf8_lossy(&head);
            let (minor, major) = (number::<2>(&header, 24) as u32, number::<2>(&header, 26) as u32);
            Code::Ptx {
                target: ptx_target(&text).unwrap_or(Target::plain(architecture)),
                version: ptx_version(&text).unwrap_or((major, minor)),
                cuda: ptx_compiler(&text),
            }
        }
        other => Code::Other(other),
    };
    Ok((Entry { offset, code, packing, size: payload }, next))
}

/// The first unpacked bytes of a payload.
fn head(
    reader: &mut Reader,
    start: u64,
    stored: u64,
    packing: Packing,
    packed: usize,
    size: usize,
) -> Result<Vec<u8>> {
    let packed = if packing == Packing::Zstd { ZSTD_BLOCK } else { packed };
    let packed = stored.min(packed as u64) as usize;
    let bytes = reader.take("a payload", start, packed)?;
    Ok(packing.prefix(&bytes, size))
}

/// Architecture out of a cubin's `e_flags`, whose layout the version of the ABI decides. Cubins for a family (`sm_120f`) have the
/// flags of plain ones, and run where those do.
fn cubin_target(head: &[u8]) -> Option<Target> {
    const EM_CUDA: u64 = 190;
    if head.len() < CUBIN_HEAD || head[..4] != super::elf::MAGIC || number::<2>(head, 18) != EM_CUDA
    {
        return None;
    }
    let flags = number::<4>(head, 48) as u32;
    let (architecture, accelerated) = match head[8] {
        ..=7 => (flags & 0xff, flags & 0x800 != 0),
        _ => (flags >> 8 & 0xff, flags & 0x8 != 0),
    };
    let suffix = if accelerated { Some('a') } else { None };
    Some(Target { architecture, suffix })
}

/// The argument of a directive at the start of a line.
fn directive<'t>(ptx: &'t str, name: &str) -> Option<&'t str> {
    ptx.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix(name)?;
        rest.strip_prefix([' ', '\t'])?.split([',', ' ', '\t', '/']).find(|word| !word.is_empty())
    })
}

fn ptx_target(ptx: &str) -> Option<Target> {
    directive(ptx, ".target")?.trim().parse().ok()
}

fn ptx_version(ptx: &str) -> Option<(u32, u32)> {
    let (major, minor) = directive(ptx, ".version")?.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// "Cuda compilation tools, release 12.1, V12.1.105" in the comment above.
fn ptx_compiler(ptx: &str) -> Option<String> {
    let (_, rest) = ptx.split_once("Cuda compilation tools, release ")?;
    let version = rest.split([',', '\n']).next()?.trim();
    let plausible = version.len() <= 8 && version.chars().all(|c| c.is_ascii_digit() || c == '.');
    plausible.then(|| version.to_owned())
}
