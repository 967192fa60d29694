//! Dockerfiles: later lines that undo earlier ones, checks that cannot hold, Python that wants a GPU while there is none.

use pep440_rs::Version;
use std::str::FromStr;

use super::torch::cuda_version;
use super::{Finding, Machine, Severity};
use crate::facts::{Dockerfile, Evidence, PipInstall, Requirement};
use crate::stack::{Stack, exact, specifiers};

/// Finds what is wrong with a Dockerfile.
pub(crate) fn findings(file: &Dockerfile, stack: &Stack, machine: &Machine) -> Vec<Finding> {
    let mut found = undone_pins(&file.installs);
    found.extend(base_image(file, stack, machine));
    found.extend(assertions(file, stack));
    found.extend(needs_gpu(file, stack));
    found
}

/// What a file's installs leave: of each package the last line that says something about its version.
pub(crate) fn left_by(installs: &[PipInstall]) -> Vec<Requirement> {
    let mut left: Vec<Requirement> = Vec::new();
    for install in installs {
        for requirement in &install.requirements {
            let before = left.iter().position(|known| known.name == requirement.name);
            match before {
                Some(_) if requirement.specifier.is_empty() && !install.upgrades => {}
                Some(at) if is_met(&left[at], requirement) && !install.upgrades => {}
                Some(at) => left[at] = requirement.clone(),
                None => left.push(requirement.clone()),
            }
        }
    }
    left
}

/// Whether the version that is pinned already is what a later line asks for.
fn is_met(before: &Requirement, later: &Requirement) -> bool {
    let version = exact(&before.specifier).and_then(|version| Version::from_str(&version).ok());
    let specifiers = specifiers(&later.specifier);
    version.zip(specifiers).is_some_and(|(version, specifiers)| specifiers.contains(&version))
}

fn undone_pins(installs: &[PipInstall]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, install) in installs.iter().enumerate() {
        for later in &install.requirements {
            let earlier = installs[..at].iter().rev().flat_map(|install| &install.requirements);
            let mut pinned =
                earlier.filter(|r| r.name == later.name && exact(&r.specifier).is_some());
            let Some(pin) = pinned.next() else { continue };
            let upgraded = install.upgrades && exact(&later.specifier).is_none();
            if is_met(pin, later) && !upgraded {
                continue;
            }
            let name = &later.name;
            found.push(Finding {
                id: "pin_undone",
                severity: Severity::Warning,
                what: format!(
                    "{name}{} is undone by a later line, which installs {name}{}{}",
                    pin.specifier,
                    later.specifier,
                    if upgraded { " and upgrades" } else { "" }
                ),
                fix: format!("install {name} once, with one pin"),
                evidence: vec![pin.evidence.clone(), later.evidence.clone()],
            });
        }
    }
    found
}

fn base_image(file: &Dockerfile, stack: &Stack, machine: &Machine) -> Option<Finding> {
    let base = file.base_images.iter().find(|base| base.is_final)?;
    let image = base.cuda.as_deref()?.parse().ok()?;
    if let Some(driver) = machine.driver.filter(|driver| !driver.starts(image)) {
        return Some(Finding {
            id: "base_image_needs_newer_driver",
            severity: Severity::Error,
            what: format!(
                "{} is of CUDA {image}, and driver {} knows {} at most",
                base.image, driver.version, driver.cuda
            ),
            fix: format!(
                "take an image of CUDA {}, or update the host's driver",
                driver.cuda.major
            ),
            evidence: vec![base.evidence.clone()],
        });
    }
    let torch = stack.package("torch")?;
    let cuda = cuda_version(torch)?;
    (cuda != image).then(|| Finding {
        id: "base_image_cuda_unused",
        severity: Severity::Note,
        what: format!(
            "the image has CUDA {image}, torch {} was built with {cuda} and brings its own: the image's is for nothing that \
             torch does",
            torch.version
        ),
        fix: "take a base image without CUDA: the driver comes from the host".to_owned(),
        evidence: vec![base.evidence.clone()],
    })
}

