//! Tar archives, as layers of images are: members one after the other, from anything that runs forward. POSIX.1-2001 (pax) and GNU's
//! long names; every size is bounded before memory is taken for it.

use std::collections::BTreeMap;

use super::stream::Stream;
use crate::error::{ProbeError, Result};

const BLOCK: usize = 512;
/// Long names and extended headers are not larger.
const EXTENDED_MAX: u64 = 1 << 20;
/// Headers that stand before one member.
const EXTENSIONS_MAX: usize = 64;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    SymbolicLink,
    Folder,
    Other,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Without a slash at its beginning or end, and without parts that lead upwards.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    /// Where a link leads, as it was written.
    pub(crate) link: String,
    /// Of the contents, in the archive.
    pub(crate) offset: u64,
}

/// An archive that is read from its beginning on.
pub(crate) struct Archive<S> {
    stream: S,
    position: u64,
    /// Where the next header stands.
    next: u64,
    members: usize,
    members_max: usize,
}

impl<S: Stream> Archive<S> {
    pub(crate) fn new(stream: S, members_max: usize) -> Archive<S> {
        Archive { stream, position: 0, next: 0, members: 0, members_max }
    }

    /// The next member whose name stays inside; `None` at the end.
    ///
    /// # Errors
    ///
    /// When a header is damaged, the archive is cut off, or has too many members.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        loop {
            let Some(mut member) = self.header()? else { return Ok(None) };
            self.members += 1;
            if self.members > self.members_max {
                let max = self.members_max as u64;
                return Err(ProbeError::TooMuch { what: "members of an archive", max });
            }
            if let Some(name) = plain(&member.name) {
                member.name = name;
                return Ok(Some(member));
            }
        }
    }

    /// Reads the contents of the member that came last, or the rest of them; 0 at their end.
    pub(crate) fn read(&mut self, member: &Member, buffer: &mut [u8]) -> Result<usize> {
        let left = (member.offset + member.size).saturating_sub(self.position);
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let read = self.stream.read(&mut buffer[..want])?;
        if read == 0 {
            return Err(ProbeError::damaged(format!("the archive ends within {}", member.name)));
        }
        self.position += read as u64;
        Ok(read)
    }

    /// Fills the buffer with the contents of the member that came last, from where they were read to.
    ///
    /// # Errors
    ///
    /// When there are fewer.
    pub(crate) fn fill_from(&mut self, member: &Member, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read(member, &mut buffer[done..])? {
                0 => {
                    return Err(ProbeError::damaged(format!(
                        "{} is shorter than it says",
                        member.name
                    )));
                }
                read => done += read,
            }
        }
        Ok(())
    }

    /// A header with what stands before it; its member may be called anything.
    fn header(&mut self) -> Result<Option<Member>> {
        let mut long = BTreeMap::<&str, String>::new();
        for _ in 0..EXTENSIONS_MAX {
            let Some(block) = self.block()? else { return Ok(None) };
            let mut member = parse(&block)?;
            member.offset = self.position;
            let extended = self.position.checked_add(member.size.next_multiple_of(BLOCK as u64));
            self.next = extended.ok_or_else(|| {
                ProbeError::damaged("a member of an archive claims a size without end")
            })?;
            match block[156] {
                b'L' => drop(long.insert("path", self.text(&member)?)),
                b'K' => drop(long.insert("linkpath", self.text(&member)?)),
                b'x' => {
                    let text = self.text(&member)?;
                    for name in ["path", "linkpath", "size"] {
                        long.extend(pax(&text, name).map(|value| (name, value)));
                    }
                }
                b'g' => {}
                b'S' => {
                    self.sparse(&block)?;
                    member.kind = Kind::Other;
                    return Ok(Some(member));
                }
                _ => return self.finish(member, long).map(Some),
            }
        }
        Err(ProbeError::TooMuch {
            what: "extended headers of a member",
            max: EXTENSIONS_MAX as u64,
        })
    }

    fn finish(&mut self, mut member: Member, mut long: BTreeMap<&str, String>) -> Result<Member> {
        if let Some(size) = long.remove("size").filter(|_| member.kind == Kind::File) {
            let wrong = || ProbeError::damaged(format!("`{size}` is no size of a member"));
            member.size = size.parse().map_err(|_| wrong())?;
            let end = member.size.checked_next_multiple_of(BLOCK as u64);
            self.next = end.and_then(|end| end.checked_add(member.offset)).ok_or_else(wrong)?;
        }
        member.name = long.remove("path").unwrap_or(member.name);
        member.link = long.remove("linkpath").unwrap_or(member.link);
        Ok(member)
    }

    /// GNU's sparse files have more blocks of header; what such a file holds is not read.
    fn sparse(&mut self, block: &[u8; BLOCK]) -> Result<()> {
        let mut more = block[482] != 0;
        while more {
            let mut extension = [0; BLOCK];
            self.fill(&mut extension)?;
            self.next += BLOCK as u64;
            more = extension[504] != 0;
        }
        Ok(())
    }

    /// The next header's block; `None` at the end, which is a block of zeros, or no block.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let gap = self.next - self.position;
        self.stream.skip(gap)?;
        self.position = self.next;
        let mut block = [0; BLOCK];
        let mut done = 0;
        while done < BLOCK {
            let read = self.stream.read(&mut block[done..])?;
            if read == 0 && done == 0 {
                return Ok(None);
            }
            if read == 0 {
                return Err(ProbeError::damaged("the archive ends within a header"));
            }
            done += read;
        }
        self.position += BLOCK as u64;
        self.next = self.position;
        Ok((block != [0; BLOCK]).then_some(block))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let read = self.stream.read(&mut buffer[done..])?;
            if read == 0 {
                return Err(ProbeError::damaged("the archive ends within a header"));
            }
            done += read;
        }
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn text(&mut self, member: &Member) -> Result<String> {
        if member.size > EXTENDED_MAX {
            return Err(ProbeError::TooMuch {
                what: "bytes in an extended header",
                max: EXTENDED_MAX,
            });
        }
        let mut bytes = vec![0; member.size as usize];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
    }
}

