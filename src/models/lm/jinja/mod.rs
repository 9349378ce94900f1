//! The Jinja of chat templates, rendered as Jinja2 renders it under transformers: its sandbox, `trim_blocks`,
//! `lstrip_blocks`, loop controls, its own `tojson`, `raise_exception`, `strftime_now` and `generation`.
//!
//! A template decides which tokens a model is trained on, so values print, compare and fail as Python's do. It also comes
//! from a stranger, so a rendering has a bound on its work, on its memory and on its depth, and a stack of its own.

mod arguments;
mod callables;
mod checks;
mod compare;
mod evaluate;
mod expressions;
mod filters;
mod filters_lists;
mod format;
mod lexer;
mod loops;
mod meter;
mod methods;
mod operators;
mod parser;
mod render;
mod strings;
mod text;
mod tree;
mod value;

use serde_json::{Map, Value as Json};

/// Why a template cannot be read or rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Line in the template, from 1, where one is to blame.
    pub(super) line: Option<u32>,
    /// One sentence.
    pub(super) message: String,
}

type Outcome<T> = Result<T, Problem>;

fn fail<T>(message: impl Into<String>) -> Outcome<T> {
    Err(Problem {
        line: None,
        message: message.into(),
    })
}

/// Stack of a rendering. Deep templates end by their depth, long before it is used up.
const STACK: usize = 128 << 20;

/// Runs work on a stack of its own.
fn on_own_stack<T: Send>(work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        match thread.spawn_scoped(scope, work) {
            Ok(thread) => match thread.join() {
                Ok(outcome) => outcome,
                // A fault of ours, which the template brought about: it is named with the template.
                Err(payload) => {
                    let text = payload.downcast_ref::<String>().map(String::as_str);
                    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
                    fail(text.unwrap_or("cannot be rendered"))
                }
            },
            Err(error) => fail(format!("there is no thread to render it: {error}")),
        }
    })
}

/// A parsed template.
pub(super) struct Template {
    body: tree::Body,
    length: usize,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// It is not valid Jinja.
    pub(super) fn new(source: &str) -> Outcome<Self> {
        let body = on_own_stack(|| parser::parse(source))?;
        Ok(Self {
            body,
            length: source.len(),
        })
    }

    /// The template filled with these names.
    ///
    /// # Errors
    /// It refuses them (`raise_exception`), asks for what Python refuses, or takes more work or memory than any chat needs.
    pub(super) fn render(&self, names: &Map<String, Json>) -> Outcome<String> {
        on_own_stack(|| {
            meter::begin(self.length + size(names.values()));
            render::render(&self.body, names)
        })
    }
}

/// Roughly the bytes of JSON values.
fn size<'j>(values: impl Iterator<Item = &'j Json>) -> usize {
    let one = |value: &Json| match value {
        Json::String(text) => text.len(),
        Json::Array(values) => size(values.iter()),
        Json::Object(object) => {
            let names: usize = object.keys().map(String::len).sum();
            names + size(object.values())
        }
        _ => 0,
    };
    values.map(|value| one(value) + 32).sum()
}
