//! Shared libraries: sections, and what they need. ELF of 64 bits, little-endian, is all that has GPU code beside it.
//!
//! Read in an order that suits a source that only runs forward: the headers at the start, those at the end, then the
//! strings near the start again.

use super::source::{Reader, check_range, number};
use crate::error::{ProbeError, Result};

/// A library's outline.
#[derive(Debug, Default)]
pub(crate) struct Elf {
    pub(crate) sections: Vec<Section>,
    pub(crate) soname: Option<String>,
    pub(crate) needed: Vec<String>,
}

/// A part of the file that has a name.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    /// Whether the file holds its bytes.
    pub(crate) in_file: bool,
    pub(crate) executable: bool,
    /// Whether it is part of the running program.
    pub(crate) allocated: bool,
}

const HEADER: usize = 64;
const SECTION_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTIONS_MAX: u64 = 65_536;
const PROGRAM_HEADERS_MAX: u64 = 4_096;
const NAMES_MAX: u64 = 8 << 20;
const DYNAMIC_MAX: u64 = 1 << 20;
const NEEDED_MAX: usize = 1_024;
const NAME_MAX: usize = 4_096;

const SHT_NOBITS: u64 = 8;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
const DT_SONAME: u64 = 14;

/// The first bytes of every ELF file.
pub(crate) const MAGIC: [u8; 4] = *b"\x7fELF";

/// Reads the outline.
///
/// # Errors
///
/// When it is another kind of file, or its headers point outside of it.
pub(crate) fn read(reader: &mut Reader) -> Result<Elf> {
    let header = reader.take("the ELF header", 0, HEADER)?;
    if header[..4] != MAGIC {
        return Err(ProbeError::Unsupported("is not an ELF file".into()));
    }
    if header[4] != 2 || header[5] != 1 {
        return Err(ProbeError::Unsupported(
            "is ELF of 32 bits or big-endian, for which there is no CUDA".into(),
        ));
    }
    let mut elf = Elf::default();
    let segments = segments(reader, &header)?;
    let dynamic = segments.iter().find(|segment| segment.kind == PT_DYNAMIC);
    if let Some(dynamic) = dynamic {
        check_range("the dynamic section", dynamic.offset, dynamic.size, reader.len())?;
        bound("bytes of a dynamic section", dynamic.size, DYNAMIC_MAX)?;
        reader.keep(dynamic.offset, dynamic.size as usize);
    }
    elf.sections = sections(reader, &header)?;
    if let Some(dynamic) = dynamic {
        read_dynamic(reader, dynamic, &segments, &mut elf)?;
    }
    Ok(elf)
}

struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

fn bound(what: &'static str, value: u64, max: u64) -> Result<()> {
    if value > max { Err(ProbeError::TooMuch { what, max }) } else { Ok(()) }
}

fn segments(reader: &mut Reader, header: &[u8]) -> Result<Vec<Segment>> {
    let (offset, count) = (number::<8>(header, 32), number::<2>(header, 56));
    if count == 0 {
        return Ok(Vec::new());
    }
    if number::<2>(header, 54) != PROGRAM_HEADER as u64 {
        return Err(ProbeError::damaged("program headers of an unknown size"));
    }
    bound("program headers", count, PROGRAM_HEADERS_MAX)?;
    let table = reader.take("the program headers", offset, count as usize * PROGRAM_HEADER)?;
    let segment = |entry: &[u8]| Segment {
        kind: number::<4>(entry, 0),
        offset: number::<8>(entry, 8),
        address: number::<8>(entry, 16),
        size: number::<8>(entry, 32),
    };
    Ok(table.chunks_exact(PROGRAM_HEADER).map(segment).collect())
}

