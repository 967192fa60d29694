//! Drivers, versions of CUDA, and versions of the PTX language: tables from NVIDIA's release notes.

use std::fmt;
use std::str::FromStr;

use crate::facts::ComputeCapability;

/// A version of CUDA: 12.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// Before the point.
    pub major: u32,
    /// After it.
    pub minor: u32,
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for CudaVersion {
    type Err = String;

    /// Takes `12.4` and `12.4.1`.
    fn from_str(text: &str) -> Result<CudaVersion, String> {
        let mut parts = text.trim().split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if major < 100 => Ok(CudaVersion { major, minor }),
            _ => Err(format!("`{text}` is no version of CUDA like 12.4")),
        }
    }
}

const fn cuda(major: u32, minor: u32) -> CudaVersion {
    CudaVersion { major, minor }
}

/// Where [`DRIVERS`] comes from.
pub(crate) const DRIVERS_SOURCE: &str = "CUDA Toolkit Release Notes, tables 2 and 3 (Linux x86_64)";
/// Where [`PTX`] comes from.
pub(crate) const PTX_SOURCE: &str = "PTX ISA, Release Notes, table of PTX ISA versions";

/// The first Linux driver with each version of CUDA. Of 12.7 and 13.2 the branch: no toolkit of 12.7 was released, and `nvidia-smi` of
/// drivers 565.57 and 595.58 shows these.
const DRIVERS: [([u32; 2], CudaVersion); 22] = [
    ([450, 36], cuda(11, 0)),
    ([455, 23], cuda(11, 1)),
    ([460, 27], cuda(11, 2)),
    ([465, 19], cuda(11, 3)),
    ([470, 42], cuda(11, 4)),
    ([495, 29], cuda(11, 5)),
    ([510, 39], cuda(11, 6)),
    ([515, 43], cuda(11, 7)),
    ([520, 61], cuda(11, 8)),
    ([525, 60], cuda(12, 0)),
    ([530, 30], cuda(12, 1)),
    ([535, 54], cuda(12, 2)),
    ([545, 23], cuda(12, 3)),
    ([550, 54], cuda(12, 4)),
    ([555, 42], cuda(12, 5)),
    ([560, 28], cuda(12, 6)),
    ([565, 0], cuda(12, 7)),
    ([570, 26], cuda(12, 8)),
    ([575, 51], cuda(12, 9)),
    ([580, 65], cuda(13, 0)),
    ([590, 44], cuda(13, 1)),
    ([595, 0], cuda(13, 2)),
];

/// Versions of PTX, and the CUDA whose driver first compiles them.
const PTX: [((u32, u32), CudaVersion); 21] = [
    ((7, 0), cuda(11, 0)),
    ((7, 1), cuda(11, 1)),
    ((7, 2), cuda(11, 2)),
    ((7, 3), cuda(11, 3)),
    ((7, 4), cuda(11, 4)),
    ((7, 5), cuda(11, 5)),
    ((7, 6), cuda(11, 6)),
    ((7, 7), cuda(11, 7)),
    ((7, 8), cuda(11, 8)),
    ((8, 0), cuda(12, 0)),
    ((8, 1), cuda(12, 1)),
    ((8, 2), cuda(12, 2)),
    ((8, 3), cuda(12, 3)),
    ((8, 4), cuda(12, 4)),
    ((8, 5), cuda(12, 5)),
    ((8, 6), cuda(12, 7)),
    ((8, 7), cuda(12, 8)),
    ((8, 8), cuda(12, 9)),
    ((9, 0), cuda(13, 0)),
    ((9, 1), cuda(13, 1)),
    ((9, 2), cuda(13, 2)),
];

/// The CUDA that a driver must know to compile PTX of this version; of later ones, than are in the table, the last.
pub(crate) fn cuda_for_ptx(version: (u32, u32)) -> CudaVersion {
    let known = PTX.iter().find(|(ptx, _)| *ptx >= version).or(PTX.last());
    known.map_or(cuda(11, 0), |(_, cuda)| *cuda)
}

/// A driver of NVIDIA's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// As it was given.
    pub version: String,
    /// The newest CUDA that it knows.
    pub cuda: CudaVersion,
}

impl FromStr for Driver {
    type Err = String;

    /// Takes a driver's version, `550.54.14`, or the CUDA version that `nvidia-smi` shows, `12.4`.
    fn from_str(text: &str) -> Result<Driver, String> {
        let wrong = || format!("`{text}` is no driver like 550.54 and no CUDA version like 12.4");
        let mut parts = text.trim().split('.').map(str::parse::<u32>);
        let major = parts.next().and_then(Result::ok).ok_or_else(wrong)?;
        let minor = match parts.next() {
            Some(minor) => minor.map_err(|_| wrong())?,
            None => 0,
        };
        if major < 100 {
            return Ok(Driver { version: format!("of CUDA {text}"), cuda: cuda(major, minor) });
        }
        // A branch without its minor is the branch's last: 550 knows what any 550.x knows.
        let minor = if text.contains('.') { minor } else { u32::MAX };
        let known = DRIVERS.iter().rev().find(|(first, _)| *first <= [major, minor]);
        let (_, cuda) =
            known.ok_or_else(|| format!("driver {text} is older than any that CUDA 11 runs on"))?;
        Ok(Driver { version: text.to_owned(), cuda: *cuda })
    }
}

impl Driver {
    /// Whether programs built with this CUDA start: the same major is enough since 11 ("minor version compatibility"), an older
    /// one always is.
    pub(crate) fn starts(&self, built_with: CudaVersion) -> bool {
        built_with.major <= self.cuda.major
    }
}

/// The first driver that starts programs of a CUDA major.
pub(crate) fn first_driver(major: u32) -> String {
    let first = DRIVERS.iter().find(|(_, cuda)| cuda.major == major);
    first.map_or(format!("one of CUDA {major}"), |([a, b], _)| format!("{a}.{b:02}"))
}

/// The first CUDA whose driver knows a card's generation: CUDA release notes, "new features", of each version.
pub(crate) fn cuda_for_gpu(gpu: ComputeCapability) -> CudaVersion {
    match (gpu.major, gpu.minor) {
        (..=7, _) | (8, 0) => cuda(11, 0),
        (8, 6) => cuda(11, 1),
        (8, 7) => cuda(11, 4),
        (8 | 9, _) => cuda(11, 8),
        (10 | 12, 0) => cuda(12, 8),
        // Called 10.1 before.
        (11, _) => cuda(13, 0),
        _ => cuda(12, 9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(driver: &str, expected: &str) {
        let driver: Driver = driver.parse().unwrap();
        assert_eq!(driver.cuda.to_string(), expected);
    }

    #[test]
    fn what_drivers_know() {
        check("550.54.14", "12.4");
        check("550", "12.4");
        check("535.183.01", "12.2");
        check("565.57.01", "12.7");
        check("570.86.10", "12.8");
        check("595.58.03", "13.2");
        check("12.4", "12.4");
        assert!("390.1".parse::<Driver>().is_err() && "new".parse::<Driver>().is_err());
    }

    #[test]
    fn a_driver_starts_minors_of_its_major() {
        let driver: Driver = "525.60".parse().unwrap();
        assert!(driver.starts(cuda(12, 8)) && driver.starts(cuda(11, 0)));
        assert!(!driver.starts(cuda(13, 0)));
    }
}
