//! One safetensors file of the artefact, written without ever holding more than one tensor's codes.
//!
//! The header comes first in the file but depends on what is written: the length of a quant_state is known only when its
//! tensor has been quantized. So room is left for the longest header there can be, which is filled with spaces, as the
//! format allows; the quant_states come last.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use quant::{Absmax, Dtype, PackedTensor, QuantConfig, Values};
use serde_json::json;

use super::plan::{Item, ShardPlan};
use crate::bitsandbytes::{QuantState, quant_state_name};
use crate::pack::Packer;
use crate::{ModelError, Result};

/// Elements read at a time: a multiple of every blocksize.
const CHUNK: usize = 1 << 22;

/// No quant_state is longer: the numbers in it have at most 20 digits each, the shape at most 3 of them.
const MAX_QUANT_STATE: usize = 512;

/// Writes the file and has it on disk when this returns; gives its length in bytes. `progress` is told of bytes of the
/// source as they are read, and of the tensor they belong to.
pub(super) fn write(
    shard: &ShardPlan,
    path: &Path,
    progress: &mut dyn FnMut(u64, &str),
) -> Result<u64> {
    let slots: Vec<Vec<Slot>> = shard.items.iter().map(slots).collect();
    let mut writer = Writer::create(path, lay_out(slots))?;
    let mut source = Source::default();
    for (index, item) in shard.items.iter().enumerate() {
        match item.quant {
            None => writer.copy(index, item, &mut source, progress)?,
            Some(config) => {
                let packed = pack(item, config, &mut source, progress)?;
                writer.put_packed(index, item, &packed)?;
            }
        }
    }
    writer.finish()
}

/// A tensor of the file.
#[derive(Debug, Clone)]
struct Slot {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    num_bytes: usize,
    /// Larger elements come first, so that each is aligned.
    element_size: usize,
    /// Where it begins, counted from the end of the header.
    begin: usize,
}

impl Slot {
    fn new(name: String, dtype: &'static str, shape: Vec<usize>, element_size: usize) -> Self {
        let num_bytes = shape.iter().product::<usize>() * element_size;
        Slot { name, dtype, shape, num_bytes, element_size, begin: 0 }
    }

    fn entry(&self) -> serde_json::Value {
        let offsets = [self.begin, self.begin + self.num_bytes];
        json!({ "dtype": self.dtype, "shape": self.shape, "data_offsets": offsets })
    }
}

/// The tensors of one parameter, save the quant_state, in the order in which [`arrays`] gives their contents.
fn slots(item: &Item) -> Vec<Slot> {
    let Some(quant) = item.quant else {
        let dtype = match item.dtype {
            Dtype::Bf16 => "BF16",
            Dtype::F16 => "F16",
            Dtype::F32 => "F32",
        };
        return vec![Slot::new(item.name.clone(), dtype, item.shape.clone(), item.dtype.size())];
    };
    let name = |companion: &str| format!("{}.{companion}", item.name);
    let num_blocks = item.len().div_ceil(quant.blocksize);
    let codes = Slot::new(item.name.clone(), "U8", vec![item.len().div_ceil(2), 1], 1);
    let quant_map = Slot::new(name("quant_map"), "F32", vec![16], 4);
    if !quant.double_quant {
        return vec![codes, quant_map, Slot::new(name("absmax"), "F32", vec![num_blocks], 4)];
    }
    let num_nested = num_blocks.div_ceil(quant::NESTED_BLOCKSIZE);
    vec![
        codes,
        quant_map,
        Slot::new(name("absmax"), "U8", vec![num_blocks], 1),
        Slot::new(name("nested_absmax"), "F32", vec![num_nested], 4),
        Slot::new(name("nested_quant_map"), "F32", vec![256], 4),
    ]
}

/// The contents of the slots of a quantized parameter.
fn arrays(packed: &PackedTensor) -> Vec<Vec<u8>> {
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let quant_map = bytes(packed.quant_type.code());
    match &packed.absmax {
        Absmax::Plain(absmax) => vec![quant_map, bytes(absmax)],
        Absmax::Nested { codes, map, nested_absmax, .. } => {
            vec![quant_map, codes.to_vec(), bytes(nested_absmax), bytes(&map[..])]
        }
    }
}

/// Gives every slot its place: the largest elements first.
fn lay_out(mut slots: Vec<Vec<Slot>>) -> Vec<Vec<Slot>> {
    let mut order: Vec<&mut Slot> = slots.iter_mut().flatten().collect();
    order.sort_by_key(|slot| std::cmp::Reverse(slot.element_size));
    let mut end = 0;
    for slot in order {
        slot.begin = end;
        end += slot.num_bytes;
    }
    slots
}

struct Writer {
    file: File,
    path: PathBuf,
    /// By parameter.
    slots: Vec<Vec<Slot>>,
    /// Room for the JSON of the header, in bytes.
    header_len: usize,
    /// Name and content of each quant_state.
    quant_states: Vec<(String, String)>,
    /// End of the slots, counted from the end of the header.
    data_len: usize,
}