fn assertions(file: &Dockerfile, stack: &Stack) -> Vec<Finding> {
    let Some(torch) = stack.package("torch") else { return Vec::new() };
    let Some(cuda) = cuda_version(torch).map(|cuda| cuda.to_string()) else { return Vec::new() };
    let fails = file.assertions.iter().filter(|assertion| !assertion.allowed.contains(&cuda));
    let finding = |assertion: &crate::facts::Assertion| {
        let version = torch.torch_cuda.as_ref().map(|known| Evidence {
            file: format!("{}!{}", torch.origin, known.evidence.file),
            ..known.evidence.clone()
        });
        Finding {
            id: "assertion_cannot_hold",
            severity: Severity::Error,
            what: format!(
                "the build asserts that torch.version.cuda is {}, and torch {} was built with {cuda}",
                assertion.allowed.join(" or "),
                torch.version
            ),
            fix: format!("assert {cuda}, or nothing"),
            evidence: [Some(assertion.evidence.clone()), version].into_iter().flatten().collect(),
        }
    };
    fails.map(finding).collect()
}

/// Calls that raise where no GPU is.
const GPU_CALLS: [&str; 6] = [
    "assert torch.cuda.is_available()",
    "torch.cuda.get_device",
    "torch.cuda.current_device",
    ".cuda()",
    "torch.cuda.mem_get_info",
    "device='cuda'",
];

fn needs_gpu(file: &Dockerfile, stack: &Stack) -> Vec<Finding> {
    let mut found = Vec::new();
    for run in &file.python_runs {
        if let Some(call) = GPU_CALLS.iter().find(|call| run.value.contains(*call)) {
            found.push(Finding {
                id: "gpu_while_building",
                severity: Severity::Error,
                what: format!("`{call}` runs while the image is built, where there is no GPU"),
                fix: "check that when the container starts; `halfbyte audit` needs no GPU"
                    .to_owned(),
                evidence: vec![run.clone()],
            });
        }
        let imports =
            run.value.contains("import bitsandbytes") || run.value.contains("from bitsandbytes");
        let triton = stack.package("bitsandbytes").and_then(|package| {
            let mut imports = package.imports.iter();
            Some((package, imports.find(|import| import.module.starts_with("triton."))?))
        });
        if let Some((package, import)) = triton.filter(|_| imports) {
            let file = format!("{}!{}", package.origin, import.evidence.file);
            found.push(Finding {
                id: "gpu_while_building",
                severity: Severity::Warning,
                what: format!(
                    "`import bitsandbytes` {} defines triton kernels, for which some releases of triton ask the driver: while \
                     the image is built that is \"0 active drivers\"",
                    package.version
                ),
                fix: "do not import it while the image is built; `halfbyte audit` checks it without a GPU".to_owned(),
                evidence: vec![run.clone(), Evidence { file, ..import.evidence.clone() }],
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::dockerfile::parse;

    #[track_caller]
    fn check(runs: &str, expected: &[&str], left: &[&str]) {
        let file = parse("Dockerfile", &format!("FROM x\n{runs}")).unwrap();
        let machine = Machine { gpu: None, driver: None, bnb_cuda_version: None };
        let found = findings(&file, &Stack::default(), &machine);
        let ids: Vec<&str> = found.iter().map(|finding| finding.id).collect();
        assert_eq!(ids, expected, "{runs}");
        let remain = left_by(&file.installs);
        let remain: Vec<String> =
            remain.iter().map(|r| format!("{}{}", r.name, r.specifier)).collect();
        assert_eq!(remain, left, "{runs}");
    }

    #[test]
    fn a_later_line_that_undoes_a_pin() {
        check(
            "RUN pip install torch==2.3.1\nRUN pip install torch==2.6.0",
            &["pin_undone"],
            &["torch==2.6.0"],
        );
        check(
            "RUN pip install torch==2.3.1\nRUN pip install -U torch",
            &["pin_undone"],
            &["torch"],
        );
        check("RUN pip install torch==2.3.1\nRUN pip install torch", &[], &["torch==2.3.1"]);
        check("RUN pip install torch==2.3.1\nRUN pip install 'torch>=2'", &[], &["torch==2.3.1"]);
        check(
            "RUN pip install torch==2.3.1 && pip install 'torch>=2.4'",
            &["pin_undone"],
            &["torch>=2.4"],
        );
    }

    #[test]
    fn python_that_wants_a_gpu() {
        check(
            "RUN python -c 'import torch; assert torch.cuda.is_available()'",
            &["gpu_while_building"],
            &[],
        );
        check("RUN python -c 'import torch; print(torch.__version__)'", &[], &[]);
    }
}
