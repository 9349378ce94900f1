//! The vocabulary of CLIP's tokenizer, which files of one model do not carry: merges of byte-level BPE, bundled with the
//! program (`assets/clip`). All text encoders of Stable Diffusion 1, 2 and XL have it.

use std::io::Read as _;

use flate2::read::GzDecoder;
use tokenizers::models::bpe::{Merges, Vocab};

/// One merge a line, in the order in which they are tried.
const MERGES: &[u8] = include_bytes!("../../../assets/clip/merges.txt.gz");

/// End of a word.
const END: &str = "</w>";

/// Tokens with their ids, and merges. The ids follow from the merges: the symbols of all bytes, the same at the end of a word,
/// what each merge gives, and the two special tokens.
pub(in crate::models) fn vocabulary() -> (Vocab, Merges) {
    let mut text = String::new();
    // It is part of the program.
    let read = GzDecoder::new(MERGES).read_to_string(&mut text);
    debug_assert!(read.is_ok());
    let merges: Merges = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(left, right)| (left.to_owned(), right.to_owned()))
        .collect();
    let symbols = byte_symbols();
    let bytes = symbols.iter().map(char::to_string);
    let ends = symbols.iter().map(|symbol| format!("{symbol}{END}"));
    let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let tokens = bytes.chain(ends).chain(merged).chain(special);
    let vocabulary = tokens.zip(0..).collect();
    (vocabulary, merges)
}

/// The printable letters that stand for the 256 bytes, in the order of CLIP's ids.
fn byte_symbols() -> Vec<char> {
    let printable = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    let printable: Vec<char> = printable.collect();
    // The others are letters after those of a byte, one after the other.
    let others = ('\u{100}'..).take(256 - printable.len());
    printable.iter().copied().chain(others).collect()
}
