//! Stages: named tasks of `/prompt` that are data. A folder each, with `stage.toml` (what it needs and its defaults),
//! `prompt.jinja` (what the model is told) and, where the answer is JSON, `schema.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::SamplingFields;
use grammar::{Grammar, GrammarError, Spec, TokenText, Vocabulary};
use serde::Deserialize;
use serde_json::Value;

use super::context::{Context, ContextField};
use super::template::Template;

/// Longest file of a stage, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Most folders of stages.
const MAX_STAGES: usize = 1000;

/// Files of a stage. Others would be misspelt ones, except for notes.
const FILES: [&str; 4] = ["stage.toml", "schema.json", "prompt.jinja", "README.md"];

/// A stage that comes with the binary: its name and its files.
macro_rules! built_in {
    ($($name:literal),*) => {
        [$(Source {
            place: PathBuf::from(concat!("crates/server/stages/", $name)),
            name: $name.to_owned(),
            manifest: include_str!(concat!("../../stages/", $name, "/stage.toml")).to_owned(),
            schema: Some(include_str!(concat!("../../stages/", $name, "/schema.json")).to_owned()),
            template: include_str!(concat!("../../stages/", $name, "/prompt.jinja")).to_owned(),
        }),*]
    };
}

/// Why a stage cannot be used. Names the file and, where there is one, the line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}{}: {reason}", .path.display(), .line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct StageError {
    /// The file, or the folder where one is missing.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// The stages of `/prompt`, by name.
#[derive(Debug)]
pub struct Stages {
    stages: BTreeMap<String, Arc<Stage>>,
    /// Built-in ones that a folder of the user's took the place of.
    replaced: Vec<String>,
}

/// A stage, checked.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) description: String,
    /// Fields of `context` that a request cannot leave out.
    pub(crate) needs: Vec<ContextField>,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) sampling: SamplingFields,
    pub(crate) stop: Vec<String>,
    /// What the answer fits; without one it is a text.
    pub(crate) schema: Option<Value>,
    /// JSON pointer to the part of the schema whose place a request's schema takes.
    pub(crate) schema_at: Option<String>,
    template: Template,
}

/// Files of a stage, read but not understood.
struct Source {
    place: PathBuf,
    name: String,
    manifest: String,
    schema: Option<String>,
    template: String,
}

/// `stage.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    description: String,
    #[serde(default)]
    context: Vec<ContextField>,
    schema_at: Option<String>,
    #[serde(default)]
    defaults: Defaults,
}

/// What a request leaves open.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    penalize_prompt: Option<bool>,
    seed: Option<u64>,
    #[serde(default)]
    stop: Vec<String>,
}

impl Stages {
    /// The built-in stages and, if a folder is given, those in its folders; one of a built-in stage's name takes its place.
    ///
    /// # Errors
    /// The first thing that is wrong with a stage: nothing of a stage waits for its first request to fail.
    pub fn load(folder: Option<&Path>) -> Result<Self, StageError> {
        let vocabulary = bytes_vocabulary()?;
        let mut stages = BTreeMap::new();
        for source in built_in!(
            "math_validation",
            "action_selection",
            "entity_extraction",
            "field_mapping",
            "field_mapping_batch"
        ) {
            stages.insert(source.name.clone(), Arc::new(source.parse(&vocabulary)?));
        }
        let mut replaced = Vec::new();
        for source in folder.map_or_else(|| Ok(Vec::new()), read_folder)? {
            let name = source.name.clone();
            if stages.insert(name.clone(), Arc::new(source.parse(&vocabulary)?)).is_some() {
                tracing::info!(stage = name, "a stage of --stages replaces the built-in one");
                replaced.push(name);
            }
        }
        Ok(Stages { stages, replaced })
    }

