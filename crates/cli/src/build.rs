//! Which build this is.

use cuda::images;

/// The commit the binary was built from, or what `HALFBYTE_BUILD_ID` said then.
pub(crate) const ID: &str = env!("HALFBYTE_BUILD_ID");

/// What it was built for.
pub(crate) const TARGET: &str = env!("HALFBYTE_TARGET");

/// Version and build in one word, as reports carry it: `0.1.0+1a2b3c4d5e6f`.
pub(crate) fn name() -> String {
    format!("{}+{ID}", env!("CARGO_PKG_VERSION"))
}

/// The CUDA kernels in this binary: what they are compiled for and with, or why there are none.
pub(crate) fn cuda_kernels() -> String {
    match images::absent() {
        None => format!("{} ({})", images::names(&images::targets()), images::compiler()),
        Some(reason) => format!("none ({reason})"),
    }
}

/// What `--version` prints after the name of the program.
pub(crate) fn long_version() -> String {
    let isa = backend::cpu::isa();
    format!(
        "{}\nbuild: {ID}\ntarget: {TARGET}\ncpu kernels: {isa}\ncuda kernels: {}",
        env!("CARGO_PKG_VERSION"),
        cuda_kernels(),
    )
}
