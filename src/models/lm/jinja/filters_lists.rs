//! Jinja2's filters of lists and dicts.

use super::arguments::{Given, is_true, needed, whole_or, words};
use super::compare::sort_by_key;
use super::meter::{fits, room, spend};
use super::operators::binary;
use super::render::Renderer;
use super::tree::Operator;
use super::value::Value;
use super::{Outcome, fail};

/// Their names.
pub(super) const LISTS: [&str; 22] = [
    "batch",
    "dictsort",
    "first",
    "groupby",
    "items",
    "join",
    "last",
    "list",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "select",
    "selectattr",
    "slice",
    "sort",
    "sum",
    "unique",
    "urlize",
    "xmlattr",
];

/// Text in small letters, where case does not count.
fn folded(value: Value, case_sensitive: bool) -> Outcome<Value> {
    match &value {
        Value::Text(text) if !case_sensitive => Value::text(text.text.to_lowercase()),
        _ => Ok(value),
    }
}

impl Renderer {
    /// The value under a path like `a.b.0`; without one the item itself.
    fn by_path(
        &mut self,
        item: &Value,
        path: Option<&Value>,
        otherwise: Option<&Value>,
    ) -> Outcome<Value> {
        let mut value = item.clone();
        let parts = match path {
            None | Some(Value::None) => Vec::new(),
            Some(Value::Text(path)) => {
                let parts = path.text.split('.').map(|part| match part.parse() {
                    Ok(number) if part.bytes().all(|byte| byte.is_ascii_digit()) => {
                        Ok(Value::Int(number))
                    }
                    _ => Value::text(part),
                });
                parts.collect::<Outcome<_>>()?
            }
            Some(other) => vec![other.clone()],
        };
        for part in parts {
            value = self.item(&value, &part)?;
            if let (true, Some(otherwise)) = (value.is_undefined(), otherwise) {
                value = otherwise.clone();
            }
        }
        Ok(value)
    }

    /// Each item with the value under a path, case folded where it does not count.
    fn keyed(
        &mut self,
        value: &Value,
        path: Option<&Value>,
        case_sensitive: bool,
    ) -> Outcome<Vec<(Value, Value)>> {
        let mut keyed = Vec::new();
        for item in value.iterate()? {
            let key = self.by_path(&item, path, None)?;
            keyed.push((folded(key, case_sensitive)?, item));
        }
        Ok(keyed)
    }

