//! PPTX: a page for each slide, in the order of the show, its notes at its end.

use std::collections::HashMap;

use super::archive::Archive;
use super::docx::properties;
use super::flow::Flow;
use super::xml::{self, Node};
use super::{Parts, damaged};
use crate::error::ErrorKind;
use crate::{Format, Limits, Page, Progress};

pub(super) fn read(
    bytes: &[u8],
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Parts, ErrorKind> {
    let mut archive = Archive::open(bytes, Format::Pptx, limits)?;
    let slides = slides(&mut archive)?;
    if slides.len() > limits.pages_max {
        return Err(ErrorKind::over("slides", slides.len(), limits.pages_max));
    }
    let mut parts = Parts::default();
    for (index, name) in slides.iter().enumerate() {
        let Some(text) = archive.text(name)? else {
            return Err(damaged(Format::Pptx, format!("{name} is missing")));
        };
        let mut flow = Flow::new(Page::without_size(index + 1, None), limits);
        show(&text, &mut flow)?;
        for (kind, target) in relations(&mut archive, name)?.values() {
            if kind.ends_with("/notesSlide")
                && let Some(notes) = archive.text(target)?
            {
                show(&notes, &mut flow)?;
            }
        }
        parts.pages.push(flow.page);
        progress(Progress { pages_done: index + 1, pages: slides.len() });
    }
    parts.metadata = properties(&mut archive, Format::Pptx)?;
    Ok(parts)
}

/// Reads a slide; numbers of slides and dates, which every slide repeats, are left out.
fn show(text: &str, flow: &mut Flow<'_>) -> Result<(), ErrorKind> {
    let mut is_left_out = false;
    xml::walk(text, Format::Pptx, |node| {
        match &node {
            Node::Start("sp" | "graphicFrame" | "pic", _) => {
                flow.is_title = false;
                is_left_out = false;
            }
            Node::Start("ph", attributes) => {
                let kind = attributes.get("type").unwrap_or_default();
                flow.is_title = ["title", "ctrTitle"].contains(&kind.as_str());
                is_left_out = ["sldNum", "dt"].contains(&kind.as_str());
            }
            Node::End("sp") => {
                flow.is_title = false;
                is_left_out = false;
            }
            _ if is_left_out => return Ok(()),
            _ => {}
        }
        flow.visit(node)
    })
}

/// Members of the slides, in the order of the show.
fn slides(archive: &mut Archive<'_>) -> Result<Vec<String>, ErrorKind> {
    let presentation = "ppt/presentation.xml";
    let text = archive.text(presentation)?;
    let text = text.ok_or_else(|| damaged(Format::Pptx, "ppt/presentation.xml is missing"))?;
    let relations = relations(archive, presentation)?;
    let mut slides = Vec::new();
    xml::walk(&text, Format::Pptx, |node| {
        if let Node::Start("sldId", attributes) = node
            && let Some(id) = attributes.get_prefixed("r:id")
            && let Some((_, target)) = relations.get(&id)
        {
            slides.push(target.clone());
        }
        Ok(())
    })?;
    Ok(slides)
}

/// What a member refers to: by id, the kind of reference and the member.
fn relations(
    archive: &mut Archive<'_>,
    of: &str,
) -> Result<HashMap<String, (String, String)>, ErrorKind> {
    let (folder, name) = of.rsplit_once('/').unwrap_or(("", of));
    let Some(text) = archive.text(&format!("{folder}/_rels/{name}.rels"))? else {
        return Ok(HashMap::new());
    };
    let mut found = HashMap::new();
    xml::walk(&text, Format::Pptx, |node| {
        if let Node::Start("Relationship", attributes) = node
            && let (Some(id), Some(kind), Some(target)) =
                (attributes.get("Id"), attributes.get("Type"), attributes.get("Target"))
        {
            found.insert(id, (kind, resolve(folder, &target)));
        }
        Ok(())
    })?;
    Ok(found)
}

/// `../slides/slide1.xml` from `ppt/notesSlides`.
fn resolve(folder: &str, target: &str) -> String {
    if let Some(absolute) = target.strip_prefix('/') {
        return absolute.to_owned();
    }
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}
