//! Python's two ways of formatting: `'%s' % value` and `'{}'.format(value)`.

use super::meter::room;
use super::text::{float, repr};
use super::value::{Text, Value};
use super::{Outcome, fail};

/// Widest field and most digits. Python has no limit; nobody writes a wider field in words.
const MOST: usize = 100_000;

/// The format that a field asks for.
#[derive(Clone, Default)]
struct Spec {
    fill: Option<char>,
    /// `<`, `>`, `=` or `^`.
    align: Option<char>,
    /// `+` or a space, where a number that is not negative shall have it.
    sign: Option<char>,
    alternate: bool,
    width: usize,
    /// `,` or `_` between groups of digits.
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    /// A text in a field of the width.
    fn padded(&self, text: &str, default_align: char) -> Outcome<String> {
        let length = text.chars().count();
        let missing = self.width.saturating_sub(length);
        room(text.len() + missing * 4)?;
        let fill = self.fill.unwrap_or(' ');
        let spaces = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
        Ok(match self.align.unwrap_or(default_align) {
            '<' => text.to_owned() + &spaces(missing),
            '^' => spaces(missing / 2) + text + &spaces(missing - missing / 2),
            '=' => {
                let signed = text.starts_with(['-', '+', ' ']);
                let (sign, digits) = text.split_at(usize::from(signed));
                let (prefix, digits) = match digits.get(..2) {
                    Some("0x" | "0X" | "0o" | "0b") => digits.split_at(2),
                    _ => ("", digits),
                };
                format!("{sign}{prefix}{}{digits}", spaces(missing))
            }
            _ => spaces(missing) + text,
        })
    }

    fn signed(&self, negative: bool, digits: &str) -> String {
        match (negative, self.sign) {
            (true, _) => format!("-{digits}"),
            (false, Some(sign)) => format!("{sign}{digits}"),
            (false, None) => digits.to_owned(),
        }
    }

    fn grouped(&self, digits: &str, size: usize) -> String {
        let Some(mark) = self.grouping else {
            return digits.to_owned();
        };
        let end = digits.find(|c: char| !c.is_ascii_alphanumeric());
        let (whole, rest) = digits.split_at(end.unwrap_or(digits.len()));
        let mut out = String::new();
        for (at, digit) in whole.chars().enumerate() {
            if at > 0 && (whole.len() - at).is_multiple_of(size) {
                out.push(mark);
            }
            out.push(digit);
        }
        out + rest
    }

    fn whole(&self, number: i128) -> Outcome<String> {
        let size = number.unsigned_abs();
        let (digits, prefix, group) = match self.kind {
            None | Some('d' | 'i' | 'u' | 'n') => (size.to_string(), "", 3),
            Some('x') => (format!("{size:x}"), "0x", 4),
            Some('X') => (format!("{size:X}"), "0X", 4),
            Some('o') => (format!("{size:o}"), "0o", 4),
            Some('b') => (format!("{size:b}"), "0b", 4),
            Some('c') => {
                let letter = u32::try_from(size).ok().and_then(char::from_u32);
                return match letter {
                    Some(letter) => Ok(letter.to_string()),
                    None => fail("%c arg not in range(0x110000)"),
                };
            }
            _ => return self.real(number as f64),
        };
        let digits = self.grouped(&digits, group);
        let prefix = if self.alternate { prefix } else { "" };
        Ok(self.signed(number < 0, &format!("{prefix}{digits}")))
    }

    fn real(&self, number: f64) -> Outcome<String> {
        let precision = self.precision.unwrap_or(6);
        let size = number.abs();
        let kind = self.kind.unwrap_or('r');
        let digits = if size.is_finite() {
            match kind {
                'f' | 'F' => format!("{size:.precision$}"),
                '%' => format!("{:.precision$}%", size * 100.0),
                'e' | 'E' => exponential(size, precision),
                'g' | 'G' | 'n' => general(size, precision.max(1), self.alternate),
                'r' => match self.precision {
                    Some(precision) => {
                        let text = general(size, precision.max(1), false);
                        let plain = text.contains(['.', 'e']);
                        if plain { text } else { text + ".0" }
                    }
                    None => float(size),
                },
                other => return fail(format!("Unknown format code '{other}' for a number")),
            }
        } else {
            float(size)
        };
        let digits = if kind.is_ascii_uppercase() {
            digits.to_uppercase()
        } else {
            digits
        };
        let negative = number.is_sign_negative() && !number.is_nan();
        Ok(self.signed(negative, &self.grouped(&digits, 3)))
    }
}

