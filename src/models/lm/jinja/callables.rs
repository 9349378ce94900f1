//! The callables of a template: macros, methods of values, and the functions that are there from the start.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::arguments::{Given, needed, whole_or, words};
use super::meter::Charge;
use super::render::{Renderer, Scope};
use super::tree::Macro;
use super::value::{Namespace, Pairs, Value, range_length};
use super::{Outcome, fail};

/// Jinja2's sandbox has the same.
const LONGEST_RANGE: usize = 100_000;

/// A macro with the names around it.
pub(super) struct MacroValue {
    pub(super) code: Arc<Macro>,
    pub(super) scope: Rc<Scope>,
    _charge: Charge,
}

impl MacroValue {
    pub(super) fn made(code: &Arc<Macro>, scope: &Rc<Scope>) -> Outcome<Value> {
        Ok(Value::Macro(Rc::new(Self {
            code: code.clone(),
            scope: scope.clone(),
            _charge: Charge::new(512)?,
        })))
    }

    pub(super) fn name(&self) -> &str {
        &self.code.name
    }
}

/// A method with its value.
pub(super) struct Bound {
    pub(super) of: Value,
    pub(super) name: String,
}

/// `cycler` and `joiner`.
pub(super) struct Cycler {
    pub(super) items: Vec<Value>,
    pub(super) at: Cell<usize>,
    /// Gives nothing the first time, and its one item after that.
    pub(super) joins: bool,
}

impl Cycler {
    pub(super) fn current(&self) -> Value {
        self.items[self.at.get() % self.items.len()].clone()
    }

    pub(super) fn advance(&self) -> Value {
        let current = self.current();
        self.at.set((self.at.get() + 1) % self.items.len());
        current
    }
}

/// A function that is there from the start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    RaiseException,
    StrftimeNow,
}

impl Function {
    /// By its name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "range" => Self::Range,
            "dict" => Self::Dict,
            "namespace" => Self::Namespace,
            "cycler" => Self::Cycler,
            "joiner" => Self::Joiner,
            "raise_exception" => Self::RaiseException,
            "strftime_now" => Self::StrftimeNow,
            _ => return None,
        })
    }
}

impl Renderer {
    /// A macro's text.
    pub(super) fn call_macro(&mut self, called: &MacroValue, given: Given) -> Outcome<Value> {
        let code = &called.code;
        let scope = Scope::inside(&called.scope);
        let Given {
            positional,
            mut named,
        } = given;
        let mut positional = positional.into_iter();
        let first_default = code.parameters.len() - code.defaults.len();
        for (at, name) in code.parameters.iter().enumerate() {
            let by_name = named.iter().position(|(one, _)| one == name);
            let value = match (positional.next(), by_name) {
                (Some(_), Some(_)) => {
                    return fail(format!(
                        "macro '{}' got multiple values for argument '{name}'",
                        code.name
                    ));
                }
                (Some(value), None) => value,
                (None, Some(at)) => named.remove(at).1,
                (None, None) if at >= first_default => {
                    self.evaluate(&code.defaults[at - first_default], &scope)?
                }
                (None, None) => Value::undefined(format!("parameter '{name}' was not provided")),
            };
            scope.set(name, value);
        }
        let [takes_more, takes_named, takes_caller] = code.takes;
        let more: Vec<Value> = positional.collect();
        if takes_more {
            scope.set("varargs", Value::tuple(more)?);
        } else if !more.is_empty() {
            let count = code.parameters.len();
            return fail(format!(
                "macro '{}' takes not more than {count} argument(s)",
                code.name
            ));
        }
        if takes_caller {
            let caller = named.iter().position(|(name, _)| name == "caller");
            let caller = caller.map(|at| named.remove(at).1);
            let caller = caller.unwrap_or_else(|| Value::undefined("No caller defined"));
            scope.set("caller", caller);
        }
        if takes_named {
            let mut pairs = Pairs::default();
            for (name, value) in named {
                pairs.put(Value::text(name)?, value)?;
            }
            scope.set("kwargs", Value::dict(pairs)?);
        } else if let Some((name, _)) = named.first() {
            return fail(format!(
                "macro '{}' takes no keyword argument '{name}'",
                code.name
            ));
        }
        let mut out = String::new();
        self.body(&code.body, &scope, &mut out)?;
        Value::text(out)
    }