/// Whether these are the first 512 bytes of an archive.
pub(crate) fn is_tar(head: &[u8]) -> bool {
    head.len() >= BLOCK && &head[257..262] == b"ustar" && parse_block(head).is_ok()
}

fn parse_block(head: &[u8]) -> Result<Member> {
    let block = head.first_chunk::<BLOCK>().ok_or_else(|| ProbeError::damaged("no header"))?;
    parse(block)
}

fn parse(block: &[u8; BLOCK]) -> Result<Member> {
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
        .sum();
    if octal(&block[148..156]) != Some(sum) {
        return Err(ProbeError::damaged("a header of the archive has a wrong checksum"));
    }
    let text = |range: std::ops::Range<usize>| {
        let bytes = &block[range];
        let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    let prefix = if &block[257..263] == b"ustar\0" { text(345..500) } else { String::new() };
    let name = if prefix.is_empty() { text(0..100) } else { format!("{prefix}/{}", text(0..100)) };
    let kind = match block[156] {
        b'0' | b'7' | 0 => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::SymbolicLink,
        b'5' => Kind::Folder,
        _ => Kind::Other,
    };
    let size = match block[156] {
        // Links carry the size of what they lead to in some archives; there are no contents.
        b'1'..=b'6' => 0,
        _ => octal(&block[124..136])
            .ok_or_else(|| ProbeError::damaged(format!("{name} has no size")))?,
    };
    Ok(Member { name, kind, size, link: text(157..257), offset: 0 })
}

/// Octal digits, or with the highest bit set a number of bytes.
fn octal(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        let plain = high.iter().skip(1).all(|byte| *byte == 0)
            && high.first().is_none_or(|byte| *byte == 0x80);
        return plain.then(|| low.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches(['\0', ' ']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// A value of an extended header, whose lines are `LENGTH NAME=VALUE`; the last of several counts.
fn pax(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    let mut found = None;
    while let Some((length, _)) = rest.split_once(' ') {
        let length: usize = length.parse().ok().filter(|length| *length > 0)?;
        let line = rest.get(..length)?;
        let (key, value) = line.split_once(' ')?.1.trim_end_matches('\n').split_once('=')?;
        if key == name {
            found = Some(value.to_owned());
        }
        rest = &rest[length..];
    }
    found
}

/// A name without what stands for "here"; `None` if it leads upwards, or is no name.
pub(crate) fn plain(name: &str) -> Option<String> {
    let parts: Vec<&str> =
        name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_two_notations() {
        assert_eq!(octal(b"00000001750\0"), Some(1000));
        assert_eq!(octal(&[0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]), Some(1 << 32));
        assert_eq!(octal(b"9          \0"), None);
        assert_eq!(octal(&[0xff; 12]), None);
    }

    #[test]
    fn extended_headers() {
        let text = "12 path=a/b\n23 path=another/name/x\n13 size=1234\n";
        assert_eq!(pax(text, "path").as_deref(), Some("another/name/x"));
        assert_eq!(pax(text, "size").as_deref(), Some("1234"));
        assert_eq!(pax("99 path=x\n", "path"), None);
        assert_eq!(pax("0 path=x\n", "path"), None);
    }

    #[test]
    fn names_stay_inside() {
        assert_eq!(plain("./usr//lib/").as_deref(), Some("usr/lib"));
        assert_eq!(plain("/etc/passwd").as_deref(), Some("etc/passwd"));
        assert_eq!((plain("a/../../b"), plain("./")), (None, None));
    }
}
