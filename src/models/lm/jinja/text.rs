//! Values as text: Python's `str`, `repr` and `json.dumps`.

use std::fmt::Write as _;

use super::meter::{fits, room, spend};
use super::value::{Pairs, Value};
use super::{Outcome, fail};

/// Deepest nesting of a value that is written.
const MOST_DEPTH: u32 = 1000;

/// `true` if Python counts the letter as space.
pub(super) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

/// Python's `str`.
pub(super) fn str_of(value: &Value) -> Outcome<String> {
    Ok(match value {
        Value::Undefined(_) => String::new(),
        Value::Text(text) => {
            room(text.text.len())?;
            text.text.clone()
        }
        other => repr(other)?,
    })
}

/// Python's `repr`.
pub(super) fn repr(value: &Value) -> Outcome<String> {
    let mut out = String::new();
    write_repr(value, &mut out, 0)?;
    Ok(out)
}

fn grown(out: &str, depth: u32) -> Outcome<()> {
    spend(1)?;
    fits(out.len())?;
    if depth > MOST_DEPTH {
        return fail("writes out a value that holds itself, or is nested too deeply");
    }
    Ok(())
}

fn write_all<'v>(
    values: impl Iterator<Item = &'v Value>,
    out: &mut String,
    depth: u32,
) -> Outcome<()> {
    for (at, value) in values.enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        write_repr(value, out, depth)?;
    }
    Ok(())
}

fn write_pairs(pairs: &Pairs, out: &mut String, depth: u32) -> Outcome<()> {
    out.push('{');
    for (at, (key, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        write_repr(key, out, depth)?;
        out.push_str(": ");
        write_repr(value, out, depth)?;
    }
    out.push('}');
    Ok(())
}

fn write_repr(value: &Value, out: &mut String, depth: u32) -> Outcome<()> {
    grown(out, depth)?;
    let depth = depth + 1;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
        Value::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Float(number) => out.push_str(&float(*number)),
        Value::Text(text) if text.safe => {
            out.push_str("Markup(");
            quote(&text.text, out)?;
            out.push(')');
        }
        Value::Text(text) => quote(&text.text, out)?,
        Value::List(items) => {
            out.push('[');
            write_all(items.values.iter(), out, depth)?;
            out.push(']');
        }
        Value::Tuple(items) => {
            out.push('(');
            write_all(items.values.iter(), out, depth)?;
            out.push_str(if items.values.len() == 1 { ",)" } else { ")" });
        }
        Value::Dict(dict) => write_pairs(&dict.pairs, out, depth)?,
        Value::Namespace(namespace) => {
            out.push_str("<Namespace ");
            write_pairs(&namespace.pairs(), out, depth)?;
            out.push('>');
        }
        Value::Range([start, stop, step]) => {
            let _ = match step {
                1 => write!(out, "range({start}, {stop})"),
                _ => write!(out, "range({start}, {stop}, {step})"),
            };
        }
        Value::View(kind, _) => {
            let _ = write!(out, "dict_{kind}([");
            write_all(value.iterate()?.iter(), out, depth)?;
            out.push_str("])");
        }
        Value::Loop(one) => out.push_str(&one.describe()),
        Value::Macro(one) => {
            out.push_str("<Macro ");
            quote(one.name(), out)?;
            out.push('>');
        }
        other => {
            let _ = write!(out, "<{}>", other.type_name());
        }
    }
    Ok(())
}

/// `true` if Python's `repr` writes a letter as it is.
fn is_printable(letter: char) -> bool {
    // After another letter, marks that combine are written as they are; the library knows the same classes as Python.
    letter == '"' || letter == '\'' || !format!("{:?}", format!("a{letter}")).contains('\\')
}

