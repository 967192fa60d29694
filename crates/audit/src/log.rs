//! Known failures in logs: what a line means, why it happens, what to do, and what it gives away about versions.

use crate::facts::{Evidence, LogMatch};
use crate::releases;

/// A failure that leaves a certain text.
struct Signature {
    name: &'static str,
    /// Parts that a line has, all of them.
    parts: &'static [&'static str],
    cause: &'static str,
    fix: &'static str,
}

const fn signature(
    name: &'static str,
    parts: &'static [&'static str],
    cause: &'static str,
    fix: &'static str,
) -> Signature {
    Signature { name, parts, cause, fix }
}

/// The first that fits a line is taken.
const SIGNATURES: [Signature; 17] = [
    signature(
        "bitsandbytes_library_missing",
        &["Required library version not found: libbitsandbytes"],
        "the bitsandbytes wheel has no library for the CUDA that torch was built with; the GPU has no part in the choice",
        "take a bitsandbytes whose wheel has that library; `halfbyte audit` of the requirements names one",
    ),
    signature(
        "bitsandbytes_library_missing",
        &["Could not find the bitsandbytes CUDA binary at"],
        "the bitsandbytes wheel has no library for the CUDA that torch was built with, and the CPU library is loaded instead",
        "take a bitsandbytes whose wheel has that library; `halfbyte audit` of the requirements names one",
    ),
    signature(
        "bitsandbytes_library_missing",
        &["No compatible CUDA binary found at"],
        "the bitsandbytes wheel has no library for the CUDA that torch was built with; the first 4-bit layer fails",
        "take a bitsandbytes whose wheel has that library; `halfbyte audit` of the requirements names one",
    ),
    signature(
        "cuda_setup_failed",
        &["CUDA Setup failed despite"],
        "bitsandbytes found a GPU and could not load its library: it is not in the wheel, or what it needs is not installed",
        "read the lines above it; `halfbyte audit` of the environment says which of the two",
    ),
    signature(
        "mm_configs",
        &["cannot import name 'mm_configs'"],
        "Python files of two releases of torch are mixed, or a package takes a private name of torch that this release does \
         not have",
        "install torch again into an empty environment, with what uses its private names pinned to the same time",
    ),
    signature(
        "triton_ops",
        &["No module named 'triton.ops'"],
        "triton 3.2 dropped `triton.ops`, and a package that was written before imports it",
        "take a release of that package which does not; for bitsandbytes, `halfbyte audit` names one",
    ),
    signature(
        "no_active_driver",
        &["0 active drivers"],
        "triton was asked for a GPU where there is none, as while an image is built: an import did that. Behind it a missing \
         `triton.ops` may wait",
        "do not import it while the image is built; check with `halfbyte audit`, which needs no GPU",
    ),
    signature(
        "no_kernel_image",
        &["no kernel image is available for execution on the device"],
        "a library has neither machine code nor PTX for this GPU",
        "take a build of it that has; `halfbyte audit` of the environment says which library it is",
    ),
    signature(
        "torch_too_old_for_gpu",
        &["CUDA capability sm_", "is not compatible with the current PyTorch installation"],
        "torch has no machine code for this GPU",
        "take a torch that has; `halfbyte audit` names the first",
    ),
    signature(
        "torch_architectures",
        &["The current PyTorch install supports CUDA capabilities sm_"],
        "torch lists the machine code that it has",
        "compare with the GPU's compute capability",
    ),
    signature(
        "driver_too_old",
        &["NVIDIA driver on your system is too old"],
        "torch was built with a newer major of CUDA than the driver knows",
        "update the host's driver, or take a torch built with an older CUDA",
    ),
    signature(
        "driver_too_old",
        &["CUDA driver version is insufficient for CUDA runtime version"],
        "the program was built with a newer major of CUDA than the driver knows",
        "update the host's driver, or take a build with an older CUDA",
    ),
    signature(
        "ptx_too_new",
        &["the provided PTX was compiled with an unsupported toolchain"],
        "the driver does not know this version of PTX, and there is no machine code for the GPU",
        "update the host's driver, or take a build with machine code for the GPU",
    ),
    signature(
        "numpy_major",
        &["A module that was compiled using NumPy 1.x cannot be run in"],
        "NumPy 2 is installed, and a library was built for NumPy 1",
        "pin numpy<2, or take a release of that library built for NumPy 2",
    ),
    signature(
        "wrong_cuda_assertion",
        &["AssertionError", "CUDA"],
        "a check of the version of CUDA failed: `torch.version.cuda` is the CUDA that torch was built with, not the image's",
        "assert what torch's version.py says, or nothing",
    ),
    signature(
        "library_not_found",
        &["cannot open shared object file"],
        "a library needs another one that is not installed, or is of another major of CUDA",
        "install the package that has it; `halfbyte audit` of the environment says what is needed",
    ),
    signature(
        "out_of_memory",
        &["CUDA out of memory"],
        "the model, its cache and its activations are larger than the GPU's memory",
        "take a smaller context, fewer requests at once, or a larger card",
    ),
];

