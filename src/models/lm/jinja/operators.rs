//! The operators between values: Python's arithmetic, its comparisons and its slices.

use super::format::percent;
use super::meter::{room, spend};
use super::text::escape_html;
use super::tree::{Comparison, Operator};
use super::value::Value;
use super::{Outcome, fail};

/// `true` if a comparison holds.
pub(super) fn holds(comparison: Comparison, one: &Value, other: &Value) -> Outcome<bool> {
    let order = || one.compare(other);
    Ok(match comparison {
        Comparison::Equal => one.equals(other)?,
        Comparison::NotEqual => !one.equals(other)?,
        Comparison::Less => order()?.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::LessOrEqual => order()?.is_some_and(std::cmp::Ordering::is_le),
        Comparison::Greater => order()?.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::GreaterOrEqual => order()?.is_some_and(std::cmp::Ordering::is_ge),
        Comparison::In => other.contains(one)?,
        Comparison::NotIn => !other.contains(one)?,
    })
}

/// A number with a sign before it.
pub(super) fn signed(value: &Value, negative: bool) -> Outcome<Value> {
    match (value.defined()?, value.whole()) {
        (_, Some(number)) if negative => match number.checked_neg() {
            Some(number) => Ok(Value::Int(number)),
            None => too_large(),
        },
        (_, Some(number)) => Ok(Value::Int(number)),
        (Value::Float(number), _) => Ok(Value::Float(if negative { -number } else { *number })),
        (other, _) => fail(format!(
            "bad operand type for a sign: '{}'",
            other.type_name()
        )),
    }
}

/// Python's whole numbers have no end.
pub(super) fn too_large<T>() -> Outcome<T> {
    fail("a whole number is larger than preftune reckons with")
}

/// The place of an index, from the end where it is negative.
pub(super) fn place(at: i128, length: usize) -> Option<usize> {
    let at = if at < 0 { at + length as i128 } else { at };
    usize::try_from(at).ok().filter(|at| *at < length)
}

/// Two values, one result.
pub(super) fn binary(operator: Operator, one: &Value, other: &Value) -> Outcome<Value> {
    let (one, other) = (one.defined()?, other.defined()?);
    match (operator, one, other) {
        (Operator::Add, Value::Text(left), Value::Text(right)) => {
            room(left.text.len() + right.text.len())?;
            let safe = left.safe || right.safe;
            let part = |text: &super::value::Text| {
                if safe && !text.safe {
                    escape_html(&text.text)
                } else {
                    text.text.clone()
                }
            };
            Value::marked(part(left) + &part(right), safe)
        }
        (Operator::Add, Value::List(left), Value::List(right)) => {
            spend(left.values.len() + right.values.len())?;
            Value::list([&left.values[..], &right.values[..]].concat())
        }
        (Operator::Add, Value::Tuple(left), Value::Tuple(right)) => {
            spend(left.values.len() + right.values.len())?;
            Value::tuple([&left.values[..], &right.values[..]].concat())
        }
        (Operator::Modulo, Value::Text(pattern), value) => {
            Value::marked(percent(&pattern.text, value)?, pattern.safe)
        }
        (Operator::Multiply, _, _) => match (one.whole(), other.whole()) {
            (Some(times), None) if other.number().is_none() => repeated(other, times),
            (None, Some(times)) if one.number().is_none() => repeated(one, times),
            _ => arithmetic(operator, one, other),
        },
        _ => arithmetic(operator, one, other),
    }
}

fn repeated(value: &Value, times: i128) -> Outcome<Value> {
    let times = times.clamp(0, 1 << 40) as usize;
    let items = |values: &[Value]| {
        room(
            values
                .len()
                .saturating_mul(times)
                .saturating_mul(size_of::<Value>()),
        )?;
        Ok(std::iter::repeat_n(values, times)
            .flatten()
            .cloned()
            .collect())
    };
    match value {
        Value::Text(text) => {
            room(text.text.len().saturating_mul(times))?;
            Value::marked(text.text.repeat(times), text.safe)
        }
        Value::List(list) => Value::list(items(&list.values)?),
        Value::Tuple(list) => Value::tuple(items(&list.values)?),
        other => fail(format!(
            "can't multiply '{}' by a number",
            other.type_name()
        )),
    }
}

