//! Jinja2's filters, of texts and numbers here, and transformers' `tojson`.

use super::arguments::{Given, is_true, needed, whole_or, words};
use super::filters_lists::LISTS;
use super::format::percent;
use super::meter::{room, spend};
use super::operators::too_large;
use super::render::Renderer;
use super::strings::{Ends, capitalized, filled, lines, replaced, stripped};
use super::text::{Layout, escape_html, json, repr};
use super::value::{Pairs, Value};
use super::{Outcome, fail};

/// Filters of texts, numbers and single values.
const SINGLE: [&str; 32] = [
    "abs",
    "attr",
    "capitalize",
    "center",
    "d",
    "default",
    "e",
    "escape",
    "filesizeformat",
    "float",
    "forceescape",
    "format",
    "indent",
    "int",
    "lower",
    "pprint",
    "replace",
    "round",
    "safe",
    "string",
    "striptags",
    "title",
    "tojson",
    "trim",
    "truncate",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
    "count",
    "length",
    "random",
];

/// `true` if there is a filter of a name.
pub(super) fn is_filter(name: &str) -> bool {
    SINGLE.contains(&name) || LISTS.contains(&name)
}

/// A text that keeps the mark of another.
fn like(value: &Value, text: String) -> Outcome<Value> {
    let safe = matches!(value, Value::Text(text) if text.safe);
    Value::marked(text, safe)
}

fn is_nothing(value: Option<&Value>) -> bool {
    matches!(value, None | Some(Value::None))
}

impl Renderer {
    /// A value through a filter.
    #[expect(clippy::too_many_lines, reason = "one arm for each filter")]
    pub(super) fn filter(&mut self, name: &str, value: Value, given: Given) -> Outcome<Value> {
        if LISTS.contains(&name) {
            return self.list_filter(name, &value, given);
        }
        if let Value::Text(text) = &value {
            spend(text.text.len() / 16)?;
        }
        match name {
            "d" | "default" => {
                let [otherwise, boolean] = given.bind(name, ["default_value", "boolean"])?;
                if value.is_undefined() || is_true(boolean.as_ref()) && !value.is_true() {
                    return match otherwise {
                        Some(otherwise) => Ok(otherwise),
                        None => Value::text(""),
                    };
                }
                Ok(value)
            }
            "attr" => {
                let [name] = given.bind(name, ["name"])?;
                let name = needed("attr", name)?;
                let name = words("attr", &name)?;
                match value.defined()? {
                    // An item is no attribute here.
                    Value::Dict(_) => Ok(Value::undefined(format!("no attribute '{name}'"))),
                    _ => self.attribute(&value, name),
                }
            }
            "count" | "length" => {
                let [] = given.bind(name, [])?;
                match &value {
                    Value::Loop(_) => self.attribute(&value, "length"),
                    value => Ok(Value::Int(value.length()? as i128)),
                }
            }
            "string" => match value {
                Value::Text(_) => Ok(value),
                other => Value::text(other.to_text()?),
            },
            "safe" => Value::marked(value.to_text()?, true),
            "e" | "escape" if matches!(&value, Value::Text(text) if text.safe) => Ok(value),
            "e" | "escape" | "forceescape" => {
                let text = value.to_text()?;
                room(text.len() * 5)?;
                Value::marked(escape_html(&text), true)
            }
            "lower" => like(&value, value.to_text()?.to_lowercase()),
            "upper" => like(&value, value.to_text()?.to_uppercase()),
            "capitalize" => like(&value, capitalized(&value.to_text()?)),
            "title" => like(&value, title(&value.to_text()?)),
            "trim" => {
                let [chars] = given.bind(name, ["chars"])?;
                let chars = chars.filter(|chars| !matches!(chars, Value::None));
                let chars = chars.as_ref().map(|chars| words(name, chars)).transpose()?;
                let text = value.to_text()?;
                like(&value, stripped(&text, chars, Ends::Both).to_owned())
            }
            "center" => {
                let [width] = given.bind(name, ["width"])?;
                let width = whole_or(width.as_ref(), 80)?;
                like(&value, filled(&value.to_text()?, width, ' ', Ends::Both)?)
            }
            "replace" => {
                let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
                let (old, new) = (needed(name, old)?.to_text()?, needed(name, new)?.to_text()?);
                let count = count.filter(|count| !matches!(count, Value::None));
                let count = whole_or(count.as_ref(), -1)?;
                Value::text(replaced(&value.to_text()?, &old, &new, count)?)
            }
            "format" => {
                if !given.positional.is_empty() && !given.named.is_empty() {
                    return fail("can't handle positional and keyword arguments at the same time");
                }
                let with = if given.named.is_empty() {
                    Value::tuple(given.positional)?
                } else {
                    let mut pairs = Pairs::default();
                    for (name, value) in given.named {
                        pairs.put(Value::text(name)?, value)?;
                    }
                    Value::dict(pairs)?
                };
                like(&value, percent(&value.to_text()?, &with)?)
            }
            "indent" => indent(&value, given),
            "truncate" => truncate(&value, given),
            "wordwrap" => wordwrap(&value, given),
            "wordcount" => {
                let text = value.to_text()?;
                let words = text.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
                let count = words.filter(|word| !word.is_empty()).count();
                Ok(Value::Int(count as i128))
            }
            "striptags" => Value::text(striptags(&value.to_text()?)),
            "urlencode" => urlencode(&value),
            "tojson" => to_json(&value, given),
            "pprint" => Value::text(repr(&value)?),
            "abs" => match (value.defined()?, value.whole()) {
                (_, Some(number)) => match number.checked_abs() {
                    Some(number) => Ok(Value::Int(number)),
                    None => too_large(),
                },
                (Value::Float(number), _) => Ok(Value::Float(number.abs())),
                (other, _) => fail(format!(
                    "bad operand type for abs(): '{}'",
                    other.type_name()
                )),
            },
            "int" => to_int(&value, given),
            "float" => to_float(&value, given),
            "round" => round(&value, given),
            "filesizeformat" => {
                let [binary] = given.bind(name, ["binary"])?;
                file_size(&value, is_true(binary.as_ref()))
            }
            "random" => fail("`random` would give another text each time"),
            other => fail(format!("No filter named '{other}'.")),
        }
    }
}