fn exponential(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn general(number: f64, precision: usize, keeps_zeros: bool) -> String {
    let text = exponential(number, precision - 1);
    let exponent: i32 = text
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok())
        .unwrap_or(0);
    let trimmed = |text: &str| {
        if keeps_zeros || !text.contains('.') {
            return text.to_owned();
        }
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if exponent < -4 || exponent >= precision as i32 {
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", trimmed(digits));
    }
    let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
    trimmed(&format!("{number:.decimals$}"))
}

fn number_in(letters: &mut std::iter::Peekable<std::str::Chars>) -> Outcome<Option<usize>> {
    let mut number = None;
    while let Some(digit) = letters.peek().and_then(|letter| letter.to_digit(10)) {
        letters.next();
        let value = number.unwrap_or(0usize) * 10 + digit as usize;
        if value > MOST {
            return fail(format!("a field is wider than {MOST} characters"));
        }
        number = Some(value);
    }
    Ok(number)
}

fn cut(text: String, precision: Option<usize>) -> String {
    match precision {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    }
}

/// `pattern % value`.
pub(super) fn percent(pattern: &str, value: &Value) -> Outcome<String> {
    let (given, named) = match value {
        Value::Tuple(items) => (items.values.clone(), None),
        Value::Dict(dict) => (vec![value.clone()], Some(dict)),
        other => (vec![other.clone()], None),
    };
    let mut given = given.into_iter();
    let mut used_names = false;
    let mut out = String::new();
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        room(out.len() / 64)?;
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut by_name = None;
        if letters.next_if_eq(&'(').is_some() {
            let mut depth = 1;
            let mut name = String::new();
            for letter in letters.by_ref() {
                depth += i32::from(letter == '(') - i32::from(letter == ')');
                if depth == 0 {
                    break;
                }
                name.push(letter);
            }
            let Some(dict) = named else {
                return fail("format requires a mapping");
            };
            let Some(value) = dict.pairs.get(&name) else {
                return fail(format!("there is no `{name}` to format"));
            };
            used_names = true;
            by_name = Some(value.clone());
        }
        let mut spec = Spec::default();
        while let Some(flag) = letters.next_if(|letter| "-+ #0".contains(*letter)) {
            match flag {
                '-' => spec.align = Some('<'),
                '0' if spec.align.is_none() => {
                    (spec.fill, spec.align) = (Some('0'), Some('='));
                }
                '0' => {}
                '#' => spec.alternate = true,
                '+' => spec.sign = Some('+'),
                _ => spec.sign = spec.sign.or(Some(' ')),
            }
        }
        if spec.align == Some('<') {
            spec.fill = None;
        }
        let mut next = || match given.next() {
            Some(value) => Ok(value),
            None => fail("not enough arguments for format string"),
        };
        let size = |value: Value| match value.whole() {
            Some(number) if number.unsigned_abs() <= MOST as u128 => Ok(number as i64),
            Some(_) => fail(format!("a field is wider than {MOST} characters")),
            None => fail("* wants int"),
        };
        if letters.next_if_eq(&'*').is_some() {
            let width = size(next()?)?;
            if width < 0 {
                spec.align = Some('<');
            }
            spec.width = width.unsigned_abs() as usize;
        } else {
            spec.width = number_in(&mut letters)?.unwrap_or(0);
        }
        if letters.next_if_eq(&'.').is_some() {
            spec.precision = Some(if letters.next_if_eq(&'*').is_some() {
                size(next()?)?.max(0) as usize
            } else {
                number_in(&mut letters)?.unwrap_or(0)
            });
        }
        while letters.next_if(|letter| "hlL".contains(*letter)).is_some() {}
        let Some(kind) = letters.next() else {
            return fail("incomplete format");
        };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match by_name {
            Some(value) => value,
            None => next()?,
        };
        spec.kind = Some(kind);
        out.push_str(&percent_field(&spec, kind, &value)?);
    }
    let left = given.next().is_some();
    if left && !used_names && named.is_none() {
        return fail("not all arguments converted during string formatting");
    }
    Ok(out)
}

