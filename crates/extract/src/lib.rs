//! Documents in, words with their places out. Every format becomes the same [`Document`]: pages of words in reading order,
//! each where it stands on the page, and blocks over them (headings, paragraphs, list items, tables). Markdown, text, CSV
//! and JSON are made from that alone.
//!
//! [`read()`] reads in this process, [`Workers`] in processes of their own, which is the way for files of others. [`picture()`]
//! shows a page. Nothing is fetched, and no model is asked.

mod document;
mod render;
mod read;
mod pdf;
mod layout;
mod images;
mod ocr;
mod picture;
mod isolation;
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
pub use isolation::{WorkerCommand, Workers, serve_worker};
pub use limits::Limits;
pub use picture::{Picture, picture};
pub use read::{Input, Progress, read};
