//! A hub of this machine, honest unless a test makes it otherwise.
#![allow(dead_code, reason = "each file of tests is a crate of its own and uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use crate::web::{Reply, Request, file, reply};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Files of this length and more lie in large-file storage.
const LARGE: usize = 1000;
const PAGE: usize = 3;

/// The repository `acme/model`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// git's name of each, and the other digest.
    ids: BTreeMap<String, (String, String)>,
}

impl Hub {
    /// What a model has, with weights of this length.
    pub(crate) fn model(weights: usize) -> Self {
        let hub = Hub::default().with("config.json", b"{\"model_type\": \"llama\"}");
        let hub = hub.with("tokenizer.json", b"{}").with("README.md", b"# A model");
        hub.with("model.safetensors", &noise(weights)).with("pytorch_model.bin", &[0; 2000])
    }

    pub(crate) fn with(mut self, path: &str, content: &[u8]) -> Self {
        self.files.insert(path.to_owned(), content.to_vec());
        self.ids.insert(path.to_owned(), (git_blob(content), hex(&SHA256, content)));
        self
    }

    /// The name of a file's blob.
    pub(crate) fn id(&self, path: &str) -> String {
        let (blob, sha256) = self.ids[path].clone();
        if self.files[path].len() < LARGE { blob } else { sha256 }
    }

    /// As the hub answers; three files to a page of its list.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if let Some(reply) = self.api(request) {
            return reply;
        }
        match self.asked(request) {
            Some(path) => file(request, &self.files[path]),
            None => reply("404 Not Found", &["x-error-code: EntryNotFound"], b""),
        }
    }

    /// The file that is asked for.
    pub(crate) fn asked<'r>(&self, request: &'r Request) -> Option<&'r str> {
        let path = request.path.strip_prefix(&format!("/acme/model/resolve/{COMMIT}/"))?;
        self.files.contains_key(path).then_some(path)
    }

    pub(crate) fn api(&self, request: &Request) -> Option<Reply> {
        let api = request.path.strip_prefix("/api/models/acme/")?;
        if ["model/revision/main", &format!("model/revision/{COMMIT}")].contains(&api) {
            let json = format!("{{\"sha\": \"{COMMIT}\", \"gated\": false}}");
            return Some(reply("200 OK", &[], json.as_bytes()));
        }
        if api.starts_with("model/revision/") {
            return Some(reply("404 Not Found", &["x-error-code: RevisionNotFound"], b""));
        }
        let Some(query) = api.strip_prefix(&format!("model/tree/{COMMIT}?recursive=true")) else {
            return Some(reply("401 Unauthorized", &["x-error-code: RepoNotFound"], b""));
        };
        let first: usize =
            query.strip_prefix("&cursor=").map_or(0, |cursor| cursor.parse().unwrap());
        let mut items = vec![
            "{\"type\": \"directory\", \"oid\": \"x\", \"size\": 0, \"path\": \"sub\"}".to_owned(),
        ];
        for (path, content) in self.files.iter().skip(first).take(PAGE) {
            let (size, (blob, sha256)) = (content.len(), &self.ids[path]);
            let lfs = if size < LARGE {
                String::new()
            } else {
                format!(
                    ", \"lfs\": {{\"oid\": \"{}\", \"size\": {size}, \"pointerSize\": 134}}",
                    sha256
                )
            };
            let size = if size < LARGE { size } else { 134 };
            items.push(format!("{{\"type\": \"file\", \"oid\": \"{blob}\", \"size\": {size}, \"path\": \"{path}\"{lfs}}}"));
        }
        let next = first + PAGE;
        // The host of a mirror's links is not the mirror.
        let link = format!(
            "link: <https://elsewhere.example/api/models/acme/model/tree/{COMMIT}?recursive=true&cursor={next}>; rel=\"next\""
        );
        let headers: &[&str] = if next < self.files.len() { &[&link] } else { &[] };
        Some(reply("200 OK", headers, format!("[{}]", items.join(", ")).as_bytes()))
    }

    /// Whether a directory has what a model needs, byte for byte, and nothing else.
    #[track_caller]
    pub(crate) fn check(&self, directory: &Path) {
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            assert!(
                std::fs::read(directory.join(name)).unwrap() == self.files[name],
                "{name} differs"
            );
        }
        assert!(!directory.join("pytorch_model.bin").exists());
    }
}

/// Bytes that do not repeat: SplitMix64.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = len as u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn git_blob(content: &[u8]) -> String {
    let whole = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
    hex(&SHA1_FOR_LEGACY_USE_ONLY, &whole)
}

fn hex(algorithm: &'static Algorithm, content: &[u8]) -> String {
    digest(algorithm, content).as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
