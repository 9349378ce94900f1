//! Methods of Python's texts.

use super::arguments::{Given, is_true, needed, whole_or, words};
use super::meter::{fits, room, spend};
use super::operators::place;
use super::text::is_space;
use super::value::Value;
use super::{Outcome, fail};

/// The part of a text that `start` and `stop` name, and the place of its first character.
fn part<'t>(
    text: &'t str,
    start: Option<&Value>,
    stop: Option<&Value>,
) -> Outcome<(&'t str, usize)> {
    let given =
        |value: Option<&Value>| value.filter(|value| !matches!(value, Value::None)).cloned();
    let (start, stop) = (given(start), given(stop));
    if start.is_none() && stop.is_none() {
        return Ok((text, 0));
    }
    let length = text.chars().count();
    let bound = |value: Option<Value>, otherwise: usize| {
        let at = whole_or(value.as_ref(), otherwise as i64)?;
        Ok(if at < 0 {
            place(i128::from(at), length).unwrap_or(0)
        } else {
            (at as usize).min(length)
        })
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, length)?);
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(at, _)| at);
    let stop = stop.max(start);
    Ok((&text[byte(start)..byte(stop)], start))
}

/// Which ends of a text a method looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Left,
    Right,
    Both,
}

/// Python's `strip` and its like.
pub(super) fn stripped<'t>(text: &'t str, chars: Option<&str>, ends: Ends) -> &'t str {
    let gone = |letter: char| match chars {
        Some(chars) => chars.contains(letter),
        None => is_space(letter),
    };
    let text = if ends == Ends::Right {
        text
    } else {
        text.trim_start_matches(gone)
    };
    if ends == Ends::Left {
        text
    } else {
        text.trim_end_matches(gone)
    }
}

/// Python's `splitlines`, with the ends of the lines or without.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    let is_end = |letter: char| {
        matches!(
            letter,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    while let Some(at) = rest.find(is_end) {
        let letter = rest[at..].chars().next().map_or(1, char::len_utf8);
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + letter
        };
        lines.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Python's `capitalize`.
pub(super) fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().collect::<String>() + &letters.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// Python's `replace`, at most so many times.
pub(super) fn replaced(text: &str, old: &str, new: &str, count: i64) -> Outcome<String> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let found = text.matches(old).take(most).count();
    room(text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, most))
}

/// Python's `split` and `rsplit`.
fn split(text: &str, mark: Option<&str>, most: i64, from_right: bool) -> Outcome<Vec<String>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    let mut parts: Vec<&str> = match (mark, from_right) {
        (Some(""), _) => return fail("empty separator"),
        (Some(mark), false) => text.splitn(most + 1, mark).collect(),
        (Some(mark), true) => {
            let mut parts: Vec<&str> = text.rsplitn(most + 1, mark).collect();
            parts.reverse();
            parts
        }
        (None, _) => {
            let mut parts = Vec::new();
            let mut rest = stripped(text, None, Ends::Both);
            while !rest.is_empty() {
                if parts.len() == most {
                    parts.push(rest);
                    break;
                }
                if from_right {
                    let at = rest.rfind(is_space);
                    let start = at.map_or(0, |at| {
                        at + rest[at..].chars().next().map_or(1, char::len_utf8)
                    });
                    parts.push(&rest[start..]);
                    rest = stripped(&rest[..start], None, Ends::Right);
                } else {
                    let end = rest.find(is_space).unwrap_or(rest.len());
                    parts.push(&rest[..end]);
                    rest = stripped(&rest[end..], None, Ends::Left);
                }
            }
            if from_right {
                parts.reverse();
            }
            parts
        }
    };
    // What is left where no more splits are allowed keeps the spaces of its other end.
    if mark.is_none() && most > 0 && parts.len() == most + 1 {
        if from_right {
            let kept = text.trim_end_matches(is_space);
            let first = parts[0];
            let at = kept.find(first).unwrap_or(0);
            parts[0] = &kept[..at + first.len()];
        } else if let Some(last) = parts.last_mut() {
            let at = text.len() - text.trim_start_matches(is_space).len();
            let from = at + text[at..].rfind(&**last).unwrap_or(0);
            *last = &text[from..];
        }
    }
    spend(parts.len())?;
    Ok(parts.into_iter().map(str::to_owned).collect())
}

