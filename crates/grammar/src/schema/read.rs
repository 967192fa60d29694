//! JSON Schema as it is written, into nodes.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::merge::{Refusal, are_disjoint, intersect};
use super::node::{Additional, Node};
use super::words::{
    ENFORCED, MAX_DEPTH, MAX_MERGES, MAX_SCHEMAS, REFUSED, is_annotation, percent_decoded, pointer,
};
use crate::GrammarError;

/// What a `$ref` points to.
#[derive(Debug, Clone)]
struct Definition {
    path: String,
    node: State,
    /// Whether it was merged with another schema.
    merged: bool,
}

#[derive(Debug, Clone)]
enum State {
    /// To be read from this path of the document.
    Unread(String),
    Reading,
    Read(Node),
}

/// A `oneOf` to be looked at once everything is read.
struct OneOf {
    options: Vec<Node>,
    at: String,
    /// Whether its objects may get more properties.
    open: bool,
    /// The definition that it stands in.
    owner: Option<usize>,
}

/// Reads schemas.
pub(super) struct Reader<'a> {
    document: &'a Value,
    /// What comes before a pointer into the document.
    pub(super) prefix: String,
    definitions: Vec<Definition>,
    by_path: HashMap<String, usize>,
    depth: usize,
    schemas: usize,
    merges: usize,
    /// How many `allOf` we are in.
    merging: usize,
    one_ofs: Vec<OneOf>,
    /// The definition that is being read.
    owner: Option<usize>,
    open: bool,
}

pub(super) type Read<T> = Result<T, GrammarError>;

impl<'a> Reader<'a> {
    pub(super) fn new(document: &'a Value, prefix: &str, open: bool) -> Self {
        Reader {
            document,
            prefix: prefix.into(),
            definitions: Vec::new(),
            by_path: HashMap::new(),
            depth: 0,
            schemas: 0,
            merges: 0,
            merging: 0,
            one_ofs: Vec::new(),
            owner: None,
            open,
        }
    }

    /// Goes on to another document.
    pub(super) fn enter(&mut self, document: &'a Value, prefix: &str) {
        self.document = document;
        self.prefix = prefix.into();
    }

    /// Reads the document.
    pub(super) fn root(&mut self) -> Read<Node> {
        let document = self.document;
        if document == &Value::Bool(false) {
            return Err(self.refuse("", "`false` lets nothing through"));
        }
        let root = self.schema(document, "")?;
        let mut next = 0;
        while next < self.definitions.len() {
            self.read_definition(next)?;
            next += 1;
        }
        for one_of in std::mem::take(&mut self.one_ofs) {
            self.tell_apart(&one_of)?;
        }
        Ok(root)
    }

    /// All definitions, once everything is read; each has a finite value.
    pub(super) fn finish(self) -> Read<Vec<Node>> {
        let nodes = self.definitions.iter().map(|definition| match &definition.node {
            State::Read(node) => node.clone(),
            State::Unread(_) | State::Reading => {
                unreachable!("all definitions are read with the root")
            }
        });
        let nodes: Vec<Node> = nodes.collect();
        let mut finite = vec![false; nodes.len()];
        loop {
            let before = finite.clone();
            for (at, node) in nodes.iter().enumerate() {
                finite[at] = finite[at] || is_finite(node, &before);
            }
            if finite == before {
                break;
            }
        }
        match finite.iter().position(|finite| !finite) {
            None => Ok(nodes),
            Some(at) => Err(GrammarError::Schema {
                path: self.definitions[at].path.clone(),
                reason: "no finite document fits: it contains itself in any case".into(),
            }),
        }
    }

    pub(super) fn refuse(&self, path: &str, reason: impl Into<String>) -> GrammarError {
        GrammarError::Schema { path: format!("{}{path}", self.prefix), reason: reason.into() }
    }

    /// Counts a step of merging.
    pub(super) fn count_merge(&mut self) -> Result<(), Refusal> {
        self.merges += 1;
        if self.merges > MAX_MERGES {
            return Err(format!("merging these schemas takes more than {MAX_MERGES} steps"));
        }
        Ok(())
    }

    /// A definition, to be merged.
    pub(super) fn resolve(&mut self, index: usize) -> Result<Node, Refusal> {
        self.definitions[index].merged = true;
        self.look_up(index)
    }

    /// A definition, to be looked at.
    pub(super) fn look_up(&mut self, index: usize) -> Result<Node, Refusal> {
        self.count_merge()?;
        self.read_definition(index).map_err(|error| error.to_string())?;
        let definition = &self.definitions[index];
        match &definition.node {
            State::Read(node) => Ok(node.clone()),
            _ => Err(format!("{} contains itself: its `$ref` has to stand alone", definition.path)),
        }
    }