    /// Names of all stages.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.keys().map(String::as_str)
    }

    /// Names of built-in stages whose place one of the user's took.
    pub fn replaced(&self) -> &[String] {
        &self.replaced
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Stage>> {
        self.stages.values()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Stage>> {
        self.stages.get(name)
    }
}

impl Stage {
    /// What the model is told. `schema` is the one in force.
    ///
    /// # Errors
    /// What the template says is wrong with the request, or a text that grows beyond its bound.
    pub(crate) fn render(
        &self,
        prompt: &str,
        context: &Context,
        schema: Option<&Value>,
    ) -> Result<String, String> {
        self.template.render(prompt, context, schema)
    }
}

impl Source {
    fn error(&self, file: &str, line: Option<usize>, reason: impl Into<String>) -> StageError {
        StageError { path: self.place.join(file), line, reason: reason.into() }
    }

    fn parse(self, vocabulary: &Arc<Vocabulary>) -> Result<Stage, StageError> {
        let manifest = self.manifest()?;
        let schema = self.schema()?;
        if let Some(schema) = &schema {
            self.check_schema(schema, vocabulary)?;
        }
        if schema.is_some() && !manifest.defaults.stop.is_empty() {
            let reason = "stop: would break answers that have to fit schema.json; leave it out";
            return Err(self.error("stage.toml", None, reason));
        }
        if let Some(pointer) = &manifest.schema_at
            && schema.as_ref().and_then(|schema| schema.pointer(pointer)).is_none()
        {
            let reason = format!("schema_at: schema.json has nothing at `{pointer}`");
            return Err(self.error("stage.toml", None, reason));
        }
        let template = Template::parse(&self.template)
            .map_err(|(line, reason)| self.error("prompt.jinja", line, reason))?;
        let defaults = manifest.defaults;
        Ok(Stage {
            description: manifest.description,
            needs: manifest.context,
            max_tokens: defaults.max_tokens,
            sampling: defaults.sampling(),
            stop: defaults.stop,
            schema,
            schema_at: manifest.schema_at,
            template,
            name: self.name,
        })
    }

    fn manifest(&self) -> Result<Manifest, StageError> {
        let manifest: Manifest = toml::from_str(&self.manifest).map_err(|error| {
            let line = error.span().map(|span| line_of(&self.manifest, span.start));
            self.error("stage.toml", line, error.message().replace('\n', " "))
        })?;
        let model = model::GenerationConfig::default();
        let wrong = match manifest.defaults.sampling().resolve(&model, || 0) {
            Err(error) => Some(error.to_string()),
            Ok(_) if manifest.defaults.max_tokens == Some(0) => {
                Some("max_tokens is 0, but must be at least 1".to_owned())
            }
            Ok(_) if manifest.description.trim().is_empty() => {
                Some("description is empty; say what the stage does".to_owned())
            }
            Ok(_) => None,
        };
        match wrong {
            Some(reason) => Err(self.error("stage.toml", None, reason)),
            None => Ok(manifest),
        }
    }

    fn schema(&self) -> Result<Option<Value>, StageError> {
        let Some(text) = &self.schema else { return Ok(None) };
        let schema: Value = serde_json::from_str(text).map_err(|error| {
            self.error("schema.json", Some(error.line()), format!("not JSON: {error}"))
        })?;
        Ok(Some(schema))
    }

    /// Whether answers can be constrained to the schema. That does not depend on the model's vocabulary.
    fn check_schema(&self, schema: &Value, vocabulary: &Arc<Vocabulary>) -> Result<(), StageError> {
        let spec = Spec::JsonSchema { schema: schema.clone(), open: false };
        Grammar::compile(vocabulary, &spec)
            .map(|_| ())
            .map_err(|error| self.error("schema.json", None, error.to_string()))
    }
}

impl Defaults {
    fn sampling(&self) -> SamplingFields {
        SamplingFields {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            penalize_prompt: self.penalize_prompt,
            seed: self.seed,
        }
    }
}

/// Every byte a token: what schemas are tried with before there is a model.
fn bytes_vocabulary() -> Result<Arc<Vocabulary>, StageError> {
    const EOS: u32 = 256;
    let mut tokens: Vec<TokenText> = (0..=u8::MAX).map(|b| TokenText::Bytes(vec![b])).collect();
    tokens.push(TokenText::Special("</s>".to_owned()));
    let vocabulary = Vocabulary::new(tokens, EOS as usize + 1, &[EOS]);
    let failed = |error: GrammarError| StageError {
        path: PathBuf::from("crates/server/stages"),
        line: None,
        reason: error.to_string(),
    };
    Ok(Arc::new(vocabulary.map_err(failed)?))
}

/// The stages of a user's folder: each folder in it is one.
fn read_folder(root: &Path) -> Result<Vec<Source>, StageError> {
    let mut sources = Vec::new();
    for entry in entries(root)? {
        // Versions and editors leave theirs beside the stages.
        if !entry.path.is_dir() || entry.name.starts_with('.') {
            continue;
        }
        let wrong = |reason: &str| StageError {
            path: entry.path.clone(),
            line: None,
            reason: reason.to_owned(),
        };
        let of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        if entry.name.len() > 64 || !entry.name.chars().all(of_name) {
            return Err(wrong(
                "a stage is named in lower-case letters, digits, `_` and `-`, 64 at most",
            ));
        }
        if sources.len() == MAX_STAGES {
            return Err(wrong("there are more than 1000 stages"));
        }
        sources.push(read_stage(&entry)?);
    }
    Ok(sources)
}

fn read_stage(folder: &Entry) -> Result<Source, StageError> {
    for file in entries(&folder.path)? {
        if !FILES.contains(&file.name.as_str()) && !file.name.starts_with('.') {
            let reason = "no file of a stage; those are stage.toml, prompt.jinja and schema.json";
            return Err(StageError { path: file.path, line: None, reason: reason.to_owned() });
        }
    }
    let path = |name: &str| folder.path.join(name);
    let schema = path("schema.json");
    Ok(Source {
        place: folder.path.clone(),
        name: folder.name.clone(),
        manifest: read(&path("stage.toml"))?,
        schema: if schema.exists() { Some(read(&schema)?) } else { None },
        template: read(&path("prompt.jinja"))?,
    })
}

/// What lies in a folder.
struct Entry {
    path: PathBuf,
    name: String,
}

/// Entries of a folder by name, so that which error comes first does not depend on the file system.
fn entries(folder: &Path) -> Result<Vec<Entry>, StageError> {
    let failed = |error: std::io::Error| StageError {
        path: folder.to_owned(),
        line: None,
        reason: format!("cannot be read: {error}"),
    };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        entries.push(Entry { path: entry.path(), name });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn read(path: &Path) -> Result<String, StageError> {
    let error = |reason: String| StageError { path: path.to_owned(), line: None, reason };
    let unreadable = |e: std::io::Error| error(format!("cannot be read: {e}"));
    let len = std::fs::metadata(path).map_err(unreadable)?.len();
    if len > MAX_FILE {
        return Err(error(format!("holds {len} bytes, more than {MAX_FILE}")));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// The line of a byte, from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&b| b == b'\n').count()
}
