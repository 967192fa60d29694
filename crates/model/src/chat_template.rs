//! Chat templates in the dialect of Hugging Face: Jinja2 as transformers sets it up.

mod json;
mod python;

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as Jinja};
use minijinja::{Environment, Error, ErrorKind, Output, State, Template};
use serde_json::{Map, Value};

use crate::files::Files;
use crate::special_tokens::SpecialTokens;
use crate::{ModelError, Result};

pub(crate) use python::python_float;

/// Steps of the template machine that one rendering may take: dozens of times what a chat of a thousand messages takes.
const FUEL: u64 = 4_000_000;

/// Longest text that a template may render to, in bytes.
const MAX_RENDERED: usize = 64 << 20;

/// Longest template that is compiled, in bytes; the longest known ones take about 30 kB.
const MAX_TEMPLATE: usize = 4 << 20;

/// A compiled chat template.
///
/// Steps, recursion and the length of the rendered text are bounded. A template is part of the model nonetheless, and one
/// written to do harm can: a string that it doubles in a variable, never printed, is bounded by memory alone.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    special_tokens: Map<String, Value>,
}

/// What a chat template renders.
#[derive(Debug, Default)]
pub struct Chat<'a> {
    /// Objects with `role` and `content`, in the format of transformers' `apply_chat_template`.
    pub messages: &'a [Value],
    /// JSON Schemas of the tools that may be called.
    pub tools: Option<&'a [Value]>,
    /// Whether the text ends with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Whatever else the template knows, as `enable_thinking`.
    pub variables: Map<String, Value>,
}

impl ChatTemplate {
    /// The template of a model: `chat_template.jinja`, or `chat_template` of `tokenizer_config.json` or of
    /// `chat_template.json`, a template or a list of named ones. `None` if the model has none.
    pub fn load(files: &Files) -> Result<Option<Self>> {
        let tokens = SpecialTokens::load(files)?;
        if let Some(bytes) = files.read("chat_template.jinja")? {
            let source = str::from_utf8(&bytes).map_err(|_| {
                ModelError::malformed(&files.path("chat_template.jinja"), "is not UTF-8")
            })?;
            return Self::parse(&[("default", source)], tokens.into_map()).map(Some);
        }
        for name in ["tokenizer_config.json", "chat_template.json"] {
            let Some(bytes) = files.read(name)? else { continue };
            let config: Value = serde_json::from_slice(&bytes)
                .map_err(|e| ModelError::malformed(&files.path(name), e.to_string()))?;
            let templates = named_templates(&config["chat_template"]);
            if !templates.is_empty() {
                return Self::parse(&templates, tokens.into_map()).map(Some);
            }
        }
        Ok(None)
    }

    /// Compiles named templates. `default` is used, or `tool_use`, if there is one, for chats with tools; a single one of
    /// any name is used for all. `special_tokens` (`bos_token` …) are variables of the template.
    pub fn parse(templates: &[(&str, &str)], special_tokens: Map<String, Value>) -> Result<Self> {
        let mut env = environment()?;
        for (name, source) in templates {
            if source.len() > MAX_TEMPLATE {
                return Err(ModelError::Template(format!(
                    "`{name}` holds {} bytes, more than {MAX_TEMPLATE}",
                    source.len()
                )));
            }
            let name = if templates.len() == 1 { "default" } else { name };
            env.add_template_owned(name.to_owned(), without_generation_tags(source))
                .map_err(template_error)?;
        }
        Ok(ChatTemplate { env, special_tokens })
    }

    /// Renders a chat to the text that is tokenized (without special tokens added: the template writes them).
    pub fn render(&self, chat: Chat<'_>) -> Result<String> {
        let template = self.template(chat.tools.is_some())?;
        let mut context = self.special_tokens.clone();
        context.insert("messages".to_owned(), chat.messages.into());
        context.insert("tools".to_owned(), chat.tools.map_or(Value::Null, Value::from));
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), chat.add_generation_prompt.into());
        context.extend(chat.variables);
        let mut text = Bounded(Vec::new());
        template
            .render_captured_to(Jinja::from(Serde(context)), &mut text)
            .map_err(template_error)?;
        String::from_utf8(text.0).map_err(|e| ModelError::Template(e.to_string()))
    }

    /// The text of the template, which shows what it knows of; for chats with tools or without.
    pub fn source(&self, tools: bool) -> Result<String> {
        Ok(self.template(tools)?.source().to_owned())
    }

    fn template(&self, tools: bool) -> Result<Template<'_, '_>> {
        let tool_use = tools.then(|| self.env.get_template("tool_use").ok());
        match tool_use.flatten() {
            Some(template) => Ok(template),
            None => self.env.get_template("default").map_err(template_error),
        }
    }
}

/// The templates in the value of `chat_template`, with their names.
fn named_templates<'a>(value: &'a Value) -> Vec<(&'a str, &'a str)> {
    match value {
        Value::String(source) => vec![("default", source)],
        Value::Array(list) => {
            let pair =
                |entry: &'a Value| Some((entry["name"].as_str()?, entry["template"].as_str()?));
            list.iter().filter_map(pair).collect()
        }
        _ => Vec::new(),
    }
}

/// Jinja2 as transformers sets it up: block lines leave no trace, loops can be left, Python's methods work.
fn environment() -> Result<Environment<'static>> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(template_error)?);
    env.set_fuel(Some(FUEL));
    env.set_formatter(print);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", json::tojson);
    env.add_filter("string", |value: &Jinja| python::to_str(value));
    env.add_function("raise_exception", |message: String| -> Result<Jinja, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", strftime_now);
    Ok(env)
}

/// Prints as Python does: `None`, `True`, `['a']`.
fn print(out: &mut Output, _: &mut State, value: &Jinja) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text)?,
        None => out.write_str(&python::to_str(value)?)?,
    }
    Ok(())
}

/// The local time in Python's `strftime` format.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

/// `{% generation %}` marks, for training, what the model wrote; the text is the same without. Blocks that always hold
/// take its place, so that the rules for spaces around blocks still apply.
fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = (&rest[..start], &rest[start + 2..]);
        let Some(end) = tag.find("%}") else { break };
        let inner = &tag[..end];
        let word = inner.trim_matches(['-', '+']).trim();
        let replacement = match word {
            "generation" => inner.replace(word, "if true"),
            "endgeneration" => inner.replace(word, "endif"),
            _ => inner.to_owned(),
        };
        result.extend([before, "{%", &replacement, "%}"]);
        rest = &tag[end + 2..];
    }
    result.push_str(rest);
    result
}

/// What the template raised, or where it is wrong, on one line.
fn template_error(error: Error) -> ModelError {
    let text = error.to_string();
    ModelError::Template(text.lines().collect::<Vec<_>>().join(" "))
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
