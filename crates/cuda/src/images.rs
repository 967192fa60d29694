//! The compiled kernels that this binary holds, and which of them a card runs.
//!
//! A file of kernels is compiled once for each target: machine code (`sm_90a`) or PTX (`compute_80`), which the driver
//! compiles. Machine code runs on cards of the same major compute capability and the same or a higher minor one; that of
//! an `a` target on exactly its card. PTX runs on every card from its number on, if the driver is as new as the compiler.

use std::collections::BTreeSet;
use std::env;
use std::fmt;

use miniz_oxide::inflate;

use crate::error::CudaError;

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Names the images to take instead of the best ones: `ptx`, or a target as `sm_80`. For tests.
pub const FORCE_VARIABLE: &str = "HALFBYTE_CUDA_IMAGE";

/// What an image is compiled for. Ordered by architecture, PTX before machine code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Ten times the major compute capability plus the minor one.
    architecture: u32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Ptx,
    MachineCode,
    /// With instructions of exactly this card.
    Exact,
}

/// The kernels of a file, compiled for a target.
#[derive(Debug)]
pub struct Image {
    file: &'static str,
    target: Target,
    /// Number of bytes when inflated.
    len: usize,
    deflated: &'static [u8],
}

/// All images of the target that was chosen for a card.
#[derive(Debug, Clone)]
pub struct Choice {
    target: Target,
    images: Vec<&'static Image>,
}

/// All images in this binary, by file and target.
pub fn all() -> &'static [Image] {
    IMAGES
}

/// Why this binary holds no images; `None` if it holds some.
pub fn absent() -> Option<&'static str> {
    ABSENT
}

/// The compiler that made the images, as `NVRTC 12.9.86`; empty without images.
pub fn compiler() -> &'static str {
    COMPILER
}

/// The CUDA version of that compiler, the oldest that a driver has to know to compile PTX of it.
pub fn compiler_version() -> Option<(u32, u32)> {
    let mut parts = COMPILER.strip_prefix("NVRTC ")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The targets that images are there for.
pub fn targets() -> BTreeSet<Target> {
    IMAGES.iter().map(|image| image.target).collect()
}

/// The images for a card: machine code if some runs on it, else (or with `force_ptx`) PTX. The variable
/// [`FORCE_VARIABLE`] of the environment overrides both.
///
/// # Errors
/// [`CudaError::NoImages`] where the binary holds none, [`CudaError::NoImageForDevice`] where none runs on the card.
pub fn choose(compute_capability: (u32, u32), force_ptx: bool) -> Result<Choice, CudaError> {
    if let Some(reason) = ABSENT {
        return Err(CudaError::NoImages { reason });
    }
    let wanted = match env::var(FORCE_VARIABLE) {
        Ok(name) if !name.is_empty() => name,
        _ if force_ptx => "ptx".to_owned(),
        _ => String::new(),
    };
    let target = select(&targets(), compute_capability, &wanted)?;
    let images = IMAGES.iter().filter(|image| image.target == target).collect();
    Ok(Choice { target, images })
}

/// The best of `targets` for a card. `wanted` is empty, `ptx`, or the name of a target.
fn select(
    targets: &BTreeSet<Target>,
    compute_capability: (u32, u32),
    wanted: &str,
) -> Result<Target, CudaError> {
    let none = |reason: String| CudaError::NoImageForDevice {
        capability: compute_capability,
        reason,
        held: names(targets),
    };
    let runs = targets.iter().copied().filter(|target| target.runs_on(compute_capability));
    let best_ptx = runs.clone().filter(|target| target.kind == Kind::Ptx).max();
    match wanted {
        // Machine code for a card is never older than the card's generation, PTX may be.
        "" => runs.filter(|target| target.kind != Kind::Ptx).max().or(best_ptx).ok_or_else(|| {
            none("neither its machine code nor PTX of an earlier card is here".to_owned())
        }),
        "ptx" => best_ptx.ok_or_else(|| none("no PTX of an earlier card is here".to_owned())),
        name => {
            let held = targets.iter().find(|target| target.to_string() == name);
            let target = held.ok_or_else(|| none(format!("{FORCE_VARIABLE} asks for `{name}`")))?;
            if !target.runs_on(compute_capability) {
                return Err(none(format!(
                    "{FORCE_VARIABLE} asks for `{name}`, which does not run on it"
                )));
            }
            Ok(*target)
        }
    }
}

/// The names of targets in one line.
pub fn names(targets: &BTreeSet<Target>) -> String {
    targets.iter().map(Target::to_string).collect::<Vec<_>>().join(", ")
}

impl Target {
    /// Ten times the major compute capability plus the minor one.
    pub fn architecture(&self) -> u32 {
        self.architecture
    }

    /// Reads `sm_80`, `sm_90a` or `compute_80`, as written by `cargo xtask kernels`.
    pub const fn of(name: &str) -> Target {
        let bytes = name.as_bytes();
        let mut architecture = 0;
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at].is_ascii_digit() {
                architecture = architecture * 10 + (bytes[at] - b'0') as u32;
            }
            at += 1;
        }
        let kind = match (bytes[0], bytes[bytes.len() - 1]) {
            (b'c', _) => Kind::Ptx,
            (_, b'a') => Kind::Exact,
            _ => Kind::MachineCode,
        };
        Target { architecture, kind }
    }

    /// Whether this is PTX, which the driver has to compile.
    pub fn is_ptx(&self) -> bool {
        self.kind == Kind::Ptx
    }

    /// Whether a card of this compute capability runs it.
    pub fn runs_on(&self, (major, minor): (u32, u32)) -> bool {
        let (of_major, of_minor) = (self.architecture / 10, self.architecture % 10);
        match self.kind {
            Kind::Exact => (major, minor) == (of_major, of_minor),
            Kind::MachineCode => major == of_major && minor >= of_minor,
            Kind::Ptx => (major, minor) >= (of_major, of_minor),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Ptx => write!(f, "compute_{}", self.architecture),
            Kind::MachineCode => write!(f, "sm_{}", self.architecture),
            Kind::Exact => write!(f, "sm_{}a", self.architecture),
        }
    }
}