fn percent_field(spec: &Spec, kind: char, value: &Value) -> Outcome<String> {
    let as_text = |text: String| {
        let mut spec = spec.clone();
        if spec.fill == Some('0') {
            (spec.fill, spec.align) = (None, None);
        }
        spec.padded(&cut(text, spec.precision), '>')
    };
    match kind {
        's' => as_text(value.to_text()?),
        'r' | 'a' => as_text(repr(value)?),
        'c' => match value.as_text() {
            Some(text) if text.chars().count() == 1 => as_text(text.to_owned()),
            _ => match value.whole() {
                Some(number) => as_text(spec.whole(number)?),
                None => fail("%c requires int or char"),
            },
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let number = match value {
                Value::Float(number) if "diu".contains(kind) => Some(number.trunc() as i128),
                other => other.whole(),
            };
            match number {
                Some(number) => {
                    let mut digits = spec.whole(number)?;
                    if let Some(least) = spec.precision {
                        let inner = Spec {
                            fill: Some('0'),
                            align: Some('='),
                            width: least + usize::from(digits.starts_with(['-', '+', ' '])),
                            ..Spec::default()
                        };
                        digits = inner.padded(&digits, '=')?;
                    }
                    spec.padded(&digits, '>')
                }
                None => fail(format!(
                    "%{kind} format: a real number is required, not {}",
                    value.defined()?.type_name()
                )),
            }
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.number() {
            Some(number) => spec.padded(&spec.real(number)?, '>'),
            None => fail(format!(
                "must be real number, not {}",
                value.defined()?.type_name()
            )),
        },
        other => fail(format!("unsupported format character '{other}'")),
    }
}

/// The values that a pattern's fields are filled from.
pub(super) trait Fields {
    /// The value of a field like `0`, `name`, `a.b` or `a[0]`; without a name the next one.
    fn field(&mut self, name: &str) -> Outcome<Value>;
}

/// `pattern.format(...)`.
pub(super) fn braces(pattern: &str, fields: &mut dyn Fields, nested: usize) -> Outcome<String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        room(out.len() / 64)?;
        let found = &rest[at..];
        if found.starts_with("{{") || found.starts_with("}}") {
            out.push_str(&found[..1]);
            rest = &found[2..];
            continue;
        }
        if found.starts_with('}') {
            return fail("Single '}' encountered in format string");
        }
        let mut depth = 0;
        let end = found.char_indices().find(|&(_, letter)| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            depth == 0
        });
        let Some((end, _)) = end else {
            return fail("Single '{' encountered in format string");
        };
        let inside = &found[1..end];
        rest = &found[end + 1..];
        let bracket = inside.find(']').map_or(0, |at| at + 1);
        let mark = inside[bracket..].find(['!', ':']);
        let (name, form) = inside.split_at(mark.map_or(inside.len(), |at| at + bracket));
        let mut value = fields.field(name)?;
        let mut form = form;
        if let Some(conversion) = form.strip_prefix('!') {
            value = match conversion.chars().next() {
                Some('s') => Value::text(value.to_text()?)?,
                Some('r' | 'a') => Value::text(repr(&value)?)?,
                _ => return fail("Unknown conversion specifier"),
            };
            form = &conversion[1..];
        }
        let form = form.strip_prefix(':').unwrap_or("");
        let form = if form.contains('{') && nested < 2 {
            braces(form, fields, nested + 1)?
        } else {
            form.to_owned()
        };
        out.push_str(&formatted(&value, &form)?);
    }
    out.push_str(rest);
    Ok(out)
}

/// Python's `format(value, form)`.
fn formatted(value: &Value, form: &str) -> Outcome<String> {
    if form.is_empty() {
        return value.to_text();
    }
    let mut spec = Spec::default();
    let mut letters = form.chars().peekable();
    let starts: Vec<char> = form.chars().take(2).collect();
    let is_align = |letter: Option<&char>| letter.is_some_and(|letter| "<>=^".contains(*letter));
    if is_align(starts.get(1)) {
        (spec.fill, spec.align) = (letters.next(), letters.next());
    } else if is_align(starts.first()) {
        spec.align = letters.next();
    }
    if let Some(sign) = letters.next_if(|letter| "+- ".contains(*letter)) {
        spec.sign = Some(sign).filter(|sign| *sign != '-');
    }
    letters.next_if_eq(&'z');
    spec.alternate = letters.next_if_eq(&'#').is_some();
    let is_number = value.number().is_some();
    if letters.next_if_eq(&'0').is_some() {
        spec.fill = spec.fill.or(Some('0'));
        spec.align = spec.align.or(is_number.then_some('='));
    }
    spec.width = number_in(&mut letters)?.unwrap_or(0);
    spec.grouping = letters.next_if(|letter| ",_".contains(*letter));
    if letters.next_if_eq(&'.').is_some() {
        spec.precision = number_in(&mut letters)?;
    }
    spec.kind = letters.next();
    if letters.next().is_some() {
        return fail("Invalid format specifier");
    }
    let is_bool = matches!(value, Value::Bool(_));
    match (value, value.whole()) {
        (_, Some(number)) if !(is_bool && spec.kind.is_none() && spec.width == 0) => {
            spec.padded(&spec.whole(number)?, '>')
        }
        (Value::Float(number), _) => spec.padded(&spec.real(*number)?, '>'),
        (Value::Text(text), _) if matches!(spec.kind, None | Some('s')) => {
            let Text { text, .. } = &**text;
            spec.padded(&cut(text.clone(), spec.precision), '<')
        }
        (Value::Bool(_), _) => value.to_text(),
        (Value::Text(_), _) => fail("Unknown format code for object of type 'str'"),
        (other, _) => fail(format!(
            "unsupported format string passed to {}.__format__",
            other.defined()?.type_name()
        )),
    }
}
