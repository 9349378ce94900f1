//! The arguments of a call, put in the order of its parameters.

use super::value::Value;
use super::{Outcome, fail};

/// Values without and with names.
#[derive(Default)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Given {
    /// The values by these names, in their order; those that are not given are `None`.
    ///
    /// # Errors
    /// Too many, one twice, or a name that is not there.
    pub(super) fn bind<const N: usize>(
        self,
        what: &str,
        names: [&str; N],
    ) -> Outcome<[Option<Value>; N]> {
        if self.positional.len() > N {
            let given = self.positional.len();
            return fail(format!("`{what}` takes {N} values and is given {given}"));
        }
        let mut bound = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|one| *one == name) {
                Some(at) if bound[at].is_none() => bound[at] = Some(value),
                Some(_) => return fail(format!("`{what}` is given `{name}` twice")),
                None => return fail(format!("`{what}` takes no `{name}`")),
            }
        }
        Ok(bound)
    }
}

/// A value that must be there.
pub(super) fn needed(what: &str, value: Option<Value>) -> Outcome<Value> {
    match value {
        Some(value) => Ok(value),
        None => fail(format!("`{what}` lacks a value")),
    }
}

/// A whole number, or what stands for one that is not given.
pub(super) fn whole_or(value: Option<&Value>, otherwise: i64) -> Outcome<i64> {
    match value {
        None => Ok(otherwise),
        Some(value) => match value.whole() {
            Some(number) => Ok(number.clamp(i64::MIN.into(), i64::MAX.into()) as i64),
            None => fail(format!(
                "'{}' object cannot be interpreted as an integer",
                value.defined()?.type_name()
            )),
        },
    }
}

/// `true` if a value is given and true.
pub(super) fn is_true(value: Option<&Value>) -> bool {
    value.is_some_and(Value::is_true)
}

/// The words of a text value.
pub(super) fn words<'v>(what: &str, value: &'v Value) -> Outcome<&'v str> {
    match value.defined()?.as_text() {
        Some(text) => Ok(text),
        None => fail(format!("`{what}` takes text, not {}", value.type_name())),
    }
}
