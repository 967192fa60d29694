//! Where jobs are stored.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where jobs are stored. Never shown with a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: there are none.
    Off,
    /// In a file of this machine, for one server.
    File(PathBuf),
    /// In a PostgreSQL, for many servers: its URL.
    Postgres(String),
}

/// What is wrong with a place. The text is not shown: there may be a password in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Nothing.
    #[error("is empty; give `off`, a file, or postgres://USER@HOST/DATABASE")]
    Empty,
    /// A URL of another kind.
    #[error("`{0}://` is no store of jobs; give `off`, a file, or postgres://USER@HOST/DATABASE")]
    Scheme(String),
    /// No URL of a PostgreSQL.
    #[error("is no URL of a PostgreSQL: {0}")]
    Url(String),
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        match text.split_once("://") {
            _ if text.is_empty() => Err(PlaceError::Empty),
            _ if text == "off" => Ok(Place::Off),
            Some(("postgres" | "postgresql", _)) => {
                let parsed = text.parse::<tokio_postgres::Config>();
                parsed.map_err(|error| PlaceError::Url(cause(&error)))?;
                Ok(Place::Postgres(text.to_owned()))
            }
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Err(PlaceError::Scheme(scheme.to_owned()))
            }
            _ => Ok(Place::File(PathBuf::from(text))),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Off => f.write_str("off"),
            Place::File(path) => path.display().fmt(f),
            Place::Postgres(url) => f.write_str(&redacted(url)),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({self})")
    }
}

/// Host, port and database of a URL; nothing else of it, for passwords may also stand in its parameters.
fn redacted(url: &str) -> String {
    let Ok(config) = url.parse::<tokio_postgres::Config>() else { return "postgres://".to_owned() };
    let hosts = config.get_hosts().iter().zip(config.get_ports().iter().chain([5432; 16].iter()));
    let hosts = hosts.map(|(host, port)| match host {
        tokio_postgres::config::Host::Tcp(host) => format!("{host}:{port}"),
        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
    });
    let hosts: Vec<String> = hosts.collect();
    format!("postgres://{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

/// An error with what caused it: tokio-postgres keeps the half of it that helps for the second.
pub(crate) fn cause(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("{} ({})", error.message(), error.code().code());
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_shown_without_secrets() {
        let check = |text: &str, shown: &str| {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), shown);
            assert!(!format!("{place:?}").contains("secret"), "{place:?}");
        };
        check("off", "off");
        check("jobs.sqlite", "jobs.sqlite");
        check("dir/with://x", "dir/with://x");
        check("postgres://u:secret@db.example/jobs", "postgres://db.example:5432/jobs");
        check("postgresql://u@a:1,b:2/jobs?password=secret", "postgres://a:1,b:2/jobs");
        check("postgres:///jobs?host=/run/postgresql", "postgres:///run/postgresql/jobs");
    }

    #[test]
    fn what_is_no_place_is_refused_without_being_shown() {
        let check = |text: &str, part: &str| {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        };
        check("", "is empty");
        check("mysql://u:secret@h/d", "`mysql://` is no store of jobs");
        check("postgres://u:secret@h:port/d", "no URL of a PostgreSQL");
    }
}