fn sections(reader: &mut Reader, header: &[u8]) -> Result<Vec<Section>> {
    let offset = number::<8>(header, 40);
    if offset == 0 {
        return Ok(Vec::new());
    }
    if number::<2>(header, 58) != SECTION_HEADER as u64 {
        return Err(ProbeError::damaged("section headers of an unknown size"));
    }
    let first = reader.take("the section headers", offset, SECTION_HEADER)?;
    // Counts that do not fit into the header stand in the first entry.
    let (mut count, mut names) = (number::<2>(header, 60), number::<2>(header, 62));
    if count == 0 {
        count = number::<8>(&first, 32);
    }
    if names == 0xffff {
        names = number::<4>(&first, 40);
    }
    bound("sections", count, SECTIONS_MAX)?;
    let table = reader.take("the section headers", offset, count as usize * SECTION_HEADER)?;
    let entry = table.chunks_exact(SECTION_HEADER).nth(names as usize);
    let names = match entry {
        Some(entry) => {
            let size = number::<8>(entry, 32);
            bound("bytes of section names", size, NAMES_MAX)?;
            reader.take("the section names", number::<8>(entry, 24), size as usize)?
        }
        None => Vec::new(),
    };
    let section = |entry: &[u8]| {
        let flags = number::<8>(entry, 8);
        Section {
            name: name_at(&names, number::<4>(entry, 0) as usize),
            offset: number::<8>(entry, 24),
            size: number::<8>(entry, 32),
            in_file: number::<4>(entry, 4) != SHT_NOBITS,
            executable: flags & SHF_EXECINSTR != 0,
            allocated: flags & SHF_ALLOC != 0,
        }
    };
    Ok(table.chunks_exact(SECTION_HEADER).map(section).collect())
}

/// The string that begins at `at`, as far as it goes.
fn name_at(names: &[u8], at: usize) -> String {
    let name = names.get(at..).unwrap_or_default();
    let name = &name[..name.len().min(NAME_MAX)];
    let end = memchr::memchr(0, name).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

fn read_dynamic(
    reader: &mut Reader,
    dynamic: &Segment,
    segments: &[Segment],
    elf: &mut Elf,
) -> Result<()> {
    let table = reader.take("the dynamic section", dynamic.offset, dynamic.size as usize)?;
    let entries = || {
        let entries = table.chunks_exact(16).map(|e| (number::<8>(e, 0), number::<8>(e, 8)));
        entries.take_while(|(tag, _)| *tag != 0)
    };
    let value = |wanted: u64| entries().find(|(tag, _)| *tag == wanted).map(|(_, value)| value);
    let Some(address) = value(DT_STRTAB) else { return Ok(()) };
    let size = value(DT_STRSZ).unwrap_or(0);
    let holds = |segment: &&Segment| {
        segment.kind == PT_LOAD && address.wrapping_sub(segment.address) < segment.size
    };
    let segment = segments.iter().find(holds);
    let offset = segment
        .and_then(|segment| segment.offset.checked_add(address.wrapping_sub(segment.address)))
        .ok_or_else(|| ProbeError::damaged("the dynamic strings lie in no segment"))?;
    let mut string = |at: u64| -> Result<String> {
        let start = offset.saturating_add(at);
        check_range("a dynamic string", start, 1, reader.len())?;
        let mut bytes = vec![0; (NAME_MAX as u64).min(size.saturating_sub(at)) as usize];
        let taken = reader.take_some(start, &mut bytes)?;
        Ok(name_at(&bytes[..taken], 0))
    };
    // In ascending order, for sources that only run forward.
    let mut wanted: Vec<(u64, u64)> =
        entries().filter(|(tag, _)| [DT_NEEDED, DT_SONAME].contains(tag)).collect();
    bound("needed libraries", wanted.len() as u64, NEEDED_MAX as u64)?;
    wanted.sort_by_key(|(_, at)| *at);
    for (tag, at) in wanted {
        let name = string(at)?;
        match tag {
            DT_SONAME => elf.soname = Some(name),
            _ => elf.needed.push(name),
        }
    }
    elf.needed.sort();
    Ok(())
}
