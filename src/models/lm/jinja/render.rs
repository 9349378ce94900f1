//! Statements carried out: names and where they are seen, text written.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use serde_json::{Map, Value as Json};

use super::arguments::Given;
use super::callables::MacroValue;
use super::meter::{fits, spend};
use super::tree::{Expr, ExprKind, Statement, StatementKind, Target};
use super::value::{Namespace, Value};
use super::{Outcome, Problem, fail};

/// Deepest nesting of macros, loops and expressions at once. Python's own limit lets fewer through.
const MOST_DEPTH: u32 = 2500;

/// Names and their values, inside other names.
#[derive(Default)]
pub(super) struct Scope {
    names: RefCell<HashMap<String, Value>>,
    around: Option<Rc<Scope>>,
}

impl Scope {
    pub(super) fn inside(around: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self {
            names: RefCell::default(),
            around: Some(around.clone()),
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = Some(self);
        while let Some(one) = scope {
            if let Some(value) = one.names.borrow().get(name) {
                return Some(value.clone());
            }
            scope = one.around.as_deref();
        }
        None
    }

    pub(super) fn set(&self, name: &str, value: Value) {
        // What was there goes after the borrow has ended.
        let before = self.names.borrow_mut().insert(name.to_owned(), value);
        drop(before);
    }
}

/// How a body ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

/// A rendering.
#[derive(Default)]
pub(super) struct Renderer {
    line: u32,
    depth: u32,
    /// The scopes and namespaces that may hold themselves, to be let go of at the end.
    scopes: Vec<Weak<Scope>>,
    namespaces: Vec<Weak<Namespace>>,
}

/// Renders a template with these names.
pub(super) fn render(body: &[Statement], names: &Map<String, Json>) -> Outcome<String> {
    let context = Rc::new(Scope::default());
    for (name, value) in names {
        context.set(name, Value::from_json(value)?);
    }
    let mut renderer = Renderer::default();
    let mut out = String::new();
    let done = renderer.body(body, &Scope::inside(&context), &mut out);
    for scope in renderer.scopes.iter().filter_map(Weak::upgrade) {
        let names = scope.names.take();
        drop(names);
    }
    for namespace in renderer.namespaces.iter().filter_map(Weak::upgrade) {
        namespace.clear();
    }
    match done {
        Ok(_) => Ok(out),
        Err(problem) => Err(Problem {
            line: problem.line.or(Some(renderer.line)),
            ..problem
        }),
    }
}

fn write(out: &mut String, text: &str) -> Outcome<()> {
    fits(out.len() + text.len())?;
    spend(text.len() / 16)?;
    out.push_str(text);
    Ok(())
}

/// Puts a value where a target says.
pub(super) fn assign(target: &Target, value: Value, scope: &Rc<Scope>) -> Outcome<()> {
    match target {
        Target::Name(name) => scope.set(name, value),
        Target::Attribute(name, attribute) => match scope.get(name) {
            Some(Value::Namespace(namespace)) => namespace.set(attribute, value)?,
            _ => return fail("cannot assign attribute on non-namespace object"),
        },
        Target::Tuple(targets) => {
            let values = value.iterate()?;
            if values.len() != targets.len() {
                return fail(format!(
                    "{} names are to be filled from {} values",
                    targets.len(),
                    values.len()
                ));
            }
            for (target, value) in targets.iter().zip(values) {
                assign(target, value, scope)?;
            }
        }
    }
    Ok(())
}

impl Renderer {
    /// Sees to it that a namespace is let go of at the end.
    pub(super) fn remember(&mut self, namespace: &Rc<Namespace>) {
        self.namespaces.push(Rc::downgrade(namespace));
    }

    /// Goes one level deeper.
    ///
    /// # Errors
    /// It is too deep.
    pub(super) fn deeper<T>(
        &mut self,
        line: u32,
        work: impl FnOnce(&mut Self) -> Outcome<T>,
    ) -> Outcome<T> {
        spend(1)?;
        self.line = line;
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return fail("macros, loops or terms are nested deeper than preftune follows");
        }
        let done = work(self)?;
        self.depth -= 1;
        Ok(done)
    }