/// Jinja2's `title`, whose words begin after fewer characters than Python's.
fn title(text: &str) -> String {
    let begins = |letter: char| super::text::is_space(letter) || "-({[<".contains(letter);
    let mut out = String::new();
    let mut first = true;
    for letter in text.chars() {
        if begins(letter) {
            out.push(letter);
            first = true;
        } else if first {
            out.extend(letter.to_uppercase());
            first = false;
        } else {
            out.extend(letter.to_lowercase());
        }
    }
    out
}

fn indent(value: &Value, given: Given) -> Outcome<Value> {
    let [width, first, blank] = given.bind("indent", ["width", "first", "blank"])?;
    let text = words("indent", value)?;
    let by = match &width {
        Some(Value::Text(text)) => text.text.clone(),
        other => {
            let width = usize::try_from(whole_or(other.as_ref(), 4)?).unwrap_or(0);
            room(width)?;
            " ".repeat(width)
        }
    };
    let whole = format!("{text}\n");
    let lines = lines(&whole, false);
    room(text.len() + by.len().saturating_mul(lines.len() + 1))?;
    let mut out = String::new();
    if is_true(first.as_ref()) {
        out.push_str(&by);
    }
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
            if !line.is_empty() || is_true(blank.as_ref()) {
                out.push_str(&by);
            }
        }
        out.push_str(line);
    }
    like(value, out)
}

