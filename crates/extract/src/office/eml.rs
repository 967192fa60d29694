//! E-mail: a page with its head and text, and behind it the pages of what is attached.

use mail_parser::{Address, Message, MessageParser, MimeHeaders, PartType};

use super::{Parts, check_words, damaged, html, plain};
use crate::error::ErrorKind;
use crate::{Format, Input, Limits, Page, Progress};

/// Most parts of a message.
const MAX_PARTS: usize = 1000;

pub(super) fn read(
    input: &Input<'_>,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Parts, ErrorKind> {
    let message = MessageParser::default().parse(input.bytes);
    let message = message.ok_or_else(|| damaged(Format::Eml, "there is no message in it"))?;
    let mut parts = Parts::default();
    add(&mut parts, &message, None, limits, progress)?;
    Ok(parts)
}

/// Adds a message and what is attached to it.
fn add(
    parts: &mut Parts,
    message: &Message<'_>,
    label: Option<String>,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ErrorKind> {
    if message.parts.len() > MAX_PARTS {
        return Err(ErrorKind::over("parts of a message", message.parts.len(), MAX_PARTS));
    }
    let is_outermost = parts.pages.is_empty();
    let mut page = Page::without_size(parts.pages.len() + 1, label);
    push_head(&mut page, message);
    // Of alternatives the last is the best (RFC 2046, 5.1.4), and the plain one is at times a mere hint at it.
    for body in &message.html_body {
        match message.parts.get(*body as usize).map(|part| &part.body) {
            Some(PartType::Text(text)) => plain::push_paragraphs(&mut page, text),
            Some(PartType::Html(text)) => drop(html::push(&mut page, text, limits)),
            _ => {}
        }
    }
    parts.pages.push(page);
    check_total(parts, limits)?;
    if is_outermost {
        parts.metadata.title = message.subject().map(str::to_owned);
        parts.metadata.author = message.from().map(addresses);
        parts.metadata.created = message.date().map(mail_parser::DateTime::to_rfc3339);
    }
    for attachment in &message.attachments {
        let Some(part) = message.parts.get(*attachment as usize) else { continue };
        let name = part.attachment_name().unwrap_or("attachment without a name").to_owned();
        if limits.depth_max == 0 {
            parts.warn(None, format!("{name}: lies too deep in other messages and was not read"));
            continue;
        }
        let inner = Limits { depth_max: limits.depth_max - 1, ..limits.clone() };
        match &part.body {
            PartType::Message(message) => add(parts, message, Some(name), &inner, progress)?,
            PartType::InlineBinary(_) if is_picture(part) => {
                parts.warn(None, format!("{name}: a picture within the text was not read"));
            }
            body => {
                let bytes = match body {
                    PartType::Text(text) | PartType::Html(text) => text.as_bytes(),
                    PartType::Binary(bytes) | PartType::InlineBinary(bytes) => bytes,
                    PartType::Message(_) | PartType::Multipart(_) => continue,
                };
                add_file(parts, &name, bytes, part, &inner, progress)?;
            }
        }
        check_total(parts, limits)?;
    }
    Ok(())
}

/// Adds the pages of a file; one that cannot be read is told of.
fn add_file(
    parts: &mut Parts,
    name: &str,
    bytes: &[u8],
    part: &mail_parser::MessagePart<'_>,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ErrorKind> {
    let mime = part.content_type().map(|kind| match kind.subtype() {
        Some(subtype) => format!("{}/{subtype}", kind.ctype()),
        None => kind.ctype().to_owned(),
    });
    match crate::read(Input { bytes, name, mime: mime.as_deref() }, limits, progress) {
        Ok(document) => {
            let before = parts.pages.len();
            for mut page in document.pages {
                page.label = Some(match page.label {
                    Some(label) => format!("{name}: {label}"),
                    None => name.to_owned(),
                });
                page.number += before;
                parts.pages.push(page);
            }
            for warning in document.warnings {
                let page = warning.page.map(|page| page + before);
                parts.warn(page, format!("{name}: {}", warning.message));
            }
            Ok(())
        }
        // What is too large for one is too large for all.
        Err(error) if matches!(error.kind, ErrorKind::OverLimit { .. }) => Err(error.kind),
        Err(error) => {
            parts.warn(None, format!("not read: {error}"));
            Ok(())
        }
    }
}

fn check_total(parts: &Parts, limits: &Limits) -> Result<(), ErrorKind> {
    if parts.pages.len() > limits.pages_max {
        return Err(ErrorKind::over("pages", parts.pages.len(), limits.pages_max));
    }
    check_words(parts.pages.iter().map(|page| page.words.len()).sum(), limits)
}

fn push_head(page: &mut Page, message: &Message<'_>) {
    let mut lines = Vec::new();
    for (name, value) in [("From", message.from()), ("To", message.to()), ("Cc", message.cc())] {
        if let Some(value) = value {
            lines.push(format!("{name}: {}", addresses(value)));
        }
    }
    if let Some(date) = message.date() {
        lines.push(format!("Date: {}", date.to_rfc3339()));
    }
    if let Some(subject) = message.subject() {
        lines.push(format!("Subject: {subject}"));
    }
    page.push_paragraph(&lines.join("\n"));
}

fn addresses(address: &Address<'_>) -> String {
    let one = |address: &mail_parser::Addr<'_>| match (address.name(), address.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => String::new(),
    };
    address.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn is_picture(part: &mail_parser::MessagePart<'_>) -> bool {
    part.content_type().is_some_and(|kind| kind.ctype().eq_ignore_ascii_case("image"))
}