    /// A value through a filter of this file.
    pub(super) fn list_filter(
        &mut self,
        name: &str,
        value: &Value,
        given: Given,
    ) -> Outcome<Value> {
        match name {
            "list" => Value::list(value.iterate()?),
            "items" => match value {
                Value::Undefined(_) => Ok(Value::generator(Vec::new())),
                Value::Dict(dict) => Ok(Value::generator(
                    Value::View("items", dict.clone()).iterate()?,
                )),
                _ => fail("Can only get item pairs from a mapping."),
            },
            "first" => {
                if let Value::Generator(values) = value {
                    let mut values = values.borrow_mut();
                    if !values.is_empty() {
                        return Ok(values.remove(0));
                    }
                }
                let first = value.iterate()?.into_iter().next();
                let none = || Value::undefined("No first item, sequence was empty.");
                Ok(first.unwrap_or_else(none))
            }
            "last" => {
                if matches!(value, Value::Generator(_) | Value::None) {
                    return fail(format!("'{}' object is not reversible", value.type_name()));
                }
                let last = value.iterate()?.pop();
                let none = || Value::undefined("No last item, sequence was empty.");
                Ok(last.unwrap_or_else(none))
            }
            "join" => self.join(value, given),
            "reverse" => match value {
                Value::Text(text) => {
                    Value::marked(text.text.chars().rev().collect::<String>(), text.safe)
                }
                other => {
                    let mut values = other.iterate()?;
                    values.reverse();
                    Ok(Value::generator(values))
                }
            },
            "dictsort" => dictsort(value, given),
            "sort" => {
                let names = ["reverse", "case_sensitive", "attribute"];
                let [reverse, case_sensitive, path] = given.bind(name, names)?;
                let case_sensitive = is_true(case_sensitive.as_ref());
                let paths = match &path {
                    Some(Value::Text(text)) if text.text.contains(',') => {
                        let paths = text.text.split(',').map(Value::text);
                        paths.collect::<Outcome<Vec<_>>>()?
                    }
                    Some(path) => vec![path.clone()],
                    None => vec![Value::None],
                };
                let mut keyed = Vec::new();
                for item in value.iterate()? {
                    let mut keys = Vec::new();
                    for path in &paths {
                        let key = self.by_path(&item, Some(path), None)?;
                        keys.push(folded(key, case_sensitive)?);
                    }
                    keyed.push((Value::list(keys)?, item));
                }
                Value::list(sort_by_key(keyed, is_true(reverse.as_ref()))?)
            }
            "min" | "max" => {
                let [case_sensitive, path] = given.bind(name, ["case_sensitive", "attribute"])?;
                let keyed = self.keyed(value, path.as_ref(), is_true(case_sensitive.as_ref()))?;
                let sorted = sort_by_key(keyed, name == "max")?;
                let none = || Value::undefined("No aggregated item, sequence was empty.");
                Ok(sorted.into_iter().next().unwrap_or_else(none))
            }
            "unique" => {
                let [case_sensitive, path] = given.bind(name, ["case_sensitive", "attribute"])?;
                let keyed = self.keyed(value, path.as_ref(), is_true(case_sensitive.as_ref()))?;
                let mut seen = std::collections::HashSet::new();
                let mut found = Vec::new();
                for (key, item) in keyed {
                    if seen.insert(key.key()?) {
                        found.push(item);
                    }
                }
                Ok(Value::generator(found))
            }
            "groupby" => self.group(value, given),
            "sum" => {
                let [path, start] = given.bind(name, ["attribute", "start"])?;
                let mut sum = start.unwrap_or(Value::Int(0));
                for item in value.iterate()? {
                    let item = self.by_path(&item, path.as_ref(), None)?;
                    sum = binary(Operator::Add, &sum, &item)?;
                }
                Ok(sum)
            }
            "map" => self.map(value, given),
            "select" | "reject" | "selectattr" | "rejectattr" => self.select(name, value, given),
            "batch" => batch(value, given),
            "slice" => slices(value, given),
            other => fail(format!("preftune's templates have no filter `{other}`")),
        }
    }

    fn join(&mut self, value: &Value, given: Given) -> Outcome<Value> {
        let [mark, path] = given.bind("join", ["d", "attribute"])?;
        let mark = match mark {
            Some(mark) => mark.to_text()?,
            None => String::new(),
        };
        let mut out = String::new();
        for (at, item) in value.iterate()?.iter().enumerate() {
            let item = self.by_path(item, path.as_ref(), None)?.to_text()?;
            room(mark.len() + item.len())?;
            fits(out.len() + mark.len() + item.len())?;
            if at > 0 {
                out.push_str(&mark);
            }
            out.push_str(&item);
        }
        Value::text(out)
    }

    fn group(&mut self, value: &Value, given: Given) -> Outcome<Value> {
        let names = ["attribute", "default", "case_sensitive"];
        let [path, otherwise, case_sensitive] = given.bind("groupby", names)?;
        let path = needed("groupby", path)?;
        let case_sensitive = is_true(case_sensitive.as_ref());
        let mut keyed = Vec::new();
        for item in value.iterate()? {
            let key = self.by_path(&item, Some(&path), otherwise.as_ref())?;
            let folded = folded(key.clone(), case_sensitive)?;
            keyed.push((folded.clone(), Value::tuple(vec![folded, key, item])?));
        }
        let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
        for one in sort_by_key(keyed, false)? {
            let Value::Tuple(one) = one else { continue };
            let [folded, key, item] = &one.values[..] else {
                continue;
            };
            match groups.last_mut() {
                Some((before, _, items)) if before.equals(folded)? => items.push(item.clone()),
                _ => groups.push((folded.clone(), key.clone(), vec![item.clone()])),
            }
        }
        let groups = groups
            .into_iter()
            .map(|(_, key, items)| Value::group(key, items));
        Value::list(groups.collect::<Outcome<_>>()?)
    }

    fn map(&mut self, value: &Value, mut given: Given) -> Outcome<Value> {
        if !value.is_true() {
            return Ok(Value::generator(Vec::new()));
        }
        let mut found = Vec::new();
        if given.positional.is_empty() {
            let [path, otherwise] = given.bind("map", ["attribute", "default"])?;
            let path = needed("map", path)?;
            for item in value.iterate()? {
                found.push(self.by_path(&item, Some(&path), otherwise.as_ref())?);
            }
            return Ok(Value::generator(found));
        }
        let name = given.positional.remove(0);
        let name = words("map", &name)?;
        for item in value.iterate()? {
            let given = Given {
                positional: given.positional.clone(),
                named: given.named.clone(),
            };
            found.push(self.deeper_filter(name, item, given)?);
        }
        Ok(Value::generator(found))
    }

