//! The things that a pickle's objects stand for: dictionaries, tensors, storages. An object of a class that is not listed stays a name.

use std::ops::Range;

use super::classes::Class;
use super::machine::{Fault, Id, LONGEST_NAME, Machine, Storage, Value, full_name, part, wrong};
use super::view::View;

/// Most arguments of a call that are looked at.
const ARGUMENTS: usize = 16;

impl Machine<'_> {
    pub(super) fn foreign_or_refused(&mut self, class: Id) -> Result<(), Fault> {
        match self.value(class) {
            Value::Foreign(module, name) => {
                let value = Value::Foreign(module.clone(), name.clone());
                self.push(value)
            }
            _ => wrong("makes an object of what is no class"),
        }
    }

    /// The value that `callable` with these arguments stands for. Nothing is called.
    pub(super) fn make(&mut self, callable: Id, arguments: Id) -> Result<(), Fault> {
        let arguments: Vec<Id> = match self.value(arguments) {
            Value::Tuple(items) => items.iter().copied().take(ARGUMENTS).collect(),
            _ => return wrong("gives arguments that are no tuple"),
        };
        let class = match self.value(callable) {
            Value::Class(class) => *class,
            _ => return self.foreign_or_refused(callable),
        };
        let (class, arguments) = match class {
            Class::RebuildFromType => self.inner_call(&arguments)?,
            class => (class, arguments),
        };
        match class {
            Class::Plain => self.push(Value::Plain),
            Class::OrderedDict => {
                let pairs = match arguments.first() {
                    None => Vec::new(),
                    Some(&list) => self.listed_pairs(list)?,
                };
                self.spend(pairs.len())?;
                self.push(Value::Dict(pairs))
            }
            Class::Size => match arguments.first() {
                Some(&sizes) => self.push_id(sizes),
                None => wrong("has a shape without sizes"),
            },
            Class::RebuildParameter => match arguments.first() {
                Some(&tensor) if matches!(self.value(tensor), Value::Tensor(_)) => {
                    self.push_id(tensor)
                }
                Some(&tensor) => self.foreign_or_refused(tensor),
                None => wrong("has a parameter without a tensor"),
            },
            Class::RebuildTensor | Class::RebuildTyped => {
                let typed = matches!(class, Class::RebuildTyped);
                let view = self.view(&arguments, typed)?;
                // Sizes and strides are kept beside the value.
                self.spend(2 + view.sizes.len())?;
                self.push(Value::Tensor(Box::new(view)))
            }
            Class::Storage(_) | Class::Dtype(_) | Class::Tensor | Class::RebuildFromType => {
                wrong("makes a tensor in a way that is not read")
            }
        }
    }

    /// The call that `_rebuild_from_type_v2(function, type, arguments, state)` stands for.
    fn inner_call(&self, arguments: &[Id]) -> Result<(Class, Vec<Id>), Fault> {
        let &[function, of_type, arguments, ..] = arguments else {
            return wrong("makes a tensor in a way that is not read");
        };
        match (
            self.value(function),
            self.value(of_type),
            self.value(arguments),
        ) {
            (Value::Class(class), Value::Class(Class::Tensor), Value::Tuple(items)) => {
                Ok((*class, items.iter().copied().take(ARGUMENTS).collect()))
            }
            (Value::Foreign(module, name), ..) | (_, Value::Foreign(module, name), _) => {
                let name = full_name(self.bytes, module, name);
                Err(Fault::Name(
                    name,
                    "which makes a tensor of another kind".to_owned(),
                ))
            }
            _ => wrong("makes a tensor in a way that is not read"),
        }
    }

    fn listed_pairs(&self, list: Id) -> Result<Vec<(Id, Id)>, Fault> {
        let (Value::List(items) | Value::Tuple(items)) = self.value(list) else {
            return wrong("makes a dictionary of what is no list");
        };
        let pair = |&id: &Id| match self.value(id) {
            Value::Tuple(pair) | Value::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => wrong("makes a dictionary of what are no pairs"),
        };
        items.iter().map(pair).collect()
    }

    /// The tensor of `(storage, offset, sizes, strides, ...)`.
    fn view(&self, arguments: &[Id], typed: bool) -> Result<View, Fault> {
        let &[storage, offset, sizes, strides, ..] = arguments else {
            return wrong("has a tensor without sizes");
        };
        let storage = match self.value(storage) {
            Value::Storage(storage) => storage.clone(),
            Value::Foreign(module, name) => {
                return Err(self.no_storage(module, name));
            }
            _ => return wrong("has a tensor without a storage"),
        };
        let element = match arguments.get(6).map(|&dtype| self.value(dtype)) {
            Some(Value::Class(Class::Dtype(element))) if typed => element,
            _ if typed => return wrong("has a tensor of a type that is not known"),
            _ => storage.element,
        };
        // Bits of a view whose numbers are to be negated or conjugated.
        let bits = arguments.get(if typed { 7 } else { 6 });
        match bits.map(|&bits| self.value(bits)) {
            None | Some(Value::None) => {}
            Some(Value::Dict(bits)) if bits.is_empty() => {}
            _ => return wrong("has a tensor whose numbers are to be negated when it is read"),
        }
        let Value::Int(offset) = *self.value(offset) else {
            return wrong("has a tensor whose offset is no number");
        };
        View::new(
            storage,
            element,
            offset,
            self.numbers(sizes)?,
            self.numbers(strides)?,
        )
    }

    fn no_storage(&self, module: &Range<u32>, name: &Range<u32>) -> Fault {
        let name = full_name(self.bytes, module, name);
        Fault::Name(name, "which is no storage of numbers".to_owned())
    }

    fn numbers(&self, id: Id) -> Result<Vec<i64>, Fault> {
        let (Value::Tuple(items) | Value::List(items)) = self.value(id) else {
            return wrong("has a tensor whose sizes are no list");
        };
        if items.len() > View::MOST_DIMENSIONS {
            return wrong("has a tensor of too many dimensions");
        }
        let number = |&id: &Id| match self.value(id) {
            Value::Int(number) => Ok(*number),
            _ => wrong("has a tensor with a size that is no number"),
        };
        items.iter().map(number).collect()
    }

    /// The state that an object would be given: attributes of dictionaries, which hold no weights.
    pub(super) fn build(&mut self) -> Result<(), Fault> {
        self.pop()?;
        let object = self.top()?;
        match self.value(object) {
            Value::Dict(_) | Value::List(_) | Value::Plain | Value::Foreign(..) => Ok(()),
            _ => wrong("sets attributes of what has none"),
        }
    }

    /// A storage, `("storage", class, key, device, length)`.
    pub(super) fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let Value::Tuple(items) = self.value(id) else {
            return wrong("refers to data that are no storage");
        };
        let &[tag, class, key, _device, length, ref more @ ..] = items.as_slice() else {
            return wrong("refers to data that are no storage");
        };
        let text = |id| {
            let range = self.range(id)?;
            match std::str::from_utf8(part(self.bytes, &range)) {
                Ok(text) if text.len() <= LONGEST_NAME => Ok(text.to_owned()),
                _ => wrong("names a storage by what is no text"),
            }
        };
        if text(tag)? != "storage" {
            return wrong("refers to data that are no storage");
        }
        let element = match self.value(class) {
            Value::Class(Class::Storage(element)) => *element,
            Value::Foreign(module, name) => {
                return Err(self.no_storage(module, name));
            }
            _ => return wrong("refers to data that are no storage"),
        };
        let part_of = more.first().map(|&view| self.value(view));
        if !matches!(part_of, None | Some(Value::None)) {
            return wrong("has storages that are parts of others, as PyTorch 0.1 wrote them");
        }
        let length = match *self.value(length) {
            Value::Int(length) if length >= 0 => length as u64,
            _ => return wrong("has a storage whose length is no number"),
        };
        let storage = Storage {
            key: text(key)?,
            element,
            length,
        };
        let same = |known: &Storage| {
            (known.element.name, known.length) == (storage.element.name, storage.length)
        };
        match self.storages.get(&storage.key) {
            Some(known) if !same(known) => {
                return wrong(format!(
                    "describes the storage `{}` in two ways",
                    storage.key
                ));
            }
            Some(_) => {}
            None => {
                // The key is kept twice.
                self.spend(10)?;
                self.storages.insert(storage.key.clone(), storage.clone());
            }
        }
        self.spend(5)?;
        self.push(Value::Storage(storage))
    }
}
