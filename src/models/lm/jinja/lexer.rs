//! A template cut into tokens, as Jinja2 cuts it with `trim_blocks` and `lstrip_blocks`.

use super::text::is_space;
use super::{Outcome, Problem};

/// A token with its line.
pub(super) struct Token {
    pub(super) line: u32,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Data(String),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// The longer ones first.
const OPERATORS: [&str; 27] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";", "!",
];

/// Cuts a template.
///
/// # Errors
/// Something in a tag is no token; a comment or a raw block does not end.
pub(super) fn tokenize(source: &str) -> Outcome<Vec<Token>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer {
        source,
        at: 0,
        line: 1,
        line_starts: true,
        tokens: Vec::new(),
    };
    while lexer.at < source.len() {
        lexer.root()?;
    }
    lexer.push(Kind::End);
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    /// `true` if what was read last ends with a line's end.
    line_starts: bool,
    tokens: Vec<Token>,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: Kind) {
        let line = self.line;
        self.tokens.push(Token { line, kind });
    }

    fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            line: Some(self.line),
            message: message.into(),
        }
    }

    /// Goes on to a place, counting lines.
    fn go(&mut self, to: usize) {
        self.line += self.source[self.at..to].matches('\n').count() as u32;
        self.at = to;
    }

    fn data(&mut self, text: &str, to: usize) {
        if !text.is_empty() {
            self.push(Kind::Data(text.to_owned()));
        }
        self.go(to);
    }

    /// The text before a tag, without what the tag's sign, or the tag alone in its line, takes away.
    fn before_tag<'t>(&self, text: &'t str, sign: Option<char>, is_print: bool) -> &'t str {
        if sign == Some('-') {
            return text.trim_end_matches(is_space);
        }
        if sign == Some('+') || is_print {
            return text;
        }
        let start = text.rfind('\n').map_or(0, |at| at + 1);
        let alone = (start > 0 || self.line_starts) && text[start..].chars().all(is_space);
        if alone { &text[..start] } else { text }
    }

    /// Text up to the next tag, and the tag.
    fn root(&mut self) -> Outcome<()> {
        let rest = self.rest();
        let opens = rest.match_indices('{').find_map(|(at, _)| {
            let kind = rest[at + 1..].chars().next()?;
            "%{#".contains(kind).then_some((at, kind))
        });
        let Some((found, kind)) = opens else {
            self.data(rest, self.source.len());
            return Ok(());
        };
        let text = &rest[..found];
        let inside = &rest[found + 2..];
        let sign = inside.chars().next().filter(|sign| "+-".contains(*sign));
        let is_print = kind == '{';
        let text = self.before_tag(text, sign, is_print);
        let begin = self.at + found;
        let after = begin + 2 + usize::from(sign.is_some());
        if kind == '#' {
            self.data(text, begin);
            return self.comment(after);
        }
        if is_print {
            self.data(text, begin);
            self.push(Kind::PrintBegin);
            self.go(after);
            return self.tag(true);
        }
        if let Some(end) = raw_begin(&self.source[after..]) {
            self.data(text, begin);
            self.go(after + end);
            self.line_starts = self.source[..self.at].ends_with('\n');
            return self.raw();
        }
        self.data(text, begin);
        self.push(Kind::BlockBegin);
        self.go(after);
        self.tag(false)
    }

    fn comment(&mut self, after: usize) -> Outcome<()> {
        // Jinja2 takes a comment that begins where the template ends.
        if after == self.source.len() {
            self.go(after);
            return Ok(());
        }
        let Some(end) = self.source[after..].find("#}") else {
            return Err(self.problem("a comment does not end"));
        };
        let sign = self.source[after..after + end].chars().next_back();
        self.close(after + end + 2, sign, true);
        Ok(())
    }

    /// The end of a tag at `end`: what its sign takes away behind it.
    fn close(&mut self, mut end: usize, sign: Option<char>, trims: bool) {
        let behind = &self.source[end..];
        if sign == Some('-') {
            end += behind.len() - behind.trim_start_matches(is_space).len();
        } else if trims && sign != Some('+') && behind.starts_with('\n') {
            end += 1;
        }
        self.go(end);
        self.line_starts = self.source[..end].ends_with('\n');
    }

    fn raw(&mut self) -> Outcome<()> {
        let rest = self.rest();
        let mut from = 0;
        while let Some(found) = rest[from..].find("{%").map(|at| from + at) {
            from = found + 2;
            let inside = &rest[from..];
            let sign = inside.chars().next().filter(|sign| "+-".contains(*sign));
            let inside = &inside[usize::from(sign.is_some())..];
            let Some(after) = inside
                .trim_start_matches(is_space)
                .strip_prefix("endraw")
                .map(|after| after.trim_start_matches(is_space))
            else {
                continue;
            };
            let end_sign = after.chars().next().filter(|sign| "+-".contains(*sign));
            let after = &after[usize::from(end_sign.is_some())..];
            if let Some(behind) = after.strip_prefix("%}") {
                let text = self.before_tag(&rest[..found], sign, false);
                let end = self.source.len() - behind.len();
                self.data(text, end - 2);
                self.close(end, end_sign, true);
                return Ok(());
            }
        }
        Err(self.problem("a raw block does not end"))
    }

    /// The inside of a tag with its end.
    fn tag(&mut self, is_print: bool) -> Outcome<()> {
        let mut open = Vec::new();
        loop {
            let rest = self.rest();
            let Some(letter) = rest.chars().next() else {
                return Ok(());
            };
            if open.is_empty() && self.tag_end(is_print) {
                return Ok(());
            }
            if is_space(letter) {
                self.go(self.at + letter.len_utf8());
            } else if letter.is_ascii_digit() {
                self.number()?;
            } else if letter.is_alphanumeric() || letter == '_' {
                let name = rest.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                let name = name.take(1).collect::<String>();
                let end = self.at + name.len();
                self.push(Kind::Name(name));
                self.go(end);
            } else if letter == '\'' || letter == '"' {
                self.text(letter)?;
            } else {
                let known = OPERATORS.iter().find(|known| rest.starts_with(**known));
                let Some(known) = known.filter(|known| **known != "!") else {
                    return Err(self.problem(format!("an unexpected `{letter}`")));
                };
                match *known {
                    "{" => open.push("}"),
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    close @ ("}" | ")" | "]") if open.pop() != Some(close) => {
                        return Err(self.problem(format!("an unexpected `{close}`")));
                    }
                    _ => {}
                }
                self.push(Kind::Operator(known));
                self.go(self.at + known.len());
            }
        }
    }

    fn tag_end(&mut self, is_print: bool) -> bool {
        let rest = self.rest();
        let sign = rest.chars().next().filter(|sign| "+-".contains(*sign));
        // A value's end knows no `+`.
        let sign = sign.filter(|sign| !(is_print && *sign == '+'));
        let end = if is_print { "}}" } else { "%}" };
        if !rest[usize::from(sign.is_some())..].starts_with(end) {
            return false;
        }
        self.push(if is_print {
            Kind::PrintEnd
        } else {
            Kind::BlockEnd
        });
        let end = self.at + 2 + usize::from(sign.is_some());
        self.close(end, sign, !is_print);
        true
    }

    fn number(&mut self) -> Outcome<()> {
        let rest = self.rest();
        let after_dot = self.source[..self.at].ends_with('.');
        let digits = |from: usize| {
            let text = &rest[from..];
            let end = text.find(|c: char| !(c.is_ascii_digit() || c == '_'));
            from + text[..end.unwrap_or(text.len())]
                .trim_end_matches('_')
                .len()
        };
        let is_digit = |at: usize| rest[at..].starts_with(|c: char| c.is_ascii_digit());
        let whole = digits(0);
        let mut end = whole;
        if !after_dot {
            if rest[end..].starts_with('.') && is_digit(end + 1) {
                end = digits(end + 1);
            }
            let exponent = rest[end..].strip_prefix(['e', 'E']);
            if let Some(exponent) = exponent {
                let signed = usize::from(exponent.starts_with(['+', '-']));
                if is_digit(end + 1 + signed) {
                    end = digits(end + 1 + signed);
                }
            }
        }
        if end > whole {
            let number = rest[..end].replace('_', "").parse();
            let number = number.map_err(|_| self.problem("a number that cannot be read"))?;
            self.push(Kind::Float(number));
            self.go(self.at + end);
            return Ok(());
        }
        let radix = match rest.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("0x") => 16,
            Some("0o") => 8,
            Some("0b") => 2,
            _ => 10,
        };
        let start = if radix == 10 { 0 } else { 2 };
        let text = &rest[start..];
        let end = text.find(|c: char| !(c.is_digit(radix) || c == '_'));
        let text = &text[..end.unwrap_or(text.len())];
        let number = i128::from_str_radix(&text.replace('_', ""), radix);
        let number = number.map_err(|_| self.problem("a number that cannot be read"))?;
        self.push(Kind::Int(number));
        self.go(self.at + start + text.len());
        Ok(())
    }

    fn text(&mut self, quote: char) -> Outcome<()> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|&(_, letter)| {
            let ends = letter == quote && !escaped;
            escaped = letter == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else {
            return Err(self.problem("a text in quotes does not end"));
        };
        let text = unescaped(&rest[1..end]).map_err(|message| self.problem(message))?;
        self.push(Kind::Text(text));
        self.go(self.at + end + 1);
        Ok(())
    }
}