    /// Whether a node is an object, `$ref` followed.
    pub(super) fn is_object(&self, node: &Node) -> bool {
        match node {
            Node::Object(_) => true,
            Node::Ref(index) => {
                matches!(&self.definitions[*index].node, State::Read(Node::Object(_)))
            }
            Node::AnyOf(options) => options.iter().all(|option| self.is_object(option)),
            _ => false,
        }
    }

    pub(super) fn schema(&mut self, schema: &Value, path: &str) -> Read<Node> {
        self.schemas += 1;
        if self.schemas > MAX_SCHEMAS {
            let message = format!("the schema has more than {MAX_SCHEMAS} schemas in it");
            return Err(GrammarError::TooLarge(message));
        }
        if self.depth >= MAX_DEPTH {
            let message = format!("{}{path}: schemas nest more than {MAX_DEPTH} deep", self.prefix);
            return Err(GrammarError::TooLarge(message));
        }
        self.depth += 1;
        let node = match schema {
            Value::Bool(true) => Ok(Node::Any),
            Value::Bool(false) => Ok(Node::Never(None)),
            Value::Object(keys) => self.keywords(keys, path),
            _ => Err(self.refuse(path, "a schema is an object, `true` or `false`")),
        };
        self.depth -= 1;
        node
    }

    fn keywords(&mut self, keys: &Map<String, Value>, path: &str) -> Read<Node> {
        self.check_keys(keys, path)?;
        let mut node = self.own(keys, path)?;
        let merge = |reader: &mut Self, node: &Node, other: &Node, at: &str| {
            intersect(reader, node, other).map_err(|reason| reader.refuse(at, reason))
        };
        if let Some(target) = keys.get("$ref") {
            let at = pointer(path, "$ref");
            let target = self.reference(target, &at)?;
            node = merge(self, &node, &target, &at)?;
        }
        if let Some(all) = keys.get("allOf") {
            let at = pointer(path, "allOf");
            self.merging += 1;
            for (index, part) in self.list(all, &at)?.iter().enumerate() {
                let at = pointer(&at, &index.to_string());
                let part = self.schema(part, &at)?;
                node = merge(self, &node, &part, &at)?;
            }
            self.merging -= 1;
        }
        for keyword in ["anyOf", "oneOf"] {
            let Some(options) = keys.get(keyword) else { continue };
            let at = pointer(path, keyword);
            let mut merged = Vec::new();
            let list = self.list(options, &at)?;
            // Branches merge with what stands beside them.
            let beside = node != Node::Any;
            self.merging += usize::from(beside);
            for (index, option) in list.iter().enumerate() {
                let at = pointer(&at, &index.to_string());
                let option = self.schema(option, &at)?;
                merged.push(merge(self, &node, &option, &at)?);
            }
            self.merging -= usize::from(beside);
            if keyword == "oneOf" {
                self.one_ofs.push(OneOf {
                    options: merged.clone(),
                    at,
                    open: self.open || self.merging > 0,
                    owner: self.owner,
                });
            }
            node = Node::any_of(merged);
        }
        if keys.get("unevaluatedProperties") == Some(&Value::Bool(false)) {
            close(&mut node)
                .map_err(|why| self.refuse(&pointer(path, "unevaluatedProperties"), why))?;
        }
        if keys.get("nullable") == Some(&Value::Bool(true)) {
            node = Node::any_of(vec![node, Node::Null]);
        }
        self.check(&node, path)?;
        Ok(node)
    }

