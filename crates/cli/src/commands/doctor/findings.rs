//! From facts to what is wrong, and the one thing to do about each. Nothing is looked at here.

mod driver;
pub(super) mod card;
mod machine;

use serde::Serialize;

use super::facts::{Facts, Probed};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    /// It keeps a GPU, or the model, from being used.
    Error,
    /// It works, but worse than it could, or not for long.
    Warning,
    /// Good to know.
    Note,
}

impl Severity {
    pub(super) fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// A thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// A name that does not change with the wording.
    pub(super) id: &'static str,
    pub(super) severity: Severity,
    pub(super) what: String,
    /// The facts it rests on.
    pub(super) evidence: Vec<String>,
    /// The one thing to do.
    pub(super) fix: String,
}

fn finding(
    severity: Severity,
    id: &'static str,
    what: impl Into<String>,
    evidence: impl IntoIterator<Item = String>,
    fix: impl Into<String>,
) -> Finding {
    Finding {
        id,
        severity,
        what: what.into(),
        evidence: evidence.into_iter().collect(),
        fix: fix.into(),
    }
}

/// All findings, the worst first.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = unanswered(facts);
    findings.extend(driver::findings(facts));
    findings.extend(card::findings(facts));
    findings.extend(machine::findings(facts));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Probes that gave no facts.
fn unanswered(facts: &Facts) -> Vec<Finding> {
    let driver_fix =
        "look for `NVRM` and `Xid` in the host's kernel log, and reset the GPU or reboot";
    let storage_fix = "see that the file system which holds the model answers: `ls` in its folder";
    let own_fix = "report it, please, with the output of `halfbyte doctor --json`";
    let mut found = Vec::new();
    found.extend(lost("system", &facts.system, own_fix));
    found.extend(lost("driver", &facts.driver, driver_fix));
    found.extend(lost("cuda", &facts.cuda, driver_fix));
    match &facts.nvml {
        // Not needed to compute, and absent where there is no driver at all.
        Probed::Failed(error) if !driver::is_gpu_visible(facts) => {}
        Probed::Failed(error) => found.push(finding(
            Severity::Note,
            "nvml_missing",
            "the driver's management library does not answer: link, ECC, throttling and the users of memory are not known",
            [error.clone()],
            "in a container, add `utility` to NVIDIA_DRIVER_CAPABILITIES",
        )),
        nvml => found.extend(lost("nvml", nvml, driver_fix)),
    }
    found.extend(facts.storage.as_ref().and_then(|storage| lost("storage", storage, storage_fix)));
    found.extend(facts.model.as_ref().and_then(|model| lost("model", model, storage_fix)));
    found
}

/// A probe that did not come back, or could not look.
fn lost<T>(name: &str, probed: &Probed<T>, fix: &str) -> Option<Finding> {
    match probed {
        Probed::Found(_) => None,
        Probed::TimedOut(seconds) => Some(finding(
            Severity::Error,
            "no_answer",
            format!("looking at the {} had no answer within {seconds} s", object(name)),
            [format!("the probe `{name}` was given up")],
            fix,
        )),
        Probed::Died(how) => Some(finding(
            Severity::Error,
            "probe_died",
            format!("looking at the {} ended the process that did it", object(name)),
            [format!("the probe `{name}`: {how}")],
            fix,
        )),
        Probed::Failed(why) if name == "model" => {
            let fix =
                "name a model that is here; MODEL in `halfbyte --help` says where it is looked for";
            Some(finding(
                Severity::Error,
                "model_unreadable",
                "the model cannot be read",
                [why.clone()],
                fix,
            ))
        }
        // What keeps a model's folder from being read is said of the model already.
        Probed::Failed(_) if name == "storage" => None,
        Probed::Failed(why) => Some(finding(
            Severity::Error,
            "probe_failed",
            format!("the {} could not be looked at", object(name)),
            [why.clone()],
            fix,
        )),
    }
}

/// What a probe looks at.
fn object(probe: &str) -> &'static str {
    match probe {
        "system" => "machine",
        "driver" => "driver's files",
        "cuda" => "driver",
        "nvml" => "driver's management library",
        "storage" => "storage of models",
        _ => "model",
    }
}
