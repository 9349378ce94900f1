//! Values of a template, with Python's rules for what is true, equal, smaller, and in what.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use indexmap::{Equivalent, IndexMap};

use super::callables::{Bound, Cycler, Function, MacroValue};
use super::loops::Loop;
use super::meter::{Charge, room, spend};
use super::text;
use super::{Outcome, fail};

/// Deepest nesting of lists in lists.
const MOST_DEPTH: u32 = 2000;

#[derive(Clone)]
pub(super) enum Value {
    /// With the reason, which is said when it is used.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Rc<Text>),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    Namespace(Rc<Namespace>),
    Range([i64; 3]),
    /// `keys`, `values` or `items` of a dict.
    View(&'static str, Rc<Dict>),
    /// A sequence that can be gone through once: the result of `map` and its like.
    Generator(Rc<RefCell<Vec<Value>>>),
    Loop(Rc<Loop>),
    Macro(Rc<MacroValue>),
    Bound(Rc<Bound>),
    Function(Function),
    Cycler(Rc<Cycler>),
}

#[expect(clippy::struct_field_names, reason = "the text of a text")]
pub(super) struct Text {
    pub(super) text: String,
    /// Marked by `safe` or `escape`: what is added to it is escaped.
    pub(super) safe: bool,
    _charge: Charge,
}

pub(super) struct Items {
    pub(super) values: Vec<Value>,
    /// Of `groupby`: the two values have the names `grouper` and `list`.
    pub(super) grouped: bool,
    depth: u32,
    _charge: Charge,
}

#[derive(Default)]
pub(super) struct Pairs(IndexMap<Key, (Value, Value)>);

pub(super) struct Dict {
    pub(super) pairs: Pairs,
    depth: u32,
    _charge: Charge,
}

pub(super) struct Namespace {
    values: RefCell<Pairs>,
    depth: std::cell::Cell<u32>,
}

/// The key that a value is looked up by: numbers that are equal are the same key.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Key {
    None,
    Int(i128),
    Float(u64),
    Text(String),
    Tuple(Vec<Key>),
    Other(usize),
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::None => state.write_u8(0),
            Self::Int(number) => number.hash(state),
            Self::Float(bits) => bits.hash(state),
            Self::Text(text) => text.as_str().hash(state),
            Self::Tuple(keys) => keys.hash(state),
            Self::Other(place) => place.hash(state),
        }
    }
}

struct TextKey<'k>(&'k str);

impl Hash for TextKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Equivalent<Key> for TextKey<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        matches!(key, Key::Text(text) if text == self.0)
    }
}

impl Pairs {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(&TextKey(name)).map(|(_, value)| value)
    }

    pub(super) fn get_key(&self, key: &Key) -> Option<&Value> {
        self.0.get(key).map(|(_, value)| value)
    }

    /// Puts a value under a key, which keeps its place where it has one.
    pub(super) fn put(&mut self, key: Value, value: Value) -> Outcome<()> {
        let found = key.key()?;
        match self.0.get_mut(&found) {
            Some(pair) => pair.1 = value,
            None => {
                self.0.insert(found, (key, value));
            }
        }
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.0.values().map(|(key, value)| (key, value))
    }

    pub(super) fn keyed(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.0.iter().map(|(key, (_, value))| (key, value))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn deepest<'v>(values: impl Iterator<Item = &'v Value>) -> Outcome<u32> {
    let depth = values.map(Value::depth).max().unwrap_or(0) + 1;
    if depth > MOST_DEPTH {
        return fail("builds lists that are nested deeper than any chat needs");
    }
    Ok(depth)
}

impl Namespace {
    pub(super) fn new(values: Pairs) -> Outcome<Rc<Self>> {
        let depth = deepest(values.0.values().map(|(_, value)| value))?;
        Ok(Rc::new(Self {
            values: RefCell::new(values),
            depth: depth.into(),
        }))
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        self.values.borrow().get(name).cloned()
    }

    pub(super) fn set(&self, name: &str, value: Value) -> Outcome<()> {
        if name.starts_with('_') {
            return fail(format!("a namespace takes no `{name}`"));
        }
        self.depth
            .set(self.depth.get().max(deepest([&value].into_iter())?));
        let key = Value::text(name)?;
        // What was there goes after the borrow has ended.
        let before = self.get(name);
        self.values.borrow_mut().put(key, value)?;
        drop(before);
        Ok(())
    }

    /// Lets go of all it holds: it may hold itself.
    pub(super) fn clear(&self) {
        let values = self.values.take();
        drop(values);
    }

