//! Gives the binary its build id and target, for `--version` and every report.

use std::env;
use std::path::Path;
use std::process::Command;

/// Where this crate lies in its repository, as git says it.
const PREFIX: &str = "crates/cli/";

fn main() {
    println!("cargo::rerun-if-env-changed=HALFBYTE_BUILD_ID");
    println!("cargo::rerun-if-changed=build.rs");
    let id = env::var("HALFBYTE_BUILD_ID").ok().filter(|id| !id.is_empty()).or_else(commit);
    println!("cargo::rustc-env=HALFBYTE_BUILD_ID={}", id.as_deref().unwrap_or("unknown"));
    let target = env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=HALFBYTE_TARGET={target}");
}

/// The commit of this checkout; `None` in a source archive, also one that was unpacked within another repository, or without
/// git.
fn commit() -> Option<String> {
    if git(&["--show-prefix"])? != PREFIX {
        return None;
    }
    // HEAD names the branch, whose file or whose line in `packed-refs` changes with every commit, as HEAD's log does. Git
    // says where they are: in a linked worktree some lie in the main one's `.git`, and `.git` is a file.
    let branch = git(&["--symbolic-full-name", "HEAD"])?;
    for name in ["HEAD", "logs/HEAD", "packed-refs", branch.as_str()] {
        // A file that is missing would make cargo run this each time.
        if let Some(path) = git(&["--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["--short=12", "HEAD"])
}

/// What `git rev-parse` says to this, in one line.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("rev-parse").args(arguments).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}
