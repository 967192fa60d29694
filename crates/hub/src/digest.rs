//! Digests of files: SHA-256 of what lies in large-file storage, git's own of the rest.

use std::fmt::Write;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::listing::Digest;

/// Takes a file's bytes in order.
pub(crate) struct Hasher(Context);

impl Hasher {
    /// For a file of `len` bytes.
    pub(crate) fn new(digest: &Digest, len: u64) -> Self {
        match digest {
            Digest::Sha256(_) => Hasher(Context::new(&SHA256)),
            // git hashes `blob`, the length and a zero before the content; that it is SHA-1 is not ours to choose.
            Digest::GitBlob(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {len}\0").as_bytes());
                Hasher(context)
            }
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// In hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        self.0.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
            // A String takes everything.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_sha256sum() {
        let check = |digest: Digest, content: &[u8]| {
            let mut hasher = Hasher::new(&digest, content.len() as u64);
            content.chunks(3).for_each(|chunk| hasher.update(chunk));
            assert_eq!(hasher.finish(), digest.id());
        };
        // `git hash-object` and `sha256sum` of the same bytes.
        check(Digest::GitBlob("ce013625030ba8dba906f756967f9e9ca394464a".into()), b"hello\n");
        check(Digest::GitBlob("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391".into()), b"");
        let hello = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        check(Digest::Sha256(hello.into()), b"hello\n");
    }
}
