//! Jobs as the platform hands them out.

use serde_json::Value;

/// Most characters of a job's name.
const ID_MAX: usize = 256;

/// One piece of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The platform's name for it.
    pub id: String,
    /// What the caller wants.
    pub input: Value,
}

/// Why an answer of the platform holds no jobs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// It is no JSON.
    #[error("what was taken is no JSON: {0}")]
    NotJson(String),
    /// A job has no name, so that nobody could be told what became of it.
    #[error("a job without `id`: {0}")]
    NoId(String),
}

impl Job {
    /// A job, or a list of jobs. Those without `input` are jobs whose input is `null`: their callers are told.
    ///
    /// # Errors
    /// [`JobError`].
    pub fn parse(body: &[u8]) -> Result<Vec<Job>, JobError> {
        let value: Value =
            serde_json::from_slice(body).map_err(|error| JobError::NotJson(error.to_string()))?;
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(jobs) => jobs.into_iter().map(Job::of).collect(),
            job => Ok(vec![Job::of(job)?]),
        }
    }

    fn of(mut value: Value) -> Result<Job, JobError> {
        let id =
            value.get("id").and_then(Value::as_str).filter(|id| (1..=ID_MAX).contains(&id.len()));
        let Some(id) = id.map(str::to_owned) else {
            let mut shown = value.to_string();
            shown.truncate((0..=80).rev().find(|&at| shown.is_char_boundary(at)).unwrap_or(0));
            return Err(JobError::NoId(shown));
        };
        let input = value.get_mut("input").map_or(Value::Null, Value::take);
        Ok(Job { id, input })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_job_or_many() {
        let job = |id: &str, input: Value| Job { id: id.to_owned(), input };
        let one = br#"{"id": "a", "input": {"prompt": "x"}, "webhook": null}"#;
        assert_eq!(Job::parse(one), Ok(vec![job("a", json!({"prompt": "x"}))]));
        let two = br#"[{"id": "a", "input": 1}, {"id": "b"}]"#;
        assert_eq!(Job::parse(two), Ok(vec![job("a", json!(1)), job("b", Value::Null)]));
        assert_eq!(Job::parse(b"[]"), Ok(Vec::new()));
        assert_eq!(Job::parse(b"null"), Ok(Vec::new()));
        assert!(matches!(Job::parse(b"<html>"), Err(JobError::NotJson(_))));
        assert!(matches!(Job::parse(br#"{"input": {}}"#), Err(JobError::NoId(_))));
        assert!(matches!(Job::parse(br#"[{"id": ""}]"#), Err(JobError::NoId(_))));
        assert!(matches!(Job::parse(b"7"), Err(JobError::NoId(_))));
    }
}
