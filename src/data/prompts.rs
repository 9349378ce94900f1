//! Prompts: the paper's training prompts, held-out validation prompts, prompt files, and the two placeholders
//! `{token}` (the word that comes to mean the subject) and `{class}` (the word for what it is).

use std::path::Path;

use super::subject::Kind;
use crate::error::{Error, Result};

/// The prompt under which the photos of a subject are learnt.
pub const INSTANCE: &str = "a photo of {token} {class}";

/// The eight training prompts of RPO (arXiv 2407.12164) for the kind of subject.
pub fn training(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Object => &[
            "a {token} {class} in Vincent Van Gogh rendition",
            "a {token} {class} on the Moon",
            "a green {token} {class}",
            "a {token} {class} with a China Great Wall in the background",
            "a {token} {class} on top of wooden roof",
            "a {token} {class} with the Statue of Liberty in the background",
            "a {token} {class} with a volcano in the background",
            "a {token} {class} on a subway platform",
        ],
        Kind::Live => &[
            "a {token} {class} wearing a green outfit",
            "a {token} {class} in Vincent Van Gogh rendition",
            "a {token} {class} with a China Great Wall in the background",
            "a {token} {class} is swimming in a pool",
            "a {token} {class} on a subway platform",
            "a {token} {class} with the Statue of Liberty in the background",
            "a {token} {class} on the Moon",
            "a green {token} {class}",
        ],
    }
}

/// Prompts for validation: neither among the training prompts nor among DreamBench's 25 test prompts, and of the
/// same kinds (places, backgrounds, surfaces or outfits, a property). The first two are the paper's authors'.
pub fn validation(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Object => &[
            "a {token} {class} in a beautiful garden",
            "a {token} {class} at the beach during sunset",
            "a {token} {class} on a kitchen counter",
            "a {token} {class} in a desert at noon",
            "a {token} {class} with a lighthouse in the background",
            "a {token} {class} with skyscrapers at night in the background",
            "a {token} {class} on a stack of old books",
            "a {token} {class} half buried in autumn leaves",
            "a pencil sketch of a {token} {class}",
            "a yellow {token} {class}",
        ],
        Kind::Live => &[
            "a {token} {class} in a beautiful garden",
            "a {token} {class} at the beach during sunset",
            "a {token} {class} in a desert at noon",
            "a {token} {class} on a wooden bench in a park",
            "a {token} {class} with a lighthouse in the background",
            "a {token} {class} with skyscrapers at night in the background",
            "a {token} {class} wearing a blue raincoat",
            "a {token} {class} wearing a straw hat",
            "a {token} {class} sleeping on a sofa",
            "a pencil sketch of a {token} {class}",
        ],
    }
}

/// Prompts for judging a tuned model: neither among the training prompts, nor among those of validation, nor among
/// DreamBench's, and of the same kinds.
pub fn test(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Object => &[
            "a {token} {class} on a mossy rock",
            "a {token} {class} in a library",
            "a {token} {class} under falling snow",
            "a {token} {class} on a sandy riverbank",
            "a {token} {class} with a waterfall in the background",
            "a {token} {class} with a windmill in the background",
            "a {token} {class} on a marble floor",
            "a {token} {class} in a shop window",
            "an oil painting of a {token} {class}",
            "an orange {token} {class}",
        ],
        Kind::Live => &[
            "a {token} {class} on a mossy rock",
            "a {token} {class} in a library",
            "a {token} {class} under falling snow",
            "a {token} {class} running on a meadow",
            "a {token} {class} with a waterfall in the background",
            "a {token} {class} with a windmill in the background",
            "a {token} {class} wearing a woollen scarf",
            "a {token} {class} in a rowing boat",
            "an oil painting of a {token} {class}",
            "a {token} {class} looking out of a window",
        ],
    }
}

/// Puts the two words in place of `{token}` and `{class}`. An empty token leaves no gap.
///
/// The article is not touched: the paper's lists say "a" before every token, and what follows "a" after a token is
/// stripped is part of what its encoders were given.
pub fn fill(template: &str, token: &str, class: &str) -> String {
    single_spaced(&template.replace("{token}", token).replace("{class}", class))
}