fn truncate(value: &Value, given: Given) -> Outcome<Value> {
    let names = ["length", "killwords", "end", "leeway"];
    let [length, kill, end, leeway] = given.bind("truncate", names)?;
    if value.is_undefined() {
        return Ok(value.clone());
    }
    let text = words("truncate", value)?;
    let end = match &end {
        Some(end) => words("truncate", end)?.to_owned(),
        None => "...".to_owned(),
    };
    let leeway = leeway.filter(|leeway| !matches!(leeway, Value::None));
    let (length, leeway) = (
        whole_or(length.as_ref(), 255)?,
        whole_or(leeway.as_ref(), 5)?,
    );
    let end_length = end.chars().count() as i64;
    if length < end_length || leeway < 0 {
        return fail(format!(
            "`truncate` takes a length of at least {end_length}"
        ));
    }
    if text.chars().count() as i64 <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let kept: String = text.chars().take((length - end_length) as usize).collect();
    let kept = if is_true(kill.as_ref()) {
        kept
    } else {
        let cut = kept.rsplit_once(' ');
        cut.map_or(kept.clone(), |(before, _)| before.to_owned())
    };
    like(value, kept + &end)
}

/// Lines no longer than a width, cut between words.
fn wordwrap(value: &Value, given: Given) -> Outcome<Value> {
    let names = [
        "width",
        "break_long_words",
        "wrapstring",
        "break_on_hyphens",
    ];
    let [width, break_long, mark, hyphens] = given.bind("wordwrap", names)?;
    if hyphens.is_some_and(|hyphens| !hyphens.is_true()) {
        return fail("preftune's `wordwrap` has no `break_on_hyphens=false`");
    }
    let width = whole_or(width.as_ref(), 79)?;
    if width <= 0 {
        return fail("invalid width (must be > 0)");
    }
    let width = width as usize;
    let break_long = break_long.is_none_or(|value| value.is_true());
    let mark = match &mark {
        None | Some(Value::None) => "\n".to_owned(),
        Some(mark) => words("wordwrap", mark)?.to_owned(),
    };
    let text = value.to_text()?;
    room(text.len().saturating_mul(1 + mark.len()))?;
    let mut all = Vec::new();
    for line in lines(&text, false) {
        let mut wrapped: Vec<String> = Vec::new();
        let mut current = String::new();
        let mut length = 0;
        for chunk in chunks(line) {
            let mut chunk: Vec<char> = chunk.chars().collect();
            let blank = chunk.iter().all(|letter| letter.is_whitespace());
            if blank && current.is_empty() && !wrapped.is_empty() {
                continue;
            }
            if length + chunk.len() > width && !current.is_empty() && chunk.len() <= width {
                wrapped.push(current.trim_end().to_owned());
                (current, length) = (String::new(), 0);
                if blank {
                    continue;
                }
            }
            while break_long && length + chunk.len() > width {
                let rest = chunk.split_off((width - length).min(chunk.len()));
                current.extend(&chunk);
                wrapped.push(current.trim_end().to_owned());
                (current, length) = (String::new(), 0);
                chunk = rest;
            }
            if length + chunk.len() > width && !current.is_empty() {
                wrapped.push(current.trim_end().to_owned());
                (current, length) = (String::new(), 0);
            }
            length += chunk.len();
            current.extend(chunk);
        }
        let rest = current.trim_end();
        if !rest.is_empty() {
            wrapped.push(rest.to_owned());
        }
        all.push(wrapped.join(&mark));
    }
    Value::text(all.join(&mark))
}

/// Words and the spaces between them; a word may be cut behind a hyphen.
fn chunks(line: &str) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    let mut before = None;
    let letters: Vec<char> = line.chars().collect();
    for (at, &letter) in letters.iter().enumerate() {
        let blank = letter.is_whitespace();
        let hyphen = before == Some('-')
            && at >= 2
            && letters[at - 2].is_alphabetic()
            && letter.is_alphabetic();
        let same = before.is_some_and(|before: char| before.is_whitespace() == blank) && !hyphen;
        match chunks.last_mut() {
            Some(chunk) if same => chunk.push(letter),
            _ => chunks.push(letter.to_string()),
        }
        before = Some(letter);
    }
    chunks
}

