//! Methods of Python's texts, lists, dicts and numbers, as far as Jinja2's sandbox lets a template call them.

use super::arguments::{Given, needed, whole_or};
use super::format::{Fields, braces};
use super::meter::spend;
use super::render::Renderer;
use super::strings::of_text;
use super::value::{Dict, Value};
use super::{Outcome, fail};

const OF_TEXT: [&str; 42] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// `true` if a value has a method.
pub(super) fn has(of: &Value, name: &str) -> bool {
    match of {
        Value::Text(_) => OF_TEXT.contains(&name),
        Value::Dict(_) => ["get", "items", "keys", "values", "copy"].contains(&name),
        Value::List(_) => ["copy", "count", "index"].contains(&name),
        Value::Tuple(_) | Value::Range(_) => ["count", "index"].contains(&name),
        Value::Float(_) => name == "is_integer",
        Value::Cycler(one) if !one.joins => ["next", "reset"].contains(&name),
        _ => false,
    }
}

/// `true` if Python's object has something by this name that the sandbox does not let a template touch.
pub(super) fn is_unsafe(of: &Value, name: &str) -> bool {
    const OF_ALL: [&str; 7] = [
        "__class__",
        "__doc__",
        "__init__",
        "__dict__",
        "__module__",
        "__len__",
        "__getitem__",
    ];
    let changes: &[&str] = match of {
        Value::Dict(_) => &["clear", "pop", "popitem", "setdefault", "update"],
        Value::List(_) => &[
            "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort",
        ],
        _ => &[],
    };
    OF_ALL.contains(&name) || changes.contains(&name)
}

/// The result of a method.
pub(super) fn call(
    renderer: &mut Renderer,
    of: &Value,
    name: &str,
    given: Given,
) -> Outcome<Value> {
    match of {
        Value::Text(text) => {
            spend(text.text.len() / 16)?;
            let found = match name {
                "format" => {
                    let mut fields = Filled {
                        renderer,
                        given,
                        next: 0,
                    };
                    Value::text(braces(&text.text, &mut fields, 0)?)?
                }
                "format_map" => {
                    let [map] = given.bind(name, ["mapping"])?;
                    let Value::Dict(map) = needed(name, map)? else {
                        return fail("format_map() takes a dict");
                    };
                    let mut named = Given::default();
                    for (key, value) in map.pairs.iter() {
                        named.named.push((key.to_text()?, value.clone()));
                    }
                    let given = named;
                    let mut fields = Filled {
                        renderer,
                        given,
                        next: 0,
                    };
                    Value::text(braces(&text.text, &mut fields, 0)?)?
                }
                _ => of_text(&text.text, name, given)?,
            };
            match found {
                Value::Text(found) if text.safe => Value::marked(found.text.as_str(), true),
                found => Ok(found),
            }
        }
        Value::Dict(dict) => of_dict(of, dict, name, given),
        Value::List(items) if name == "copy" => Value::list(items.values.clone()),
        Value::List(_) | Value::Tuple(_) | Value::Range(_) => of_list(of, name, given),
        Value::Float(number) => Ok(Value::Bool(number.fract() == 0.0)),
        Value::Cycler(one) if name == "reset" => {
            one.at.set(0);
            Ok(Value::None)
        }
        Value::Cycler(one) => Ok(one.advance()),
        other => fail(format!("'{}' has no method '{name}'", other.type_name())),
    }
}

/// The values that `format` fills fields from.
struct Filled<'r> {
    renderer: &'r mut Renderer,
    given: Given,
    next: usize,
}

impl Fields for Filled<'_> {
    fn field(&mut self, name: &str) -> Outcome<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let mut value = if first.is_empty() || first.bytes().all(|byte| byte.is_ascii_digit()) {
            let at = if first.is_empty() {
                self.next += 1;
                self.next - 1
            } else {
                first.parse().unwrap_or(usize::MAX)
            };
            match self.given.positional.get(at) {
                Some(value) => value.clone(),
                None => return fail("Replacement index out of range for positional args tuple"),
            }
        } else {
            let found = self.given.named.iter().find(|(one, _)| one == first);
            match found {
                Some((_, value)) => value.clone(),
                None => return fail(format!("there is no `{first}` to format")),
            }
        };
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = self.renderer.attribute(&value, &after[..end])?;
                rest = &after[end..];
            } else if let Some((inside, after)) =
                rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
            {
                let asked = match inside.parse() {
                    Ok(number) => Value::Int(number),
                    Err(_) => Value::text(inside)?,
                };
                value = self.renderer.item(&value, &asked)?;
                rest = after;
            } else {
                return fail("Missing ']' in format string");
            }
        }
        Ok(value)
    }
}

fn of_dict(of: &Value, dict: &std::rc::Rc<Dict>, name: &str, given: Given) -> Outcome<Value> {
    match name {
        "get" => {
            let [key, otherwise] = given.bind(name, ["key", "default"])?;
            let found = dict.pairs.get_key(&needed(name, key)?.key()?);
            Ok(found.cloned().or(otherwise).unwrap_or(Value::None))
        }
        "copy" => Ok(of.clone()),
        "keys" => Ok(Value::View("keys", dict.clone())),
        "values" => Ok(Value::View("values", dict.clone())),
        _ => Ok(Value::View("items", dict.clone())),
    }
}

fn of_list(of: &Value, name: &str, given: Given) -> Outcome<Value> {
    let [item, start, stop] = given.bind(name, ["value", "start", "stop"])?;
    let item = needed(name, item)?;
    let values = of.iterate()?;
    let start = whole_or(start.as_ref(), 0)?.max(0) as usize;
    let stop = whole_or(stop.as_ref(), i64::MAX)?.max(0) as usize;
    let mut count = 0;
    for (at, value) in values.iter().enumerate() {
        if value.equals(&item)? && (start..stop).contains(&at) {
            if name == "index" {
                return Ok(Value::Int(at as i128));
            }
            count += 1;
        }
    }
    if name == "index" {
        return fail("the value is not in the list");
    }
    Ok(Value::Int(count))
}
