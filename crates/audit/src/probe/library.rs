//! A shared library as a whole: its outline, and the GPU code of all its sections.

use std::collections::{BTreeMap, BTreeSet};

use super::elf::{self, Section};
use super::fatbin::{self, Code, Container, Entry};
use super::payload::Packing;
use super::source::{Reader, Source};
use crate::error::{ProbeError, Result};
use crate::facts::{CodeKind, Combination, DeviceCode, Library, Linking, Target};
use crate::limits::Budget;

/// Where the linker puts containers, and where those of the objects stay.
const FATBIN: &str = ".nv_fatbin";
const RELOCATABLE_FATBIN: &str = "__nv_relfatbin";
/// Containers of one library.
const CONTAINERS_MAX: u64 = 1_000_000;
/// Different sets of targets in containers of one library.
const COMBINATIONS_MAX: usize = 1_000;

/// Reads a library. Damage within it does not undo what was read before: it stands in [`Library::damage`].
///
/// # Errors
///
/// When it is not an ELF file, or a bound of the whole audit is reached.
pub(crate) fn read(path: &str, source: &mut dyn Source, budget: &Budget) -> Result<Library> {
    let size = source.len();
    let mut reader = Reader::new(source, budget);
    let elf = elf::read(&mut reader)?;
    let mut tally = Tally::default();
    let mut damage = None;
    for section in searched(&elf.sections) {
        let end = section.offset.checked_add(section.size).filter(|end| *end <= size);
        let Some(end) = end else {
            let name = &section.name;
            damage = Some(format!("section {name} reaches beyond the end of the file"));
            continue;
        };
        let linking = match section.name.as_str() {
            RELOCATABLE_FATBIN => Linking::Relocatable,
            _ => Linking::Linked,
        };
        let mut add = |found| tally.add(linking, &found);
        let result = fatbin::scan(&mut reader, section.offset, end, &mut add);
        match result {
            Ok(()) => {}
            Err(error @ ProbeError::TooMuch { .. }) => return Err(error),
            Err(error) => damage = Some(error.to_string()),
        }
    }
    Ok(Library {
        path: path.to_owned(),
        size,
        soname: elf.soname,
        needed: elf.needed,
        combinations: tally.combinations(),
        device_code: tally.device_code(),
        damage,
    })
}

/// Sections that may hold containers, in the order of the file: those made for them, and data, in which some libraries hide them.
/// Instructions may hold the magic number as a constant.
fn searched(sections: &[Section]) -> Vec<&Section> {
    let may = |section: &&Section| {
        let named = [FATBIN, RELOCATABLE_FATBIN].contains(&section.name.as_str());
        section.in_file && (named || section.allocated && !section.executable)
    };
    let mut found: Vec<&Section> = sections.iter().filter(may).collect();
    found.sort_by_key(|section| section.offset);
    found
}

type Key = (CodeKind, Target);

#[derive(Default)]
struct Tally {
    containers: u64,
    codes: BTreeMap<(Linking, Key), Count>,
    combinations: BTreeMap<(Linking, BTreeSet<Key>), u64>,
}

#[derive(Default)]
struct Count {
    entries: u64,
    bytes: u64,
    packing: BTreeSet<Packing>,
    offset: u64,
    ptx_version: Option<(u32, u32)>,
    cuda: Option<String>,
}

impl Tally {
    fn add(&mut self, linking: Linking, container: &Container) -> Result<()> {
        let keyed = container.entries.iter().filter_map(|entry| match &entry.code {
            Code::Cubin(target) => Some(((CodeKind::Cubin, *target), entry)),
            Code::Ptx { target, .. } => Some(((CodeKind::Ptx, *target), entry)),
            Code::Other(_) => None,
        });
        let mut targets = BTreeSet::new();
        for (key, entry) in keyed {
            self.codes.entry((linking, key)).or_default().add(entry);
            targets.insert(key);
        }
        if targets.is_empty() {
            return Ok(());
        }
        *self.combinations.entry((linking, targets)).or_default() += 1;
        self.containers += 1;
        let too_much = |what, max| Err(ProbeError::TooMuch { what, max });
        if self.containers > CONTAINERS_MAX {
            return too_much("containers", CONTAINERS_MAX);
        }
        if self.combinations.len() > COMBINATIONS_MAX {
            return too_much("sets of targets in a library", COMBINATIONS_MAX as u64);
        }
        Ok(())
    }

    fn device_code(self) -> Vec<DeviceCode> {
        let code = |((linking, (kind, target)), count): ((Linking, Key), Count)| DeviceCode {
            linking,
            kind,
            target: DeviceCode::name(kind, target),
            entries: count.entries,
            bytes: count.bytes,
            packing: count.packing.iter().map(|packing| packing.name().to_owned()).collect(),
            offset: count.offset,
            ptx_version: count.ptx_version.map(|(major, minor)| format!("{major}.{minor}")),
            cuda: count.cuda,
        };
        self.codes.into_iter().map(code).collect()
    }

    fn combinations(&self) -> Vec<Combination> {
        let combination = |((linking, targets), containers): (&(Linking, BTreeSet<Key>), &u64)| {
            let targets = targets.iter().map(|(kind, target)| DeviceCode::name(*kind, *target));
            Combination { linking: *linking, targets: targets.collect(), containers: *containers }
        };
        self.combinations.iter().map(combination).collect()
    }
}

impl Count {
    fn add(&mut self, entry: &Entry) {
        if self.entries == 0 {
            self.offset = entry.offset;
        }
        self.entries += 1;
        self.bytes += entry.size;
        self.packing.insert(entry.packing);
        if let Code::Ptx { version, cuda, .. } = &entry.code {
            self.ptx_version = self.ptx_version.max(Some(*version));
            if self.cuda.is_none() {
                self.cuda.clone_from(cuda);
            }
        }
    }
}