fn striptags(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('>') else {
            out.push_str(&rest[at..]);
            rest = "";
            break;
        };
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    let words: Vec<&str> = out.split_whitespace().collect();
    let mut text = words.join(" ");
    for (name, letter) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#34;", "\""),
        ("&quot;", "\""),
    ] {
        text = text.replace(name, letter);
    }
    text.replace("&#39;", "'").replace("&amp;", "&")
}

fn quoted(text: &str, in_query: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if !in_query => out.push('/'),
            b' ' if in_query => out.push('+'),
            _ => {
                use std::fmt::Write as _;
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn urlencode(value: &Value) -> Outcome<Value> {
    let pairs = match value {
        Value::Dict(dict) => Value::View("items", dict.clone()).iterate()?,
        Value::List(_) | Value::Tuple(_) | Value::View(..) => value.iterate()?,
        other => {
            let text = other.to_text()?;
            room(text.len() * 3)?;
            return Value::text(quoted(&text, false));
        }
    };
    let mut parts = Vec::new();
    for pair in pairs {
        let pair = pair.iterate()?;
        let [key, value] = &pair[..] else {
            return fail("`urlencode` takes pairs");
        };
        let (key, value) = (key.to_text()?, value.to_text()?);
        room((key.len() + value.len()) * 3)?;
        parts.push(quoted(&key, true) + "=" + &quoted(&value, true));
    }
    Value::text(parts.join("&"))
}

/// transformers' `tojson`: Python's form, and nothing escaped for HTML.
fn to_json(value: &Value, given: Given) -> Outcome<Value> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sorted] = given.bind("tojson", names)?;
    let indent = match &indent {
        None | Some(Value::None) => None,
        Some(Value::Text(text)) => Some(text.text.clone()),
        other => {
            let width = usize::try_from(whole_or(other.as_ref(), 0)?).unwrap_or(0);
            room(width)?;
            Some(" ".repeat(width))
        }
    };
    let separators = if is_nothing(separators.as_ref()) {
        let between = if indent.is_some() { "," } else { ", " };
        [between.to_owned(), ": ".to_owned()]
    } else {
        let given = needed("tojson", separators)?.iterate()?;
        let [item, key] = &given[..] else {
            return fail("`separators` are two texts");
        };
        [
            words("tojson", item)?.to_owned(),
            words("tojson", key)?.to_owned(),
        ]
    };
    let layout = Layout {
        indent,
        separators,
        ascii: is_true(ascii.as_ref()),
        sorted: is_true(sorted.as_ref()),
    };
    Value::text(json(value, &layout)?)
}