    pub(super) fn pairs(&self) -> std::cell::Ref<'_, Pairs> {
        self.values.borrow()
    }
}

impl Value {
    pub(super) fn undefined(reason: impl Into<Rc<str>>) -> Self {
        Self::Undefined(reason.into())
    }

    pub(super) fn text(text: impl Into<String>) -> Outcome<Self> {
        Self::marked(text, false)
    }

    /// A text, which is marked as `safe` or not.
    pub(super) fn marked(text: impl Into<String>, safe: bool) -> Outcome<Self> {
        let text = text.into();
        Ok(Self::Text(Rc::new(Text {
            _charge: Charge::new(text.len() + 64)?,
            text,
            safe,
        })))
    }

    fn items(values: Vec<Self>, grouped: bool) -> Outcome<Rc<Items>> {
        Ok(Rc::new(Items {
            depth: deepest(values.iter())?,
            _charge: Charge::new(values.len() * size_of::<Self>() + 64)?,
            values,
            grouped,
        }))
    }

    pub(super) fn list(values: Vec<Self>) -> Outcome<Self> {
        Self::items(values, false).map(Self::List)
    }

    pub(super) fn tuple(values: Vec<Self>) -> Outcome<Self> {
        Self::items(values, false).map(Self::Tuple)
    }

    /// A group, as `groupby` gives it.
    pub(super) fn group(key: Self, values: Vec<Self>) -> Outcome<Self> {
        let values = Self::list(values)?;
        Self::items(vec![key, values], true).map(Self::Tuple)
    }

    pub(super) fn dict(pairs: Pairs) -> Outcome<Self> {
        Ok(Self::Dict(Rc::new(Dict {
            depth: deepest(pairs.0.values().flat_map(|(key, value)| [key, value]))?,
            _charge: Charge::new(pairs.len() * 3 * size_of::<Self>() + 64)?,
            pairs,
        })))
    }

    pub(super) fn generator(values: Vec<Self>) -> Self {
        Self::Generator(Rc::new(RefCell::new(values)))
    }