/// Fills the placeholders of all prompts with token and class, where there are some to fill.
///
/// # Errors
/// The first prompt that has a placeholder, where there are no words.
pub fn fill_all<'a>(
    prompts: &'a [String],
    words: Option<(&str, &str)>,
) -> Result<Vec<String>, &'a str> {
    let filled = prompts.iter().map(|prompt| match words {
        _ if !is_template(prompt) => Ok(prompt.clone()),
        Some((token, class)) => Ok(fill(prompt, token, class)),
        None => Err(prompt.as_str()),
    });
    filled.collect()
}

/// `true` if a prompt has a placeholder.
pub fn is_template(prompt: &str) -> bool {
    prompt.contains("{token}") || prompt.contains("{class}")
}

/// Removes every occurrence of the token, read literally, so that brackets count as what they are.
///
/// An encoder of text and images has never seen the token: left in, it lowers the alignment of every image. A token
/// that is a plain word is removed only where it stands alone ("sks" stays in "asks").
pub fn strip_token(prompt: &str, token: &str) -> String {
    let token = token.trim();
    if token.is_empty() {
        return single_spaced(prompt);
    }
    let mut kept = String::with_capacity(prompt.len());
    let mut rest = prompt;
    while let Some(at) = rest.find(token) {
        let after = &rest[at + token.len()..];
        let before = kept.chars().next_back().filter(|_| at == 0);
        let before = rest[..at].chars().next_back().or(before);
        let inside = joins(before, token.chars().next())
            || joins(token.chars().next_back(), after.chars().next());
        kept.push_str(&rest[..at]);
        kept.push_str(if inside { token } else { " " });
        rest = after;
    }
    kept.push_str(rest);
    single_spaced(&kept)
}

/// `true` if two neighbouring characters belong to one word.
fn joins(left: Option<char>, right: Option<char>) -> bool {
    let in_word = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    in_word(left) && in_word(right)
}

/// One space between words, none at the ends nor before a comma or full stop.
fn single_spaced(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace(" ,", ",").replace(" .", ".")
}

/// Reads a prompt file: one prompt a line, empty lines and comments left out. A comment is a line that starts with `# `
/// or `##`; a line such as `#1 dad mug` is a prompt. Placeholders stay for [`fill`].
///
/// # Errors
/// A file that cannot be read or is not UTF-8, a line with another placeholder or of which it is not clear whether it is a
/// comment, no prompt at all.
pub fn read(path: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(path).map_err(|source| Error::io("read", path, source))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|&byte| byte == b'\n').count();
        Error::data_line(path, line, "not UTF-8 text").with_hint("save the prompts as UTF-8")
    })?;
    let mut prompts = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || is_comment(line) {
            continue;
        }
        if let Some(word) = line.strip_prefix('#')
            && !word.starts_with(|letter: char| letter.is_ascii_digit())
        {
            let problem = format!("`{line}` may be a comment or a prompt");
            return Err(Error::data_line(path, index + 1, problem)
                .with_hint("begin a comment with `# `; write a prompt without `#`"));
        }
        if let Some(placeholder) = unknown_placeholder(line) {
            return Err(Error::data_line(
                path,
                index + 1,
                format!("unknown placeholder `{placeholder}`"),
            )
            .with_hint("known are `{token}` and `{class}`"));
        }
        prompts.push(line.to_owned());
    }
    if prompts.is_empty() {
        return Err(Error::data(path, "no prompts in this file")
            .with_hint("write one prompt a line; `#` starts a comment"));
    }
    Ok(prompts)
}

fn is_comment(line: &str) -> bool {
    let rest = line.strip_prefix('#');
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['#', ' ', '\t', '!']))
}

fn unknown_placeholder(line: &str) -> Option<&str> {
    let mut rest = line;
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}') else {
            return Some(&rest[open..]);
        };
        let placeholder = &rest[open..=open + close];
        if placeholder != "{token}" && placeholder != "{class}" {
            return Some(placeholder);
        }
        rest = &rest[open + close + 1..];
    }
    None
}
