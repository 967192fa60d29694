//! Which files of a repository are fetched: what a model needs, or what was asked for.

use std::collections::BTreeMap;

use crate::glob::Glob;
use crate::listing::Entry;
use crate::{HubError, Repository};

/// What stands beside weights. `vocab.json` and the like are what other tools make a tokenizer from.
const NAMES: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Endings of weights, for the reason why there are none.
const OTHER_WEIGHTS: [&str; 8] =
    [".bin", ".pth", ".pt", ".gguf", ".onnx", ".h5", ".msgpack", ".safetensors"];

/// What was asked for: patterns of file names.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    include: Vec<Glob>,
    exclude: Vec<Glob>,
}

/// Files that are not fetched, by their endings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// As `.bin`, or the name of a file without one.
    pub ending: String,
    /// How many.
    pub files: usize,
    /// All together.
    pub bytes: u64,
}

impl Choice {
    /// With nothing to include, what a model needs; less what is excluded.
    ///
    /// # Errors
    /// If a pattern is none.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, HubError> {
        let globs = |texts: &[String]| -> Result<Vec<Glob>, HubError> {
            texts.iter().map(|text| Glob::new(text)).collect()
        };
        Ok(Choice { include: globs(include)?, exclude: globs(exclude)? })
    }

    /// The files that are fetched, and the others.
    ///
    /// # Errors
    /// If a pattern takes nothing, if there are no weights, or several to choose from.
    pub(crate) fn of(
        &self,
        repository: &Repository,
        entries: Vec<Entry>,
    ) -> Result<(Vec<Entry>, Vec<LeftOut>), HubError> {
        let name = repository.name();
        for glob in self.include.iter().chain(&self.exclude) {
            if !entries.iter().any(|entry| glob.takes(&entry.path)) {
                let message = format!("{name} has no file that `{}` takes", glob.text());
                return Err(HubError::Choice(message));
            }
        }
        let is_excluded = |entry: &Entry| self.exclude.iter().any(|glob| glob.takes(&entry.path));
        let is_chosen = |entry: &Entry| match self.include.is_empty() {
            true => is_needed(&entry.path),
            false => self.include.iter().any(|glob| glob.takes(&entry.path)),
        };
        let (chosen, others): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| is_chosen(entry) && !is_excluded(entry));
        if self.include.is_empty() {
            check_weights(&name, &chosen, &others)?;
        }
        if chosen.is_empty() {
            return Err(HubError::Choice(format!("{name}: nothing is left to fetch of it")));
        }
        Ok((chosen, left_out(&others)))
    }
}

fn is_needed(path: &str) -> bool {
    NAMES.contains(&path) || path == SINGLE || path == INDEX || shard(path).is_some()
}

/// Number and count of `model-00001-of-00002.safetensors`.
fn shard(path: &str) -> Option<(u32, u32)> {
    let numbers = path.strip_prefix("model-")?.strip_suffix(".safetensors")?;
    let (number, count) = numbers.split_once("-of-")?;
    let parse = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
    Some((parse(number)?, parse(count)?))
}

fn check_weights(name: &str, chosen: &[Entry], others: &[Entry]) -> Result<(), HubError> {
    let mut shards: BTreeMap<u32, u32> = BTreeMap::new();
    for (_, count) in chosen.iter().filter_map(|entry| shard(&entry.path)) {
        *shards.entry(count).or_default() += 1;
    }
    let single = chosen.iter().any(|entry| entry.path == SINGLE);
    let sets: Vec<String> = single
        .then(|| SINGLE.to_owned())
        .into_iter()
        .chain(shards.keys().map(|count| format!("model-*-of-{count:05}.safetensors")))
        .collect();
    match &sets[..] {
        [_] => {}
        [] => return Err(HubError::Choice(no_weights(name, others))),
        [first, ..] => {
            return Err(HubError::Choice(format!(
                "{name} holds the weights more than once: {}; leave out all but one of them, as with --exclude '{first}'",
                sets.join(", ")
            )));
        }
    }
    if let Some((count, have)) = shards.iter().find(|(count, have)| count != have) {
        let message =
            format!("{name} has {have} of {count} files of weights; --include takes what is there");
        return Err(HubError::Choice(message));
    }
    let has = |path: &str| chosen.iter().any(|entry| entry.path == path);
    if !single && !has(INDEX) {
        return Err(HubError::Choice(format!(
            "{name} has no {INDEX}, without which its files are no model"
        )));
    }
    if !has("config.json") {
        return Err(HubError::Choice(format!(
            "{name} has no config.json, so it is no model that halfbyte reads"
        )));
    }
    Ok(())
}