    /// A value of JSON.
    pub(super) fn from_json(json: &serde_json::Value) -> Outcome<Self> {
        Ok(match json {
            serde_json::Value::Null => Self::None,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i128() {
                Some(whole) => Self::Int(whole),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Self::text(text.as_str())?,
            serde_json::Value::Array(values) => {
                Self::list(values.iter().map(Self::from_json).collect::<Outcome<_>>()?)?
            }
            serde_json::Value::Object(object) => {
                let mut pairs = Pairs::default();
                for (key, value) in object {
                    pairs.put(Self::text(key.as_str())?, Self::from_json(value)?)?;
                }
                Self::dict(pairs)?
            }
        })
    }

    fn depth(&self) -> u32 {
        match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth,
            Self::Namespace(namespace) => namespace.depth.get(),
            Self::Generator(values) => {
                let values = values.borrow();
                values.iter().map(Self::depth).max().unwrap_or(0) + 1
            }
            Self::Bound(bound) => bound.of.depth() + 1,
            _ => 0,
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// The type as Python calls it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(text) if text.safe => "Markup",
            Self::Text(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Namespace(_) => "TemplateNamespace",
            Self::Range(_) => "range",
            Self::View("keys", _) => "dict_keys",
            Self::View("values", _) => "dict_values",
            Self::View(..) => "dict_items",
            Self::Generator(_) => "generator",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Bound(_) => "builtin_function_or_method",
            Self::Function(_) => "function",
            Self::Cycler(_) => "Cycler",
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.values.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => dict.pairs.len() > 0,
            Self::Range(range) => range_length(*range) > 0,
            Self::Loop(one) => one.length_known() != Some(0),
            _ => true,
        }
    }

    /// Length as Python's `len`.
    pub(super) fn length(&self) -> Outcome<usize> {
        Ok(match self {
            Self::Undefined(_) => 0,
            Self::Text(text) => text.text.chars().count(),
            Self::List(items) | Self::Tuple(items) => items.values.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.pairs.len(),
            Self::Range(range) => range_length(*range),
            other => return fail(format!("`{}` has no length", other.type_name())),
        })
    }

    /// All that a loop over the value goes through.
    pub(super) fn iterate(&self) -> Outcome<Vec<Self>> {
        if let Some(length) = self.length().ok().filter(|_| !self.is_undefined()) {
            spend(length)?;
            room(length * size_of::<Self>())?;
        }
        Ok(match self {
            Self::Undefined(_) => Vec::new(),
            Self::Text(text) => {
                let letters = text.text.chars().map(Self::text);
                letters.collect::<Outcome<_>>()?
            }
            Self::List(items) | Self::Tuple(items) => items.values.clone(),
            Self::Dict(dict) | Self::View("keys", dict) => {
                dict.pairs.iter().map(|(key, _)| key.clone()).collect()
            }
            Self::View("values", dict) => {
                dict.pairs.iter().map(|(_, value)| value.clone()).collect()
            }
            Self::View(_, dict) => {
                let pairs = dict.pairs.iter();
                let pairs = pairs.map(|(key, value)| Self::tuple(vec![key.clone(), value.clone()]));
                pairs.collect::<Outcome<_>>()?
            }
            Self::Range([start, stop, step]) => (0..range_length([*start, *stop, *step]))
                .map(|at| Self::Int(i128::from(*start) + at as i128 * i128::from(*step)))
                .collect(),
            Self::Generator(values) => {
                let values = values.take();
                spend(values.len())?;
                values
            }
            other => return fail(format!("'{}' object is not iterable", other.type_name())),
        })
    }

    /// `true` if a loop can go over it.
    pub(super) fn is_iterable(&self) -> bool {
        matches!(
            self,
            Self::Undefined(_)
                | Self::Text(_)
                | Self::List(_)
                | Self::Tuple(_)
                | Self::Dict(_)
                | Self::View(..)
                | Self::Range(_)
                | Self::Generator(_)
                | Self::Loop(_)
        )
    }

    /// As a number, with the truth values among them.
    pub(super) fn whole(&self) -> Option<i128> {
        match self {
            Self::Bool(value) => Some(i128::from(*value)),
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            other => other.whole().map(|number| number as f64),
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(&text.text),
            _ => None,
        }
    }

    /// As `str` writes it.
    pub(super) fn to_text(&self) -> Outcome<String> {
        text::str_of(self)
    }

    /// The key that finds the value in a dict.
    ///
    /// # Errors
    /// It is a list or a dict.
    pub(super) fn key(&self) -> Outcome<Key> {
        Ok(match self {
            Self::None => Key::None,
            Self::Text(text) => {
                spend(text.text.len() / 64)?;
                Key::Text(text.text.clone())
            }
            Self::Float(number) if number.fract() == 0.0 && number.abs() < 1e30 => {
                Key::Int(*number as i128)
            }
            Self::Float(number) => Key::Float(number.to_bits()),
            Self::Tuple(items) => {
                spend(items.values.len())?;
                let keys = items.values.iter().map(Self::key);
                Key::Tuple(keys.collect::<Outcome<_>>()?)
            }
            Self::List(_) | Self::Dict(_) => {
                return fail(format!("unhashable type: '{}'", self.type_name()));
            }
            Self::Undefined(_) => Key::Other(0),
            other => match other.whole() {
                Some(number) => Key::Int(number),
                None => Key::Other(other.place()),
            },
        })
    }

    /// Where it lies, which tells two of the same content apart.
    pub(super) fn place(&self) -> usize {
        match self {
            Self::Namespace(one) => Rc::as_ptr(one) as usize,
            Self::Generator(one) => Rc::as_ptr(one) as usize,
            Self::Loop(one) => Rc::as_ptr(one) as usize,
            Self::Macro(one) => Rc::as_ptr(one) as usize,
            Self::Bound(one) => Rc::as_ptr(one) as usize,
            Self::Cycler(one) => Rc::as_ptr(one) as usize,
            Self::List(one) | Self::Tuple(one) => Rc::as_ptr(one) as usize,
            Self::Dict(one) | Self::View(_, one) => Rc::as_ptr(one) as usize,
            Self::Text(one) => Rc::as_ptr(one) as usize,
            _ => 0,
        }
    }

    /// The value itself.
    ///
    /// # Errors
    /// It is undefined; the message is the reason.
    pub(super) fn defined(&self) -> Outcome<&Self> {
        match self {
            Self::Undefined(reason) => fail(reason.to_string()),
            value => Ok(value),
        }
    }
}

pub(super) fn range_length([start, stop, step]: [i64; 3]) -> usize {
    let (start, stop, step) = (i128::from(start), i128::from(stop), i128::from(step));
    let length = if step > 0 {
        (stop - start + step - 1) / step
    } else {
        (start - stop - step - 1) / -step
    };
    length.max(0) as usize
}
