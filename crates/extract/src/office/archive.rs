//! Members of a ZIP archive, unpacked within a budget. No size that the archive states is believed.

use std::io::{Cursor, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use super::damaged;
use crate::error::ErrorKind;
use crate::{Format, Limits};

/// Most members of an archive.
const MAX_MEMBERS: usize = 20_000;

/// An Office file.
pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    format: Format,
    /// Bytes that may still be unpacked.
    left: u64,
    limit: u64,
}

impl<'a> Archive<'a> {
    pub(super) fn open(
        bytes: &'a [u8],
        format: Format,
        limits: &Limits,
    ) -> Result<Self, ErrorKind> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| damaged(format, error))?;
        if zip.len() > MAX_MEMBERS {
            return Err(ErrorKind::over("members of the archive", zip.len(), MAX_MEMBERS));
        }
        let limit = limits.unpacked_bytes_max;
        Ok(Archive { zip, format, left: limit, limit })
    }

    /// A member as text; `None` if the archive has none of that name.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ErrorKind> {
        let (format, limit) = (self.format, self.limit);
        let mut member = match self.zip.by_name(name) {
            Ok(member) => member,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(ZipError::UnsupportedArchive(_)) => return Err(ErrorKind::Encrypted),
            Err(error) => return Err(damaged(format, error)),
        };
        let mut bytes = Vec::new();
        let mut bounded = (&mut member).take(self.left + 1);
        bounded
            .read_to_end(&mut bytes)
            .map_err(|error| damaged(format, format!("{name}: {error}")))?;
        let len = bytes.len() as u64;
        if len > self.left {
            return Err(over(limit));
        }
        self.left -= len;
        Ok(Some(super::decode(&bytes).0))
    }

    /// Names of all members.
    pub(super) fn names(&self) -> Vec<String> {
        self.zip.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect()
    }

    /// Unpacks everything to nowhere, for readers that unpack without a bound.
    pub(super) fn measure(&mut self) -> Result<(), ErrorKind> {
        for index in 0..self.zip.len() {
            let (format, limit) = (self.format, self.limit);
            let mut member = match self.zip.by_index(index) {
                Ok(member) => member,
                Err(ZipError::UnsupportedArchive(_)) => return Err(ErrorKind::Encrypted),
                Err(error) => return Err(damaged(format, error)),
            };
            let mut bounded = (&mut member).take(self.left + 1);
            let unpacked = std::io::copy(&mut bounded, &mut std::io::sink());
            let unpacked = unpacked.map_err(|error| damaged(format, error))?;
            if unpacked > self.left {
                return Err(over(limit));
            }
            self.left -= unpacked;
        }
        Ok(())
    }
}

fn over(limit: u64) -> ErrorKind {
    ErrorKind::OverLimit { what: "unpacked bytes".to_owned(), found: limit + 1, limit }
}
