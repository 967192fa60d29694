//! Documents in, words with their places out. Every format becomes the same [`Document`]: pages of words in reading order,
//! each where it stands on the page, and blocks over them (headings, paragraphs, list items, tables). Markdown, text, CSV
//! and JSON are made from that alone.
//!
//! [`read()`] reads in this process. Nothing is fetched, and no model is asked.

mod document;
mod render;
mod read;
mod format;
mod office;
mod limits;
mod error;
pub mod values;
pub mod checks;
pub mod fields;

pub use document::{
    Block, Cell, Document, Metadata, Page, PageSource, Passage, Rect, Table, Warning, Word,
};
pub use error::{ErrorKind, ExtractError};
pub use format::Format;
pub use limits::Limits;
pub use read::{Input, Progress, read};
