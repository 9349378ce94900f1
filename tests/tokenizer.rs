//! Token ids against transformers.

use preftune::models::json;
use preftune::models::tokenizer::Tokenizer;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::support::{golden, shared};

fn prompts(expected: &serde_json::Map<String, Value>) -> Vec<String> {
    serde_json::from_value(expected["prompts"].clone()).unwrap()
}

#[track_caller]
fn assert_ids(folder: &std::path::Path, positions: i64, key: &str) {
    let expected = json::read_object(&golden("encoders/tokens.json")).unwrap();
    let prompts = prompts(&expected);
    let tokenizer = Tokenizer::open(folder, positions, 100_000).unwrap();
    let encoded = tokenizer.encode(&prompts).unwrap();
    for (index, prompt) in prompts.iter().enumerate() {
        let row: Vec<i64> = encoded.ids.get(index as i64).try_into().unwrap();
        let wanted: Vec<i64> = serde_json::from_value(expected[key][index].clone()).unwrap();
        assert_eq!(row, wanted, "{key}: `{prompt}`");
    }
}

#[test]
fn clip_ids_from_vocab_and_merges_equal_transformers() {
    assert_ids(
        &golden("diffusion/sd1/tokenizer"),
        77,
        "diffusion/sd1/tokenizer",
    );
}

#[test]
fn a_padding_token_that_is_text_is_cut_out_of_the_prompt_as_transformers_does() {
    assert_ids(
        &golden("diffusion/sd2/tokenizer"),
        77,
        "diffusion/sd2/tokenizer",
    );
}

/// Ids of `a photo of <new1> dog and<Cat-Toy>red <new1>x` by the golden CLIP tokenizer with more files.
fn ids_with(files: &[(&str, Value)]) -> Vec<i64> {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("diffusion/sd1/tokenizer")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    for (name, change) in files {
        let path = folder.path().join(name);
        let mut object = json::read_object_if_there(&path).unwrap();
        object.extend(change.as_object().unwrap().clone());
        std::fs::write(&path, Value::Object(object).to_string()).unwrap();
    }
    let tokenizer = Tokenizer::open(folder.path(), 77, 100_000).unwrap();
    let text = ["a photo of <new1> dog and<Cat-Toy>red <new1>x".to_owned()];
    let row: Vec<i64> = tokenizer
        .encode(&text)
        .unwrap()
        .ids
        .get(0)
        .try_into()
        .unwrap();
    let end = row.iter().position(|&id| id == 537).unwrap();
    row[..=end].to_vec()
}

/// As `CLIPTokenizer.from_pretrained` of transformers 5.23.0 gives them for these folders.
#[test]
fn learned_tokens_of_added_tokens_json_are_whole_as_in_transformers() {
    use serde_json::json;
    let added = |tokens: Value| ("added_tokens.json", tokens);
    let both = json!({"<new1>": 538, "<Cat-Toy>": 539});
    let whole = [536, 320, 526, 535, 538, 517, 515, 539, 528, 538, 343, 537];
    assert_eq!(ids_with(&[added(both.clone())]), whole);
    // Ids follow the vocabulary, in their order.
    let apart = json!({"<Cat-Toy>": 541, "<new1>": 545});
    let swapped = [536, 320, 526, 535, 539, 517, 515, 538, 528, 539, 343, 537];
    assert_eq!(ids_with(&[added(apart)]), swapped);
    let pad = ("special_tokens_map.json", json!({"pad_token": "[PAD]"}));
    let three = json!({"<Cat-Toy>": 538, "[PAD]": 539, "<new1>": 540});
    let third = [536, 320, 526, 535, 540, 517, 515, 538, 528, 540, 343, 537];
    assert_eq!(ids_with(&[added(three), pad]), third);
    // A list in the configuration has the last word.
    let special = |content: &str| json!({"content": content, "special": true});
    let listed = json!({"added_tokens_decoder": {
        "536": special("<|startoftext|>"), "537": special("<|endoftext|>")}});
    let pieces = ids_with(&[added(both), ("tokenizer_config.json", listed)]);
    assert_eq!(pieces.len(), 28, "{pieces:?}");
    let listed = json!({"added_tokens_decoder": {
        "536": special("<|startoftext|>"),
        "537": special("<|endoftext|>"),
        "538": {"content": "<new1>", "special": false, "normalized": true},
        "539": {"content": "<Cat-Toy>", "special": false, "normalized": false, "lstrip": true}}});
    assert_eq!(ids_with(&[("tokenizer_config.json", listed)]), whole);
}

