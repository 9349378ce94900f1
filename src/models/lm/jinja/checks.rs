//! Jinja2's tests: what stands after `is`.

use super::arguments::{Given, needed};
use super::filters::is_filter;
use super::operators::holds;
use super::strings::has_case;
use super::tree::Comparison;
use super::value::Value;
use super::{Outcome, fail};

const NAMES: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

fn rest(value: &Value, by: &Value) -> Outcome<bool> {
    let rest = super::operators::binary(super::tree::Operator::Modulo, value, by)?;
    rest.equals(&Value::Int(0))
}

/// `true` if a value passes a test.
pub(super) fn test(name: &str, value: &Value, given: Given) -> Outcome<bool> {
    let compared = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Equal),
        "!=" | "ne" => Some(Comparison::NotEqual),
        ">" | "gt" | "greaterthan" => Some(Comparison::Greater),
        ">=" | "ge" => Some(Comparison::GreaterOrEqual),
        "<" | "lt" | "lessthan" => Some(Comparison::Less),
        "<=" | "le" => Some(Comparison::LessOrEqual),
        "in" => Some(Comparison::In),
        _ => None,
    };
    if let Some(comparison) = compared {
        let [other] = given.bind(name, ["other"])?;
        return holds(comparison, value, &needed(name, other)?);
    }
    Ok(match name {
        "divisibleby" => {
            let [by] = given.bind(name, ["num"])?;
            rest(value, &needed(name, by)?)?
        }
        "sameas" => {
            let [other] = given.bind(name, ["other"])?;
            value.same(&needed(name, other)?)
        }
        "odd" => rest(value, &Value::Int(2)).map(|even| !even)?,
        "even" => rest(value, &Value::Int(2))?,
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.number().is_some(),
        "string" => matches!(value, Value::Text(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "iterable" => value.is_iterable(),
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Text(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        "callable" => matches!(
            value,
            Value::Undefined(_)
                | Value::Macro(_)
                | Value::Function(_)
                | Value::Bound(_)
                | Value::Loop(_)
        ),
        "escaped" => matches!(value, Value::Text(text) if text.safe),
        "lower" => has_case(&value.to_text()?, false),
        "upper" => has_case(&value.to_text()?, true),
        "filter" => value.as_text().is_some_and(is_filter),
        "test" => value.as_text().is_some_and(|name| NAMES.contains(&name)),
        other => return fail(format!("No test named '{other}'.")),
    })
}
