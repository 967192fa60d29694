//! Which tokens may come next, so that an answer fits what was asked for: a JSON Schema, a regular expression, a grammar,
//! one of some texts, calls of tools. And how an answer ends within its budget.
//!
//! Nothing here reads a clock, a file or the network.

mod spec;
mod tool_format;
mod vocabulary;
mod schema;
mod compile;
mod grammar;
mod matcher;
mod closer;
mod guard;
mod failure;
#[cfg(test)]
mod testing;

pub use grammar::Grammar;
pub use matcher::Matcher;
pub use schema::example_to_schema;
pub use spec::{Spec, Tool, ToolFormat};
pub use vocabulary::{TokenText, Vocabulary};

/// Why an answer cannot be constrained as asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// The schema asks for what cannot be guaranteed; `path` is a JSON pointer to it.
    #[error("{path}: {reason}")]
    Schema {
        /// Where in the schema, as a JSON pointer with `#` before it.
        path: String,
        /// What is wrong there, and what to do.
        reason: String,
    },
    /// A regular expression or grammar that makes no sense.
    #[error("{0}")]
    Syntax(String),
    /// The constraint grew beyond what is bounded.
    #[error("{0}")]
    TooLarge(String),
    /// Tokens that no grammar can be written with.
    #[error("the vocabulary: {0}")]
    Vocabulary(String),
    /// The matcher broke: the answer cannot go on.
    #[error("the grammar failed: {0}")]
    Failed(String),
}