impl Image {
    /// The file of kernels, without its ending: `gemv`.
    pub fn file(&self) -> &'static str {
        self.file
    }

    /// What it is compiled for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// What [`Module::load`](crate::driver::Module::load) takes, inflated (about 3 ms for a megabyte).
    ///
    /// # Errors
    /// Where the program's file is damaged.
    pub fn bytes(&self) -> Result<Vec<u8>, CudaError> {
        let bytes = inflate::decompress_to_vec_with_limit(self.deflated, self.len).ok();
        bytes.filter(|bytes| bytes.len() == self.len).ok_or_else(|| {
            let doing = format_args!("inflating the kernels {} for {}", self.file, self.target);
            CudaError::argument(doing, "they are damaged; install this program again")
        })
    }

    /// Number of bytes, inflated and as the binary holds them.
    pub fn sizes(&self) -> (usize, usize) {
        (self.len, self.deflated.len())
    }
}

impl Choice {
    /// The target.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Its images, one for each file that is compiled for it.
    pub fn images(&self) -> &[&'static Image] {
        &self.images
    }

    /// The kernels of a file; `None` where it is not compiled for this target, as wgmma for any but sm_90a.
    pub fn image(&self, file: &str) -> Option<&'static Image> {
        self.images.iter().copied().find(|image| image.file == file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "sm_80 sm_86 sm_89 sm_90a sm_100 sm_120 compute_80 compute_120";

    fn check_of(targets: &str, capability: (u32, u32), wanted: &str, expected: &str) {
        let targets = targets.split(' ').map(Target::of).collect();
        let chosen = select(&targets, capability, wanted);
        let chosen = chosen.map_or_else(|error| error.to_string(), |target| target.to_string());
        assert_eq!(chosen, expected, "{capability:?} {wanted}");
    }

    #[test]
    fn each_card_gets_its_image() {
        for (capability, expected) in [
            ((8, 0), "sm_80"),
            ((8, 6), "sm_86"),
            ((8, 7), "sm_86"),
            ((8, 9), "sm_89"),
            ((9, 0), "sm_90a"),
            ((10, 0), "sm_100"),
            ((10, 3), "sm_100"),
            ((12, 0), "sm_120"),
            ((12, 1), "sm_120"),
            // Unknown generations: PTX of the latest one before.
            ((9, 1), "compute_80"),
            ((11, 0), "compute_80"),
            ((13, 0), "compute_120"),
        ] {
            check_of(ALL, capability, "", expected);
        }
    }

    #[test]
    fn a_card_before_ampere_gets_none() {
        let expected = "no kernels for compute capability 7.5: neither its machine code nor PTX of an earlier card is \
                        here; this binary holds compute_80, sm_80";
        check_of("compute_80 sm_80", (7, 5), "", expected);
    }

    #[test]
    fn ptx_can_be_asked_for() {
        check_of(ALL, (9, 0), "ptx", "compute_80");
        check_of(ALL, (12, 0), "ptx", "compute_120");
        check_of(ALL, (9, 0), "compute_80", "compute_80");
    }

    #[test]
    fn a_target_can_be_asked_for_if_the_card_runs_it() {
        check_of(ALL, (8, 9), "sm_80", "sm_80");
        let expected = "no kernels for compute capability 9.0: HALFBYTE_CUDA_IMAGE asks for `sm_80`, which does not run \
                        on it; this binary holds sm_80";
        check_of("sm_80", (9, 0), "sm_80", expected);
        let expected = "no kernels for compute capability 9.0: HALFBYTE_CUDA_IMAGE asks for `sm_75`; this binary holds sm_80";
        check_of("sm_80", (9, 0), "sm_75", expected);
    }

    #[test]
    fn the_table_and_its_absence_agree() {
        assert_eq!(all().is_empty(), absent().is_some());
        assert_eq!(compiler().is_empty(), absent().is_some());
        assert_eq!(compiler_version().is_none(), absent().is_some());
        for image in all() {
            assert_eq!(
                image.bytes().unwrap().len(),
                image.sizes().0,
                "{} {}",
                image.file,
                image.target
            );
        }
        if let Some(reason) = absent() {
            let error = choose((9, 0), false).unwrap_err();
            assert_eq!(error, CudaError::NoImages { reason });
        }
    }
}