    /// The value of a function that is there from the start.
    pub(super) fn call_function(&mut self, function: Function, given: Given) -> Outcome<Value> {
        match function {
            Function::Range => range(given),
            Function::Dict => Value::dict(pairs_of(given)?),
            Function::Namespace => {
                let pairs = pairs_of(given)?;
                for (name, _) in pairs.iter() {
                    if name.as_text().is_some_and(|name| name.starts_with('_')) {
                        return fail("a namespace takes no names that begin with `_`");
                    }
                }
                let namespace = Namespace::new(pairs)?;
                self.remember(&namespace);
                Ok(Value::Namespace(namespace))
            }
            Function::Cycler if given.positional.is_empty() => {
                fail("at least one item has to be provided")
            }
            Function::Cycler => Ok(Value::Cycler(Rc::new(Cycler {
                items: given.positional,
                at: Cell::new(0),
                joins: false,
            }))),
            Function::Joiner => {
                let [mark] = given.bind("joiner", ["sep"])?;
                let mark = match mark {
                    Some(mark) => mark,
                    None => Value::text(", ")?,
                };
                Ok(Value::Cycler(Rc::new(Cycler {
                    items: vec![Value::text("")?, mark],
                    at: Cell::new(0),
                    joins: true,
                })))
            }
            Function::RaiseException => {
                let [message] = given.bind("raise_exception", ["message"])?;
                fail(needed("raise_exception", message)?.to_text()?)
            }
            Function::StrftimeNow => {
                let [format] = given.bind("strftime_now", ["format"])?;
                let format = needed("strftime_now", format)?;
                Value::text(strftime_now(words("strftime_now", &format)?)?)
            }
        }
    }
}

/// Python's `range`, at most so long as Jinja2's sandbox lets it be.
fn range(given: Given) -> Outcome<Value> {
    let numbers = given.bind("range", ["start", "stop", "step"])?;
    let [start, stop, step] = match &numbers {
        [Some(stop), None, None] => [0, whole_or(Some(stop), 0)?, 1],
        [start, stop, step] => [
            whole_or(Some(&needed("range", start.clone())?), 0)?,
            whole_or(Some(&needed("range", stop.clone())?), 0)?,
            whole_or(step.as_ref(), 1)?,
        ],
    };
    if step == 0 {
        return fail("range() arg 3 must not be zero");
    }
    if range_length([start, stop, step]) > LONGEST_RANGE {
        return fail(format!(
            "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({LONGEST_RANGE})."
        ));
    }
    Ok(Value::Range([start, stop, step]))
}

/// The pairs that `dict(...)` is given: another dict or pairs, and named values.
fn pairs_of(given: Given) -> Outcome<Pairs> {
    let mut pairs = Pairs::default();
    if given.positional.len() > 1 {
        return fail("dict expected at most 1 argument");
    }
    for from in given.positional {
        match &from {
            Value::Dict(dict) => {
                for (key, value) in dict.pairs.iter() {
                    pairs.put(key.clone(), value.clone())?;
                }
            }
            other => {
                for pair in other.iterate()? {
                    let mut pair = pair.iterate()?.into_iter();
                    let (Some(key), Some(value), None) = (pair.next(), pair.next(), pair.next())
                    else {
                        return fail("a dict is made of pairs");
                    };
                    pairs.put(key, value)?;
                }
            }
        }
    }
    for (name, value) in given.named {
        pairs.put(Value::text(name)?, value)?;
    }
    Ok(pairs)
}

/// The local time, as C's `strftime` writes it.
#[expect(
    unsafe_code,
    reason = "the local time zone is known to the C library alone"
)]
fn strftime_now(format: &str) -> Outcome<String> {
    let Ok(format) = std::ffi::CString::new(format) else {
        return fail("a time format with a zero byte");
    };
    let mut text = [0u8; 256];
    // SAFETY: all pointers are to values that live through the calls, and strftime is told the length of `text`.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const now, &raw mut local).is_null() {
            return fail("the system does not know the local time");
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