fn all_of(text: &str, test: impl Fn(char) -> bool) -> Value {
    Value::Bool(!text.is_empty() && text.chars().all(test))
}

/// `true` if all letters that have a case have this one, and there are some.
pub(super) fn has_case(text: &str, upper: bool) -> bool {
    let mut some = false;
    for letter in text.chars() {
        if letter.is_uppercase() || letter.is_lowercase() {
            if letter.is_uppercase() != upper {
                return false;
            }
            some = true;
        }
    }
    some
}

fn titled(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for letter in text.chars() {
        let cased = letter.is_alphabetic();
        if cased && inside {
            out.extend(letter.to_lowercase());
        } else {
            out.extend(letter.to_uppercase());
        }
        inside = cased;
    }
    out
}

fn swapped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if letter.is_uppercase() {
            out.extend(letter.to_lowercase());
        } else {
            out.extend(letter.to_uppercase());
        }
    }
    out
}

/// A text in a field of a width, the rest filled on a side.
pub(super) fn filled(text: &str, width: i64, fill: char, ends: Ends) -> Outcome<String> {
    let length = text.chars().count();
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(length);
    room(text.len().saturating_add(missing.saturating_mul(4)))?;
    let left = match ends {
        Ends::Left => missing,
        Ends::Right => 0,
        // As CPython rounds.
        Ends::Both => missing / 2 + (missing & width as usize & 1),
    };
    let spaces = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    Ok(spaces(left) + text + &spaces(missing - left))
}

fn joined(mark: &str, values: &Value) -> Outcome<Value> {
    let values = values.iterate()?;
    let mut out = String::new();
    for (at, value) in values.iter().enumerate() {
        let text = words("join", value)?;
        room(mark.len() + text.len())?;
        fits(out.len() + mark.len() + text.len())?;
        if at > 0 {
            out.push_str(mark);
        }
        out.push_str(text);
    }
    Value::text(out)
}

fn texts(parts: impl IntoIterator<Item = String>) -> Outcome<Vec<Value>> {
    parts.into_iter().map(Value::text).collect()
}