    /// Statements in their order.
    pub(super) fn body(
        &mut self,
        body: &[Statement],
        scope: &Rc<Scope>,
        out: &mut String,
    ) -> Outcome<Flow> {
        for statement in body {
            let flow = self.deeper(statement.line, |renderer| {
                renderer.statement(&statement.kind, scope, out)
            })?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(
        &mut self,
        statement: &StatementKind,
        scope: &Rc<Scope>,
        out: &mut String,
    ) -> Outcome<Flow> {
        match statement {
            StatementKind::Text(text) => write(out, text)?,
            StatementKind::Print(value) => {
                let value = self.evaluate(value, scope)?;
                match value.as_text() {
                    Some(text) => write(out, text)?,
                    None => write(out, &value.to_text()?)?,
                }
            }
            StatementKind::Set(target, value) => {
                let value = self.evaluate(value, scope)?;
                assign(target, value, scope)?;
            }
            StatementKind::SetBlock(target, filter, body) => {
                let text = self.captured(body, scope)?;
                let value = match filter {
                    Some(filter) => self.filter_text(filter, text, scope)?,
                    None => text,
                };
                assign(target, value, scope)?;
            }
            StatementKind::For(code) => {
                let over = self.evaluate(&code.over, scope)?;
                self.run_loop(code, &over, scope, 0, out)?;
            }
            StatementKind::If(cases, otherwise) => {
                for (test, body) in cases {
                    if self.evaluate(test, scope)?.is_true() {
                        return self.body(body, scope, out);
                    }
                }
                return self.body(otherwise, scope, out);
            }
            StatementKind::With(values, body) => {
                let inner = Scope::inside(scope);
                for (target, value) in values {
                    let value = self.evaluate(value, scope)?;
                    assign(target, value, &inner)?;
                }
                return self.body(body, &inner, out);
            }
            StatementKind::Filter(filter, body) => {
                let text = self.captured(body, scope)?;
                let value = self.filter_text(filter, text, scope)?;
                write(out, &value.to_text()?)?;
            }
            StatementKind::Macro(code) => {
                let made = MacroValue::made(code, scope)?;
                self.scopes.push(Rc::downgrade(scope));
                scope.set(&code.name, made);
            }
            StatementKind::Call(call, code) => {
                let ExprKind::Call(called, arguments) = &call.kind else {
                    return fail("`call` takes a call");
                };
                let called = self.evaluate(called, scope)?;
                let mut given = self.given(arguments, scope)?;
                given
                    .named
                    .push(("caller".to_owned(), MacroValue::made(code, scope)?));
                let value = self.call(&called, given)?;
                write(out, &value.to_text()?)?;
            }
            StatementKind::Scope(body) => return self.body(body, &Scope::inside(scope), out),
            StatementKind::Break => return Ok(Flow::Break),
            StatementKind::Continue => return Ok(Flow::Continue),
            StatementKind::Refuse(why) => return fail(why.as_str()),
        }
        Ok(Flow::Next)
    }

    /// The text that a body writes.
    fn captured(&mut self, body: &[Statement], scope: &Rc<Scope>) -> Outcome<Value> {
        let mut text = String::new();
        self.body(body, &Scope::inside(scope), &mut text)?;
        Value::text(text)
    }

    /// A text through filters, of which the first has no value of its own.
    fn filter_text(&mut self, filter: &Expr, text: Value, scope: &Rc<Scope>) -> Outcome<Value> {
        let ExprKind::Filter(inner, name, arguments) = &filter.kind else {
            return Ok(text);
        };
        let value = match inner {
            Some(inner) => self.filter_text(inner, text, scope)?,
            None => text,
        };
        let given = self.given(arguments, scope)?;
        self.filter(name, value, given)
    }

    /// The arguments that a call is given.
    pub(super) fn given(
        &mut self,
        arguments: &super::tree::Arguments,
        scope: &Rc<Scope>,
    ) -> Outcome<Given> {
        let mut given = Given::default();
        for value in &arguments.positional {
            given.positional.push(self.evaluate(value, scope)?);
        }
        for (name, value) in &arguments.named {
            given
                .named
                .push((name.clone(), self.evaluate(value, scope)?));
        }
        if let Some(more) = &arguments.more {
            let more = self.evaluate(more, scope)?.iterate()?;
            given.positional.extend(more);
        }
        if let Some(more) = &arguments.more_named {
            let Value::Dict(more) = self.evaluate(more, scope)? else {
                return fail("`**` takes a dict");
            };
            for (name, value) in more.pairs.iter() {
                given.named.push((name.to_text()?, value.clone()));
            }
        }
        Ok(given)
    }
}
