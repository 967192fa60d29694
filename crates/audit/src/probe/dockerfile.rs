//! Dockerfiles: what they begin with, what they install, and what Python they run while the image is built.

mod shell;

use std::collections::BTreeMap;

use parse_dockerfile::{Command, Instruction};

use super::requirements;
use crate::error::{ProbeError, Result};
use crate::facts::{Assertion, BaseImage, Dockerfile, Evidence, PipInstall, Requirement};
use shell::{Words, commands};

/// A Dockerfile is text that people write.
const BYTES_MAX: usize = 1 << 20;
/// A value after its variables are filled in.
const EXPANDED_MAX: usize = 64 << 10;

/// Reads a Dockerfile.
///
/// # Errors
///
/// When it is none, with the place.
pub(crate) fn parse(file: &str, text: &str) -> Result<Dockerfile> {
    if text.len() > BYTES_MAX {
        return Err(ProbeError::TooMuch { what: "bytes in a Dockerfile", max: BYTES_MAX as u64 });
    }
    let parsed = parse_dockerfile::parse(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        ProbeError::damaged(format!("line {line}, column {column}: {error}"))
    })?;
    let mut reader =
        Reader { file, text, variables: BTreeMap::new(), found: Dockerfile::default() };
    file.clone_into(&mut reader.found.path);
    for instruction in &parsed.instructions {
        reader.instruction(instruction);
    }
    if let Some(last) = reader.found.base_images.last_mut() {
        last.is_final = true;
    }
    Ok(reader.found)
}

struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    /// `ARG` and `ENV` so far. Scopes of stages are not told apart: a name means one thing in a file that people can read.
    variables: BTreeMap<String, String>,
    found: Dockerfile,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn evidence(&self, offset: usize, value: &str) -> Evidence {
        Evidence::line(self.file, self.line(offset), value.trim())
    }

    fn instruction(&mut self, instruction: &Instruction) {
        match instruction {
            Instruction::From(from) => {
                let image = self.expand(&from.image.value);
                let evidence = self.evidence(from.image.span.start, &image);
                let base = BaseImage {
                    cuda: tag_version(&image, "cuda"),
                    torch: tag_version(&image, "pytorch"),
                    image,
                    is_final: false,
                    evidence,
                };
                self.found.base_images.push(base);
            }
            Instruction::Arg(arg) => self.variable(arg.arguments.span.start, &arg.arguments.value),
            Instruction::Env(env) => self.variable(env.arguments.span.start, &env.arguments.value),
            Instruction::Run(run) => match &run.arguments {
                Command::Shell(text) => {
                    self.run(text.span.start, text.value);
                    for here in &run.here_docs {
                        self.run(here.span.start, &here.value);
                    }
                }
                Command::Exec(words) => {
                    let start = words.span.start;
                    let words = words.value.iter().map(|word| word.value.to_string()).collect();
                    self.command(&Words { offset: 0, words }, start);
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// `NAME=value NAME="value"`, or `NAME value`.
    fn variable(&mut self, offset: usize, arguments: &str) {
        for words in commands(arguments) {
            let mut words = words.words.iter();
            let mut pairs: Vec<(String, String)> = Vec::new();
            while let Some(word) = words.next() {
                match word.split_once('=') {
                    Some((name, value)) => pairs.push((name.to_owned(), value.to_owned())),
                    None if pairs.is_empty() => {
                        let value = words.by_ref().cloned().collect::<Vec<_>>().join(" ");
                        pairs.push((word.clone(), value));
                    }
                    None => {}
                }
            }
            for (name, value) in pairs {
                let value = self.expand(&value);
                let evidence = self.evidence(offset, &format!("{name}={value}"));
                self.found.environment.push(evidence);
                self.variables.insert(name, value);
            }
        }
    }

    fn run(&mut self, offset: usize, text: &str) {
        for words in commands(text) {
            self.command(&words, offset + words.offset);
        }
    }

    fn command(&mut self, command: &Words, offset: usize) {
        let words: Vec<String> = command.words.iter().map(|word| self.expand(word)).collect();
        // `VARIABLE=value command`
        let start = words.iter().position(|word| !is_assignment(word)).unwrap_or(words.len());
        let words = &words[start..];
        let evidence = self.evidence(offset, &words.join(" "));
        if let Some(arguments) = pip_install(words) {
            let install = install(arguments, &evidence);
            self.found.installs.push(install);
        } else if words.first().is_some_and(|word| is_python(word)) {
            self.found.assertions.extend(assertions(&evidence));
            self.found.python_runs.push(evidence);
        }
    }

    /// Fills in `$NAME`, `${NAME}` and `${NAME:-default}`; a name that is not known stays as it is.
    fn expand(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$').filter(|_| out.len() < EXPANDED_MAX) {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let (name, end) = match after.strip_prefix('{').and_then(|inner| inner.find('}')) {
                Some(close) => (&after[1..=close], close + 2),
                None => {
                    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_');
                    let end = end.unwrap_or(after.len());
                    (&after[..end], end)
                }
            };
            let (name, default) = match name.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (name, None),
            };
            match self.variables.get(name).map(String::as_str).or(default) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[at..at + 1 + end]),
            }
            rest = &after[end..];
        }
        out.push_str(rest);
        out
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

