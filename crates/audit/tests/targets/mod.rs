//! What is fuzzed: one function a parser, which must return whatever it is given. `fuzz/` runs them on inputs that it
//! makes up, `tests/corpus.rs` on those in `fuzz/corpus`.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use halfbyte_audit::{Limits, Query, Report, audit, gpus};

#[path = "../support/mod.rs"]
mod support;

/// A file of this process's alone, in memory where the system has that.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let within = if memory.is_dir() { memory } else { std::env::temp_dir() };
    tempfile::tempdir_in(within).expect("a temporary folder")
});

/// Audits bytes as a file of this name.
fn run(name: &str, bytes: &[u8]) -> Option<Report> {
    let path = FOLDER.path().join(name);
    fs::write(&path, bytes).expect("a temporary file");
    let limits =
        Limits { bytes_max: 64 << 20, entries_max: 1_000, time_max: Duration::from_secs(10) };
    let gpu = gpus::find("RTX 5090").ok();
    audit(&[path], &Query { gpu, limits, ..Query::default() }).ok()
}

/// A shared library.
pub(crate) fn audit_elf(bytes: &[u8]) {
    if let Some(report) = run("x.so", bytes) {
        assert!(report.libraries.iter().all(|l| l.library.size <= bytes.len() as u64));
    }
}

/// What stands in a library's section of GPU code.
pub(crate) fn audit_fatbin(bytes: &[u8]) {
    let library = support::library(&[(".nv_fatbin", false, bytes.to_vec())], &["libc.so.6"]);
    let report = run("x.so", &library).expect("the library around it is whole");
    let code = &report.libraries[0].library.device_code;
    assert!(code.iter().all(|code| code.offset < library.len() as u64));
}

/// A wheel.
pub(crate) fn audit_zip(bytes: &[u8]) {
    let _ = run("x.whl", bytes);
}

/// An image, or a layer of one.
pub(crate) fn audit_tar(bytes: &[u8]) {
    let _ = run("x.tar", bytes);
}

/// A requirement file.
pub(crate) fn audit_requirements(bytes: &[u8]) {
    let _ = run("requirements.txt", bytes);
}

/// A Dockerfile.
pub(crate) fn audit_dockerfile(bytes: &[u8]) {
    let _ = run("Dockerfile", bytes);
}
