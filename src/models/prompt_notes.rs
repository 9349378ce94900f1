//! Notes on the parts of prompts that an encoder of texts does not read: words that its vocabulary lacks, ends that are
//! too far.

use super::tokenizer::{Tokenizer, Truncated};
use crate::error::Result;

/// Words, or prompts, that a sentence names at most.
const NAMED: usize = 8;

/// One sentence for each of both faults of prompts. `reader` is what the sentences call the encoder.
///
/// # Errors
/// The tokenizer makes ids for which the encoder has no vector.
pub fn notes(reader: &str, tokenizer: &Tokenizer, prompts: &[String]) -> Result<Vec<String>> {
    let encoded = tokenizer.encode(prompts)?;
    let unknown = unknown(reader, prompts.len(), &encoded.unknown);
    let truncated = truncated(reader, prompts, &encoded.truncated);
    Ok(unknown.into_iter().chain(truncated).collect())
}

/// A sentence on what web interfaces act on and a text encoder reads as words: weights, LoRA files, learned words.
pub(super) fn marks(prompts: &[String]) -> Option<String> {
    let first = |mark: fn(&str) -> Option<&str>| prompts.iter().find_map(|prompt| mark(prompt));
    let found: Vec<String> = [first(weight), first(extra_network), first(learned_word)]
        .into_iter()
        .flatten()
        .map(|mark| format!("`{mark}`"))
        .collect();
    let lora = match first(extra_network) {
        Some(_) => "; `preftune generate --lora FILE:0.8` lays a LoRA over a model",
        None => "",
    };
    (!found.is_empty()).then(|| {
        format!(
            "the text encoder reads the marks of web interfaces as words, they do nothing else: {}{lora}",
            found.join(", ")
        )
    })
}

/// `(words:1.2)`.
fn weight(prompt: &str) -> Option<&str> {
    prompt.match_indices(')').find_map(|(end, _)| {
        let begin = prompt[..end].rfind('(')?;
        let (_, number) = prompt[begin..end].rsplit_once(':')?;
        number.trim().parse::<f64>().ok()?;
        Some(&prompt[begin..=end])
    })
}

/// `<lora:name:0.8>` and its kin.
fn extra_network(prompt: &str) -> Option<&str> {
    ["<lora:", "<lyco:", "<hypernet:"].iter().find_map(|start| {
        let begin = prompt.find(start)?;
        let length = prompt[begin..].find('>')?;
        Some(&prompt[begin..=begin + length])
    })
}

/// `embedding:name`.
fn learned_word(prompt: &str) -> Option<&str> {
    let mut words = prompt.split(|letter: char| letter.is_whitespace() || ",()".contains(letter));
    words.find(|word| word.starts_with("embedding:"))
}

/// `words` are of one prompt each.
fn unknown(reader: &str, prompts: usize, words: &[(usize, String)]) -> Option<String> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for (_, word) in words {
        match counts.iter_mut().find(|(known, _)| known == word) {
            Some((_, count)) => *count += 1,
            None => counts.push((word, 1)),
        }
    }
    if counts.is_empty() {
        return None;
    }
    let word =
        |(word, count): &(&str, usize)| format!("`{word}` (in {count} of {prompts} prompts)");
    let mut named: Vec<String> = counts.iter().take(NAMED).map(word).collect();
    if counts.len() > NAMED {
        named.push(format!("{} more", counts.len() - NAMED));
    }
    let (these, stand) = match counts.len() {
        1 => ("this word", "it stands"),
        _ => ("these words", "they stand"),
    };
    Some(format!(
        "{reader} does not know {these}, and reads the same unknown token wherever {stand}: {}",
        named.join(", ")
    ))
}

fn truncated(reader: &str, prompts: &[String], truncated: &[Truncated]) -> Option<String> {
    let first = truncated.first()?;
    let (prompt, lost, length) = (&prompts[first.index], &first.lost, first.length);
    Some(match truncated.len() {
        1 => format!(
            "the end of the prompt `{prompt}` is beyond the {length} tokens that {reader} reads: `{lost}`"
        ),
        count => format!(
            "the ends of {count} of {} prompts are beyond the {length} tokens that {reader} reads; of `{prompt}` it does not see `{lost}`",
            prompts.len()
        ),
    })
}
