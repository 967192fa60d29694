//! Gives the binary its build id and target, for `--version` and every report.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=HALFBYTE_BUILD_ID");
    println!("cargo::rerun-if-changed=build.rs");
    // HEAD names the branch; its log grows with every commit.
    for path in ["../../.git/HEAD", "../../.git/logs/HEAD"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let id = env::var("HALFBYTE_BUILD_ID").ok().filter(|id| !id.is_empty()).or_else(commit);
    println!("cargo::rustc-env=HALFBYTE_BUILD_ID={}", id.as_deref().unwrap_or("unknown"));
    let target = env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=HALFBYTE_TARGET={target}");
}

/// The commit of this checkout; `None` in a source archive or without git.
fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let id = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !id.is_empty()).then_some(id)
}