fn arithmetic(operator: Operator, one: &Value, other: &Value) -> Outcome<Value> {
    let (Some(left), Some(right)) = (one.number(), other.number()) else {
        let sign = match operator {
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
            Operator::FloorDivide => "//",
            Operator::Modulo => "%",
            Operator::Power => "**",
        };
        return fail(format!(
            "unsupported operand type(s) for {sign}: '{}' and '{}'",
            one.type_name(),
            other.type_name()
        ));
    };
    let by_zero = right == 0.0;
    let divides = [Operator::Divide, Operator::FloorDivide, Operator::Modulo];
    if by_zero && divides.contains(&operator) {
        return fail("division by zero");
    }
    if let (Some(left), Some(right)) = (one.whole(), other.whole())
        && operator != Operator::Divide
        && !(operator == Operator::Power && right < 0)
    {
        let whole = match operator {
            Operator::Add => left.checked_add(right),
            Operator::Subtract => left.checked_sub(right),
            Operator::Multiply => left.checked_mul(right),
            // Rounded down, where Rust rounds to zero.
            Operator::FloorDivide | Operator::Divide => left.checked_div(right).map(|quotient| {
                quotient - i128::from(left % right != 0 && (left < 0) != (right < 0))
            }),
            Operator::Modulo => left.checked_rem(right).map(|rest| {
                let wrong_sign = rest != 0 && (rest < 0) != (right < 0);
                if wrong_sign { rest + right } else { rest }
            }),
            Operator::Power => u32::try_from(right)
                .ok()
                .and_then(|right| left.checked_pow(right)),
        };
        return match whole {
            Some(number) => Ok(Value::Int(number)),
            None => too_large(),
        };
    }
    Ok(Value::Float(match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Divide => left / right,
        Operator::FloorDivide => (left / right).floor(),
        Operator::Modulo => {
            let rest = left % right;
            let wrong_sign = rest != 0.0 && (rest < 0.0) != (right < 0.0);
            if wrong_sign { rest + right } else { rest }
        }
        Operator::Power => left.powf(right),
    }))
}

/// The places that `start:stop:step` names of so many.
fn places(parts: &[Value; 3], length: usize) -> Outcome<Vec<usize>> {
    let number = |part: &Value| match part {
        Value::None => Ok(None),
        value => match value.defined()?.whole() {
            Some(number) => Ok(Some(number)),
            None => fail("slice indices must be integers or None"),
        },
    };
    let [start, stop, step] = parts;
    let step = number(step)?.unwrap_or(1);
    if step == 0 {
        return fail("slice step cannot be zero");
    }
    let length = length as i128;
    let (lowest, highest) = if step > 0 {
        (0, length)
    } else {
        (-1, length - 1)
    };
    let bound = |given: Option<i128>, otherwise: i128| match given {
        None => otherwise,
        Some(at) if at < 0 => at.saturating_add(length).max(lowest),
        Some(at) => at.min(highest),
    };
    let (first, last) = if step > 0 {
        (lowest, highest)
    } else {
        (highest, lowest)
    };
    let mut at = bound(number(start)?, first);
    let stop = bound(number(stop)?, last);
    let mut found = Vec::new();
    while if step > 0 { at < stop } else { at > stop } {
        found.push(at as usize);
        at = at.saturating_add(step);
    }
    Ok(found)
}

/// `of[start:stop:step]`
pub(super) fn slice(of: &Value, parts: &[Value; 3]) -> Outcome<Value> {
    match of.defined()? {
        Value::Text(text) => {
            room(text.text.len().saturating_mul(4))?;
            let letters: Vec<char> = text.text.chars().collect();
            let found = places(parts, letters.len())?;
            let found: String = found.into_iter().map(|at| letters[at]).collect();
            Value::marked(found, text.safe)
        }
        Value::List(items) | Value::Tuple(items) => {
            spend(items.values.len())?;
            let found = places(parts, items.values.len())?;
            let found = found
                .into_iter()
                .map(|at| items.values[at].clone())
                .collect();
            match of {
                Value::List(_) => Value::list(found),
                _ => Value::tuple(found),
            }
        }
        Value::Range(_) => {
            let values = of.iterate()?;
            let found = places(parts, values.len())?;
            Value::list(found.into_iter().map(|at| values[at].clone()).collect())
        }
        other => Ok(Value::undefined(format!(
            "'{} object' cannot be sliced",
            other.type_name()
        ))),
    }
}
