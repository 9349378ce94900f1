//! Numbers, durations and names as people read them.

use std::path::{Component, Path};

use serde_json::Value;

/// Metrics that the reader may not know: key, title, what it is.
const KNOWN: &[(&str, &str, &str)] = &[
    ("reward", "Reward", "decides which weights are best"),
    (
        "image_similarity",
        "Image similarity",
        "(cosine + 1) / 2 of images and photos",
    ),
    (
        "text_similarity",
        "Text similarity",
        "(cosine + 1) / 2 of images and their prompts, token removed",
    ),
    (
        "cross_prompt_cosine",
        "Cross-prompt cosine",
        "likeness of images of different prompts; near 1 the prompts are forgotten",
    ),
    ("loss", "Loss", "what the optimiser minimises"),
    (
        "similarity_loss",
        "Similarity loss",
        "denoising error on the photos",
    ),
    (
        "preference_loss",
        "Preference loss",
        "cross-entropy of the preference labels; ln 2 = 0.693 knows nothing",
    ),
    (
        "margin",
        "Margin",
        "how much more than the base model prefers the photo of a pair",
    ),
    (
        "label",
        "Label",
        "probability that the photo of a pair is preferred",
    ),
    (
        "generated_error",
        "Generated error",
        "denoising error on the generated images",
    ),
    ("gradient_norm", "Gradient norm", "before clipping"),
    ("learning_rate", "Learning rate", ""),
    ("psnr", "PSNR", "of reconstructions, in decibels"),
    ("kl", "KL", ""),
    ("dino", "DINO", "likeness to the photos; raw cosine"),
    ("clip_i", "CLIP-I", "likeness to the photos; raw cosine"),
    (
        "clip_t",
        "CLIP-T",
        "alignment with the prompt, token removed; raw cosine",
    ),
    (
        "clip_t_with_token",
        "CLIP-T, token left in",
        "as in published tables; raw cosine",
    ),
];

/// Title and explanation of a metric; of an unknown one its key in words, and nothing.
///
/// A key may be a path (`b16/clip_i`, `class_accuracy.other`): what it is of follows the title.
pub(super) fn metric(key: &str) -> (String, String) {
    if let Some((before, last)) = key.rsplit_once('/') {
        let (title, note) = metric(last);
        return (
            format!("{title} ({})", before.replace(['_', '/'], " ")),
            note,
        );
    }
    if let Some((_, title, note)) = KNOWN.iter().find(|(name, _, _)| *name == key) {
        return ((*title).to_owned(), (*note).to_owned());
    }
    let lambda = key
        .strip_prefix("harmonic_")
        .or(key.strip_prefix("reward_"));
    if let Some(lambda) = lambda.filter(|lambda| lambda.parse::<f64>().is_ok()) {
        let note = "lambda-Harmonic mean of image and text similarity";
        return (format!("Reward, lambda {lambda}"), note.to_owned());
    }
    match key.split_once('.') {
        Some((before, of)) => (format!("{} ({of})", metric(before).0), String::new()),
        None => (sentence_case(key), String::new()),
    }
}

/// A key as a title: `reward_image_encodes` is "Reward image encodes".
pub(super) fn sentence_case(key: &str) -> String {
    let words = key.replace(['_', '/'], " ");
    let mut letters = words.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => words,
    }
}

/// Three decimals: similarities, rewards, scores.
pub(super) fn score(value: f64) -> String {
    signed(&format!("{value:.3}"))
}

/// A difference of scores, with its sign.
pub(super) fn difference(value: f64) -> String {
    signed(&format!("{value:+.3}"))
}

/// A real minus, and no sign for what rounds to nothing.
pub(super) fn signed(text: &str) -> String {
    let digits = text.trim_start_matches(['+', '-']);
    if digits.chars().all(|letter| matches!(letter, '0' | '.')) {
        return digits.to_owned();
    }
    text.replace('-', "\u{2212}")
}

