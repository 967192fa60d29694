//! The first bytes of a compressed payload: enough to tell what it is, whatever size it claims.

use std::io::Read;

use ruzstd::decoding::StreamingDecoder;

/// How a payload of a fatbin is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Packing {
    Plain,
    Lz4,
    Zstd,
}

impl Packing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Packing::Plain => "none",
            Packing::Lz4 => "lz4",
            Packing::Zstd => "zstd",
        }
    }

    /// At most `size` of the first unpacked bytes, out of the first packed ones. Damage ends them early.
    pub(crate) fn prefix(self, packed: &[u8], size: usize) -> Vec<u8> {
        match self {
            Packing::Plain => packed[..packed.len().min(size)].to_vec(),
            Packing::Lz4 => lz4_prefix(packed, size),
            Packing::Zstd => zstd_prefix(packed, size),
        }
    }
}

/// The block format: literals, then a copy of earlier output, by turns. See the format's description, `lz4_Block_format`.
fn lz4_prefix(packed: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = packed.iter().copied();
    let mut out = Vec::with_capacity(size);
    let mut next_sequence = || -> Option<()> {
        let token = bytes.next()?;
        for _ in 0..length(token >> 4, &mut bytes)? {
            out.push(bytes.next()?);
            if out.len() == size {
                return None;
            }
        }
        let distance = usize::from(u16::from_le_bytes([bytes.next()?, bytes.next()?]));
        let start = out.len().checked_sub(distance).filter(|_| distance > 0)?;
        for at in 0..length(token & 15, &mut bytes)? + 4 {
            out.push(out[start + at]);
            if out.len() == size {
                return None;
            }
        }
        Some(())
    };
    while next_sequence().is_some() {}
    out
}

/// A length of 15 goes on in the bytes that follow, up to one that is not 255.
fn length(first: u8, bytes: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut length = usize::from(first);
    if first == 15 {
        loop {
            let more = bytes.next()?;
            length += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}

/// The first block of a frame, made a frame of its own: a decoder gives nothing before a frame ends or its window is full, and
/// that of a whole payload is the payload. RFC 8878, 3.1.1.
fn zstd_prefix(packed: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    let Some(frame) = first_block(packed) else { return out };
    if let Ok(decoder) = StreamingDecoder::new(&frame[..]) {
        // What came before an error is kept: the packed bytes may be cut off.
        let _ = decoder.take(size as u64).read_to_end(&mut out);
    }
    out
}

/// The most that a block unpacks to (RFC 8878, 3.1.1.2.4), which is as large a window as its own frame needs, and its code.
const ZSTD_BLOCK_MAX: usize = 128 << 10;
const ZSTD_BLOCK_WINDOW: u8 = (17 - 10) << 3;

/// A frame of the first block alone; `None` if these are not the first bytes of a frame.
fn first_block(packed: &[u8]) -> Option<Vec<u8>> {
    let (magic, rest) = packed.split_at_checked(4)?;
    let (&descriptor, rest) = rest.split_first()?;
    let is_single_segment = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = match descriptor >> 6 {
        0 => usize::from(is_single_segment),
        code => 1 << code,
    };
    let window = usize::from(!is_single_segment);
    let rest = rest.get(window + dictionary + content..)?;
    let &[first, second, third, ..] = rest else { return None };
    let header = u32::from_le_bytes([first, second, third, 0]);
    let len = (header >> 3) as usize;
    // A block of one byte, so many times, holds that byte alone.
    let held = if header >> 1 & 3 == 1 { 1 } else { len };
    if len > ZSTD_BLOCK_MAX {
        return None;
    }
    let block = &rest[3..rest.len().min(3 + held)];
    // No checksum, no dictionary, no size; and the bit that says it is the last block.
    let start = [magic, &[0, ZSTD_BLOCK_WINDOW, first | 1, second, third]].concat();
    Some([&start, block].concat())
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    #[test]
    fn lz4_literals_and_copies() {
        // "abc", a copy of 6 from 3 back, and "d": by hand from the format's description.
        let packed = [0x32, b'a', b'b', b'c', 3, 0, 0x10, b'd'];
        assert_eq!(lz4_prefix(&packed, 100), b"abcabcabcd");
        assert_eq!(lz4_prefix(&packed, 5), b"abcab");
        assert_eq!(lz4_prefix(&packed[..2], 100), b"a");
    }

    #[test]
    fn lz4_that_points_before_its_start_ends() {
        assert_eq!(lz4_prefix(&[0x12, b'a', 9, 0], 100), b"a");
        assert_eq!(lz4_prefix(&[0x12, b'a', 0, 0], 100), b"a");
        assert_eq!(lz4_prefix(&[0xf0, 255, 255, 255], 100), b"");
    }

    #[test]
    fn of_a_zstd_frame_the_first_block_is_enough() {
        let content: Vec<u8> = (0..1_000_000_u32).flat_map(|i| (i % 1000).to_le_bytes()).collect();
        for level in [CompressionLevel::Uncompressed, CompressionLevel::Fastest] {
            let frame = compress_to_vec(&content[..], level);
            for len in [200 << 10, frame.len()] {
                let packed = &frame[..len.min(frame.len())];
                assert_eq!(zstd_prefix(packed, 100), content[..100]);
            }
            for len in 0..20 {
                assert!(zstd_prefix(&frame[..len], 100).is_empty());
            }
        }
        let short = compress_to_vec(&b"short"[..], CompressionLevel::Fastest);
        assert_eq!(zstd_prefix(&short, 100), b"short");
        // One byte, five times (an RLE block), in a frame of one segment with a size of one byte.
        let same = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 5, 0x2b, 0, 0, b'x'];
        assert_eq!(zstd_prefix(&same, 100), b"xxxxx");
    }

    #[test]
    fn a_zstd_frame_that_asks_for_much_memory_gets_a_block() {
        let huge = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 1, 0, 0];
        assert!(zstd_prefix(&huge, 64).is_empty());
    }
}
