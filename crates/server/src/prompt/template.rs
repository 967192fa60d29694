//! `prompt.jinja` of a stage: from a request to what the model is told.
//!
//! A template sees `prompt`, `context` (only the fields that were given), and `schema` (the answer's, if there is one). The
//! filter `text` shows texts as they are and everything else as JSON; `tojson` shows everything as JSON.

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as Jinja};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value;

use super::context::{Context, ContextField};

/// Steps of the template machine that one rendering may take.
const FUEL: u64 = 1_000_000;

/// Longest text that a template may render to, in bytes.
const MAX_RENDERED: usize = 16 << 20;

/// Functions that every template has.
const FUNCTIONS: [&str; 3] = ["range", "dict", "namespace"];

const NAME: &str = "prompt.jinja";

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    env: Environment<'static>,
}

/// What a template sees.
#[derive(Serialize)]
struct Variables<'a> {
    prompt: &'a str,
    context: &'a Context,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a Value>,
}

impl Template {
    /// Compiles a template and checks that it asks for nothing that never comes.
    ///
    /// # Errors
    /// The line, if there is one, and what is wrong.
    pub(crate) fn parse(source: &str) -> Result<Self, (Option<usize>, String)> {
        let env = environment(source).map_err(|error| (error.line(), describe(&error)))?;
        let template = env.get_template(NAME).map_err(|error| (None, describe(&error)))?;
        let mut unknown: Vec<String> = template
            .undeclared_variables(true)
            .into_iter()
            .filter(|name| !is_known(name))
            .collect();
        unknown.sort_unstable();
        if let Some(name) = unknown.first() {
            let known: Vec<String> =
                ContextField::ALL.iter().map(|field| format!("context.{field}")).collect();
            let line = source.lines().position(|line| line.contains(name.as_str()));
            let reason = format!(
                "`{name}` never comes; a template sees prompt, schema, {}",
                known.join(", ")
            );
            return Err((line.map(|line| line + 1), reason));
        }
        Ok(Template { env })
    }

    /// Renders a request.
    ///
    /// # Errors
    /// In words: what the template lacks, or a bound that was passed.
    pub(crate) fn render(
        &self,
        prompt: &str,
        context: &Context,
        schema: Option<&Value>,
    ) -> Result<String, String> {
        let mut text = Bounded(Vec::new());
        let variables = Jinja::from(Serde(Variables { prompt, context, schema }));
        let template = self.env.get_template(NAME);
        template
            .and_then(|template| template.render_captured_to(variables, &mut text))
            .map_err(|error| describe(&error))?;
        String::from_utf8(text.0).map_err(|error| error.to_string())
    }
}

/// Whether a template may name this variable, a dotted path.
fn is_known(name: &str) -> bool {
    let mut parts = name.split('.');
    match (parts.next(), parts.next()) {
        (Some("prompt" | "schema" | "context"), None) => true,
        (Some("schema"), Some(_)) => true,
        (Some("context"), Some(field)) => {
            field == "stage" || ContextField::ALL.iter().any(|known| known.name() == field)
        }
        (Some(function), None) => FUNCTIONS.contains(&function),
        _ => false,
    }
}

fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    // A field that was not given is an error where it is printed, but may be asked about.
    env.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    env.set_fuel(Some(FUEL));
    env.add_filter("tojson", json);
    env.add_filter("text", |value: Jinja| match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => json(value),
    });
    env.add_template_owned(NAME, source.to_owned())?;
    Ok(env)
}

/// Compact JSON; the built-in filter escapes it for HTML.
fn json(value: Jinja) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "there is nothing to show"));
    }
    serde_json::to_string(&value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// The error without the template's name, which the caller knows.
fn describe(error: &Error) -> String {
    let mut text = error.kind().to_string();
    let source = std::error::Error::source(error).map(ToString::to_string);
    for more in [error.detail().map(str::to_owned), source].into_iter().flatten() {
        text = format!("{text}: {more}");
    }
    text
}

/// A text that refuses to grow past its bound.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RENDERED {
            return Err(io::Error::other(format!("the text is longer than {MAX_RENDERED} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context() -> Context {
        serde_json::from_value(
            json!({ "business": { "name": "A & B" }, "actions": ["x", { "id": 1 }] }),
        )
        .unwrap()
    }

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let template = Template::parse(source).unwrap();
        let schema = json!({ "type": "object", "a": 1 });
        let rendered = template.render("the <document>", &context(), Some(&schema));
        let rendered = rendered.unwrap_or_else(|error| format!("error: {error}"));
        assert_eq!(rendered, expected);
    }

    #[test]
    fn a_template_sees_the_request() {
        check("{{ prompt }}", "the <document>");
        check("{{ schema | tojson }}", r#"{"type":"object","a":1}"#);
        check("{{ context.business | text }}", r#"{"name":"A & B"}"#);
        check(
            "{% for a in context.actions %}\n- {{ a | text }}\n{% endfor %}",
            "- x\n- {\"id\":1}\n",
        );
        check("{% if context.software is defined %}never{% endif %}.", ".");
    }

    #[test]
    fn what_was_not_given_is_not_printed() {
        let error = "error: undefined value: `context.software` is undefined";
        check("{{ context.software }}", error);
        check("{{ context.software | text }}", "error: undefined value: there is nothing to show");
    }

    #[test]
    fn a_template_cannot_run_away() {
        let text =
            "{% for i in range(90000) %}{% for j in range(90000) %}x{% endfor %}{% endfor %}";
        check(text, "error: engine ran out of fuel");
        let template = Template::parse("{% for i in range(99) %}{{ prompt }}{% endfor %}").unwrap();
        let error = template.render(&"x".repeat(1 << 20), &Context::default(), None).unwrap_err();
        assert!(error.ends_with("the text is longer than 16777216 bytes"), "{error}");
    }

    #[test]
    fn a_template_that_asks_for_what_never_comes_is_refused_with_its_line() {
        let error = Template::parse("one\n{{ context.busines }}").unwrap_err();
        assert_eq!(error.0, Some(2));
        assert!(error.1.starts_with("`context.busines` never comes"), "{}", error.1);
        let error = Template::parse("{{ document }}").unwrap_err();
        assert!(error.1.starts_with("`document` never comes"), "{}", error.1);
        let error = Template::parse("one\n\n{% if %}").unwrap_err();
        assert_eq!(error.0, Some(3), "{}", error.1);
    }
}