/// A float as Python reads it from text.
fn parsed_float(text: &str) -> Option<f64> {
    let text = stripped(text, None, Ends::Both);
    let digits = text.trim_start_matches(['-', '+']).to_ascii_lowercase();
    let named = ["inf", "infinity", "nan"].contains(&digits.as_str());
    let starts = digits.starts_with(|letter: char| letter.is_ascii_digit() || letter == '.');
    if !named && !starts {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn to_int(value: &Value, given: Given) -> Outcome<Value> {
    let [otherwise, base] = given.bind("int", ["default", "base"])?;
    let otherwise = otherwise.unwrap_or(Value::Int(0));
    let base = u32::try_from(whole_or(base.as_ref(), 10)?).unwrap_or(0);
    if base != 0 && !(2..=36).contains(&base) {
        return fail("int() base must be >= 2 and <= 36, or 0");
    }
    let cut = |number: f64| {
        let whole = number.is_finite() && number.abs() < 1e38;
        whole.then(|| Value::Int(number.trunc() as i128))
    };
    let found = match (value.defined()?, value.whole()) {
        (_, Some(number)) => Some(Value::Int(number)),
        (Value::Float(number), _) => cut(*number),
        (Value::Text(text), _) => {
            let digits = stripped(&text.text, None, Ends::Both).replace('_', "");
            let (sign, bare) = match digits.strip_prefix('-') {
                Some(bare) => ("-", bare),
                None => ("", digits.strip_prefix('+').unwrap_or(&digits)),
            };
            let lower = bare.to_ascii_lowercase();
            let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
            let found = prefixes
                .iter()
                .find(|(prefix, of)| lower.starts_with(prefix) && (base == *of || base == 0));
            let (bare, base) = match found {
                Some((prefix, of)) => (&lower[prefix.len()..], *of),
                None => (lower.as_str(), if base == 0 { 10 } else { base }),
            };
            let number = i128::from_str_radix(&format!("{sign}{bare}"), base).ok();
            match number {
                Some(number) => Some(Value::Int(number)),
                None => parsed_float(&text.text).and_then(cut),
            }
        }
        _ => None,
    };
    Ok(found.unwrap_or(otherwise))
}

fn to_float(value: &Value, given: Given) -> Outcome<Value> {
    let [otherwise] = given.bind("float", ["default"])?;
    let found = match value.defined()? {
        Value::Text(text) => parsed_float(&text.text),
        other => other.number(),
    };
    Ok(match found {
        Some(number) => Value::Float(number),
        None => otherwise.unwrap_or(Value::Float(0.0)),
    })
}

fn round(value: &Value, given: Given) -> Outcome<Value> {
    let [digits, method] = given.bind("round", ["precision", "method"])?;
    let digits = whole_or(digits.as_ref(), 0)?.clamp(-400, 400) as i32;
    let method = match &method {
        Some(method) => words("round", method)?.to_owned(),
        None => "common".to_owned(),
    };
    let Some(number) = value.defined()?.number() else {
        return fail(format!(
            "type {} doesn't define __round__ method",
            value.type_name()
        ));
    };
    match (method.as_str(), value.whole()) {
        ("common", Some(whole)) => {
            if digits >= 0 {
                return Ok(Value::Int(whole));
            }
            let Some(unit) = 10i128.checked_pow(digits.unsigned_abs()) else {
                return Ok(Value::Int(0));
            };
            let (down, rest) = (whole.div_euclid(unit), whole.rem_euclid(unit));
            // Halves go to the even side.
            let half = unit / 2;
            let up = rest > half || rest == half && down % 2 != 0;
            match (down + i128::from(up)).checked_mul(unit) {
                Some(number) => Ok(Value::Int(number)),
                None => too_large(),
            }
        }
        ("common", None) => Ok(Value::Float(if digits >= 0 {
            // The library rounds the exact value of the float, as Python does.
            let text = format!("{number:.*}", digits as usize);
            text.parse().unwrap_or(number)
        } else {
            let unit = 10f64.powi(-digits);
            (number / unit).round_ties_even() * unit
        })),
        ("ceil", _) => Ok(Value::Float(
            (number * 10f64.powi(digits)).ceil() / 10f64.powi(digits),
        )),
        ("floor", _) => Ok(Value::Float(
            (number * 10f64.powi(digits)).floor() / 10f64.powi(digits),
        )),
        _ => fail("method must be common, ceil or floor"),
    }
}

fn file_size(value: &Value, binary: bool) -> Outcome<Value> {
    let size = to_float(value, Given::default())?.number().unwrap_or(0.0);
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    let infix = if binary { "i" } else { "" };
    if (size - 1.0).abs() < f64::EPSILON {
        return Value::text("1 Byte");
    }
    if size < base {
        return Value::text(format!("{} Bytes", size.trunc()));
    }
    let letters = if binary { "KMGTPEZY" } else { "kMGTPEZY" };
    let mut unit = base;
    for (at, letter) in letters.chars().enumerate() {
        if size < unit * base || at + 1 == letters.len() {
            return Value::text(format!("{:.1} {letter}{infix}B", size / unit));
        }
        unit *= base;
    }
    Value::text("")
}
