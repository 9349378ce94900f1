//! The columns of one row, which remember what was asked for: what a file has and nobody reads is named.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::json_lines::text_of;

/// Named values.
#[derive(Debug, Default)]
pub struct Columns {
    values: Map<String, Value>,
    used: RefCell<BTreeSet<String>>,
    /// Why a column holds something that is neither text nor a number, by its name: no matter until it is used.
    unreadable: BTreeMap<String, String>,
}

impl Columns {
    /// Puts a column in that holds something which cannot be read, with what that is.
    pub fn insert_unreadable(&mut self, name: &str, what: &str) {
        self.insert(name, Value::from(what));
        self.unreadable.insert(name.to_owned(), what.to_owned());
    }

    /// What is wrong with a row of which columns that cannot be read have been used.
    pub fn fault(&self) -> Option<String> {
        let used = self.used.borrow();
        let mut unreadable = self.unreadable.iter();
        let (name, what) = unreadable.find(|(name, _)| used.contains(*name))?;
        Some(format!("`{name}` {what}"))
    }

    /// The value of the column, which is then known to be used.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let value = self.values.get(name)?;
        if !self.used.borrow().contains(name) {
            self.used.borrow_mut().insert(name.to_owned());
        }
        Some(value)
    }

    /// The value of the column, where that is not null.
    pub fn filled(&self, name: &str) -> Option<&Value> {
        self.get(name).filter(|value| !value.is_null())
    }

    /// The value of the column; looking is no use of it.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// `true` if there is such a column and it holds something; asking is no use of it.
    pub fn has(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| !value.is_null())
    }

    /// The text of a column, a number as it is written; else why there is none.
    ///
    /// # Errors
    /// It is missing or something else.
    pub fn text_of(&self, name: &str) -> Result<String, String> {
        self.get(name);
        text_of(&self.values, name)
    }

    /// All names in the order of the row.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Puts a column in.
    pub fn insert(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    /// Takes a column out.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name)
    }

    /// Gives columns our names: `names` has theirs by ours.
    ///
    /// # Errors
    /// One of theirs is missing.
    pub fn rename(&mut self, names: &BTreeMap<String, String>) -> Result<(), String> {
        // All are taken out before one is put in: two may change places.
        let taken = names.iter().map(|(ours, theirs)| {
            let value = self.values.get(theirs).cloned();
            let value = value.ok_or_else(|| {
                format!("{}, which is to be `{ours}`", missing(self.names(), theirs))
            });
            value.map(|value| (ours, value))
        });
        let taken: Vec<_> = taken.collect::<Result<_, _>>()?;
        let unreadable: Vec<_> = names
            .iter()
            .map(|(ours, theirs)| (ours, self.unreadable.get(theirs).cloned()))
            .collect();
        for theirs in names.values() {
            self.values.remove(theirs);
            self.unreadable.remove(theirs);
        }
        for (ours, what) in unreadable {
            self.unreadable.remove(ours);
            self.unreadable
                .extend(what.map(|what| (ours.clone(), what)));
        }
        for (ours, value) in taken {
            self.values.insert(ours.clone(), value);
        }
        Ok(())
    }
}

impl From<Map<String, Value>> for Columns {
    fn from(values: Map<String, Value>) -> Self {
        Self {
            values,
            ..Self::default()
        }
    }
}

/// That a column is missing, and which there are.
pub fn missing<'a>(there: impl Iterator<Item = &'a str>, name: &str) -> String {
    let there: Vec<String> = there.map(|name| format!("`{name}`")).collect();
    format!("column `{name}` is missing; there are {}", there.join(", "))
}

/// Which columns some rows have, and which of them were used in any row.
#[derive(Debug, Default)]
pub struct Usage {
    filled: BTreeSet<String>,
    used: BTreeSet<String>,
}

impl Usage {
    /// Adds a row that was read.
    pub fn add(&mut self, row: &Columns) {
        for (name, value) in &row.values {
            if !is_blank(value) && !self.filled.contains(name) {
                self.filled.insert(name.clone());
            }
        }
        for name in row.used.borrow().iter() {
            if !self.used.contains(name) {
                self.used.insert(name.clone());
            }
        }
    }

    /// Names of the columns that hold something which was used in some row.
    pub fn used(&self) -> Vec<String> {
        self.filled.intersection(&self.used).cloned().collect()
    }

    /// Names of the columns that hold something which was used in no row.
    pub fn unused(&self) -> Vec<String> {
        self.filled.difference(&self.used).cloned().collect()
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        _ => false,
    }
}