    /// Refuses what a merge has found contradictory, here or in a property.
    pub(super) fn check(&self, node: &Node, path: &str) -> Read<()> {
        match node {
            Node::Never(Some(reason)) => Err(self.refuse(path, reason.clone())),
            Node::Object(object) => {
                for (name, node) in &object.properties {
                    if let Node::Never(Some(reason)) = node {
                        let reason = format!("the property {name:?} can have no value: {reason}");
                        return Err(self.refuse(path, reason));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_keys(&self, keys: &Map<String, Value>, path: &str) -> Read<()> {
        for (key, value) in keys {
            let at = || pointer(path, key);
            // These say what the standard says without them.
            if key == "uniqueItems" && value == &Value::Bool(false) {
                continue;
            }
            if let Some((_, hint)) = REFUSED.iter().find(|(name, _)| name == key) {
                return Err(self.refuse(&at(), format!("`{key}` is not supported: {hint}")));
            }
            let known = ENFORCED.contains(&key.as_str()) || is_annotation(key);
            if !known && !key.starts_with("x-") {
                return Err(self.refuse(&at(), format!("`{key}` is no keyword of JSON Schema")));
            }
            if ["nullable", "unevaluatedProperties"].contains(&key.as_str()) && !value.is_boolean()
            {
                return Err(self.refuse(&at(), format!("`{key}` has to be true or false")));
            }
            // Definitions that nothing refers to are read as well: what is wrong there is wrong.
            if ["$defs", "definitions"].contains(&key.as_str()) && !value.is_object() {
                return Err(self.refuse(&at(), format!("`{key}` has to be an object of schemas")));
            }
        }
        Ok(())
    }

    fn reference(&mut self, target: &Value, at: &str) -> Read<Node> {
        let target = target.as_str().ok_or_else(|| self.refuse(at, "it has to be a text"))?;
        let path = match target.strip_prefix('#') {
            Some(path) if path.is_empty() || path.starts_with('/') => percent_decoded(path),
            _ => {
                let reason = format!("{target:?} is not in this document: write \"#/$defs/NAME\"");
                return Err(self.refuse(at, reason));
            }
        };
        Ok(Node::Ref(self.define(&path, at)?))
    }

    /// The definition at a path, which is read later or when it is needed.
    pub(super) fn define(&mut self, path: &str, at: &str) -> Read<usize> {
        let full = format!("{}{path}", self.prefix);
        if let Some(&index) = self.by_path.get(&full) {
            return Ok(index);
        }
        if self.document.pointer(path).is_none() {
            return Err(self.refuse(at, format!("there is no \"#{path}\"")));
        }
        let index = self.definitions.len();
        let node = State::Unread(path.to_owned());
        self.definitions.push(Definition { path: full.clone(), node, merged: false });
        self.by_path.insert(full, index);
        Ok(index)
    }

    fn read_definition(&mut self, index: usize) -> Read<()> {
        let definition = &mut self.definitions[index];
        let State::Unread(path) = definition.node.clone() else { return Ok(()) };
        definition.node = State::Reading;
        let document = self.document;
        let Some(schema) = document.pointer(&path) else { return Ok(()) };
        // A definition stands for itself, wherever it is referred to.
        let merging = std::mem::take(&mut self.merging);
        let owner = self.owner.replace(index);
        let node = self.schema(schema, &path)?;
        self.definitions[index].node = State::Read(node);
        (self.merging, self.owner) = (merging, owner);
        Ok(())
    }

    fn tell_apart(&mut self, one_of: &OneOf) -> Read<()> {
        let merged = one_of.owner.is_some_and(|index| self.definitions[index].merged);
        let closed = !one_of.open && !merged;
        for (second, b) in one_of.options.iter().enumerate() {
            for (first, a) in one_of.options[..second].iter().enumerate() {
                let disjoint = are_disjoint(self, a, b, closed, 0);
                if !disjoint.map_err(|reason| self.refuse(&one_of.at, reason))? {
                    let reason = format!(
                        "a value may fit both {first} and {second}: give them different types, or a required property \
                         with different constants, or write `anyOf`"
                    );
                    return Err(self.refuse(&one_of.at, reason));
                }
            }
        }
        Ok(())
    }
}

/// Closes objects that say nothing of other properties.
fn close(node: &mut Node) -> Result<(), Refusal> {
    match node {
        Node::Object(object) if object.additional == Additional::Unsaid => {
            object.additional = Additional::None;
            // What is required is evaluated by nothing else.
            for name in object.required.clone() {
                if object.property(&name).is_none() {
                    return Err(format!("the required property {name:?} can have no value"));
                }
            }
            Ok(())
        }
        Node::AnyOf(options) => options.iter_mut().try_for_each(close),
        Node::Ref(_) => {
            Err("beside a `$ref` alone it is not supported: close the definition itself".into())
        }
        _ => Ok(()),
    }
}

/// Whether a node has a finite value, if definitions have one as `finite` says.
fn is_finite(node: &Node, finite: &[bool]) -> bool {
    match node {
        Node::Never(_) => false,
        Node::Ref(index) => finite[*index],
        Node::AnyOf(options) => options.iter().any(|option| is_finite(option, finite)),
        Node::Array(array) => {
            let items = array.items.as_deref();
            (0..array.min.min(array.prefix.len() + 1))
                .all(|at| array.prefix.get(at).or(items).is_none_or(|item| is_finite(item, finite)))
        }
        Node::Object(object) => object
            .required
            .iter()
            .all(|name| object.property(name).is_none_or(|node| is_finite(node, finite))),
        _ => true,
    }
}