/// Matches of one file; later ones of the same kind with the same text are left out.
const MATCHES_MAX: usize = 1_000;
const SHOWN_MAX: usize = 500;

/// Looks for known failures.
pub(crate) fn matches(file: &str, text: &str) -> Vec<LogMatch> {
    let mut found: Vec<LogMatch> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let fits = |signature: &&Signature| signature.parts.iter().all(|part| line.contains(part));
        let Some(signature) = SIGNATURES.iter().find(fits) else { continue };
        let shown: String = line.trim().chars().take(SHOWN_MAX).collect();
        let known =
            |known: &LogMatch| known.failure == signature.name && known.evidence.value == shown;
        if found.iter().any(known) || found.len() >= MATCHES_MAX {
            continue;
        }
        found.push(LogMatch {
            failure: signature.name.to_owned(),
            cause: signature.cause.to_owned(),
            fix: signature.fix.to_owned(),
            says: says(line),
            evidence: Evidence::line(file, at + 1, shown),
        });
    }
    found
}

/// What a line says about versions.
fn says(line: &str) -> Vec<(String, String)> {
    let mut said = Vec::new();
    let mut say = |what: &str, value: String| said.push((what.to_owned(), value));
    if let Some((_, rest)) = line.split_once("supports CUDA capabilities ") {
        let targets: Vec<&str> = rest
            .trim_end_matches('.')
            .split_whitespace()
            .filter(|t| t.starts_with("sm_"))
            .collect();
        let releases = torch_with(&targets);
        if !releases.is_empty() {
            say("torch", releases.join(" or "));
        }
    }
    if let Some((_, rest)) = line.split_once("libbitsandbytes_cuda") {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if let Some((major, minor)) =
            digits.split_at_checked(2).filter(|(_, minor)| !minor.is_empty())
        {
            say("torch_cuda", format!("{major}.{minor}"));
        }
    }
    if let Some((_, rest)) = line.split_once("found version ") {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        // 12020 is CUDA 12.2.
        if let Ok(version) = digits.parse::<u32>() {
            say("driver_cuda", format!("{}.{}", version / 1000, version % 1000 / 10));
        }
    }
    said
}

/// Releases of torch whose core has exactly this machine code: which one was really installed.
fn torch_with(targets: &[&str]) -> Vec<String> {
    let has = |package: &crate::facts::Package| {
        let core = package.libraries.iter().find(|l| l.file_name() == "libtorch_cuda.so");
        core.is_some_and(|core| {
            // Files with code for a few architectures only, as kernels for Hopper, are not what torch lists.
            let most = core.combinations.iter().max_by_key(|c| c.containers);
            most.is_some_and(|most| {
                let cubins = || most.targets.iter().filter(|t| t.starts_with("sm_"));
                cubins().count() == targets.len() && cubins().all(|t| targets.contains(&t.as_str()))
            })
        })
    };
    let known = releases::versions("torch").into_iter().filter(|(_, package)| has(package));
    known.map(|(version, _)| version.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: &str) {
        let found = matches("x.log", &format!("first\n{line}\n{line}\n"));
        let names: Vec<&str> = found.iter().map(|found| found.failure.as_str()).collect();
        assert_eq!(names, [expected], "{line}");
        assert_eq!(found[0].evidence.line, Some(2));
    }

    #[test]
    fn lines_of_real_failures() {
        check(
            "CUDA SETUP: Required library version not found: libbitsandbytes_cuda128.so. Maybe you need to compile it from source?",
            "bitsandbytes_library_missing",
        );
        check(
            "        CUDA Setup failed despite GPU being available. Please run the following command",
            "cuda_setup_failed",
        );
        check(
            "ImportError: cannot import name 'mm_configs' from 'torch._inductor.kernel.mm_common'",
            "mm_configs",
        );
        check("AssertionError: Expected CUDA 12.4 or 12.6, got 12.1", "wrong_cuda_assertion");
        check("RuntimeError: 0 active drivers ([]). There should only be one.", "no_active_driver");
        check(
            "RuntimeError: CUDA error: no kernel image is available for execution on the device",
            "no_kernel_image",
        );
        check(
            "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation.",
            "torch_too_old_for_gpu",
        );
        check("ModuleNotFoundError: No module named 'triton.ops'", "triton_ops");
    }

    #[test]
    fn names_match_exactly() {
        assert!(
            matches("x.log", "ImportError: cannot import name 'int8_mm_configs' from x").is_empty()
        );
    }

    #[test]
    fn what_lines_say() {
        let said = says(
            "Could not find the bitsandbytes CUDA binary at PosixPath('libbitsandbytes_cuda121.so')",
        );
        assert_eq!(said, [("torch_cuda".to_owned(), "12.1".to_owned())]);
        let said = says("The NVIDIA driver on your system is too old (found version 12020).");
        assert_eq!(said, [("driver_cuda".to_owned(), "12.2".to_owned())]);
    }
}
