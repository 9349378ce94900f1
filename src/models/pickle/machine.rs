//! The machine that pickles are programs of, without its means to call anything: a fixed list of instructions, values in one
//! list, a bound on all that a program can make it keep. Values refer to others by their place in the list, so that
//! nothing is ever walked to a depth that a file decides.
//!
//! The instructions are those of Python's `pickletools` (<https://github.com/python/cpython/blob/main/Lib/pickletools.py>).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::classes::{self, Class, Element};
use super::view::View;

/// Place of a value in the list of all.
pub(super) type Id = u32;

/// Values, entries and sizes that one pickle may have: each takes some 40 bytes. A model of a thousand tensors has 50,000.
const MOST: usize = 4_000_000;
/// Letters of a name.
pub(super) const LONGEST_NAME: usize = 200;

/// The reason why a pickle is not read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes end before it does.
    Cut,
    /// No pickle of weights, in words that follow "the pickle in it".
    Wrong(String),
    /// A name that is not allowed, and the reason in words that follow it.
    Name(String, String),
}

/// A fault in words.
pub(super) fn wrong<T>(message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Wrong(message.into()))
}

/// A value of a pickle.
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// Bytes of the pickle, UTF-8 or not.
    Text(Range<u32>),
    /// One that holds no weights.
    Plain,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Class(Class),
    Storage(Storage),
    Tensor(Box<View>),
    /// A class that is not listed, or what would be made of it, by module and name.
    Foreign(Range<u32>, Range<u32>),
}

/// A storage that a pickle refers to.
#[derive(Clone)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) element: &'static Element,
    /// Numbers in it.
    pub(super) length: u64,
}

/// The objects that are left of a pickle that was run.
pub(super) struct Pickle<'a> {
    bytes: &'a [u8],
    values: Vec<Value>,
    pub(super) root: Id,
    /// All storages that it names.
    pub(super) storages: BTreeMap<String, Storage>,
    /// The place after its last byte.
    pub(super) end: usize,
}

impl Pickle<'_> {
    pub(super) fn value(&self, id: Id) -> &Value {
        self.values.get(id as usize).unwrap_or(&Value::None)
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Text(range) => std::str::from_utf8(part(self.bytes, range)).ok(),
            _ => None,
        }
    }

    /// The name of a foreign value.
    pub(super) fn name(&self, module: &Range<u32>, name: &Range<u32>) -> String {
        full_name(self.bytes, module, name)
    }
}

pub(super) fn part<'a>(bytes: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    bytes
        .get(range.start as usize..range.end as usize)
        .unwrap_or_default()
}

pub(super) fn full_name(bytes: &[u8], module: &Range<u32>, name: &Range<u32>) -> String {
    let text = |range| String::from_utf8_lossy(part(bytes, range)).into_owned();
    format!("{}.{}", text(module), text(name))
}

/// Runs the pickle that begins at `at`.
pub(super) fn run(bytes: &[u8], at: usize) -> Result<Pickle<'_>, Fault> {
    let mut machine = Machine {
        bytes,
        at,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        storages: BTreeMap::new(),
        spent: 0,
    };
    while !machine.step()? {}
    let root = machine.pop()?;
    Ok(Pickle {
        bytes,
        values: machine.values,
        root,
        storages: machine.storages,
        end: machine.at,
    })
}

pub(super) struct Machine<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    values: Vec<Value>,
    pub(super) stack: Vec<Id>,
    pub(super) marks: Vec<usize>,
    pub(super) memo: HashMap<u32, Id>,
    pub(super) storages: BTreeMap<String, Storage>,
    spent: usize,
}

