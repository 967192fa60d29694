//! The callback of the service that this replaces: `POST callback_url`, 200 says that it was taken.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::control::ControlError;
use crate::input::Callback;
use crate::outcome::Outcome;

/// Waits between attempts.
const RETRIES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];

/// How long the receiver may take.
const TIME: Duration = Duration::from_secs(20);

/// Tells whoever the job's caller named. Only the public network is asked, and only by https.
///
/// # Errors
/// Why it was not told, in words.
pub(crate) async fn tell(callback: &Callback, job: &str, outcome: &Outcome) -> Result<(), String> {
    let url = fetch::public_url(&callback.url).map_err(|error| error.to_string())?;
    let http = fetch::public_builder().timeout(TIME).build();
    let http = http.map_err(|error| ControlError::from(error).to_string())?;
    let body = body(callback, job, outcome).to_string();
    let mut waits = RETRIES.iter();
    loop {
        let request = http.post(url.clone()).header("content-type", "application/json");
        let error = match request.body(body.clone()).send().await {
            Ok(response) if response.status() == StatusCode::OK => return Ok(()),
            Ok(response) => format!("it answers {}", response.status()),
            Err(error) => ControlError::from(error).to_string(),
        };
        match waits.next() {
            Some(wait) => tokio::time::sleep(*wait).await,
            None => return Err(error),
        }
    }
}

/// `{job_id, status, api_key, result | error}`.
fn body(callback: &Callback, job: &str, outcome: &Outcome) -> Value {
    let mut body = json!({ "job_id": job, "status": "COMPLETED", "api_key": callback.key });
    match &outcome.result {
        Ok(result) => body["result"] = result.clone(),
        Err(refusal) => {
            body["status"] = "FAILED".into();
            body["error"] = refusal.error.clone();
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Refusal;

    #[test]
    fn what_is_told_is_what_the_service_told() {
        let callback = Callback { url: "https://c".to_owned(), key: Some("k".to_owned()) };
        let outcome = Outcome { result: Ok(json!({ "a": 1 })), is_stream: false };
        let expected =
            json!({ "job_id": "j", "status": "COMPLETED", "api_key": "k", "result": { "a": 1 } });
        assert_eq!(body(&callback, "j", &outcome), expected);
        let outcome = Outcome { result: Err(Refusal::internal("no".to_owned())), is_stream: false };
        let body = body(&callback, "j", &outcome);
        assert_eq!((&body["status"], &body["error"]["message"]), (&json!("FAILED"), &json!("no")));
    }

    #[tokio::test]
    async fn nobody_inside_is_told() {
        let outcome = Outcome { result: Ok(Value::Null), is_stream: false };
        for url in ["http://example.org/", "https://127.0.0.1/", "https://169.254.169.254/"] {
            let callback = Callback { url: url.to_owned(), key: None };
            assert!(tell(&callback, "j", &outcome).await.is_err(), "{url}");
        }
    }
}