fn is_python(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    name.strip_prefix("python").is_some_and(|v| v.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// The arguments of a `pip install`, however pip is called.
fn pip_install(words: &[String]) -> Option<&[String]> {
    let at = words.iter().position(|word| word == "install")?;
    let before = &words[..at];
    let pip = |word: &String| {
        let name = word.rsplit('/').next().unwrap_or(word);
        name.strip_prefix("pip").is_some_and(|v| v.chars().all(|c| c.is_ascii_digit() || c == '.'))
    };
    before.iter().any(pip).then(|| &words[at + 1..])
}

fn install(arguments: &[String], evidence: &Evidence) -> PipInstall {
    let mut install = PipInstall {
        requirements: Vec::new(),
        files: Vec::new(),
        index_urls: Vec::new(),
        upgrades: false,
        no_deps: false,
        evidence: evidence.clone(),
    };
    let with = |value: &str| Evidence { value: value.to_owned(), ..evidence.clone() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=').filter(|_| argument.starts_with("--")) {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let mut value = || value.clone().or_else(|| arguments.next().cloned()).unwrap_or_default();
        match name {
            "-r" | "--requirement" | "-c" | "--constraint" => install.files.push(with(&value())),
            "-i" | "--index-url" | "--extra-index-url" | "-f" | "--find-links" => {
                install.index_urls.push(with(&value()));
            }
            "-t" | "--target" | "--prefix" | "--root" | "--platform" | "--python-version"
            | "--timeout" | "--retries" | "--cache-dir" | "--only-binary" | "--no-binary"
            | "--trusted-host" | "--python" | "--progress-bar" => {
                value();
            }
            "-U" | "--upgrade" | "--force-reinstall" | "-I" | "--ignore-installed" => {
                install.upgrades = true;
            }
            "--no-deps" => install.no_deps = true,
            option if option.starts_with('-') => {}
            _ => {
                if let Ok((name, specifier, marker, url)) = requirements::requirement(argument) {
                    let evidence = with(argument);
                    let requirement =
                        Requirement { name, specifier, marker, url, index: None, evidence };
                    install.requirements.push(requirement);
                }
            }
        }
    }
    let index = install.index_urls.first().cloned();
    for requirement in &mut install.requirements {
        requirement.index.clone_from(&index);
    }
    install
}

/// Assertions on `torch.version.cuda` in Python that a command runs: the versions that they let pass.
fn assertions(evidence: &Evidence) -> Vec<Assertion> {
    let statements = evidence.value.split("assert ").skip(1);
    let assertion = |statement: &str| {
        let statement = statement.split([';', '\n']).next().unwrap_or(statement);
        statement.contains("torch.version.cuda").then(|| {
            let strings = statement.split(['\'', '"']).skip(1).step_by(2);
            let version = |text: &&str| {
                text.split_once('.').is_some_and(|(major, minor)| {
                    [major, minor].iter().all(|n| n.parse::<u32>().is_ok())
                })
            };
            let allowed: Vec<String> = strings.filter(version).map(str::to_owned).collect();
            let value = format!("assert {}", statement.trim());
            Assertion { allowed, evidence: Evidence { value, ..evidence.clone() } }
        })
    };
    statements.filter_map(assertion).filter(|assertion| !assertion.allowed.is_empty()).collect()
}

/// `12.1` of `nvidia/cuda:12.1.0-base`, or of `-cuda12.1-` in a tag; `2.3.1` of `pytorch/pytorch:2.3.1-…`.
fn tag_version(image: &str, what: &str) -> Option<String> {
    let (repository, tag) = image.rsplit_once(':')?;
    let own = repository.rsplit('/').next() == Some(what);
    let part = tag.split(['-', '_']).find_map(|part| part.strip_prefix(what));
    let text =
        part.filter(|part| part.starts_with(|c: char| c.is_ascii_digit())).or(own.then_some(tag))?;
    let version: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let version = version.trim_end_matches('.');
    let parts: Vec<&str> = version.split('.').collect();
    let wanted = if what == "cuda" { 2 } else { 3 };
    (parts.len() >= 2).then(|| parts[..parts.len().min(wanted)].join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# syntax=docker/dockerfile:1
ARG CUDA=12.4.1
FROM nvidia/cuda:${CUDA}-devel-ubuntu22.04 AS build
FROM pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime
ENV BNB_CUDA_VERSION=121 A=\"b c\"
RUN apt-get update && \\
    pip install --no-cache-dir torch==2.3.1 'bitsandbytes>=0.43' \\
      --index-url https://example.org/whl/cu121
RUN python3 -m pip install -U -r requirements.txt numpy
RUN python -c \"import torch; assert torch.version.cuda in ('12.4', '12.6'); print(1)\"
HEALTHCHECK CMD true
RUN [\"pip\", \"install\", \"x==1\"]
RUN <<EOF
pip install y
EOF
";

    #[test]
    fn a_file_as_people_write_it() {
        let found = parse("Dockerfile", FILE).unwrap();
        let images: Vec<_> = found
            .base_images
            .iter()
            .map(|b| (b.cuda.as_deref(), b.torch.as_deref(), b.is_final))
            .collect();
        assert_eq!(images, [(Some("12.4"), None, false), (Some("12.1"), Some("2.3.1"), true)]);
        let environment: Vec<&str> = found.environment.iter().map(|e| e.value.as_str()).collect();
        assert_eq!(environment, ["CUDA=12.4.1", "BNB_CUDA_VERSION=121", "A=b c"]);
        let installs: Vec<String> = found
            .installs
            .iter()
            .map(|i| {
                let names: Vec<String> =
                    i.requirements.iter().map(|r| format!("{}{}", r.name, r.specifier)).collect();
                format!(
                    "{} {} {} {}",
                    i.evidence.line.unwrap(),
                    names.join(","),
                    i.files.len(),
                    i.upgrades
                )
            })
            .collect();
        assert_eq!(
            installs,
            [
                "7 torch==2.3.1,bitsandbytes>=0.43 0 false",
                "9 numpy 1 true",
                "12 x==1 0 false",
                "14 y 0 false"
            ]
        );
        assert_eq!(
            found.installs[0].requirements[0].index.as_ref().unwrap().value,
            "https://example.org/whl/cu121"
        );
        assert_eq!(found.assertions[0].allowed, ["12.4", "12.6"]);
        assert_eq!(found.python_runs.len(), 1);
    }

    #[test]
    fn what_is_no_dockerfile_is_an_error() {
        assert!(parse("Dockerfile", "hello\n").is_err());
    }
}
