//! Which hub is asked, and with which token, as Hugging Face's own tools decide it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use fetch::Token;

use crate::HubError;

/// Where repositories are, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// A hub, and what opens it.
#[derive(Debug, Clone)]
pub struct Access {
    /// `https://huggingface.co`, or a mirror.
    pub endpoint: String,
    /// Sent to the endpoint alone.
    pub token: Option<Token>,
}

impl Access {
    /// From the environment: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`, `XDG_CACHE_HOME`, `HOME`. A file that was
    /// named comes before these.
    ///
    /// # Errors
    /// If `HF_HUB_OFFLINE` forbids to ask, or the token cannot be read.
    pub fn from_env(
        var: impl Fn(&str) -> Option<String>,
        token_file: Option<&Path>,
    ) -> Result<Self, HubError> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        if var("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)) {
            return Err(HubError::Offline);
        }
        let token = match token_file {
            Some(path) => match read(path)? {
                Some(token) => Some(token),
                None => {
                    let message = format!("cannot read {}: there is no such file", path.display());
                    return Err(HubError::Token(message));
                }
            },
            None => token(var)?,
        };
        Ok(Access { endpoint: var("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()), token })
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

/// The token that Hugging Face's own tools would send.
fn token(var: impl Fn(&str) -> Option<String>) -> Result<Option<Token>, HubError> {
    if let Some(text) = var("HF_TOKEN") {
        return Token::new(&text).map(Some).ok_or_else(|| unusable("HF_TOKEN"));
    }
    let home = || var("HF_HOME").map(PathBuf::from);
    let cache = || var("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("huggingface"));
    let user = || var("HOME").map(|home| Path::new(&home).join(".cache/huggingface"));
    let beside = || home().or_else(cache).or_else(user).map(|home| home.join("token"));
    match var("HF_TOKEN_PATH").map(PathBuf::from).or_else(beside) {
        Some(path) => read(&path),
        None => Ok(None),
    }
}

/// The token in a file; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<Token>, HubError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text)) {
        Ok(_) => {
            let token = Token::new(&text);
            token.map(Some).ok_or_else(|| unusable(&path.display().to_string()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HubError::Token(format!("cannot read {}: {error}", path.display()))),
    }
}

fn unusable(place: &str) -> HubError {
    HubError::Token(format!("{place} holds no token: one word is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_where_hugging_face_puts_it() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().display().to_string();
        let access = |set: &[(&str, &str)], file: Option<&Path>| {
            let find = |name: &str| set.iter().find(|(n, _)| *n == name);
            Access::from_env(|name| find(name).map(|(_, v)| (*v).to_owned()), file)
        };
        let with = |set: &[(&str, &str)]| access(set, None).map(|access| access.token);
        assert!(with(&[("HF_TOKEN", "a")]).unwrap().is_some());
        assert!(with(&[("HF_TOKEN", "a b")]).is_err());
        assert!(with(&[("HF_HOME", &home)]).unwrap().is_none());
        let file = root.path().join("token");
        let error = access(&[], Some(&file)).unwrap_err().to_string();
        assert!(error.ends_with("there is no such file"), "{error}");
        std::fs::write(&file, "secret\n").unwrap();
        assert!(with(&[("HF_HOME", &home)]).unwrap().is_some());
        assert!(access(&[("HF_TOKEN", "a b")], Some(&file)).unwrap().token.is_some());
        // A directory is no file to read.
        let error = with(&[("HF_TOKEN_PATH", &home)]).unwrap_err().to_string();
        assert!(error.starts_with("cannot read"), "{error}");
        assert!(with(&[]).unwrap().is_none());
        assert!(matches!(with(&[("HF_HUB_OFFLINE", "True")]), Err(HubError::Offline)));
        assert!(with(&[("HF_HUB_OFFLINE", "0")]).is_ok());
    }
}
