//! A constraint as the grammars of llguidance.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use crate::schema::{self, Prepared};
use crate::{GrammarError, Spec, Tool, ToolFormat, Vocabulary};

/// Longest regular expression, grammar or list of choices, in bytes.
const MAX_SOURCE: usize = 256 << 10;

/// Most choices.
const MAX_CHOICES: usize = 4096;

/// Most tools.
const MAX_TOOLS: usize = 512;

/// A constraint in llguidance's terms.
pub(crate) struct Source {
    pub(crate) grammar: TopLevelGrammar,
    /// Whether answers end in time.
    pub(crate) ends_in_time: bool,
    /// Whether answers are JSON, so that its bounds apply.
    pub(crate) json: bool,
    /// Special tokens that the grammar names.
    pub(crate) specials: Vec<u32>,
    /// Where text may come instead: how a call begins.
    pub(crate) opening: Option<Opening>,
}

/// How a call begins, where text may come instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Opening {
    Special(u32),
    Text(Vec<u8>),
}

impl Source {
    pub(crate) fn new(vocabulary: &Vocabulary, spec: &Spec) -> Result<Self, GrammarError> {
        match spec {
            Spec::JsonSchema { schema, open } => {
                let prepared = schema::prepare(schema, *open)?;
                Ok(document(vocabulary, prepared))
            }
            Spec::JsonObject => {
                let prepared = schema::prepare(&json!({"type": "object"}), true)?;
                Ok(document(vocabulary, prepared))
            }
            Spec::Choice(choices) => choice(vocabulary, choices),
            Spec::Regex(regex) => {
                bounded("the regular expression", regex.len())?;
                Ok(text(regex_grammar(vocabulary, regex)))
            }
            Spec::Lark(lark) => {
                bounded("the grammar", lark.len())?;
                Ok(text(lark.clone()))
            }
            Spec::Tools { tools, format, required, parallel } => {
                calls(vocabulary, tools, format, *required, *parallel)
            }
        }
    }
}

fn bounded(what: &str, bytes: usize) -> Result<(), GrammarError> {
    if bytes > MAX_SOURCE {
        return Err(GrammarError::TooLarge(format!(
            "{what} has {bytes} bytes, of at most {MAX_SOURCE}"
        )));
    }
    Ok(())
}

/// A grammar whose answers may be cut.
fn text(lark: String) -> Source {
    Source {
        grammar: TopLevelGrammar::from_lark(lark),
        ends_in_time: false,
        json: false,
        specials: Vec::new(),
        opening: None,
    }
}

fn document(vocabulary: &Vocabulary, prepared: Prepared) -> Source {
    let json = prepared.into_schema();
    let grammar = if vocabulary.strips_leading_space() {
        let lark = GrammarWithLexer::from_lark("start: \" \"? @document".into());
        named(vec![lark], vec![("document", json)])
    } else {
        TopLevelGrammar::from_json_schema(json)
    };
    Source { grammar, ends_in_time: true, json: true, specials: Vec::new(), opening: None }
}

fn named(mut grammars: Vec<GrammarWithLexer>, schemas: Vec<(&str, Value)>) -> TopLevelGrammar {
    for (name, schema) in schemas {
        let mut grammar = GrammarWithLexer::from_json_schema(schema);
        grammar.name = Some(name.into());
        grammars.push(grammar);
    }
    TopLevelGrammar { grammars, max_tokens: None }
}

fn choice(vocabulary: &Vocabulary, choices: &[String]) -> Result<Source, GrammarError> {
    let wrong = |why: &str| Err(GrammarError::Syntax(why.into()));
    if choices.is_empty() {
        return wrong("there is nothing to choose from");
    }
    if choices.iter().any(String::is_empty) {
        return wrong("a choice is empty: an answer has to be some text");
    }
    if choices.len() > MAX_CHOICES {
        let message = format!("{} choices, of at most {MAX_CHOICES}", choices.len());
        return Err(GrammarError::TooLarge(message));
    }
    bounded("the list of choices", choices.iter().map(String::len).sum())?;
    let mut texts = Vec::new();
    for choice in choices {
        // Where the first space is not seen, a choice that begins with one needs a second.
        if vocabulary.strips_leading_space() {
            texts.push(literal(&format!(" {choice}")));
        }
        if !vocabulary.strips_leading_space() || !choice.starts_with(' ') {
            texts.push(literal(choice));
        }
    }
    texts.sort();
    texts.dedup();
    let mut source = text(format!("start: {}", texts.join(" | ")));
    source.ends_in_time = true;
    Ok(source)
}

/// A text as Lark writes it: as JSON does.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

fn regex_grammar(vocabulary: &Vocabulary, regex: &str) -> String {
    let regex = llguidance::regex_to_lark(regex, "");
    if vocabulary.strips_leading_space() {
        // A text that begins with a space has to be written with two.
        format!("start: SEEN | \" \" ALL\nALL: /{regex}/\nSEEN: /{regex}/ & /[^ ](?s:.*)/\n")
    } else {
        format!("start: /{regex}/")
    }
}

/// A mark around calls, as Lark writes it; and how it begins, for who looks for it.
fn mark(vocabulary: &Vocabulary, text: &str, specials: &mut Vec<u32>) -> (String, Opening) {
    let name = text.trim();
    if let Some(id) = vocabulary.special(name).filter(|_| !name.is_empty()) {
        specials.push(id);
        let (before, after) = text.split_once(name).unwrap_or_default();
        return (format!("{} <[{id}]> {}", literal(before), literal(after)), Opening::Special(id));
    }
    (literal(text), Opening::Text(text.as_bytes().to_vec()))
}

fn calls(
    vocabulary: &Vocabulary,
    tools: &[Tool],
    format: &ToolFormat,
    required: bool,
    parallel: bool,
) -> Result<Source, GrammarError> {
    if tools.is_empty() {
        return Err(GrammarError::Syntax("there are no tools to call".into()));
    }
    if tools.len() > MAX_TOOLS {
        return Err(GrammarError::TooLarge(format!(
            "{} tools, of at most {MAX_TOOLS}",
            tools.len()
        )));
    }
    for (at, tool) in tools.iter().enumerate() {
        if tool.name.is_empty() || tools[..at].iter().any(|other| other.name == tool.name) {
            let message = format!("a tool's name is empty or there twice: {:?}", tool.name);
            return Err(GrammarError::Syntax(message));
        }
    }
    let mut specials = Vec::new();
    let (begin, mut opening) = mark(vocabulary, &format.begin, &mut specials);
    let (end, _) = mark(vocabulary, &format.end, &mut specials);
    if format.begin.is_empty() {
        let first: &[u8] = if format.list { b"[" } else { b"{" };
        opening = Opening::Text(first.to_vec());
    }
    // Without marks there is nothing that tells a second call from the first.
    let several = parallel && (format.list || !(format.begin.is_empty() || format.end.is_empty()));
    let prepared = schema::prepare_calls(tools, &format.arguments_key, format.list, several)?;
    let space = if vocabulary.strips_leading_space() { "\" \"? " } else { "" };
    let between = if several && !format.list { " (\"\\n\"? call)*" } else { "" };
    let lark = format!("start: {space}call{between}\ncall: {begin} \" \"? @calls {end}\n");
    Ok(Source {
        grammar: named(
            vec![GrammarWithLexer::from_lark(lark)],
            vec![("calls", prepared.into_schema())],
        ),
        ends_in_time: true,
        json: true,
        specials,
        opening: (!required).then_some(opening),
    })
}
