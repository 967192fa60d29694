//! Names of repositories, and where their parts are asked for.

use std::fmt::Write;

use crate::HubError;

/// A repository, at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// `https://huggingface.co`.
    endpoint: String,
    org: String,
    name: String,
    revision: String,
}

impl Repository {
    /// `ORG/NAME` or `ORG/NAME@REVISION` at `endpoint`, or a URL as the browser shows it; `revision` wins over that of a URL.
    ///
    /// # Errors
    /// If it is none of these, or has two revisions.
    pub fn parse(text: &str, endpoint: &str, revision: Option<&str>) -> Result<Self, HubError> {
        let endpoint = endpoint.trim_end_matches('/');
        let mut at = None;
        let (endpoint, path) = match text.split_once("://") {
            None => {
                let (path, revision) =
                    text.split_once('@').map_or((text, None), |(p, r)| (p, Some(r)));
                at = revision;
                (endpoint.to_owned(), path)
            }
            Some((scheme, rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                (format!("{scheme}://{host}"), path)
            }
        };
        if let (Some(at), Some(revision)) = (at, revision.filter(|revision| Some(*revision) != at))
        {
            let message =
                format!("`{text}` is at `{at}`, and `{revision}` was asked for; give one of them");
            return Err(HubError::Name(message));
        }
        let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        let ((org, name), from_url) = match parts[..] {
            [org, name] => ((org, name), None),
            [org, name, "tree" | "resolve" | "blob", revision] => ((org, name), Some(revision)),
            _ => {
                let message = format!("`{text}` is no repository; give ORG/NAME, or its URL");
                return Err(HubError::Name(message));
            }
        };
        let revision = revision.or(at).or(from_url).unwrap_or("main");
        let is_plain = |part: &str| {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_name)
        };
        if ![org, name].iter().all(|part| is_plain(part)) || !revision.split('/').all(is_plain) {
            return Err(HubError::Name(format!(
                "`{text}` at `{revision}` is no name of a repository and a revision"
            )));
        }
        let (org, name) = (org.to_owned(), name.to_owned());
        Ok(Repository { endpoint, org, name, revision: revision.to_owned() })
    }

    /// What messages call it.
    pub fn name(&self) -> String {
        let host = self.endpoint.split("://").last().unwrap_or_default();
        let Repository { org, name, revision, .. } = self;
        if revision == "main" {
            format!("{host}/{org}/{name}")
        } else {
            format!("{host}/{org}/{name}@{revision}")
        }
    }

    /// `ORG` and `NAME`: plain names, each good for one part of a path.
    pub fn org_and_name(&self) -> (&str, &str) {
        (&self.org, &self.name)
    }

    /// The branch, tag or commit that was asked for.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Where its page is, for people.
    pub fn page(&self) -> String {
        format!("{}/{}/{}", self.endpoint, self.org, self.name)
    }

    /// Where a file is, at the revision that was asked for.
    pub fn url(&self, file: &str) -> String {
        self.url_at(&self.revision, file)
    }

    /// Where a file is at a revision.
    pub(crate) fn url_at(&self, revision: &str, file: &str) -> String {
        format!("{}/resolve/{}/{}", self.page(), slashless(revision), encoded(file))
    }

    /// Where the hub says which commit the revision is.
    pub(crate) fn url_of_revision(&self) -> String {
        let Repository { endpoint, org, name, revision } = self;
        format!("{endpoint}/api/models/{org}/{name}/revision/{}", slashless(revision))
    }

    /// Where the hub lists the files of a commit.
    pub(crate) fn url_of_tree(&self, commit: &str) -> String {
        let Repository { endpoint, org, name, .. } = self;
        format!("{endpoint}/api/models/{org}/{name}/tree/{commit}?recursive=true")
    }
}

/// The one character of a revision that a part of a path does not hold as it is.
fn slashless(revision: &str) -> String {
    revision.replace('/', "%2F")
}

/// A path as a URL has it.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            text.push(byte.into());
        } else {
            // A String takes everything.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "https://huggingface.co";

    #[test]
    fn repositories_by_name_and_by_url() {
        let url = |text: &str, revision: Option<&str>| {
            Repository::parse(text, ENDPOINT, revision).map(|repository| repository.url("f"))
        };
        let main = "https://huggingface.co/acme/tiny-1.5/resolve/main/f";
        assert_eq!(url("acme/tiny-1.5", None).unwrap(), main);
        assert_eq!(url("https://huggingface.co/acme/tiny-1.5/", None).unwrap(), main);
        assert_eq!(
            url("https://hub.example/acme/tiny/tree/v2", None).unwrap(),
            "https://hub.example/acme/tiny/resolve/v2/f"
        );
        let of_a_pull = "https://huggingface.co/acme/tiny/resolve/refs%2Fpr%2F1/f";
        assert_eq!(url("acme/tiny", Some("refs/pr/1")).unwrap(), of_a_pull);
        assert_eq!(url("acme/tiny@refs/pr/1", None).unwrap(), of_a_pull);
        assert_eq!(url("acme/tiny@refs/pr/1", Some("refs/pr/1")).unwrap(), of_a_pull);
        for bad in [
            "tiny",
            "a/b/c",
            "acme/..",
            "../tiny",
            "acme/ti ny",
            "acme/tiny?x",
            "https://h",
            "",
            "acme/tiny@",
            "acme/tiny@../x",
        ] {
            assert!(url(bad, None).is_err(), "{bad}");
        }
        assert!(url("acme/tiny", Some("../../evil")).is_err());
        assert!(url("acme/tiny@v1", Some("v2")).is_err());
        let named = |revision| Repository::parse("acme/tiny", ENDPOINT, revision).unwrap().name();
        assert_eq!(named(None), "huggingface.co/acme/tiny");
        assert_eq!(named(Some("v2")), "huggingface.co/acme/tiny@v2");
    }

    #[test]
    fn names_of_files_are_encoded() {
        let repository = Repository::parse("a/b", ENDPOINT, None).unwrap();
        let url = repository.url_at("c0ffee", "x y/ü?#.json");
        assert_eq!(url, "https://huggingface.co/a/b/resolve/c0ffee/x%20y/%C3%BC%3F%23.json");
    }
}
