//! zstd files: frames one after the other, some of which are to be skipped (layers in "zstd:chunked" have both).

use std::io::{self, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// The first of the sixteen magic numbers of frames to be skipped; RFC 8878, section 3.1.2.
const SKIPPABLE: u32 = 0x184d_2a50;

/// A reader that can take back four bytes.
struct Peeked<R> {
    head: [u8; 4],
    /// How many of them are still to be read, the last ones.
    left: usize,
    inner: R,
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return self.inner.read(buffer);
        }
        let size = self.left.min(buffer.len());
        let from = 4 - self.left;
        buffer[..size].copy_from_slice(&self.head[from..from + size]);
        self.left -= size;
        Ok(size)
    }
}

/// All frames of a file, unpacked.
pub(crate) struct Frames<R: Read> {
    state: State<R>,
}

enum State<R: Read> {
    Between(Peeked<R>),
    Within(Box<StreamingDecoder<Peeked<R>, FrameDecoder>>),
    End,
}

impl<R: Read> Frames<R> {
    pub(crate) fn new(inner: R) -> Self {
        Frames { state: State::Between(Peeked { head: [0; 4], left: 0, inner }) }
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, State::End) {
                State::End => return Ok(0),
                State::Between(reader) => self.state = begin(reader)?,
                State::Within(mut decoder) => {
                    let read = decoder.read(buffer)?;
                    if read > 0 {
                        self.state = State::Within(decoder);
                        return Ok(read);
                    }
                    self.state = State::Between(decoder.into_inner());
                }
            }
        }
    }
}

/// Begins the next frame, if there is one.
fn begin<R: Read>(mut reader: Peeked<R>) -> io::Result<State<R>> {
    let mut magic = [0; 4];
    let mut done = 0;
    while done < 4 {
        match reader.read(&mut magic[done..])? {
            0 if done == 0 => return Ok(State::End),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => done += read,
        }
    }
    if u32::from_le_bytes(magic) & !0xf == SKIPPABLE {
        let mut size = [0; 4];
        reader.read_exact(&mut size)?;
        let size = u64::from(u32::from_le_bytes(size));
        io::copy(&mut (&mut reader).take(size), &mut io::sink())?;
        return Ok(State::Between(reader));
    }
    (reader.head, reader.left) = (magic, 4);
    let decoder = StreamingDecoder::new(reader);
    let decoder =
        decoder.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok(State::Within(Box::new(decoder)))
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    #[test]
    fn frames_follow_each_other() {
        let frame = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
        let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let file =
            [skipped.clone(), frame(b"one "), skipped.clone(), frame(&[]), frame(b"two"), skipped]
                .concat();
        let mut text = String::new();
        Frames::new(&file[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
        let cut = &file[..file.len() - 20];
        assert!(Frames::new(cut).read_to_end(&mut Vec::new()).is_err());
        assert!(Frames::new(&b"none"[..]).read_to_end(&mut Vec::new()).is_err());
    }
}