/// Any number: whole ones with their thousands apart, others with four significant digits.
pub(super) fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return grouped(value as i64);
    }
    let magnitude = value.abs().log10().floor();
    let text = if !(-4.0..15.0).contains(&magnitude) {
        return format!("{value:.3e}").replace('-', "\u{2212}");
    } else if magnitude >= 3.0 {
        return grouped(value.round() as i64);
    } else {
        format!("{value:.*}", (3.0 - magnitude) as usize)
    };
    let text = text.trim_end_matches('0').trim_end_matches('.');
    signed(text)
}

fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    if value < 0 {
        text.push('\u{2212}');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds in the units that suit them.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0 => format!("{seconds:.2} s"),
        1..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A path as a page may show it that others are to see: an absolute one says where things are on this machine, of which
/// the last two names are enough.
pub(super) fn path(path: &Path) -> String {
    if !path.is_absolute() {
        return path.display().to_string();
    }
    let names: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy()),
            _ => None,
        })
        .collect();
    let last = &names[names.len().saturating_sub(2)..];
    match (names.len() > last.len(), last.join("/")) {
        (true, last) => format!("\u{2026}/{last}"),
        (false, last) => last,
    }
}

/// Text with the absolute paths in it shortened as [`path`] does: those in quotation marks or standing alone.
pub(super) fn without_paths(text: &str) -> String {
    let quoted = |letter: char| matches!(letter, '"' | '\'' | '`');
    if text.starts_with('/') && !text.contains(quoted) && !text.contains('\n') {
        return path(Path::new(text));
    }
    let mut shown = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find(quoted) {
        let mark = rest[begin..].chars().next().unwrap_or('"');
        let inner = begin + 1;
        shown.push_str(&rest[..inner]);
        rest = &rest[inner..];
        let end = rest.find(mark).filter(|end| !rest[..*end].contains('\n'));
        if let Some(end) = end.filter(|_| rest.starts_with('/')) {
            shown.push_str(&path(Path::new(&rest[..end])));
            shown.push(mark);
            rest = &rest[end + 1..];
        }
    }
    shown.push_str(rest);
    shown
}

/// The text with its numbers as `#`: alarms that say the same of other figures are alike in it.
pub(crate) fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        let number = letter.is_ascii_digit() || (letter == '.' && out.ends_with('#'));
        match number {
            false => out.push(letter),
            true if out.ends_with('#') => {}
            true => out.push('#'),
        }
    }
    out
}

/// A name that a file can have anywhere: letters and digits, with `-` between.
pub(super) fn file_name(text: &str) -> String {
    let letters = text.chars().map(|letter| {
        if letter.is_ascii_alphanumeric() || letter == '.' {
            letter
        } else {
            '-'
        }
    });
    let name: String = letters.collect();
    let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
    parts.join("-").trim_start_matches('.').to_lowercase()
}

/// How a figure went from one value to another: that it did not, where the digits that are shown say so.
pub(super) fn change(from: f64, to: f64, show: fn(f64) -> String) -> String {
    let (before, after) = (show(from), show(to));
    if before == after {
        format!("did not change from {before}")
    } else {
        format!("went from {before} to {after}")
    }
}

/// Names in a sentence: "a, b and c".
pub(super) fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// One of `singular` or several.
pub(super) fn count(number: usize, singular: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {singular}{plural}", grouped(number as i64))
}

/// A scalar of a file as text; `None` of what is null or has parts.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        Value::Bool(yes) => Some(if *yes { "yes" } else { "no" }.to_owned()),
        Value::Number(value) => value.as_f64().map(number),
        Value::String(text) => Some(without_paths(text)),
    }
}

/// All scalars below a value with the paths to them, in the order of the file.
pub(super) fn leaves(value: &Value) -> Vec<(String, &Value)> {
    fn walk<'a>(value: &'a Value, path: &str, into: &mut Vec<(String, &'a Value)>) {
        let below = |key: &str| match path {
            "" => key.to_owned(),
            _ => format!("{path}/{key}"),
        };
        match value {
            Value::Object(map) => map
                .iter()
                .for_each(|(key, value)| walk(value, &below(key), into)),
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    walk(value, &below(&index.to_string()), into);
                }
            }
            value => into.push((path.to_owned(), value)),
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}
