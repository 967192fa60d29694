//! A schema as it is understood: every node has one type, or is a choice of nodes.

use serde_json::Value;

/// What a value may be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Anything.
    Any,
    /// Nothing: `false`, or with a reason, what contradicts itself.
    Never(Option<String>),
    Null,
    Boolean,
    Number(Number),
    String(Text),
    Array(Array),
    Object(Object),
    /// One of these values.
    Enum(Vec<Value>),
    /// What at least one of these allows; none of them is a choice itself.
    AnyOf(Vec<Node>),
    /// A definition, by index.
    Ref(usize),
}

/// An end of a range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    pub(super) value: f64,
    pub(super) exclusive: bool,
}

#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Number {
    pub(super) integer: bool,
    pub(super) min: Option<Bound>,
    pub(super) max: Option<Bound>,
    pub(super) multiple_of: Vec<f64>,
}

#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Text {
    pub(super) min: usize,
    pub(super) max: Option<usize>,
    /// Regular expressions that all have to be found in the text.
    pub(super) patterns: Vec<String>,
    /// Names of formats that llguidance enforces.
    pub(super) formats: Vec<&'static str>,
}

#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Array {
    pub(super) prefix: Vec<Node>,
    /// What follows the prefix; anything if absent.
    pub(super) items: Option<Box<Node>>,
    pub(super) min: usize,
    pub(super) max: Option<usize>,
}

#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Object {
    /// Where it stands.
    pub(super) at: String,
    pub(super) properties: Vec<(String, Node)>,
    pub(super) patterns: Vec<(String, Node)>,
    pub(super) required: Vec<String>,
    pub(super) additional: Additional,
    pub(super) min: usize,
    pub(super) max: Option<usize>,
}

/// What `additionalProperties` says.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) enum Additional {
    /// It is absent: closed if the object names properties, unless everything is open.
    #[default]
    Unsaid,
    /// No others.
    None,
    /// Others of this kind.
    Of(Box<Node>),
}

impl Node {
    /// A choice, without needless nesting. What cannot be is left out; if nothing can, the first reason stands for all.
    pub(super) fn any_of(nodes: Vec<Node>) -> Node {
        let mut options: Vec<Node> = Vec::new();
        let mut values = Vec::new();
        let mut never = None;
        let mut stack: Vec<Node> = nodes;
        stack.reverse();
        while let Some(node) = stack.pop() {
            match node {
                Node::Any => return Node::Any,
                Node::Never(reason) => {
                    never.get_or_insert(reason);
                }
                Node::AnyOf(inner) => stack.extend(inner.into_iter().rev()),
                Node::Enum(more) => {
                    if values.is_empty() {
                        options.push(Node::Enum(Vec::new()));
                    }
                    for value in more {
                        if !values.contains(&value) {
                            values.push(value);
                        }
                    }
                }
                node if options.contains(&node) => {}
                node => options.push(node),
            }
        }
        // All constants are one set, where the first of them stood.
        if let Some(set) = options.iter_mut().find(|node| matches!(node, Node::Enum(_))) {
            *set = Node::Enum(values);
        }
        match options.len() {
            0 => Node::Never(never.flatten()),
            1 => options.remove(0),
            _ => Node::AnyOf(options),
        }
    }

    pub(super) fn never(reason: impl Into<String>) -> Node {
        Node::Never(Some(reason.into()))
    }
}

impl Object {
    pub(super) fn property(&self, name: &str) -> Option<&Node> {
        self.properties.iter().find(|(other, _)| other == name).map(|(_, node)| node)
    }

    pub(super) fn requires(&self, name: &str) -> bool {
        self.required.iter().any(|other| other == name)
    }

    /// Whether it names no properties, and says nothing of others.
    pub(super) fn is_unnamed(&self) -> bool {
        self.properties.is_empty()
            && self.patterns.is_empty()
            && self.required.is_empty()
            && self.additional == Additional::Unsaid
    }

    /// Whether properties that it does not name may come.
    pub(super) fn is_open(&self, open: bool) -> bool {
        match &self.additional {
            Additional::Unsaid => open || self.is_unnamed(),
            Additional::None => false,
            Additional::Of(node) => !matches!(**node, Node::Never(_)),
        }
    }
}