    fn deeper_filter(&mut self, name: &str, item: Value, given: Given) -> Outcome<Value> {
        spend(1)?;
        self.filter(name, item, given)
    }

    fn select(&mut self, name: &str, value: &Value, mut given: Given) -> Outcome<Value> {
        if !value.is_true() {
            return Ok(Value::generator(Vec::new()));
        }
        let keeps = name.starts_with("select");
        let path = if name.ends_with("attr") {
            if given.positional.is_empty() {
                return fail("Missing parameter for attribute name");
            }
            Some(given.positional.remove(0))
        } else {
            None
        };
        let test = if given.positional.is_empty() {
            None
        } else {
            Some(given.positional.remove(0))
        };
        let mut found = Vec::new();
        for item in value.iterate()? {
            spend(1)?;
            let tested = self.by_path(&item, path.as_ref(), None)?;
            let holds = match &test {
                Some(test) => {
                    let given = Given {
                        positional: given.positional.clone(),
                        named: given.named.clone(),
                    };
                    super::checks::test(words(name, test)?, &tested, given)?
                }
                None => tested.is_true(),
            };
            if holds == keeps {
                found.push(item);
            }
        }
        Ok(Value::generator(found))
    }
}

fn dictsort(value: &Value, given: Given) -> Outcome<Value> {
    let names = ["case_sensitive", "by", "reverse"];
    let [case_sensitive, by, reverse] = given.bind("dictsort", names)?;
    let Value::Dict(dict) = value.defined()? else {
        return fail(format!(
            "`dictsort` takes a dict, not {}",
            value.type_name()
        ));
    };
    let by_value = match &by {
        None => false,
        Some(by) => match words("dictsort", by)? {
            "key" => false,
            "value" => true,
            _ => return fail("You can only sort by either \"key\" or \"value\""),
        },
    };
    let case_sensitive = is_true(case_sensitive.as_ref());
    let mut keyed = Vec::new();
    for (key, value) in dict.pairs.iter() {
        let by = if by_value { value } else { key };
        let pair = Value::tuple(vec![key.clone(), value.clone()])?;
        keyed.push((folded(by.clone(), case_sensitive)?, pair));
    }
    Value::list(sort_by_key(keyed, is_true(reverse.as_ref()))?)
}

fn batch(value: &Value, given: Given) -> Outcome<Value> {
    let [size, filler] = given.bind("batch", ["linecount", "fill_with"])?;
    let size = whole_or(Some(&needed("batch", size)?), 0)?;
    let filler = filler.filter(|filler| !matches!(filler, Value::None));
    let values = value.iterate()?;
    let mut rows = Vec::new();
    let wide = usize::try_from(size).ok().filter(|size| *size > 0);
    for row in values.chunks(wide.unwrap_or(usize::MAX)) {
        let mut row = row.to_vec();
        if let (Some(filler), Some(size)) = (&filler, wide) {
            room(size.saturating_mul(size_of::<Value>()))?;
            row.resize(size, filler.clone());
        }
        rows.push(Value::list(row)?);
    }
    Ok(Value::generator(rows))
}

fn slices(value: &Value, given: Given) -> Outcome<Value> {
    let [count, filler] = given.bind("slice", ["slices", "fill_with"])?;
    let count = whole_or(Some(&needed("slice", count)?), 0)?;
    if count == 0 {
        return fail("division by zero");
    }
    let count = usize::try_from(count).unwrap_or(0);
    room(count.saturating_mul(128))?;
    let filler = filler.filter(|filler| !matches!(filler, Value::None));
    let values = value.iterate()?;
    let (size, longer) = (values.len() / count.max(1), values.len() % count.max(1));
    let mut columns = Vec::new();
    let mut at = 0;
    for column in 0..count {
        let end = at + size + usize::from(column < longer);
        let mut items = values[at..end].to_vec();
        at = end;
        if column >= longer {
            items.extend(filler.clone());
        }
        columns.push(Value::list(items)?);
    }
    Ok(Value::generator(columns))
}