fn quote(text: &str, out: &mut String) -> Outcome<()> {
    room(text.len())?;
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if letter == quote => out.extend(['\\', letter]),
            ' '..='~' => out.push(letter),
            _ if is_printable(letter) => out.push(letter),
            _ => {
                let code = letter as u32;
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
    Ok(())
}

/// A float as Python writes it: the shortest digits that give it back.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let text = format!("{number}");
        return if text.contains('.') {
            text
        } else {
            text + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// How JSON is laid out.
pub(super) struct Layout {
    /// Before a value, once for each level; `None` writes one line.
    pub(super) indent: Option<String>,
    /// Between values, and between a key and its value.
    pub(super) separators: [String; 2],
    pub(super) ascii: bool,
    pub(super) sorted: bool,
}

/// Python's `json.dumps`.
pub(super) fn json(value: &Value, layout: &Layout) -> Outcome<String> {
    let mut out = String::new();
    write_json(value, layout, &mut out, 0)?;
    Ok(out)
}

fn new_line(layout: &Layout, out: &mut String, depth: u32) -> Outcome<()> {
    if let Some(indent) = &layout.indent {
        let spaces = indent.len().saturating_mul(depth as usize);
        room(spaces)?;
        fits(out.len().saturating_add(spaces))?;
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
    Ok(())
}

fn write_json(value: &Value, layout: &Layout, out: &mut String, depth: u32) -> Outcome<()> {
    grown(out, depth)?;
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Float(number) => out.push_str(&json_float(*number)),
        Value::Text(text) => json_text(&text.text, layout.ascii, out)?,
        Value::List(items) | Value::Tuple(items) => {
            if items.values.is_empty() {
                out.push_str("[]");
                return Ok(());
            }
            out.push('[');
            for (at, value) in items.values.iter().enumerate() {
                if at > 0 {
                    out.push_str(&layout.separators[0]);
                }
                new_line(layout, out, depth + 1)?;
                write_json(value, layout, out, depth + 1)?;
            }
            new_line(layout, out, depth)?;
            out.push(']');
        }
        Value::Dict(dict) => write_object(&dict.pairs, layout, out, depth)?,
        other => {
            let kind = other.type_name();
            return fail(format!("Object of type {kind} is not JSON serializable"));
        }
    }
    Ok(())
}

fn write_object(pairs: &Pairs, layout: &Layout, out: &mut String, depth: u32) -> Outcome<()> {
    if pairs.len() == 0 {
        out.push_str("{}");
        return Ok(());
    }
    let pairs = pairs.iter();
    let pairs = if layout.sorted {
        let pairs = pairs.map(|(key, value)| {
            let pair = Value::tuple(vec![key.clone(), value.clone()])?;
            Ok((key.clone(), pair))
        });
        super::compare::sort_by_key(pairs.collect::<Outcome<_>>()?, false)?
    } else {
        let pairs = pairs.map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()]));
        pairs.collect::<Outcome<_>>()?
    };
    out.push('{');
    for (at, pair) in pairs.iter().enumerate() {
        let Value::Tuple(pair) = pair else { continue };
        let [key, value] = &pair.values[..] else {
            continue;
        };
        if at > 0 {
            out.push_str(&layout.separators[0]);
        }
        new_line(layout, out, depth + 1)?;
        let key = match key {
            Value::Text(text) => text.text.clone(),
            Value::Float(number) => json_float(*number),
            Value::None => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Int(number) => number.to_string(),
            other => {
                let kind = other.type_name();
                return fail(format!(
                    "keys must be str, int, float, bool or None, not {kind}"
                ));
            }
        };
        json_text(&key, layout.ascii, out)?;
        out.push_str(&layout.separators[1]);
        write_json(value, layout, out, depth + 1)?;
    }
    new_line(layout, out, depth)?;
    out.push('}');
    Ok(())
}

fn json_float(number: f64) -> String {
    match number {
        _ if number.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => float(number),
    }
}

fn json_text(text: &str, ascii: bool, out: &mut String) -> Outcome<()> {
    room(text.len())?;
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", letter as u32);
            }
            ' '..='~' => out.push(letter),
            _ if !ascii => out.push(letter),
            _ => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
    Ok(())
}

/// The text with the characters escaped that HTML would read as its own.
pub(super) fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            _ => out.push(letter),
        }
    }
    out
}
