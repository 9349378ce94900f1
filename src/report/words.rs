//! Numbers, durations and names as people read them.

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
        Value::String(text) => Some(text.clone()),
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
