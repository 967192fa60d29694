//! Zip archives, as wheels are: the directory at the end first, then only the members that are wanted.
//!
//! Read here and not by a library, for three things that it must do: read from whatever has bytes at offsets, hold no member
//! in memory, and check every claim of size before believing it. APPNOTE.TXT 6.3 describes the format.

use super::source::{Inflated, Part, Reader, Source, check_range, number};
use crate::error::{ProbeError, Result};
use crate::limits::Budget;

/// A file of the archive.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) size: u64,
    packed: u64,
    method: u64,
    /// Of its local header.
    offset: u64,
    encrypted: bool,
}

const END: usize = 22;
const END_MAGIC: &[u8] = b"PK\x05\x06";
const COMMENT_MAX: usize = 65_535;
const LOCATOR_64: usize = 20;
const END_64: usize = 56;
const ENTRY: usize = 46;
const LOCAL: usize = 30;
const DIRECTORY_MAX: u64 = 256 << 20;
/// No library is larger, nor a member that is read.
const MEMBER_MAX: u64 = 16 << 30;

const STORED: u64 = 0;
const DEFLATED: u64 = 8;

/// Whether these are the first bytes of a zip archive.
pub(crate) fn is_zip(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || head.starts_with(END_MAGIC)
}

/// The archive's members.
///
/// # Errors
///
/// When it is not a zip archive, is damaged, or has too many members.
pub(crate) fn members(source: &mut dyn Source, budget: &Budget) -> Result<Vec<Member>> {
    let mut reader = Reader::new(source, budget);
    let directory = directory(&mut reader)?;
    let Directory { offset, size, count } = directory;
    check_range("the zip directory", offset, size, reader.len())?;
    let max = budget.limits.entries_max as u64;
    if count > max || size > DIRECTORY_MAX {
        return Err(ProbeError::TooMuch { what: "members of an archive", max });
    }
    let bytes = reader.take("the zip directory", offset, size as usize)?;
    let mut members = Vec::new();
    let mut at = 0;
    while at + ENTRY <= bytes.len() && bytes[at..].starts_with(b"PK\x01\x02") {
        let names = [28, 30, 32].map(|field| number::<2>(&bytes, at + field) as usize);
        let end = at + ENTRY + names.iter().sum::<usize>();
        let Some(entry) = bytes.get(at..end) else {
            return Err(ProbeError::damaged("the zip directory is cut off"));
        };
        members.push(member(entry, names[0], names[1])?);
        if members.len() as u64 > max {
            return Err(ProbeError::TooMuch { what: "members of an archive", max });
        }
        at = end;
    }
    if members.len() as u64 != count {
        let found = members.len();
        return Err(ProbeError::damaged(format!(
            "the zip directory says {count} members and has {found}"
        )));
    }
    Ok(members)
}

struct Directory {
    offset: u64,
    size: u64,
    count: u64,
}

/// Finds the directory by the record at the end, behind which a comment may stand.
fn directory(reader: &mut Reader) -> Result<Directory> {
    let len = reader.len();
    let tail_size = len.min((END + COMMENT_MAX + LOCATOR_64) as u64) as usize;
    let tail_start = len - tail_size as u64;
    let tail = reader.take("the end of the archive", tail_start, tail_size)?;
    let is_end = |at: &usize| {
        tail.len() >= at + END && at + END + number::<2>(&tail, at + 20) as usize <= tail.len()
    };
    let at = memchr::memmem::rfind_iter(&tail, END_MAGIC).find(is_end).ok_or_else(|| {
        ProbeError::damaged("no zip directory at its end; was it downloaded completely?")
    })?;
    let directory = Directory {
        count: number::<2>(&tail, at + 10),
        size: number::<4>(&tail, at + 12),
        offset: number::<4>(&tail, at + 16),
    };
    let saturated = directory.count == 0xffff
        || directory.size == 0xffff_ffff
        || directory.offset == 0xffff_ffff;
    let locator = at.checked_sub(LOCATOR_64).filter(|at| tail[*at..].starts_with(b"PK\x06\x07"));
    match locator {
        Some(locator) if saturated => {
            let offset = number::<8>(&tail, locator + 8);
            let end = reader.take("the 64-bit zip directory", offset, END_64)?;
            if !end.starts_with(b"PK\x06\x06") {
                return Err(ProbeError::damaged(
                    "the 64-bit zip directory is not where it should be",
                ));
            }
            Ok(Directory {
                count: number::<8>(&end, 32),
                size: number::<8>(&end, 40),
                offset: number::<8>(&end, 48),
            })
        }
        _ => Ok(directory),
    }
}

fn member(entry: &[u8], name_len: usize, extra_len: usize) -> Result<Member> {
    let name = String::from_utf8_lossy(&entry[ENTRY..ENTRY + name_len]).into_owned();
    let extra = &entry[ENTRY + name_len..ENTRY + name_len + extra_len];
    let mut member = Member {
        size: number::<4>(entry, 24),
        packed: number::<4>(entry, 20),
        method: number::<2>(entry, 10),
        offset: number::<4>(entry, 42),
        encrypted: entry[8] & 1 != 0,
        name,
    };
    // Values that do not fit stand, in this order, in an extra field.
    let mut wide = extra_field(extra, 1).unwrap_or_default().chunks_exact(8);
    for value in [&mut member.size, &mut member.packed, &mut member.offset] {
        if *value == 0xffff_ffff
            && let Some(bytes) = wide.next()
        {
            *value = number::<8>(bytes, 0);
        }
    }
    Ok(member)
}

fn extra_field(extra: &[u8], wanted: u64) -> Option<&[u8]> {
    let mut at = 0;
    while at + 4 <= extra.len() {
        let (id, size) = (number::<2>(extra, at), number::<2>(extra, at + 2) as usize);
        let field = extra.get(at + 4..at + 4 + size)?;
        if id == wanted {
            return Some(field);
        }
        at += 4 + size;
    }
    None
}

/// Opens a member to be read at offsets.
///
/// # Errors
///
/// When its place is damaged, or it is packed in a way that wheels are not.
pub(crate) fn open<'s>(
    source: &'s mut dyn Source,
    member: &Member,
    budget: &'s Budget,
) -> Result<Box<dyn Source + 's>> {
    if member.encrypted {
        return Err(ProbeError::Unsupported("is encrypted".into()));
    }
    if member.size > MEMBER_MAX {
        return Err(ProbeError::TooMuch {
            what: "bytes in a member of an archive",
            max: MEMBER_MAX,
        });
    }
    let mut reader = Reader::new(source, budget);
    let local = reader.take("a member", member.offset, LOCAL)?;
    if !local.starts_with(b"PK\x03\x04") {
        return Err(ProbeError::damaged(format!("{} is not where it should be", member.name)));
    }
    let names = number::<2>(&local, 26) + number::<2>(&local, 28);
    let part = Part::new(source, member.offset + LOCAL as u64 + names, member.packed)?;
    match member.method {
        STORED if member.packed == member.size => Ok(Box::new(part)),
        STORED => Err(ProbeError::damaged(format!("{} has two sizes", member.name))),
        DEFLATED => Ok(Box::new(Inflated::new(part, member.size, budget)?)),
        other => {
            Err(ProbeError::Unsupported(format!("is packed by method {other}; wheels use deflate")))
        }
    }
}
