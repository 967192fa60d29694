//! The header of a safetensors file, checked before any byte of it is used.
//!
//! Eight bytes of length (little-endian), that much JSON, then the tensors without gaps:
//! <https://github.com/huggingface/safetensors#format>.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::{ModelError, Result};

/// Largest header that is read; the reference implementation has the same limit.
pub const MAX_HEADER_BYTES: usize = 100_000_000;

/// Most dimensions a tensor may have.
const MAX_RANK: usize = 8;

/// Element types that safetensors files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[allow(missing_docs, non_camel_case_types)]
pub enum Dtype {
    BOOL,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
}

impl Dtype {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        use Dtype::*;
        match self {
            BOOL | U8 | I8 | F8_E5M2 | F8_E4M3 | F8_E8M0 => 1,
            I16 | U16 | F16 | BF16 => 2,
            I32 | U32 | F32 => 4,
            I64 | U64 | F64 => 8,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Row-major shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Where its bytes lie, counted from the start of the file.
    pub bytes: Range<usize>,
}

/// Number of bytes of the JSON, from the first eight bytes of a file that is `file_len` bytes long.
pub fn header_len(prefix: &[u8], file_len: u64, file: &Path) -> Result<usize> {
    let prefix: Option<[u8; 8]> = prefix.get(..8).and_then(|bytes| bytes.try_into().ok());
    let Some(prefix) = prefix else {
        return Err(ModelError::malformed(
            file,
            format!("holds {file_len} bytes, too few for a safetensors file; fetch it again"),
        ));
    };
    let len = u64::from_le_bytes(prefix);
    if len > MAX_HEADER_BYTES as u64 {
        return Err(ModelError::malformed(
            file,
            format!("claims a header of {len} bytes, so it is no safetensors file"),
        ));
    }
    if len > file_len.saturating_sub(8) {
        return Err(ModelError::malformed(
            file,
            format!("ends at byte {file_len} within its header of {len} bytes; fetch it again"),
        ));
    }
    Ok(len as usize)
}

/// Reads and checks the header of a file, and nothing else of it.
pub fn read_header(path: &Path) -> Result<BTreeMap<String, TensorInfo>> {
    let failed = || ModelError::io("read", path);
    let file = File::open(path).map_err(failed())?;
    let file_len = file.metadata().map_err(failed())?.len();
    let mut start = Vec::new();
    (&file).take(8).read_to_end(&mut start).map_err(failed())?;
    let len = header_len(&start, file_len, path)?;
    (&file).take(len as u64).read_to_end(&mut start).map_err(failed())?;
    parse_header(&start, file_len, path)
}

/// Parses and checks the tensors of a file of `file_len` bytes. `start` is its beginning: the eight bytes of length and
/// at least the JSON. In the result every range lies within the file, fits its shape, and overlaps no other.
pub fn parse_header(
    start: &[u8],
    file_len: u64,
    file: &Path,
) -> Result<BTreeMap<String, TensorInfo>> {
    let len = header_len(start, file_len, file)?;
    let Some(json) = start.get(8..8 + len) else {
        return Err(ModelError::malformed(file, "its header is cut short; fetch it again"));
    };
    let Entries(entries) = serde_json::from_slice(json).map_err(|e| {
        ModelError::malformed(file, format!("the safetensors header is broken: {e}"))
    })?;
    let data = 8 + len..usize::try_from(file_len).unwrap_or(usize::MAX);
    let mut tensors = BTreeMap::new();
    for (name, entry) in entries {
        let info =
            entry.check(&data).map_err(|message| ModelError::tensor(file, &name, message))?;
        tensors.insert(name, info);
    }
    check_cover(&tensors, &data, file)?;
    Ok(tensors)
}

/// The tensors must fill the data section: no overlap, no gap, nothing after the last.
fn check_cover(
    tensors: &BTreeMap<String, TensorInfo>,
    data: &Range<usize>,
    file: &Path,
) -> Result<()> {
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| (info.bytes.start, info.bytes.end));
    let mut end = data.start;
    let mut last = "the header";
    for (name, info) in in_order {
        if info.bytes.start < end {
            return Err(ModelError::tensor(file, name, format!("overlaps {last}")));
        }
        if info.bytes.start > end {
            let gap = info.bytes.start - end;
            return Err(ModelError::tensor(
                file,
                name,
                format!("begins {gap} bytes after the end of {last}, but there may be no gap"),
            ));
        }
        end = info.bytes.end;
        last = name;
    }
    if end != data.end {
        return Err(ModelError::malformed(
            file,
            format!("has {} bytes that belong to no tensor; fetch it again", data.end - end),
        ));
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Entry {
    fn check(self, data: &Range<usize>) -> Result<TensorInfo, String> {
        let Entry { dtype, shape, data_offsets: (begin, end) } = self;
        if shape.len() > MAX_RANK {
            return Err(format!("has {} dimensions, more than {MAX_RANK}", shape.len()));
        }
        let num_bytes = shape
            .iter()
            .try_fold(dtype.size(), |product, &dim| product.checked_mul(dim))
            .ok_or_else(|| format!("shape {shape:?} is too large"))?;
        if begin > end || end > data.len() {
            return Err(format!(
                "lies at bytes {begin}…{end} of {}; the file is cut short or its header lies, \
                 fetch it again",
                data.len()
            ));
        }
        if end - begin != num_bytes {
            return Err(format!(
                "takes {} bytes, but {dtype} {shape:?} needs {num_bytes}",
                end - begin
            ));
        }
        Ok(TensorInfo { dtype, shape, bytes: data.start + begin..data.start + end })
    }
}

/// The entries in file order, each name once.
struct Entries(BTreeMap<String, Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor).map(Entries)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = BTreeMap<String, Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<BTreeMap<String, String>>()?;
                continue;
            }
            let entry = map.next_value()?;
            if entries.contains_key(&name) {
                return Err(A::Error::custom(format!("tensor `{name}` appears twice")));
            }
            entries.insert(name, entry);
        }
        Ok(entries)
    }
}