impl Machine<'_> {
    /// Accounts for `count` more values that are kept.
    pub(super) fn spend(&mut self, count: usize) -> Result<(), Fault> {
        self.spent = self.spent.saturating_add(count);
        if self.spent > MOST {
            return wrong(format!("has more than {MOST} values"));
        }
        Ok(())
    }

    pub(super) fn take(&mut self, count: u64) -> Result<Range<u32>, Fault> {
        let begin = self.at;
        let end = usize::try_from(count)
            .ok()
            .and_then(|count| begin.checked_add(count))
            .filter(|&end| end <= self.bytes.len())
            .ok_or(Fault::Cut)?;
        self.at = end;
        Ok(begin as u32..end as u32)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let range = self.take(N as u64)?;
        part(self.bytes, &range).try_into().map_err(|_| Fault::Cut)
    }

    /// The bytes up to the end of the line.
    pub(super) fn line(&mut self) -> Result<Range<u32>, Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let near = &rest[..rest.len().min(LONGEST_NAME + 1)];
        match near.iter().position(|&byte| byte == b'\n') {
            Some(length) => {
                let line = self.take(length as u64)?;
                self.take(1)?;
                Ok(line)
            }
            None if near.len() > LONGEST_NAME => wrong("has a name that is too long"),
            None => Err(Fault::Cut),
        }
    }

    pub(super) fn push(&mut self, value: Value) -> Result<(), Fault> {
        self.spend(1)?;
        let id = self.values.len() as Id;
        self.values.push(value);
        self.stack.push(id);
        Ok(())
    }

    pub(super) fn push_id(&mut self, id: Id) -> Result<(), Fault> {
        self.spend(1)?;
        self.stack.push(id);
        Ok(())
    }

    /// Values above the last mark, none below it.
    fn bottom(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn pop(&mut self) -> Result<Id, Fault> {
        if self.stack.len() <= self.bottom() {
            return wrong("takes a value where there is none");
        }
        self.stack.pop().ok_or(Fault::Cut)
    }

    pub(super) fn top(&mut self) -> Result<Id, Fault> {
        let id = self.pop()?;
        self.stack.push(id);
        Ok(id)
    }

    pub(super) fn top_many(&mut self, count: usize) -> Result<Vec<Id>, Fault> {
        if self.stack.len() < self.bottom() + count {
            return wrong("takes a value where there is none");
        }
        self.spend(count)?;
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    pub(super) fn above_mark(&mut self) -> Result<Vec<Id>, Fault> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => {
                self.spend(self.stack.len() - mark)?;
                Ok(self.stack.split_off(mark))
            }
            _ => wrong("goes back to a mark where there is none"),
        }
    }

    pub(super) fn value(&self, id: Id) -> &Value {
        self.values.get(id as usize).unwrap_or(&Value::None)
    }

    pub(super) fn range(&self, id: Id) -> Result<Range<u32>, Fault> {
        match self.value(id) {
            Value::Text(range) => Ok(range.clone()),
            _ => wrong("names something by what is no text"),
        }
    }

    pub(super) fn text(&mut self, length: u64) -> Result<(), Fault> {
        let range = self.take(length)?;
        self.push(Value::Text(range))
    }

    pub(super) fn skip(&mut self, length: u64) -> Result<(), Fault> {
        self.take(length)?;
        self.push(Value::Plain)
    }

    /// A whole number of `length` bytes; those of the file's signature do not fit into 64 bits and stay texts.
    pub(super) fn long(&mut self, length: u64) -> Result<(), Fault> {
        let range = self.take(length)?;
        let bytes = part(self.bytes, &range);
        let value = match bytes.last() {
            Some(last) if bytes.len() <= 8 => {
                let sign = if last & 0x80 == 0 { 0 } else { 0xff };
                let mut whole = [sign; 8];
                whole[..bytes.len()].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(whole))
            }
            None => Value::Int(0),
            Some(_) => Value::Text(range),
        };
        self.push(value)
    }

    pub(super) fn put(&mut self, place: u32) -> Result<(), Fault> {
        self.spend(1)?;
        let id = self.top()?;
        self.memo.insert(place, id);
        Ok(())
    }

    pub(super) fn get(&mut self, place: u32) -> Result<(), Fault> {
        match self.memo.get(&place) {
            Some(&id) => self.push_id(id),
            None => wrong("refers to a value that it has not kept"),
        }
    }

    pub(super) fn append(&mut self, items: Vec<Id>) -> Result<(), Fault> {
        let list = self.top()?;
        match self.values.get_mut(list as usize) {
            Some(Value::List(list)) => list.extend(items),
            Some(Value::Foreign(..) | Value::Plain) => {}
            _ => return wrong("appends to what is no list"),
        }
        Ok(())
    }

    pub(super) fn set_items(&mut self, items: &[Id]) -> Result<(), Fault> {
        let pairs = pairs(items)?;
        let dict = self.top()?;
        match self.values.get_mut(dict as usize) {
            Some(Value::Dict(dict)) => dict.extend(pairs),
            Some(Value::Foreign(..) | Value::Plain) => {}
            _ => return wrong("sets an entry of what is no dictionary"),
        }
        Ok(())
    }

    pub(super) fn global(&mut self, module: Range<u32>, name: Range<u32>) -> Result<(), Fault> {
        if module.len().max(name.len()) > LONGEST_NAME {
            return wrong("has a name that is too long");
        }
        let text = |range| std::str::from_utf8(part(self.bytes, range));
        let (Ok(module_text), Ok(name_text)) = (text(&module), text(&name)) else {
            return wrong("has a name that is no text");
        };
        let value = match classes::class(module_text, name_text) {
            Some(class) => Value::Class(class),
            None if classes::acts(module_text) => {
                let name = full_name(self.bytes, &module, &name);
                return Err(Fault::Name(name, classes::ACTS.to_owned()));
            }
            None => Value::Foreign(module, name),
        };
        self.push(value)
    }
}

/// Keys and values in turn.
pub(super) fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Fault> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return wrong("has a key without a value");
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}