/// Why there are none, and what to do.
fn no_weights(name: &str, others: &[Entry]) -> String {
    if others.iter().any(|entry| entry.path == SINGLE || shard(&entry.path).is_some()) {
        return format!("{name}: --exclude takes all of its weights");
    }
    let variants: Vec<&str> = others
        .iter()
        .map(|entry| entry.path.as_str())
        .filter(|path| path.ends_with(".safetensors"))
        .collect();
    match &variants[..] {
        [] => {
            let held: Vec<String> = left_out(others)
                .into_iter()
                .filter(|left| OTHER_WEIGHTS.contains(&left.ending.as_str()))
                .map(|left| format!("{} {}", left.files, left.ending))
                .collect();
            let held = if held.is_empty() { "no weights".to_owned() } else { held.join(", ") };
            format!(
                "{name} has no {SINGLE} and no {INDEX}, and only safetensors checkpoints are read; it holds {held}"
            )
        }
        [first, ..] => {
            let shown: Vec<&str> = variants.iter().copied().take(6).collect();
            let more = if variants.len() > shown.len() { ", …" } else { "" };
            format!(
                "{name} has no {SINGLE}, but {}{more}; choose, as with --include '*.json' --include '{first}'",
                shown.join(", ")
            )
        }
    }
}

fn left_out(others: &[Entry]) -> Vec<LeftOut> {
    let mut endings: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for entry in others {
        let name = entry.path.rsplit('/').next().unwrap_or_default();
        let ending = name.rfind('.').filter(|at| *at > 0).map_or(name, |at| &name[at..]);
        let (files, bytes) = endings.entry(ending).or_default();
        (*files, *bytes) = (*files + 1, *bytes + entry.size);
    }
    let mut left: Vec<LeftOut> = endings
        .into_iter()
        .map(|(ending, (files, bytes))| LeftOut { ending: ending.to_owned(), files, bytes })
        .collect();
    left.sort_by_key(|left| std::cmp::Reverse(left.bytes));
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn choose(paths: &[&str], include: &[&str], exclude: &[&str]) -> Result<Vec<String>, String> {
        let owned =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let digest = Digest::GitBlob("a".repeat(40));
        let entries =
            owned(paths).into_iter().map(|path| Entry { path, size: 1, digest: digest.clone() });
        let repository = Repository::parse("a/b", "https://hub", None).unwrap();
        let choice = Choice::new(&owned(include), &owned(exclude)).map_err(|e| e.to_string())?;
        let (chosen, _) = choice.of(&repository, entries.collect()).map_err(|e| e.to_string())?;
        Ok(chosen.into_iter().map(|entry| entry.path).collect())
    }

    #[track_caller]
    fn check_error(paths: &[&str], include: &[&str], exclude: &[&str], expected: &str) {
        assert_eq!(choose(paths, include, exclude).unwrap_err(), expected);
    }

    const TWO: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

    #[test]
    fn what_a_model_needs() {
        let paths = [
            "config.json",
            SINGLE,
            "tokenizer.json",
            "chat_template.jinja",
            "pytorch_model.bin",
            "README.md",
            "consolidated.safetensors",
            "onnx/model.onnx",
            "original/model.safetensors",
            "model.Q4.gguf",
        ];
        let needed = ["config.json", SINGLE, "tokenizer.json", "chat_template.jinja"];
        assert_eq!(choose(&paths, &[], &[]).unwrap(), needed);
        assert_eq!(choose(&paths, &["*.md"], &[]).unwrap(), ["README.md"]);
        assert_eq!(choose(&paths, &["*.json", "*.jinja"], &["c*"]).unwrap(), ["tokenizer.json"]);
        let shards = ["config.json", INDEX, TWO[0], TWO[1]];
        assert_eq!(choose(&shards, &[], &[]).unwrap(), shards);
        assert_eq!(choose(&[&shards[..], &[SINGLE]].concat(), &[], &[SINGLE]).unwrap(), shards);
    }

    #[test]
    fn what_cannot_be_chosen_is_named() {
        check_error(
            &["config.json", SINGLE, INDEX, TWO[0], TWO[1]],
            &[],
            &[],
            "hub/a/b holds the weights more than once: model.safetensors, model-*-of-00002.safetensors; leave out all but one of them, as with --exclude 'model.safetensors'",
        );
        check_error(
            &["config.json", "model.fp16.safetensors", "x/model.safetensors"],
            &[],
            &[],
            "hub/a/b has no model.safetensors, but model.fp16.safetensors, x/model.safetensors; choose, as with --include '*.json' --include 'model.fp16.safetensors'",
        );
        check_error(
            &["config.json", "a.gguf", "b.gguf", "pytorch_model.bin"],
            &[],
            &[],
            "hub/a/b has no model.safetensors and no model.safetensors.index.json, and only safetensors checkpoints are read; it holds 2 .gguf, 1 .bin",
        );
        check_error(
            &["config.json", INDEX, TWO[1]],
            &[],
            &[],
            "hub/a/b has 1 of 2 files of weights; --include takes what is there",
        );
        check_error(
            &["config.json", SINGLE],
            &[],
            &["*.safetensors"],
            "hub/a/b: --exclude takes all of its weights",
        );
        check_error(&["a.json"], &["*.bin"], &[], "hub/a/b has no file that `*.bin` takes");
        check_error(&["a.json"], &["*"], &["*"], "hub/a/b: nothing is left to fetch of it");
        check_error(
            &[SINGLE],
            &[],
            &[],
            "hub/a/b has no config.json, so it is no model that halfbyte reads",
        );
    }
}
