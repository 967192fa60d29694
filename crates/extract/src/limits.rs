//! How much a document may take.

use serde::{Deserialize, Serialize};

/// Bounds for one document; what passes one is an error that says which, never a result cut short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Size of the file.
    pub bytes_max: usize,
    /// Pages, sheets, slides and messages.
    pub pages_max: usize,
    /// Words of all pages.
    pub words_max: usize,
    /// Pixels of an image, before it is unpacked.
    pub pixels_max: u64,
    /// How deep messages and archives may lie in each other.
    pub depth_max: usize,
    /// Bytes that compressed parts of a file may unpack to, together.
    pub unpacked_bytes_max: u64,
    /// Wall-clock seconds for the document, kept by the process that waits for a worker.
    pub seconds_max: u64,
    /// Address space of a worker in bytes.
    pub memory_bytes_max: u64,
}

impl Default for Limits {
    /// 25 MB, 500 pages, two million words, two minutes, 2 GiB.
    fn default() -> Limits {
        Limits {
            bytes_max: 25_000_000,
            pages_max: 500,
            words_max: 2_000_000,
            pixels_max: 120_000_000,
            depth_max: 4,
            unpacked_bytes_max: 512 << 20,
            seconds_max: 120,
            memory_bytes_max: 2 << 30,
        }
    }
}
