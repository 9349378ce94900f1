//! When values are equal, smaller, or in each other, by Python's rules.

use std::cmp::Ordering;

use super::meter::spend;
use super::value::Value;
use super::{Outcome, fail};

impl Value {
    /// Python's `is`.
    pub(super) fn same(&self, other: &Self) -> bool {
        if std::mem::discriminant(self) != std::mem::discriminant(other) {
            return false;
        }
        match (self, other) {
            (Self::Undefined(_), _) => false,
            // Equal short texts and small numbers are one object in Python too.
            (Self::Text(one), Self::Text(other)) => one.text == other.text,
            (Self::Bool(_) | Self::Int(_) | Self::None, _) => self.whole() == other.whole(),
            _ => self.place() != 0 && self.place() == other.place(),
        }
    }

    /// Python's `==`.
    pub(super) fn equals(&self, other: &Self) -> Outcome<bool> {
        spend(1)?;
        let all = |one: &[Self], other: &[Self]| {
            if one.len() != other.len() {
                return Ok(false);
            }
            for (one, other) in one.iter().zip(other) {
                if !one.equals(other)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Text(one), Self::Text(other)) => {
                spend(one.text.len().min(other.text.len()) / 64)?;
                one.text == other.text
            }
            (Self::List(one), Self::List(other)) | (Self::Tuple(one), Self::Tuple(other)) => {
                all(&one.values, &other.values)?
            }
            (Self::Dict(one), Self::Dict(other)) => {
                if one.pairs.len() != other.pairs.len() {
                    return Ok(false);
                }
                for (key, value) in one.pairs.keyed() {
                    match other.pairs.get_key(key) {
                        Some(found) if value.equals(found)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Self::Range(_), Self::Range(_)) => all(&self.iterate()?, &other.iterate()?)?,
            (one, other) => match (one.whole(), other.whole()) {
                (Some(one), Some(other)) => one == other,
                _ => match (one.number(), other.number()) {
                    (Some(one), Some(other)) => is_same_number(one, other),
                    _ => one.place() != 0 && one.place() == other.place(),
                },
            },
        })
    }

    /// Python's order; `None` between a number and one that is none.
    ///
    /// # Errors
    /// The two have no order.
    pub(super) fn compare(&self, other: &Self) -> Outcome<Option<Ordering>> {
        spend(1)?;
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => {
                spend(one.text.len().min(other.text.len()) / 64)?;
                Ok(Some(one.text.cmp(&other.text)))
            }
            (Self::List(one), Self::List(other)) | (Self::Tuple(one), Self::Tuple(other)) => {
                for (one, other) in one.values.iter().zip(&other.values) {
                    if !one.equals(other)? {
                        return one.compare(other);
                    }
                }
                Ok(Some(one.values.len().cmp(&other.values.len())))
            }
            _ => match (self.whole(), other.whole()) {
                (Some(one), Some(other)) => Ok(Some(one.cmp(&other))),
                _ => match (self.number(), other.number()) {
                    (Some(one), Some(other)) => Ok(one.partial_cmp(&other)),
                    _ => fail(format!(
                        "'{}' and '{}' have no order",
                        self.defined()?.type_name(),
                        other.defined()?.type_name()
                    )),
                },
            },
        }
    }

    /// Python's `item in self`.
    pub(super) fn contains(&self, item: &Self) -> Outcome<bool> {
        match self {
            Self::Text(text) => match item.defined()?.as_text() {
                Some(part) => {
                    spend(text.text.len() / 16)?;
                    Ok(text.text.contains(part))
                }
                None => fail(format!(
                    "'in <string>' requires string as left operand, not {}",
                    item.type_name()
                )),
            },
            Self::Dict(dict) | Self::View("keys", dict) => {
                Ok(dict.pairs.get_key(&item.key()?).is_some())
            }
            other => {
                for value in other.iterate()? {
                    if value.equals(item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

#[expect(clippy::float_cmp, reason = "Python's `==`")]
fn is_same_number(one: f64, other: f64) -> bool {
    one == other
}

/// Values in the order of their keys, each `(key, value)`; those that are equal keep their places. Merges, because the
/// order of a stranger's values may fail or be none, which the library's sort answers by a panic.
pub(super) fn sort_by_key(values: Vec<(Value, Value)>, reverse: bool) -> Outcome<Vec<Value>> {
    let sorted = merged(values, reverse)?;
    Ok(sorted.into_iter().map(|(_, value)| value).collect())
}

fn merged(mut values: Vec<(Value, Value)>, reverse: bool) -> Outcome<Vec<(Value, Value)>> {
    spend(values.len())?;
    if values.len() < 2 {
        return Ok(values);
    }
    let right = values.split_off(values.len() / 2);
    let mut left = merged(values, reverse)?.into_iter().peekable();
    let mut right = merged(right, reverse)?.into_iter().peekable();
    let mut all = Vec::with_capacity(left.len() + right.len());
    while let (Some(one), Some(other)) = (left.peek(), right.peek()) {
        let order = if reverse {
            one.0.compare(&other.0)?
        } else {
            other.0.compare(&one.0)?
        };
        let next = if order == Some(Ordering::Less) {
            right.next()
        } else {
            left.next()
        };
        all.extend(next);
    }
    all.extend(left);
    all.extend(right);
    Ok(all)
}
