//! Facts from bytes. Nothing here judges, and nothing here believes a size before it has compared it with what is there.

pub(crate) mod source;
pub(crate) mod elf;
pub(crate) mod payload;
pub(crate) mod fatbin;
pub(crate) mod library;
pub(crate) mod zip;
pub(crate) mod python;
pub(crate) mod tree;
pub(crate) mod imports;
pub(crate) mod package;
pub(crate) mod site_packages;
pub(crate) mod zstd;
pub(crate) mod stream;
pub(crate) mod tar;
pub(crate) mod image;
pub(crate) mod requirements;
pub(crate) mod dockerfile;
pub(crate) mod text;
pub(crate) mod hash;
