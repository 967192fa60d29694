//! Rules of the repository that no compiler checks.

mod repository;
mod documents;
mod sources;
mod crates;
mod versions;
mod files;

use std::path::Path;

use anyhow::{Result, bail};

use repository::Repository;

/// Prints every place that breaks a rule, as `path:line: what`, and fails if there is one.
pub(crate) fn tidy(root: &Path) -> Result<()> {
    let repository = Repository::read(root)?;
    let rules = [documents::check, sources::check, crates::check, versions::check, files::check];
    let found: Vec<String> = rules.iter().flat_map(|check| check(&repository)).collect();
    for line in &found {
        println!("{line}");
    }
    if !found.is_empty() {
        bail!("tidy: {} places break a rule of xtask/src/tidy", found.len());
    }
    println!("tidy: {} files keep the rules", repository.len());
    Ok(())
}
