//! `requirements.txt` and constraint files: pip's format around PEP 508.

use std::str::FromStr;

use pep508_rs::{Requirement as Pep508, VerbatimUrl, VersionOrUrl};

use super::package::normalize;
use crate::facts::{Evidence, Requirement, Requirements};

/// Lines of one file.
const LINES_MAX: usize = 100_000;
/// Characters of a line that is parsed; a longer one is listed as not understood.
const LINE_MAX: usize = 8_192;

/// Reads a file. Lines that make no sense are listed, not dropped.
pub(crate) fn parse(file: &str, text: &str) -> Requirements {
    let mut found = Requirements { path: file.to_owned(), ..Requirements::default() };
    for (number, line) in logical_lines(text) {
        let evidence = Evidence::line(file, number, line.clone());
        match option(&line) {
            Some(("-r" | "--requirement" | "-c" | "--constraint", name)) => {
                found.includes.push(Evidence { value: name.to_owned(), ..evidence });
            }
            Some(("-i" | "--index-url" | "--extra-index-url" | "-f" | "--find-links", url)) => {
                found.index_urls.push(Evidence { value: url.to_owned(), ..evidence });
            }
            Some(_) => {}
            None => match requirement(&line) {
                Ok((name, specifier, marker, url)) => {
                    let index = None;
                    let requirement = Requirement { name, specifier, marker, url, index, evidence };
                    found.requirements.push(requirement);
                }
                Err(reason) => {
                    let value = format!("{line}: {reason}");
                    found.not_understood.push(Evidence { value, ..evidence });
                }
            },
        }
    }
    found
}

/// Lines without comments, with those joined that a backslash continues.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate().take(LINES_MAX) {
        let (number, mut joined) = open.take().unwrap_or((at + 1, String::new()));
        if let Some(start) = line.strip_suffix('\\') {
            joined.push_str(start);
            open = Some((number, joined));
            continue;
        }
        joined.push_str(line);
        lines.push((number, joined));
    }
    lines.extend(open);
    let clean = |(number, line): (usize, String)| {
        // pip: a comment begins a line, or follows a space.
        let comment = line.find(" #").or_else(|| line.trim_start().starts_with('#').then_some(0));
        let line = line[..comment.unwrap_or(line.len())].trim().to_owned();
        (!line.is_empty()).then_some((number, line))
    };
    lines.into_iter().filter_map(clean).collect()
}

/// An option of pip's and its value.
fn option(line: &str) -> Option<(&str, &str)> {
    if !line.starts_with('-') {
        return None;
    }
    let end = line.find([' ', '=']).unwrap_or(line.len());
    let (name, value) = line.split_at(end);
    // `-rfile` is `-r file`.
    if !name.starts_with("--") && name.len() > 2 {
        return Some((name.get(..2)?, name.get(2..)?));
    }
    Some((name, value.trim_start_matches([' ', '=']).trim()))
}

/// Name, specifier, marker and address of a requirement.
type Parts = (String, String, Option<String>, Option<String>);

/// Parses what PEP 508 allows; options like `--hash` behind it are cut off.
pub(crate) fn requirement(line: &str) -> Result<Parts, String> {
    let line = line.find(" --").map_or(line, |at| &line[..at]).trim();
    if line.len() > LINE_MAX {
        return Err(format!("longer than {LINE_MAX} characters"));
    }
    let parsed = parse_pep508(line)?;
    let name = normalize(parsed.name.as_ref());
    let marker = parsed.marker.try_to_string();
    match parsed.version_or_url {
        None => Ok((name, String::new(), marker, None)),
        Some(VersionOrUrl::VersionSpecifier(specifiers)) => {
            Ok((name, specifiers.to_string(), marker, None))
        }
        Some(VersionOrUrl::Url(url)) => Ok((name, String::new(), marker, Some(url.to_string()))),
    }
}

/// A requirement as metadata and requirement files have it.
pub(crate) fn parse_pep508(text: &str) -> Result<Pep508<VerbatimUrl>, String> {
    if let Some(strange) = text.chars().find(|c| !c.is_ascii()) {
        // PEP 508 has none, and the parser cuts within them.
        return Err(format!("`{strange}` is no character of a requirement"));
    }
    check_names(text)?;
    // Metadata before version 2 has the specifier in brackets without a space: `x(>=1)`; the parser takes both.
    let parsed = Pep508::from_str(text);
    // The message alone: the error as a whole underlines what it means, and panics where that is within a character.
    let first = |text: String| text.lines().next().unwrap_or("is no requirement").to_owned();
    parsed.map_err(|error| first(error.message.to_string()))
}

/// Refuses names and extras that end in a separator, at which the parser panics where anything follows.
fn check_names(text: &str) -> Result<(), String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || SEPARATORS.contains(&c);
    let check = |name: &str| match name.ends_with(SEPARATORS) {
        true => Err(format!("`{name}` ends in neither a letter nor a digit")),
        false => Ok(()),
    };
    let text = text.trim_start();
    let (name, rest) = text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len()));
    check(name)?;
    let Some(extras) = rest.trim_start().strip_prefix('[') else { return Ok(()) };
    extras.split(']').next().unwrap_or_default().split(|c| !is_name(c)).try_for_each(check)
}

/// What may stand between the letters and digits of a name: PEP 508.
const SEPARATORS: [char; 3] = ['-', '_', '.'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_end_in_a_separator_are_refused() {
        for line in [
            "y- b",
            "y-==1",
            "y_ ; python_version < '3'",
            "x[a-]",
            "x [b, a.] == 1",
            "x[a- b]",
            "x[a-",
        ] {
            assert!(requirement(line).is_err(), "{line}");
        }
        assert!(requirement("x-y_z.w[a-b, c] == 1").is_ok());
        assert!(requirement("x ; python_version < '3.12'==[\u{fffd}").is_err());
    }

    #[test]
    fn lines_of_pip() {
        let text = "\
# comment
torch==2.3.1 \\
    --hash=sha256:00
Bits_and.Bytes >= 0.42 ; python_version < '3.12'  # why
-r more.txt
--extra-index-url=https://example.org/whl/cu121
numpy (<2)
git+https://example.org/x
x @ https://example.org/x-1-py3-none-any.whl
";
        let found = parse("r.txt", text);
        let names: Vec<_> = found
            .requirements
            .iter()
            .map(|r| {
                format!("{} {} {:?} {}", r.name, r.specifier, r.marker, r.evidence.line.unwrap())
            })
            .collect();
        assert_eq!(
            names,
            [
                "torch ==2.3.1 None 2",
                "bits-and-bytes >=0.42 Some(\"python_full_version < '3.12'\") 4",
                "numpy <2 None 7",
                "x  None 9",
            ]
        );
        assert_eq!(found.includes[0].value, "more.txt");
        assert_eq!(found.index_urls[0].value, "https://example.org/whl/cu121");
        assert_eq!(found.not_understood.len(), 1, "{:?}", found.not_understood);
    }
}
