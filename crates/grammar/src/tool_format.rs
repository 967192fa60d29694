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
