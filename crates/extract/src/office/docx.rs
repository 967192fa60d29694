//! DOCX: the body, before it what stands in headers, behind it footers and notes.

use super::archive::Archive;
use super::flow::Flow;
use super::xml::{self, Node};
use super::{Parts, damaged};
use crate::error::ErrorKind;
use crate::{Format, Limits, Metadata, Page};

pub(super) fn read(bytes: &[u8], limits: &Limits) -> Result<Parts, ErrorKind> {
    let mut archive = Archive::open(bytes, Format::Docx, limits)?;
    let mut names: Vec<String> = archive.names();
    names.sort();
    // A header for first pages, for even ones and for others: the same text often, but not always.
    let of = |kind: &str| -> Vec<String> {
        let is_kind = |name: &&String| {
            name.strip_prefix("word/")
                .is_some_and(|name| name.starts_with(kind) && name.ends_with(".xml"))
        };
        names.iter().filter(is_kind).cloned().collect()
    };
    let body = ["word/document.xml", "word/document2.xml"].into_iter().map(str::to_owned);
    let body: Vec<String> = body.filter(|name| names.contains(name)).take(1).collect();
    if body.is_empty() {
        return Err(damaged(Format::Docx, "word/document.xml is missing"));
    }
    let mut flow = Flow::new(Page::without_size(1, None), limits);
    let order = [of("header"), body, of("footnotes"), of("endnotes"), of("footer")];
    let mut repeated = Vec::new();
    for name in order.into_iter().flatten() {
        let Some(text) = archive.text(&name)? else { continue };
        if repeated.contains(&text) {
            continue;
        }
        xml::walk(&text, Format::Docx, |node| flow.visit(node))?;
        if name.contains("header") || name.contains("footer") {
            repeated.push(text);
        }
    }
    let mut parts = Parts::of(vec![flow.page]);
    parts.metadata = properties(&mut archive, Format::Docx)?;
    Ok(parts)
}

/// What an Office file says of itself.
pub(super) fn properties(archive: &mut Archive<'_>, format: Format) -> Result<Metadata, ErrorKind> {
    let mut metadata = Metadata::default();
    for member in ["docProps/core.xml", "docProps/app.xml"] {
        let Some(text) = archive.text(member)? else { continue };
        let mut inside = String::new();
        let walked = xml::walk(&text, format, |node| {
            match node {
                Node::Start(name, _) => inside = name.to_owned(),
                Node::End(_) => inside.clear(),
                Node::Text(text) => {
                    let field = match inside.as_str() {
                        "title" => &mut metadata.title,
                        "creator" => &mut metadata.author,
                        "created" => &mut metadata.created,
                        "Application" => &mut metadata.producer,
                        _ => return Ok(()),
                    };
                    field.get_or_insert_default().push_str(text);
                }
            }
            Ok(())
        });
        // Damage here is none of the text.
        if walked.is_err() {
            break;
        }
    }
    Ok(metadata)
}
