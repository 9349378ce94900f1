//! `for` and the name `loop` inside it. Items are looked at one by one, so that a condition sees what the body has changed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::meter::spend;
use super::render::{Flow, Renderer, Scope, assign};
use super::tree::For;
use super::value::Value;
use super::{Outcome, fail};

/// The state of a loop.
pub(super) struct Loop {
    code: Arc<For>,
    /// The names around the loop.
    scope: Rc<Scope>,
    depth: i128,
    rest: RefCell<std::vec::IntoIter<Value>>,
    /// `true` if what is left has gone through the condition.
    filtered: Cell<bool>,
    after: RefCell<After>,
    before: RefCell<Option<Value>>,
    current: RefCell<Option<Value>>,
    index: Cell<i128>,
    length: Cell<Option<usize>>,
    changed: RefCell<Option<Vec<Value>>>,
}

/// The item after the current one.
#[derive(Clone, Default)]
enum After {
    /// Not looked at yet.
    #[default]
    Unknown,
    None,
    Some(Value),
}

impl Loop {
    /// Number of items, where it is known.
    pub(super) fn length_known(&self) -> Option<usize> {
        self.length.get()
    }

    pub(super) fn describe(&self) -> String {
        let length = self.length.get().unwrap_or(0);
        format!("<LoopContext {}/{length}>", self.index.get())
    }

    /// The next item that the loop's condition lets through.
    fn pull(&self, renderer: &mut Renderer) -> Outcome<Option<Value>> {
        loop {
            spend(1)?;
            let item = self.rest.borrow_mut().next();
            let test = self.code.only_if.as_ref().filter(|_| !self.filtered.get());
            let (Some(item), Some(test)) = (&item, test) else {
                return Ok(item);
            };
            let scope = Scope::inside(&self.scope);
            assign(&self.code.target, item.clone(), &scope)?;
            if renderer.evaluate(test, &scope)?.is_true() {
                return Ok(Some(item.clone()));
            }
        }
    }

    fn peek(&self, renderer: &mut Renderer) -> Outcome<Option<Value>> {
        let after = self.after.borrow().clone();
        match after {
            After::Some(item) => Ok(Some(item)),
            After::None => Ok(None),
            After::Unknown => {
                let next = self.pull(renderer)?;
                self.after.replace(match &next {
                    Some(item) => After::Some(item.clone()),
                    None => After::None,
                });
                Ok(next)
            }
        }
    }

    fn advance(&self, renderer: &mut Renderer) -> Outcome<Option<Value>> {
        let after = self.after.take();
        let next = match after {
            After::Some(item) => Some(item),
            After::None => None,
            After::Unknown => self.pull(renderer)?,
        };
        if next.is_some() {
            self.index.set(self.index.get() + 1);
            let current = self.current.replace(next.clone());
            self.before.replace(current);
        }
        Ok(next)
    }

    fn length(&self, renderer: &mut Renderer) -> Outcome<i128> {
        if let Some(length) = self.length.get() {
            return Ok(length as i128);
        }
        let mut rest = Vec::new();
        while let Some(item) = self.pull(renderer)? {
            rest.push(item);
        }
        let ahead = usize::from(matches!(&*self.after.borrow(), After::Some(_)));
        let length = rest.len() + self.index.get() as usize + ahead;
        self.rest.replace(rest.into_iter());
        self.filtered.set(true);
        self.length.set(Some(length));
        Ok(length as i128)
    }

    /// `loop.NAME`; `None` where a loop has no such name.
    pub(super) fn attribute(&self, name: &str, renderer: &mut Renderer) -> Outcome<Option<Value>> {
        let index = self.index.get();
        Ok(Some(match name {
            "index" => Value::Int(index),
            "index0" => Value::Int(index - 1),
            "first" => Value::Bool(index == 1),
            "last" => Value::Bool(self.peek(renderer)?.is_none()),
            "length" => Value::Int(self.length(renderer)?),
            "revindex" => Value::Int(self.length(renderer)? - index + 1),
            "revindex0" => Value::Int(self.length(renderer)? - index),
            "depth" => Value::Int(self.depth + 1),
            "depth0" => Value::Int(self.depth),
            "previtem" => match &*self.before.borrow() {
                Some(before) if index > 1 => before.clone(),
                _ => Value::undefined("there is no previous item"),
            },
            "nextitem" => match self.peek(renderer)? {
                Some(next) => next,
                None => Value::undefined("there is no next item"),
            },
            _ => return Ok(None),
        }))
    }

    /// `loop.cycle(...)`
    pub(super) fn cycle(&self, items: &[Value]) -> Outcome<Value> {
        if items.is_empty() {
            return fail("no items for cycling given");
        }
        let at = (self.index.get() - 1).rem_euclid(items.len() as i128);
        Ok(items[at as usize].clone())
    }

    /// `loop.changed(...)`
    pub(super) fn has_changed(&self, values: Vec<Value>) -> Outcome<Value> {
        let same = match &*self.changed.borrow() {
            Some(before) if before.len() == values.len() => {
                let mut same = true;
                for (one, other) in before.iter().zip(&values) {
                    same = same && one.equals(other)?;
                }
                same
            }
            _ => false,
        };
        if !same {
            self.changed.replace(Some(values));
        }
        Ok(Value::Bool(!same))
    }
}

impl Renderer {
    /// Runs a loop over a value's items.
    pub(super) fn run_loop(
        &mut self,
        code: &Arc<For>,
        over: &Value,
        scope: &Rc<Scope>,
        depth: i128,
        out: &mut String,
    ) -> Outcome<()> {
        let items = over.iterate()?;
        let length = code.only_if.is_none().then_some(items.len());
        let state = Rc::new(Loop {
            code: code.clone(),
            scope: scope.clone(),
            depth,
            rest: RefCell::new(items.into_iter()),
            filtered: Cell::new(code.only_if.is_none()),
            after: RefCell::default(),
            before: RefCell::default(),
            current: RefCell::default(),
            index: Cell::new(0),
            length: Cell::new(length),
            changed: RefCell::default(),
        });
        while let Some(item) = state.advance(self)? {
            let inner = Scope::inside(scope);
            inner.set("loop", Value::Loop(state.clone()));
            assign(&code.target, item, &inner)?;
            if self.body(&code.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        if state.index.get() == 0 {
            self.body(&code.otherwise, &Scope::inside(scope), out)?;
        }
        Ok(())
    }

    /// `loop(items)`: the loop's body over other items.
    pub(super) fn recurse(&mut self, one: &Loop, over: &Value) -> Outcome<Value> {
        if !one.code.recursive {
            return fail("The loop must have the 'recursive' marker to be called recursively.");
        }
        let mut out = String::new();
        self.run_loop(&one.code, over, &one.scope, one.depth + 1, &mut out)?;
        Value::text(out)
    }
}
