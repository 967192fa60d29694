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

/// The largest window that is taken memory for.
const ZSTD_WINDOW_MAX: u64 = 64 << 20;

fn zstd_prefix(packed: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    if zstd_window(packed).is_none_or(|window| window > ZSTD_WINDOW_MAX) {
        return out;
    }
    if let Ok(decoder) = StreamingDecoder::new(packed) {
        // What came before an error is kept: the packed bytes may be cut off.
        let _ = decoder.take(size as u64).read_to_end(&mut out);
    }
    out
}

/// Memory that a frame asks for: RFC 8878, 3.1.1.1.
fn zstd_window(packed: &[u8]) -> Option<u64> {
    let descriptor = *packed.get(4)?;
    if descriptor & 0x20 == 0 {
        let byte = u64::from(*packed.get(5)?);
        let base = 1u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // One segment: the window is the content.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let mut content = [0; 8];
    content[..size].copy_from_slice(packed.get(5 + dictionary..5 + dictionary + size)?);
    Some(u64::from_le_bytes(content))
}

#[cfg(test)]
mod tests {
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
    fn a_zstd_frame_that_asks_for_much_memory_is_left_alone() {
        let huge = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 1, 0, 0];
        assert!(zstd_window(&huge).unwrap() > ZSTD_WINDOW_MAX);
        assert!(zstd_prefix(&huge, 64).is_empty());
    }
}
