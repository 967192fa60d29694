//! How models write calls of tools, told from their chat templates.

use crate::ToolFormat;

impl ToolFormat {
    /// `<tool_call>` and `</tool_call>` around an object with `name` and `arguments`: Hermes, Qwen 2.5 and 3, and many since.
    pub fn hermes() -> Self {
        ToolFormat {
            begin: "<tool_call>\n".into(),
            end: "\n</tool_call>".into(),
            arguments_key: "arguments".into(),
            list: false,
        }
    }

    /// `[TOOL_CALLS]`, then a list of objects with `name` and `arguments`: Mistral and Mixtral.
    pub fn mistral() -> Self {
        ToolFormat {
            begin: "[TOOL_CALLS]".into(),
            end: String::new(),
            arguments_key: "arguments".into(),
            list: true,
        }
    }

    /// An object with `name` and `parameters`, without marks around it: Llama 3.
    pub fn llama3() -> Self {
        ToolFormat {
            begin: String::new(),
            end: String::new(),
            arguments_key: "parameters".into(),
            list: false,
        }
    }

    /// The format in which a chat template writes earlier calls, which is the one that its model was trained on. A template
    /// that knows none of them gets [`ToolFormat::hermes`], whose marks explain themselves best to other models.
    pub fn detect(template_source: &str) -> Self {
        if template_source.contains("[TOOL_CALLS]") {
            Self::mistral()
        } else if template_source.contains("<tool_call>") {
            Self::hermes()
        } else if writes_parameters(template_source) {
            Self::llama3()
        } else {
            Self::hermes()
        }
    }
}

/// Whether a template writes a call as `{"name": "…", "parameters": …`, rather than to mention parameters elsewhere.
fn writes_parameters(template: &str) -> bool {
    let dense: String = template.chars().filter(|c| !c.is_whitespace() && *c != '\\').collect();
    dense.match_indices(r#"{"name":""#).any(|(at, _)| {
        let mut window = dense[at..].chars();
        let window: String = window.by_ref().take(120).collect();
        window.contains(r#""parameters":"#)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(fixture: &str) -> ToolFormat {
        let path =
            format!("{}/../../fixtures/templates/{fixture}.json", env!("CARGO_MANIFEST_DIR"));
        let case: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        ToolFormat::detect(case["template"].as_str().unwrap())
    }

    #[test]
    fn formats_are_told_from_the_templates_of_real_families() {
        for (fixture, format) in [
            ("mistral-tools", ToolFormat::mistral()),
            ("mistral-tools-id", ToolFormat::mistral()),
            ("llama3-tools", ToolFormat::llama3()),
            ("llama3-tools-system", ToolFormat::llama3()),
            ("llama3-two-calls", ToolFormat::llama3()),
            ("qwen2-tools", ToolFormat::hermes()),
            ("qwen3-tools", ToolFormat::hermes()),
            // No format of its own.
            ("chatml", ToolFormat::hermes()),
        ] {
            assert_eq!(detected(fixture), format, "{fixture}");
        }
    }
}
