//! What becomes of a job, in the platform's form.

use serde_json::{Value, json};

use crate::place::{Place, SDK_VERSION};
use crate::service::Refusal;

/// What a job came to.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) result: Result<Value, Refusal>,
    /// Whether pieces were sent before.
    pub(crate) is_stream: bool,
}

impl Outcome {
    /// What is posted: `{"output": …}` or `{"error": "…"}`, whose text is JSON with the fields that the platform knows and the error as
    /// the service said it. `stop` ends the worker's machine after this job.
    pub(crate) fn body(&self, place: &Place, stop: bool) -> Value {
        let mut body = match &self.result {
            Ok(output) => json!({ "output": output }),
            Err(refusal) => json!({ "error": error(refusal, place).to_string() }),
        };
        if stop {
            body["stopPod"] = true.into();
        }
        body
    }
}

fn error(refusal: &Refusal, place: &Place) -> Value {
    let Refusal { status, error } = refusal;
    json!({
        "error_type": error["type"],
        "error_message": error["message"],
        "error_traceback": "",
        "hostname": place.hostname,
        "worker_id": place.worker_id,
        "runpod_version": SDK_VERSION,
        "success": false,
        "status": (*status != 0).then_some(status),
        "error": error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_a_text_of_json() {
        let place = crate::place::tests::at("http://127.0.0.1:1");
        let refusal = Refusal::internal("boom".to_owned());
        let outcome = Outcome { result: Err(refusal), is_stream: false };
        let body = outcome.body(&place, true);
        assert_eq!(body["stopPod"], true);
        let text: Value = serde_json::from_str(body["error"].as_str().unwrap()).unwrap();
        assert_eq!(text["error_message"], "boom");
        assert_eq!((&text["success"], &text["worker_id"]), (&json!(false), &json!("pod-1")));
        let outcome = Outcome { result: Ok(json!({"a": 1})), is_stream: true };
        assert_eq!(outcome.body(&place, false), json!({"output": {"a": 1}}));
    }
}
