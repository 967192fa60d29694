//! XML as a sequence of what matters here: elements by their local names, their attributes, texts.

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::damaged;
use crate::Format;
use crate::error::ErrorKind;

/// Deepest nesting of elements.
const MAX_DEPTH: usize = 512;

/// A part of the document.
pub(super) enum Node<'a> {
    /// An element begins. One without content ends at once.
    Start(&'a str, Attributes<'a>),
    /// It ends.
    End(&'a str),
    /// Text within it.
    Text(&'a str),
}

/// Attributes of an element.
pub(super) struct Attributes<'a>(&'a BytesStart<'a>);

impl Attributes<'_> {
    /// The value of the attribute with this local name.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let mut attributes = self.0.attributes().flatten();
        let found = attributes.find(|attribute| attribute.key.local_name().as_ref() == name)?;
        Some(match found.normalized_value(XmlVersion::Implicit1_0) {
            Ok(value) => value.into_owned(),
            Err(_) => found.value.into_owned(),
        })
    }

    /// The value of the attribute with this whole name, prefix included.
    pub(super) fn get_prefixed(&self, name: &str) -> Option<String> {
        let mut attributes = self.0.attributes().flatten();
        let found = attributes.find(|attribute| attribute.key.as_ref() == name)?;
        Some(found.value.into_owned())
    }

    /// Whether a switch such as `<w:vanish/>` is on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_none_or(|value| !["0", "false", "off"].contains(&value.as_str()))
    }
}

/// Hands every part of a document to `visit`, in order.
pub(super) fn walk(
    text: &str,
    format: Format,
    mut visit: impl FnMut(Node<'_>) -> Result<(), ErrorKind>,
) -> Result<(), ErrorKind> {
    let mut reader = Reader::from_str(text);
    let mut depth = 0;
    loop {
        match reader.read_event().map_err(|error| damaged(format, error))? {
            Event::Start(start) => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(ErrorKind::over("nested elements", depth, MAX_DEPTH));
                }
                visit(Node::Start(start.local_name().as_ref(), Attributes(&start)))?;
            }
            Event::Empty(start) => {
                let name = start.local_name();
                visit(Node::Start(name.as_ref(), Attributes(&start)))?;
                visit(Node::End(name.as_ref()))?;
            }
            Event::End(end) => {
                depth = depth.saturating_sub(1);
                visit(Node::End(end.local_name().as_ref()))?;
            }
            Event::Text(text) => visit(Node::Text(&text))?,
            Event::CData(text) => visit(Node::Text(&text))?,
            Event::GeneralRef(reference) => {
                let character = reference.resolve_char_ref().ok().flatten();
                match character {
                    Some(character) => visit(Node::Text(character.encode_utf8(&mut [0; 4])))?,
                    // Entities of the document's own are none of ours: nothing is expanded.
                    None => {
                        let known = resolve_predefined_entity(&reference);
                        visit(Node::Text(known.unwrap_or("\u{fffd}")))?;
                    }
                }
            }
            Event::Eof => return Ok(()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}
