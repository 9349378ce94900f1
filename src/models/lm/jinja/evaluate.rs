//! Expressions to values: names, attributes, items, calls.

use std::rc::Rc;

use super::arguments::Given;
use super::callables::{Bound, Function};
use super::checks::test;
use super::meter::{room, spend};
use super::methods;
use super::operators;
use super::render::{Renderer, Scope};
use super::tree::{Comparison, Expr, ExprKind, Literal};
use super::value::{Pairs, Value};
use super::{Outcome, fail};

impl Renderer {
    /// The value of an expression.
    pub(super) fn evaluate(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Outcome<Value> {
        self.deeper(expr.line, |renderer| renderer.value_of(&expr.kind, scope))
    }

    fn all(&mut self, list: &[Expr], scope: &Rc<Scope>) -> Outcome<Vec<Value>> {
        list.iter().map(|one| self.evaluate(one, scope)).collect()
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each kind of expression")]
    fn value_of(&mut self, kind: &ExprKind, scope: &Rc<Scope>) -> Outcome<Value> {
        match kind {
            ExprKind::Literal(literal) => literal_value(literal),
            ExprKind::Name(name) => Ok(match scope.get(name) {
                Some(value) => value,
                None => match Function::named(name) {
                    Some(function) => Value::Function(function),
                    None => Value::undefined(format!("'{name}' is undefined")),
                },
            }),
            ExprKind::Tuple(list) => Value::tuple(self.all(list, scope)?),
            ExprKind::List(list) => Value::list(self.all(list, scope)?),
            ExprKind::Dict(list) => {
                let mut pairs = Pairs::default();
                for (key, value) in list {
                    let key = self.evaluate(key, scope)?;
                    pairs.put(key, self.evaluate(value, scope)?)?;
                }
                Value::dict(pairs)
            }
            ExprKind::Attribute(of, name) => {
                let of = self.evaluate(of, scope)?;
                self.attribute(&of, name)
            }
            ExprKind::Item(of, asked) => {
                let of = self.evaluate(of, scope)?;
                if let ExprKind::Slice(parts) = &asked.kind {
                    let parts = parts.each_ref().map(|part| match part {
                        Some(part) => self.evaluate(part, scope),
                        None => Ok(Value::None),
                    });
                    let [start, stop, step] = parts;
                    return operators::slice(&of, &[start?, stop?, step?]);
                }
                let asked = self.evaluate(asked, scope)?;
                self.item(&of, &asked)
            }
            ExprKind::Slice(_) => fail("a slice of nothing"),
            ExprKind::Call(called, arguments) => {
                let called = self.evaluate(called, scope)?;
                let given = self.given(arguments, scope)?;
                self.call(&called, given)
            }
            ExprKind::Filter(value, name, arguments) => {
                let value = match value {
                    Some(value) => self.evaluate(value, scope)?,
                    None => return fail("a filter of nothing"),
                };
                let given = self.given(arguments, scope)?;
                self.filter(name, value, given)
            }
            ExprKind::Test(value, name, arguments) => {
                let value = self.evaluate(value, scope)?;
                let given = self.given(arguments, scope)?;
                test(name, &value, given).map(Value::Bool)
            }
            ExprKind::Not(value) => Ok(Value::Bool(!self.evaluate(value, scope)?.is_true())),
            ExprKind::Negative(value) => operators::signed(&self.evaluate(value, scope)?, true),
            ExprKind::Positive(value) => operators::signed(&self.evaluate(value, scope)?, false),
            ExprKind::Binary(operator, one, other) => {
                let one = self.evaluate(one, scope)?;
                let other = self.evaluate(other, scope)?;
                operators::binary(*operator, &one, &other)
            }
            ExprKind::Concat(list) => {
                let mut text = String::new();
                for value in list {
                    let value = self.evaluate(value, scope)?;
                    let more = value.to_text()?;
                    room(more.len())?;
                    text.push_str(&more);
                }
                Value::text(text)
            }
            ExprKind::Compare(first, rest) => self.compare(first, rest, scope),
            ExprKind::And(one, other) => {
                let one = self.evaluate(one, scope)?;
                if one.is_true() {
                    self.evaluate(other, scope)
                } else {
                    Ok(one)
                }
            }
            ExprKind::Or(one, other) => {
                let one = self.evaluate(one, scope)?;
                if one.is_true() {
                    Ok(one)
                } else {
                    self.evaluate(other, scope)
                }
            }
            ExprKind::Conditional {
                test,
                then,
                otherwise,
            } => {
                if self.evaluate(test, scope)?.is_true() {
                    return self.evaluate(then, scope);
                }
                match otherwise {
                    Some(otherwise) => self.evaluate(otherwise, scope),
                    None => Ok(Value::undefined(
                        "the inline if-expression evaluated to false and no else section was defined",
                    )),
                }
            }
        }
    }

    fn compare(
        &mut self,
        first: &Expr,
        rest: &[(Comparison, Expr)],
        scope: &Rc<Scope>,
    ) -> Outcome<Value> {
        let mut left = self.evaluate(first, scope)?;
        for (comparison, right) in rest {
            let right = self.evaluate(right, scope)?;
            if !operators::holds(*comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// `of.name`: what Python's object has by this name, else the item.
    pub(super) fn attribute(&mut self, of: &Value, name: &str) -> Outcome<Value> {
        if let Some(found) = self.own_attribute(of.defined()?, name)? {
            return Ok(found);
        }
        Ok(match of {
            Value::Dict(dict) => dict.pairs.get(name).cloned(),
            _ => None,
        }
        .unwrap_or_else(|| missing(of, name)))
    }

    /// `of[asked]`: the item, else, for a text, what Python's object has by this name.
    pub(super) fn item(&mut self, of: &Value, asked: &Value) -> Outcome<Value> {
        let found = match (of.defined()?, asked.whole()) {
            (Value::Dict(dict), _) => match asked.key() {
                Ok(key) => dict.pairs.get_key(&key).cloned(),
                Err(_) => None,
            },
            (Value::List(items) | Value::Tuple(items), Some(at)) => {
                operators::place(at, items.values.len()).map(|at| items.values[at].clone())
            }
            (Value::Text(text), Some(at)) => {
                spend(text.text.len() / 16)?;
                let length = text.text.chars().count();
                let letter = operators::place(at, length).and_then(|at| text.text.chars().nth(at));
                match letter {
                    Some(letter) => Some(Value::text(letter)?),
                    None => None,
                }
            }
            (Value::Range(_), Some(at)) => {
                let values = of.iterate()?;
                operators::place(at, values.len()).map(|at| values[at].clone())
            }
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if let Some(name) = asked.as_text() {
            if let Some(found) = self.own_attribute(of, name)? {
                return Ok(found);
            }
            return Ok(missing(of, name));
        }
        let asked = asked.to_text()?;
        Ok(missing(of, &asked))
    }

    fn own_attribute(&mut self, of: &Value, name: &str) -> Outcome<Option<Value>> {
        if methods::is_unsafe(of, name) {
            return Ok(Some(Value::undefined(format!(
                "access to attribute '{name}' of '{}' object is unsafe.",
                of.type_name()
            ))));
        }
        Ok(match of {
            Value::Namespace(namespace) => namespace.get(name),
            Value::Loop(one) => match one.attribute(name, self)? {
                None if ["cycle", "changed"].contains(&name) => Some(bound(of, name)),
                found => found,
            },
            Value::Macro(one) if name == "name" => Some(Value::text(one.name())?),
            Value::Cycler(one) if name == "current" && !one.joins => Some(one.current()),
            Value::Tuple(items) if items.grouped && name == "grouper" => {
                items.values.first().cloned()
            }
            Value::Tuple(items) if items.grouped && name == "list" => items.values.last().cloned(),
            _ if methods::has(of, name) => Some(bound(of, name)),
            _ => None,
        })
    }

    /// The result of a call.
    pub(super) fn call(&mut self, called: &Value, given: Given) -> Outcome<Value> {
        match called.defined()? {
            Value::Macro(one) => self.call_macro(one, given),
            Value::Function(function) => self.call_function(*function, given),
            Value::Bound(one) => match (&one.of, one.name.as_str()) {
                (Value::Loop(state), "cycle") => state.cycle(&given.positional),
                (Value::Loop(state), _) => state.has_changed(given.positional),
                (of, name) => methods::call(self, of, name, given),
            },
            Value::Loop(one) => {
                let [over] = given.bind("loop", ["iterable"])?;
                let over = over.unwrap_or(Value::None);
                self.recurse(one, &over)
            }
            Value::Cycler(one) if one.joins => {
                let mark = one.current();
                one.at.set(1);
                Ok(mark)
            }
            other => fail(format!("'{}' object is not callable", other.type_name())),
        }
    }
}

fn bound(of: &Value, name: &str) -> Value {
    Value::Bound(Rc::new(Bound {
        of: of.clone(),
        name: name.to_owned(),
    }))
}

fn missing(of: &Value, name: &str) -> Value {
    Value::undefined(format!(
        "'{} object' has no attribute '{name}'",
        of.type_name()
    ))
}

fn literal_value(literal: &Literal) -> Outcome<Value> {
    Ok(match literal {
        Literal::None => Value::None,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(number) => Value::Int(*number),
        Literal::Float(number) => Value::Float(*number),
        Literal::Text(text) => Value::text(text.as_str())?,
    })
}
