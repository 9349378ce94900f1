//! Chat templates: the Jinja that comes with a model, rendered as transformers' `apply_chat_template` renders it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::jinja::{Problem, Template};

use crate::error::{Error, Result};
use crate::files::read_text;
use crate::models::tokenizer::{NAMED, content};

/// A model's chat template.
pub struct ChatTemplate {
    template: Template,
    /// Another one, for chats with tools.
    tool_use: Option<Template>,
    source: String,
    path: PathBuf,
    /// Special tokens by the names that templates use: `bos_token` and so on.
    tokens: Map<String, Value>,
}

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja`, else the one in `tokenizer_config.json` (of several, the
    /// one called `default`). A second one called `tool_use`, there or in `chat_templates`, is for chats with tools.
    /// `None` where there is none; `settings` are those of the tokenizer.
    ///
    /// # Errors
    /// It is not valid Jinja; the message has the line.
    pub fn open(folder: &Path, settings: &Map<String, Value>) -> Result<Option<Self>> {
        let file = folder.join("chat_template.jinja");
        if !file.exists() {
            return Self::read(&folder.join("tokenizer_config.json"), settings);
        }
        let chat = Self::new(&file, read_text(&file)?, tokens(settings))?;
        let tool_use = folder.join("chat_templates/tool_use.jinja");
        if tool_use.exists() {
            return chat
                .with_tool_use(&tool_use, &read_text(&tool_use)?)
                .map(Some);
        }
        Ok(Some(chat))
    }

    /// The template in the settings of a tokenizer; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(path: &Path, settings: &Map<String, Value>) -> Result<Option<Self>> {
        let Some(source) = template_in(settings, "default") else {
            return Ok(None);
        };
        let chat = Self::new(path, source.to_owned(), tokens(settings))?;
        match template_in(settings, "tool_use") {
            Some(tool_use) if tool_use != source => chat.with_tool_use(path, tool_use).map(Some),
            _ => Ok(Some(chat)),
        }
    }

    /// A template from its text; `path` is for messages, `tokens` are what it may name.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn new(path: &Path, source: String, tokens: Map<String, Value>) -> Result<Self> {
        let template = Template::new(&source).map_err(|problem| refused(path, &problem))?;
        Ok(Self {
            template,
            tool_use: None,
            source,
            path: path.to_owned(),
            tokens,
        })
    }

    fn with_tool_use(mut self, path: &Path, source: &str) -> Result<Self> {
        let template = Template::new(source).map_err(|problem| refused(path, &problem))?;
        self.tool_use = Some(template);
        self.source.push_str(source);
        Ok(self)
    }

    /// The Jinja text, which names the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Messages as the text that the model reads; with `add_generation_prompt` it ends where the answer begins. `variables`
    /// are what the template may name beside these, such as `tools`; they win over special tokens of the same name.
    ///
    /// # Errors
    /// The template refuses the messages (`raise_exception`, as for roles out of order) or fails.
    pub fn render(
        &self,
        messages: &[Value],
        variables: &Map<String, Value>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        // transformers names these two always: to be none is not to be undefined.
        let mut named =
            Map::from_iter(["tools", "documents"].map(|name| (name.to_owned(), Value::Null)));
        named.extend(self.tokens.clone());
        named.extend(variables.clone());
        let messages = messages.iter().map(as_given).collect();
        named.insert("messages".to_owned(), Value::Array(messages));
        named.insert(
            "add_generation_prompt".to_owned(),
            add_generation_prompt.into(),
        );
        let has_tools = named.get("tools").is_some_and(|tools| !tools.is_null());
        let template = match &self.tool_use {
            Some(tool_use) if has_tools => tool_use,
            _ => &self.template,
        };
        template
            .render(&named)
            .map_err(|problem| refused(&self.path, &problem))
    }
}

/// The tokens of the settings that a template may name.
fn tokens(settings: &Map<String, Value>) -> Map<String, Value> {
    let named = NAMED.iter().filter_map(|&name| {
        let token = content(settings.get(name)?);
        Some((name.to_owned(), Value::from(token)))
    });
    named.collect()
}

/// A message as transformers gives it to templates: keys whose value is null are left out, and an assistant's reasoning has
/// the name that templates read, whichever it came by.
fn as_given(message: &Value) -> Value {
    let Value::Object(object) = message else {
        return message.clone();
    };
    let mut given = Map::new();
    let reasoning = ["reasoning_content", "thinking", "reasoning"];
    let reasoning = reasoning
        .iter()
        .find_map(|name| object.get(*name).filter(|value| !value.is_null()));
    if let Some(reasoning) = reasoning {
        given.insert("thinking".to_owned(), reasoning.clone());
    }
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        given.insert(name.clone(), value.clone());
    }
    if let Some(reasoning) = reasoning {
        given.insert("reasoning_content".to_owned(), reasoning.clone());
    }
    Value::Object(given)
}

fn template_in<'s>(settings: &'s Map<String, Value>, name: &str) -> Option<&'s str> {
    match settings.get("chat_template")? {
        Value::String(template) => Some(template),
        Value::Array(several) => several
            .iter()
            .find(|template| template["name"] == name)
            .and_then(|template| template["template"].as_str()),
        _ => None,
    }
}

/// A problem of the template in `path`. Its words may be the template's own (`raise_exception`), and go to a terminal.
fn refused(path: &Path, problem: &Problem) -> Error {
    const LONGEST: usize = 200;
    let mut words = String::new();
    for letter in problem.message.chars().take(LONGEST) {
        if letter.is_control() {
            words.extend(letter.escape_default());
        } else {
            words.push(letter);
        }
    }
    if problem.message.chars().nth(LONGEST).is_some() {
        words.push_str(" ...");
    }
    let message = match problem.line {
        Some(line) => format!("the chat template, line {line}: {words}"),
        None => format!("the chat template: {words}"),
    };
    Error::data(path, message)
}