#[test]
fn clip_ids_from_tokenizer_json_equal_transformers() {
    assert_ids(
        &golden("encoders/tokenizer_json"),
        77,
        "encoders/tokenizer_json",
    );
}

#[test]
fn bert_ids_equal_transformers() {
    assert_ids(&golden("encoders/bert"), 512, "encoders/bert");
}

#[test]
fn word_level_ids_equal_transformers() {
    for name in ["tokenizer", "reward"] {
        if let Some(folder) = shared(&format!("emoji-world-poc/{name}")) {
            assert_ids(&folder, 16, &format!("shared/{name}"));
        }
    }
}

#[test]
fn a_prompt_that_is_too_long_keeps_its_end_token_and_reports_what_is_lost() {
    let tokenizer = Tokenizer::open(&golden("diffusion/sd1/tokenizer"), 8, 538).unwrap();
    let texts = ["a dog", "the red dog and the cat on the beach"].map(str::to_owned);
    let encoded = tokenizer.encode(&texts).unwrap();
    assert_eq!(encoded.ids.size(), [2, 8]);
    assert_eq!(encoded.longest, 8);
    let end = tokenizer.id("<|endoftext|>").unwrap();
    assert_eq!(encoded.ids.int64_value(&[1, 7]), end);
    assert_eq!(encoded.truncated.len(), 1);
    assert_eq!(encoded.truncated[0].index, 1);
    assert_eq!(encoded.truncated[0].lost, "on the beach");
    assert_eq!(
        encoded.truncated[0].to_string(),
        "the text encoder reads 8 tokens; of prompt 2 it does not see the end: `on the beach`"
    );
}

#[test]
fn the_mask_counts_begin_and_end_tokens_and_no_padding() {
    let tokenizer = Tokenizer::open(&golden("encoders/bert"), 64, 200).unwrap();
    let encoded = tokenizer.encode(&["the dog".to_owned()]).unwrap();
    assert_eq!(encoded.mask.kind(), Kind::Bool);
    assert_eq!(encoded.mask.sum(Kind::Int64).int64_value(&[]), 4);
    assert_eq!(encoded.longest, 4);
}

#[test]
fn no_texts_give_an_empty_table() {
    let tokenizer = Tokenizer::open(&golden("encoders/bert"), 64, 200).unwrap();
    let encoded = tokenizer.encode(&[]).unwrap();
    assert_eq!(encoded.ids.size(), [0, 64]);
    assert_eq!(Tensor::size(&encoded.mask), [0, 64]);
}

#[test]
fn ids_beyond_the_models_table_are_refused() {
    let tokenizer = Tokenizer::open(&golden("diffusion/sd1/tokenizer"), 77, 500).unwrap();
    let error = tokenizer.encode(&["a dog".to_owned()]).err().unwrap();
    assert!(error.to_string().contains("500 tokens only"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_folder_without_tokenizer_files_and_broken_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |what: &str| {
        let error = Tokenizer::open(folder.path(), 77, 100).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(what), "{error}");
    };
    refused("no `tokenizer.json`");
    std::fs::write(folder.path().join("vocab.json"), "{\"a\": 0}").unwrap();
    refused("without `merges.txt`");
    std::fs::write(folder.path().join("merges.txt"), "one two three\n").unwrap();
    refused("not BPE");
    std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    refused("not a tokenizer");
}
