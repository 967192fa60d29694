//! What a request says beside its prompt.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The task, and what the model should know about it. A stage's template decides what of it the model is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Name of the stage: it gives the model's instructions and the answer's schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stage: Option<String>,
    /// Whose books these are: a name, or an object that the model sees as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) business: Option<Described>,
    /// The accounting software: a name, or an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) software: Option<Described>,
    /// Names the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) document_id: Option<DocumentId>,
    /// Kinds of entities to look for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entity_types: Option<Vec<String>>,
    /// What is to be done with the document: a name, or an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) action: Option<Described>,
    /// Number of `actions`; both must agree where both are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) action_count: Option<usize>,
    /// What can be done, or is to be done: names, or objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actions: Option<Vec<Described>>,
}

/// A name, or an object that describes the thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or an object")]
pub(crate) enum Described {
    /// Its name.
    Name(String),
    /// What is known of it.
    Object(Map<String, Value>),
}

/// A text or an integer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or an integer")]
pub(crate) enum DocumentId {
    /// As a text.
    Text(String),
    /// As a number.
    Number(i64),
}

/// A field of [`Context`] that a stage may call for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContextField {
    Business,
    Software,
    DocumentId,
    EntityTypes,
    Action,
    ActionCount,
    Actions,
}

impl ContextField {
    /// All of them.
    pub(crate) const ALL: [ContextField; 7] = [
        ContextField::Business,
        ContextField::Software,
        ContextField::DocumentId,
        ContextField::EntityTypes,
        ContextField::Action,
        ContextField::ActionCount,
        ContextField::Actions,
    ];

    /// Its name in requests.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            ContextField::Business => "business",
            ContextField::Software => "software",
            ContextField::DocumentId => "document_id",
            ContextField::EntityTypes => "entity_types",
            ContextField::Action => "action",
            ContextField::ActionCount => "action_count",
            ContextField::Actions => "actions",
        }
    }
}

impl fmt::Display for ContextField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Context {
    /// Whether a field says something: an empty list or text does not.
    pub(crate) fn has(&self, field: ContextField) -> bool {
        let described = |value: &Option<Described>| value.as_ref().is_some_and(|v| !v.is_empty());
        match field {
            ContextField::Business => described(&self.business),
            ContextField::Software => described(&self.software),
            ContextField::DocumentId => match &self.document_id {
                Some(DocumentId::Text(text)) => !text.is_empty(),
                other => other.is_some(),
            },
            ContextField::EntityTypes => self.entity_types.as_ref().is_some_and(|v| !v.is_empty()),
            ContextField::Action => described(&self.action),
            ContextField::ActionCount => self.action_count.is_some(),
            ContextField::Actions => self.actions.as_ref().is_some_and(|v| !v.is_empty()),
        }
    }
}

impl Described {
    fn is_empty(&self) -> bool {
        match self {
            Described::Name(name) => name.is_empty(),
            Described::Object(object) => object.is_empty(),
        }
    }
}
