//! From messages and tools to the text that the model continues.
//!
//! A template that knows tools is given them as they are. For one that does not, the tools are described in the system
//! message, calls of earlier answers are written as [`ToolFormat::hermes`] has them, and results come as the user's words.

use grammar::ToolFormat;
use model::{Chat, ChatTemplate};
use serde_json::{Map, Value};

use super::message::plain;
use super::tools::Toolbox;
use crate::ApiError;

/// A chat whose next message is asked for.
#[derive(Debug, Default)]
pub(super) struct Dialogue {
    /// As [`super::message::for_template`] makes them.
    pub(super) messages: Vec<Value>,
    /// What may be called.
    pub(super) tools: Toolbox,
    /// `chat_template_kwargs`.
    pub(super) variables: Map<String, Value>,
}

impl Dialogue {
    /// The text, and how the model is to write calls.
    ///
    /// # Errors
    /// 400 with what the template says where it refuses the messages.
    pub(super) fn render(
        mut self,
        template: &ChatTemplate,
        add_generation_prompt: bool,
    ) -> Result<(String, ToolFormat), ApiError> {
        let source = template.source(!self.tools.is_empty()).map_err(|e| refused(&e))?;
        if !source.contains("developer") {
            self.messages.iter_mut().for_each(developer_to_system);
        }
        let knows_tools = source.contains("tools");
        let format = if knows_tools { ToolFormat::detect(&source) } else { ToolFormat::hermes() };
        if !knows_tools {
            self.messages = without_calls(self.messages, &format);
            if !self.tools.is_empty() {
                let text = describe(&self.tools, &format);
                let role = if source.contains("system") { "system" } else { "user" };
                tell(&mut self.messages, role, &text);
            }
        }
        let tools = self.tools.for_template();
        let text = template
            .render(Chat {
                messages: &self.messages,
                tools: (knows_tools && !tools.is_empty()).then_some(&tools),
                add_generation_prompt,
                variables: self.variables,
            })
            .map_err(|e| refused(&e))?;
        Ok((text, format))
    }
}

fn refused(error: &model::ModelError) -> ApiError {
    let message = format!("the model's chat template refuses these messages: {error}");
    ApiError::invalid("messages".to_owned(), message).with_code("chat_template")
}

fn developer_to_system(message: &mut Value) {
    if message["role"] == "developer" {
        message["role"] = "system".into();
    }
}

/// What a model is told of its tools whose template does not tell it.
fn describe(tools: &Toolbox, format: &ToolFormat) -> String {
    let list: Vec<String> = tools.for_template().iter().map(Value::to_string).collect();
    format!(
        "You can call these functions:\n{}\nTo call one, answer with nothing but its name and arguments:\n{}{{\"name\": \"…\", \"{}\": {{…}}}}{}",
        list.join("\n"),
        format.begin,
        format.arguments_key,
        format.end
    )
}

/// Puts a text in front of the first message of a role, which is made if it is not there.
fn tell(messages: &mut Vec<Value>, role: &str, text: &str) {
    match messages.iter_mut().find(|message| message["role"] == role) {
        Some(message) => {
            let content = message["content"].as_str().unwrap_or_default();
            message["content"] = format!("{text}\n\n{content}").into();
        }
        None => messages.insert(0, plain(role, text)),
    }
}

/// Writes calls and their results as texts of assistant and user. Results that follow each other are one message, since
/// many templates want the roles to alternate.
fn without_calls(messages: Vec<Value>, format: &ToolFormat) -> Vec<Value> {
    let mut plain_messages: Vec<Value> = Vec::with_capacity(messages.len());
    let mut after_tool = false;
    for mut message in messages {
        let content = message["content"].as_str().unwrap_or_default().to_owned();
        let is_tool = message["role"] == "tool";
        if is_tool {
            let text = format!("<tool_response>\n{content}\n</tool_response>");
            match plain_messages.last_mut().filter(|_| after_tool) {
                Some(last) => {
                    let before = last["content"].as_str().unwrap_or_default();
                    last["content"] = format!("{before}\n{text}").into();
                }
                None => plain_messages.push(plain("user", &text)),
            }
        } else {
            let calls = message.as_object_mut().and_then(|map| map.shift_remove("tool_calls"));
            if let Some(Value::Array(calls)) = calls {
                let calls = calls.iter().map(|call| written(&call["function"], format));
                let texts = (!content.is_empty()).then_some(content).into_iter().chain(calls);
                message["content"] = texts.collect::<Vec<_>>().join("\n").into();
            }
            plain_messages.push(message);
        }
        after_tool = is_tool;
    }
    plain_messages
}

/// A call as the model writes it.
fn written(function: &Value, format: &ToolFormat) -> String {
    let ToolFormat { begin, end, arguments_key, .. } = format;
    let (name, arguments) = (&function["name"], &function["arguments"]);
    format!("{begin}{{\"name\": {name}, \"{arguments_key}\": {arguments}}}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    const CHATML: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

    fn check(template: &str, messages: Value, tools: &Value, expected: &Expect) {
        let tools: Vec<super::super::tools::Tool> = serde_json::from_value(tools.clone()).unwrap();
        let dialogue = Dialogue {
            messages: serde_json::from_value(messages).unwrap(),
            tools: Toolbox::new(&tools, None, None).unwrap(),
            variables: Map::new(),
        };
        let template = ChatTemplate::parse(&[("default", template)], Map::new()).unwrap();
        let text = match dialogue.render(&template, true) {
            Ok((text, _)) => text,
            Err(error) => error.message,
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn a_template_without_tools_is_told_in_words() {
        let tools = json!([{"type": "function", "function": {"name": "add", "description": "Adds", "parameters": {"type": "object"}}}]);
        let call = json!({"type": "function", "function": {"name": "add", "arguments": {"a": 1}}});
        let messages = json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "", "tool_calls": [call, call]},
            {"role": "tool", "content": "2"},
            {"role": "tool", "content": "3"},
        ]);
        // `system` is a word of this template.
        let template = format!("{{# system #}}{CHATML}");
        check(
            &template,
            messages.clone(),
            &tools,
            &expect![[r#"
            <system>You can call these functions:
            {"type":"function","function":{"name":"add","description":"Adds","parameters":{"type":"object"}}}
            To call one, answer with nothing but its name and arguments:
            <tool_call>
            {"name": "…", "arguments": {…}}
            </tool_call>

            Be brief.
            <user>1+1?
            <assistant><tool_call>
            {"name": "add", "arguments": {"a":1}}
            </tool_call>
            <tool_call>
            {"name": "add", "arguments": {"a":1}}
            </tool_call>
            <user><tool_response>
            2
            </tool_response>
            <tool_response>
            3
            </tool_response>
            <assistant>"#]],
        );
        check(
            CHATML,
            json!([{"role": "user", "content": "Hi"}]),
            &tools,
            &expect![[r#"
            <user>You can call these functions:
            {"type":"function","function":{"name":"add","description":"Adds","parameters":{"type":"object"}}}
            To call one, answer with nothing but its name and arguments:
            <tool_call>
            {"name": "…", "arguments": {…}}
            </tool_call>

            Hi
            <assistant>"#]],
        );
    }

    #[test]
    fn a_template_that_refuses_says_why() {
        check(
            "{{ raise_exception('no such role') }}",
            json!([{"role": "user", "content": "Hi"}]),
            &json!([]),
            &expect![
                "the model's chat template refuses these messages: chat template: invalid operation: no such role (in default:1)"
            ],
        );
    }
}
