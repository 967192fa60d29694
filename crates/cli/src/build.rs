//! Which build this is.

/// The commit the binary was built from, or what `HALFBYTE_BUILD_ID` said then.
pub(crate) const ID: &str = env!("HALFBYTE_BUILD_ID");

/// Version and build in one word, as reports carry it: `0.1.0+1a2b3c4d5e6f`.
pub(crate) fn name() -> String {
    format!("{}+{ID}", env!("CARGO_PKG_VERSION"))
}

/// What `--version` prints after the name of the program.
pub(crate) fn long_version() -> String {
    let isa = backend::cpu::isa();
    format!(
        "{}\nbuild: {ID}\ntarget: {}\ncpu kernels: {isa}\ncuda kernels: none",
        env!("CARGO_PKG_VERSION"),
        env!("HALFBYTE_TARGET"),
    )
}