/// The result of a method of a text.
#[expect(clippy::too_many_lines, reason = "one arm for each method")]
pub(super) fn of_text(text: &str, name: &str, given: Given) -> Outcome<Value> {
    let number = |found: Option<usize>| Value::Int(found.map_or(-1, |at| at as i128));
    match name {
        "capitalize" => Value::text(capitalized(text)),
        "casefold" | "lower" => Value::text(text.to_lowercase()),
        "upper" => Value::text(text.to_uppercase()),
        "title" => Value::text(titled(text)),
        "swapcase" => Value::text(swapped(text)),
        "isalnum" => Ok(all_of(text, char::is_alphanumeric)),
        "isalpha" => Ok(all_of(text, char::is_alphabetic)),
        "isascii" => Ok(Value::Bool(text.is_ascii())),
        "isdecimal" | "isdigit" | "isnumeric" => Ok(all_of(text, char::is_numeric)),
        "isspace" => Ok(all_of(text, is_space)),
        "islower" => Ok(Value::Bool(has_case(text, false))),
        "isupper" => Ok(Value::Bool(has_case(text, true))),
        "istitle" => Ok(Value::Bool(!text.is_empty() && titled(text) == text)),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = given.bind(name, ["chars"])?;
            let chars = chars.filter(|chars| !matches!(chars, Value::None));
            let chars = chars.as_ref().map(|chars| words(name, chars)).transpose()?;
            let ends = match name {
                "lstrip" => Ends::Left,
                "rstrip" => Ends::Right,
                _ => Ends::Both,
            };
            Value::text(stripped(text, chars, ends))
        }
        "split" | "rsplit" => {
            let [mark, most] = given.bind(name, ["sep", "maxsplit"])?;
            let mark = mark.filter(|mark| !matches!(mark, Value::None));
            let mark = mark.as_ref().map(|mark| words(name, mark)).transpose()?;
            let most = whole_or(most.as_ref(), -1)?;
            Value::list(texts(split(text, mark, most, name == "rsplit")?)?)
        }
        "splitlines" => {
            let [keep] = given.bind(name, ["keepends"])?;
            let lines = lines(text, is_true(keep.as_ref()));
            Value::list(texts(lines.into_iter().map(str::to_owned))?)
        }
        "partition" | "rpartition" => {
            let [mark] = given.bind(name, ["sep"])?;
            let mark = needed(name, mark)?;
            let mark = words(name, &mark)?;
            let from_right = name == "rpartition";
            let found = if from_right {
                text.rsplit_once(mark)
            } else {
                text.split_once(mark)
            };
            let parts = match found {
                Some((before, after)) => [before, mark, after],
                None if from_right => ["", "", text],
                None => [text, "", ""],
            };
            Value::tuple(texts(parts.map(str::to_owned))?)
        }
        "join" => {
            let [values] = given.bind(name, ["iterable"])?;
            joined(text, &needed(name, values)?)
        }
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let (old, new) = (needed(name, old)?, needed(name, new)?);
            let count = whole_or(count.as_ref(), -1)?;
            Value::text(replaced(
                text,
                words(name, &old)?,
                words(name, &new)?,
                count,
            )?)
        }
        "removeprefix" | "removesuffix" => {
            let [gone] = given.bind(name, ["fix"])?;
            let gone = needed(name, gone)?;
            let gone = words(name, &gone)?;
            let rest = if name == "removeprefix" {
                text.strip_prefix(gone)
            } else {
                text.strip_suffix(gone)
            };
            Value::text(rest.unwrap_or(text))
        }
        "startswith" | "endswith" => {
            let [looked_for, start, stop] = given.bind(name, ["fix", "start", "end"])?;
            let (text, _) = part(text, start.as_ref(), stop.as_ref())?;
            let looked_for = needed(name, looked_for)?;
            let several = match &looked_for {
                Value::Tuple(items) => items.values.clone(),
                one => vec![one.clone()],
            };
            for one in &several {
                let one = words(name, one)?;
                if (name == "startswith" && text.starts_with(one))
                    || (name == "endswith" && text.ends_with(one))
                {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "count" | "find" | "rfind" | "index" | "rindex" => {
            let [looked_for, start, stop] = given.bind(name, ["sub", "start", "end"])?;
            let (text, first) = part(text, start.as_ref(), stop.as_ref())?;
            let looked_for = needed(name, looked_for)?;
            let looked_for = words(name, &looked_for)?;
            if name == "count" {
                return Ok(Value::Int(text.matches(looked_for).count() as i128));
            }
            let found = if name.starts_with('r') {
                text.rfind(looked_for)
            } else {
                text.find(looked_for)
            };
            let found = found.map(|at| first + text[..at].chars().count());
            if found.is_none() && name.ends_with("index") {
                return fail("substring not found");
            }
            Ok(number(found))
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let [width, fill] = given.bind(name, ["width", "fillchar"])?;
            let width = whole_or(Some(&needed(name, width)?), 0)?;
            let fill = match &fill {
                Some(fill) => words(name, fill)?.chars().next().unwrap_or(' '),
                None => ' ',
            };
            let sign = usize::from(name == "zfill" && text.starts_with(['-', '+']));
            let (sign, digits) = text.split_at(sign);
            Value::text(match name {
                "ljust" => filled(text, width, fill, Ends::Right)?,
                "rjust" => filled(text, width, fill, Ends::Left)?,
                "center" => filled(text, width, fill, Ends::Both)?,
                _ => {
                    let width = width.saturating_sub(sign.len() as i64);
                    sign.to_owned() + &filled(digits, width, '0', Ends::Left)?
                }
            })
        }
        "expandtabs" => {
            let [size] = given.bind(name, ["tabsize"])?;
            let size = whole_or(size.as_ref(), 8)?.clamp(0, 1000) as usize;
            let mut out = String::new();
            let mut column = 0;
            for letter in text.chars() {
                if letter == '\t' && size > 0 {
                    let spaces = size - column % size;
                    room(spaces)?;
                    out.extend(std::iter::repeat_n(' ', spaces));
                    column += spaces;
                } else if letter != '\t' {
                    out.push(letter);
                    column = if letter == '\n' || letter == '\r' {
                        0
                    } else {
                        column + 1
                    };
                }
            }
            Value::text(out)
        }
        other => fail(format!("'str' has no method '{other}'")),
    }
}