/// Length of `raw` with the end of its tag, behind the beginning of the tag and its sign.
fn raw_begin(inside: &str) -> Option<usize> {
    let after = inside.trim_start_matches(is_space).strip_prefix("raw")?;
    let after = after.trim_start_matches(is_space);
    let behind = match after.strip_prefix("-%}") {
        Some(behind) => behind.trim_start_matches(is_space),
        None => after.strip_prefix("%}")?,
    };
    Some(inside.len() - behind.len())
}

/// Python's escapes.
fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        let code = |letters: &mut std::iter::Peekable<std::str::Chars>, digits: usize| {
            let text: String = letters.by_ref().take(digits).collect();
            let code = u32::from_str_radix(&text, 16).ok();
            code.filter(|_| text.len() == digits)
                .and_then(char::from_u32)
                .ok_or_else(|| format!("an escape that cannot be read: `{text}`"))
        };
        match letters.next() {
            None => out.push('\\'),
            Some('\n') => {}
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('v') => out.push('\u{b}'),
            Some(same @ ('\\' | '\'' | '"')) => out.push(same),
            Some('x') => out.push(code(&mut letters, 2)?),
            Some('u') => out.push(code(&mut letters, 4)?),
            Some('U') => out.push(code(&mut letters, 8)?),
            Some('N') => return Err("an escape by a character's name, which is not read".into()),
            Some(first @ '0'..='7') => {
                let mut number = first as u32 - '0' as u32;
                for _ in 0..2 {
                    let Some(digit) = letters.peek().and_then(|letter| letter.to_digit(8)) else {
                        break;
                    };
                    number = number * 8 + digit;
                    letters.next();
                }
                out.extend(char::from_u32(number));
            }
            Some(other) => out.extend(['\\', other]),
        }
    }
    Ok(out)
}
