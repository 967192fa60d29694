//! Runs the built binary and reads what it wrote.
#![allow(dead_code, reason = "each file of tests is a crate of its own and uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

pub(crate) mod server;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    /// Without the line that names the device, which differs from machine to machine.
    pub(crate) stderr: String,
}

impl Run {
    /// Everything in one text.
    pub(crate) fn text(&self) -> String {
        let Run { code, stdout, stderr } = self;
        let mut text = format!("exit {code}\n");
        for (name, content) in [("stdout", stdout), ("stderr", stderr)] {
            if !content.is_empty() {
                text.push_str(&format!("--- {name}\n{content}"));
            }
        }
        text
    }

    /// The JSON on stdout of a run that went well.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.text());
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// The program, with nothing of this machine's models in sight.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halfbyte"));
    command.args(args).env("HF_HUB_CACHE", "/nonexistent/hub").env_remove("HALFBYTE_MODEL_DIR");
    command
}

pub(crate) fn halfbyte(args: &[&str]) -> Run {
    halfbyte_with(args, b"")
}

/// Runs with this on stdin.
pub(crate) fn halfbyte_with(args: &[&str], stdin: &[u8]) -> Run {
    let mut command = command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that does not read its input may have closed it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = plain(&output.stderr);
    let lines = stderr.lines().filter(|line| !line.starts_with("device: "));
    Run {
        code: output.status.code().unwrap(),
        stdout: plain(&output.stdout),
        stderr: lines.map(|line| format!("{line}\n")).collect(),
    }
}

/// Text with paths of this machine replaced.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let text = text.replace(&models().display().to_string(), "MODELS");
    text.replace(&std::env::temp_dir().display().to_string(), "TMP")
}

/// Where the tiny models are.
pub(crate) fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}

/// The path of a tiny model.
pub(crate) fn model(name: &str) -> String {
    models().join(name).display().to_string()
}

/// A copy of a tiny model to spoil; `expected.safetensors` is left out.
pub(crate) fn copy(name: &str, to: &Path) -> String {
    let to = to.join(name);
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(models().join(name)).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().starts_with("expected") {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    to.display().to_string()
}

/// Shape and values of a tensor of 32-bit elements.
pub(crate) fn tensor(file: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(file).unwrap();
    let header = model::safetensors::parse_header(&bytes, bytes.len() as u64, file).unwrap();
    let info = &header[name];
    let values = bytes[info.bytes.clone()].chunks_exact(4);
    let values = values.map(|raw| f32::from_le_bytes(raw.try_into().unwrap())).collect();
    (info.shape.clone(), values)
}

/// Elements of a tensor of 64-bit integers.
pub(crate) fn ids(file: &Path, name: &str) -> Vec<i64> {
    let bytes = std::fs::read(file).unwrap();
    let header = model::safetensors::parse_header(&bytes, bytes.len() as u64, file).unwrap();
    let values = bytes[header[name].bytes.clone()].chunks_exact(8);
    values.map(|raw| i64::from_le_bytes(raw.try_into().unwrap())).collect()
}
