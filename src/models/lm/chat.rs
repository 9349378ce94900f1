//! Chat templates: the Jinja that comes with a model, rendered as transformers' `apply_chat_template` renders it.

use std::path::{Path, PathBuf};

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, State, context};
use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::models::json::read_object_if_there;
use crate::models::tokenizer::{NAMED, content};

/// A model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    path: PathBuf,
    /// Special tokens by the names that templates use: `bos_token` and so on.
    tokens: Map<String, Value>,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja`, else the one in `tokenizer_config.json` (of several, the
    /// one called `default`). `None` where there is none.
    ///
    /// # Errors
    /// It is not valid Jinja; the message has the line.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let config = folder.join("tokenizer_config.json");
        let settings = read_object_if_there(&config)?;
        let file = folder.join("chat_template.jinja");
        if !file.exists() {
            return Self::of(&config, &settings);
        }
        let source = std::fs::read_to_string(&file);
        let source = source.map_err(|error| Error::io("read", &file, error))?;
        Self::new(&file, source, tokens(&settings)).map(Some)
    }

    /// The template in the settings of a tokenizer; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(path: &Path, settings: &Map<String, Value>) -> Result<Option<Self>> {
        let source = template_in(settings);
        source
            .map(|source| Self::new(path, source.to_owned(), tokens(settings)))
            .transpose()
    }

    /// A template from its text; `path` is for messages, `tokens` are what it may name.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn new(path: &Path, source: String, tokens: Map<String, Value>) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers sets Jinja up.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation_marks(&source))
            .map_err(|error| refused(path, &error))?;
        Ok(Self {
            environment,
            source,
            path: path.to_owned(),
            tokens,
        })
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
        let template = self.environment.get_template(NAME);
        let template = template.map_err(|error| refused(&self.path, &error))?;
        // transformers names these two always: to be none is not to be undefined.
        let mut named =
            Map::from_iter(["tools", "documents"].map(|name| (name.to_owned(), Value::Null)));
        named.extend(self.tokens.clone());
        named.extend(variables.clone());
        let named = minijinja::Value::from_serialize(&named);
        let context = context! { messages, add_generation_prompt, ..named };
        template
            .render(context)
            .map_err(|error| refused(&self.path, &error))
    }
}

/// What a template may name of the settings.
fn tokens(settings: &Map<String, Value>) -> Map<String, Value> {
    let named = NAMED.iter().filter_map(|&name| {
        let token = content(settings.get(name)?);
        Some((name.to_owned(), Value::from(token)))
    });
    named.collect()
}

fn template_in(settings: &Map<String, Value>) -> Option<&str> {
    match settings.get("chat_template")? {
        Value::String(template) => Some(template),
        Value::Array(several) => several
            .iter()
            .find(|template| template["name"] == "default")
            .and_then(|template| template["template"].as_str()),
        _ => None,
    }
}

fn refused(path: &Path, error: &minijinja::Error) -> Error {
    let message = match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("the chat template, line {line}: {detail}"),
        _ => format!("the chat template: {error}"),
    };
    Error::data(path, message)
}

/// transformers marks what an assistant wrote by a tag of its own, `{% generation %}`; it prints nothing.
fn without_generation_marks(source: &str) -> String {
    let mut text = source.to_owned();
    for (mark, tag) in [("generation", "if true"), ("endgeneration", "endif")] {
        for before in ["{% ", "{%- ", "{%", "{%-"] {
            for after in [" %}", " -%}", "%}", "-%}"] {
                let of = |tag: &str| format!("{before}{tag}{after}");
                let joined = format!("{before} {tag} {after}");
                text = text.replace(&of(mark), &joined);
            }
        }
    }
    text
}

fn raise_exception(message: &str) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(
        ErrorKind::InvalidOperation,
        message.to_owned(),
    ))
}

/// The local time, as C's `strftime` writes it.
#[expect(
    unsafe_code,
    reason = "the local time zone is known to the C library alone"
)]
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let fail = |what: &str| minijinja::Error::new(ErrorKind::InvalidOperation, what.to_owned());
    let format =
        std::ffi::CString::new(format).map_err(|_| fail("a time format with a zero byte"))?;
    let mut text = [0u8; 256];
    // SAFETY: all pointers are to values that live through the calls, and strftime is told the length of `text`.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const now, &raw mut local).is_null() {
            return Err(fail("the system does not know the local time"));
        }
        libc::strftime(
            text.as_mut_ptr().cast(),
            text.len(),
            format.as_ptr(),
            &raw const local,
        )
    };
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// JSON with Python's spaces after commas and colons.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// transformers' `tojson`: Python's form, and nothing escaped for HTML.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine's filters take their options by value"
)]
fn to_json(
    _: &State,
    value: &minijinja::Value,
    options: Kwargs,
) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent);
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut bytes, formatter,
            ))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut bytes, Python,
        )),
    };
    written
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