impl Writer {
    fn create(path: &Path, slots: Vec<Vec<Slot>>) -> Result<Self> {
        let file = File::create(path).map_err(ModelError::io("create", path))?;
        let data_len = slots.iter().flatten().map(|slot| slot.begin + slot.num_bytes).max();
        let mut writer = Writer {
            file,
            path: path.to_owned(),
            header_len: 0,
            quant_states: Vec::new(),
            data_len: data_len.unwrap_or(0),
            slots,
        };
        // The longest header: every parameter with the longest quant_state.
        let names = writer.slots.iter().filter_map(|slots| slots.first().map(|slot| &slot.name));
        let longest = names.map(|name| {
            let name = quant_state_name(name, quant::QuantType::Nf4);
            (name, " ".repeat(MAX_QUANT_STATE))
        });
        let longest: Vec<_> = longest.collect();
        writer.header_len = writer.header(&longest).len().next_multiple_of(8);
        Ok(writer)
    }

    /// The header with these quant_states at the end.
    fn header(&self, quant_states: &[(String, String)]) -> String {
        let mut entries = serde_json::Map::new();
        entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        for slot in self.slots.iter().flatten() {
            entries.insert(slot.name.clone(), slot.entry());
        }
        let mut end = self.data_len;
        for (name, text) in quant_states {
            let offsets = [end, end + text.len()];
            end = offsets[1];
            let shape = [text.len()];
            let entry = json!({ "dtype": "U8", "shape": shape, "data_offsets": offsets });
            entries.insert(name.clone(), entry);
        }
        serde_json::Value::Object(entries).to_string()
    }

    fn write_at(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        let at = SeekFrom::Start(offset as u64);
        let written = self.file.seek(at).and_then(|_| self.file.write_all(bytes));
        written.map_err(ModelError::io("write", &self.path))
    }

    fn write_data(&mut self, begin: usize, bytes: &[u8]) -> Result<()> {
        self.write_at(8 + self.header_len + begin, bytes)
    }

    fn copy(
        &mut self,
        index: usize,
        item: &Item,
        source: &mut Source,
        progress: &mut dyn FnMut(u64, &str),
    ) -> Result<()> {
        let mut begin = self.slots[index][0].begin;
        source.read(item, |chunk| {
            self.write_data(begin, chunk)?;
            begin += chunk.len();
            progress(chunk.len() as u64, &item.name);
            Ok(())
        })
    }

    fn put_packed(&mut self, index: usize, item: &Item, packed: &PackedTensor) -> Result<()> {
        let begins: Vec<usize> = self.slots[index].iter().map(|slot| slot.begin).collect();
        self.write_data(begins[0], &packed.packed)?;
        for (begin, bytes) in begins[1..].iter().zip(arrays(packed)) {
            self.write_data(*begin, &bytes)?;
        }
        let dtype = match item.dtype {
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
            Dtype::F32 => "float32",
        };
        let name = quant_state_name(&item.name, packed.quant_type);
        self.quant_states.push((name, QuantState::to_json(packed, dtype)));
        Ok(())
    }

    fn finish(mut self) -> Result<u64> {
        let quant_states = std::mem::take(&mut self.quant_states);
        let mut header = self.header(&quant_states).into_bytes();
        let text: String = quant_states.into_iter().map(|(_, text)| text).collect();
        self.write_data(self.data_len, text.as_bytes())?;
        self.write_at(0, &(self.header_len as u64).to_le_bytes())?;
        // Not by a formatting width, which ends at 65,535.
        header.resize(self.header_len, b' ');
        self.write_at(8, &header)?;
        self.file.sync_all().map_err(ModelError::io("write", &self.path))?;
        Ok((8 + self.header_len + self.data_len + text.len()) as u64)
    }
}

/// Quantizes one parameter as its bytes come in.
fn pack(
    item: &Item,
    config: QuantConfig,
    source: &mut Source,
    progress: &mut dyn FnMut(u64, &str),
) -> Result<PackedTensor> {
    let error = |e| ModelError::quant(&item.file, &item.name)(e);
    let mut packer = Packer::new(&item.shape, config).map_err(error)?;
    source.read(item, |chunk| {
        let values = Values::from_le_bytes(item.dtype, chunk).map_err(error)?;
        packer.push(values).map_err(error)?;
        progress(chunk.len() as u64, &item.name);
        Ok(())
    })?;
    packer.finish().map_err(error)
}

/// Reads the source piece by piece, keeping the last file open.
#[derive(Default)]
struct Source {
    open: Option<(PathBuf, File)>,
    buffer: Vec<u8>,
}

impl Source {
    /// Hands the bytes of a parameter to `take`, [`CHUNK`] elements at a time.
    fn read(&mut self, item: &Item, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let failed = || ModelError::io("read", &item.file);
        if self.open.as_ref().is_none_or(|(path, _)| *path != item.file) {
            let file = File::open(&item.file).map_err(failed())?;
            self.open = Some((item.file.clone(), file));
        }
        let Some((_, file)) = &mut self.open else { return Ok(()) };
        file.seek(SeekFrom::Start(item.bytes.start as u64)).map_err(failed())?;
        let mut left = item.bytes.len();
        while left > 0 {
            self.buffer.resize(left.min(CHUNK * item.dtype.size()), 0);
            file.read_exact(&mut self.buffer).map_err(failed())?;
            left -= self.buffer.len();
            take(&self.buffer)?;
        }
        Ok(())
    }
}
