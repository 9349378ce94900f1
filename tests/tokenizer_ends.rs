//! Where texts begin and end for a language model's tokenizer, and what becomes of tokenizer files that cannot be followed.

use std::fs;
use std::path::{Path, PathBuf};

use preftune::data::text::Text;
use preftune::models::lm::tokenizer::TextTokenizer;
use serde_json::{Value, json};

use crate::command::Folder;
use crate::support::{golden, shared};

/// A copy of the golden model whose `tokenizer_config.json` is this.
fn model(folder: &Folder, name: &str, settings: &Value) -> PathBuf {
    let copy = folder.path(name);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(golden("text/model")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    fs::write(copy.join("tokenizer_config.json"), settings.to_string()).unwrap();
    copy
}

fn open(folder: &Path) -> TextTokenizer {
    TextTokenizer::open(folder, 1000).unwrap()
}

/// Without what names the end: neither settings nor configurations.
fn without_end(folder: &Folder, name: &str) -> PathBuf {
    let copy = model(folder, name, &json!({"model_max_length": 1024}));
    for file in ["config.json", "generation_config.json"] {
        let text = fs::read_to_string(copy.join(file)).unwrap_or_else(|_| "{}".to_owned());
        let mut settings: Value = serde_json::from_str(&text).unwrap();
        settings.as_object_mut().unwrap().remove("eos_token_id");
        fs::write(copy.join(file), settings.to_string()).unwrap();
    }
    copy
}

#[test]
fn the_end_of_a_text_is_in_the_models_configuration_where_the_tokenizers_has_none() {
    let folder = Folder::new();
    let full = open(&golden("text/model"));
    let bare = open(&model(&folder, "bare", &json!({"model_max_length": 1024})));
    assert_eq!(bare.eos(), full.eos());
    assert!(bare.warnings().is_empty(), "{:?}", bare.warnings());
    let ids = bare.answered("Hi", " there").unwrap().ids;
    assert_eq!(ids.last().copied(), full.eos());
    // Of several ends the first is learnt.
    let several = model(&folder, "several", &json!({}));
    let path = several.join("config.json");
    let mut settings: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    settings["eos_token_id"] = json!([full.eos().unwrap(), 5]);
    fs::write(&path, settings.to_string()).unwrap();
    assert_eq!(open(&several).eos(), full.eos());
}

#[test]
fn judges_warn_of_their_tokenizers() {
    let folder = Folder::new();
    let judge = without_end(&folder, "letters");
    let reward = folder.path("reward");
    fs::create_dir(&reward).unwrap();
    for (from, files) in [(&judge, true), (&golden("reward/scalar"), false)] {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let of_tokenizer = name.to_str().unwrap().contains("token");
            if of_tokenizer == files {
                fs::copy(entry.path(), reward.join(&name)).unwrap();
            }
        }
    }
    let config = reward.join("config.json");
    let mut settings: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    settings.as_object_mut().unwrap().remove("eos_token_id");
    fs::write(&config, settings.to_string()).unwrap();
    let answer = |item: &str| json!({"item": item, "prompt": "Why?", "text": format!("{item} is so"), "group": "g"});
    folder.lines("answers.jsonl", &[answer("one"), answer("two")]);
    let says = |arguments: &[&str], model: &str| {
        let ran = folder.binary(arguments);
        let words = format!("warning: `{model}` names no token that ends a text");
        assert_eq!(
            ran.stderr.matches(&words).count(),
            1,
            "{arguments:?}: {}",
            ran.stderr
        );
    };
    let scored = ["score", "--reward", "reward", "--device", "cpu"];
    says(
        &[&scored[..], &["--answers", "answers.jsonl"]].concat(),
        "reward",
    );
    says(
        &[&scored[..], &["--data", "answers.jsonl"]].concat(),
        "reward",
    );
    let labelled = [
        "label",
        "--reward",
        "reward",
        "--device",
        "cpu",
        "--out",
        "pairs.jsonl",
    ];
    says(
        &[&labelled[..], &["--answers", "answers.jsonl"]].concat(),
        "reward",
    );
    for model in ["reward", "letters"] {
        let command = format!(
            "{} score --data - --reward {model} --device cpu",
            env!("CARGO_BIN_EXE_preftune")
        );
        let kept = format!("{model}.jsonl");
        let ranked = [
            "rank",
            "--pairs",
            "answers.jsonl",
            "--judgements",
            &kept,
            "--judge",
            &command,
        ];
        says(&ranked, model);
    }
}

#[test]
fn verbs_warn_where_no_end_is_known() {
    let folder = Folder::new();
    without_end(&folder, "endless");
    let asked = [
        "generate",
        "--model",
        "endless",
        "--prompt",
        "Hi",
        "--max-tokens",
        "2",
    ];
    let ran = folder.binary(&asked).done();
    assert!(
        ran.stderr
            .contains("warning: `endless` names no token that ends a text"),
        "{}",
        ran.stderr
    );
    assert!(open(&without_end(&folder, "other")).eos().is_none());
}

#[test]
fn a_text_that_was_rendered_beforehand_gets_no_second_beginning() {
    let tokenizer = open(&golden("text/model"));
    let plain = tokenizer.prompt("Hi").unwrap();
    assert_eq!(tokenizer.prompt("<s>Hi").unwrap(), plain);
    let answered = tokenizer.answered("<s>Hi", " there").unwrap();
    assert_eq!(answered, tokenizer.answered("Hi", " there").unwrap());
}

#[test]
fn an_answer_keeps_the_space_that_sentencepiece_drops_before_a_first_word() {
    let folder = Folder::new();
    let copy = model(&folder, "pieces", &json!({"eos_token": "</s>"}));
    let pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "\u{2581}The",
        "\u{2581}cat",
        "\u{2581}sat",
        "s",
    ];
    let vocabulary: serde_json::Map<String, Value> = pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| ((*piece).to_owned(), json!(id)))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true},
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    fs::write(copy.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokenizer = open(&copy);
    assert_eq!(tokenizer.decode(&[4, 5], true).unwrap(), "cat sat");
    assert_eq!(tokenizer.decode_answer(&[3], &[4, 5]).unwrap(), " cat sat");
    assert_eq!(tokenizer.decode_answer(&[3], &[6]).unwrap(), "s");
    assert_eq!(tokenizer.decode_answer(&[], &[3, 4]).unwrap(), "The cat");
    assert_eq!(tokenizer.decode_answer(&[3], &[]).unwrap(), "");
}

#[test]
fn a_gguf_file_that_does_not_say_how_texts_are_cut_is_warned_of() {
    let folder = Folder::new();
    let mut bytes = fs::read(golden("gguf_tokenizers/gpt-2.gguf")).unwrap();
    let key = b"tokenizer.ggml.pre";
    let at = bytes
        .windows(key.len())
        .position(|window| window == key)
        .unwrap();
    bytes[at + key.len() - 1] = b'x';
    let path = folder.path("old.gguf");
    fs::write(&path, bytes).unwrap();
    let tokenizer = TextTokenizer::open(&path, 100_000).unwrap();
    let warned = tokenizer.warnings().join("\n");
    assert!(
        warned.contains("tokenizer.ggml.pre") && warned.contains("old.gguf"),
        "{warned}"
    );
    let current = TextTokenizer::open(&golden("gguf_tokenizers/gpt-2.gguf"), 100_000).unwrap();
    assert!(!current.warnings().join("\n").contains("tokenizer.ggml.pre"));
}

#[test]
fn an_empty_answer_is_empty_beside_an_empty_list_of_calls() {
    for calls in [json!([]), Value::Null] {
        let answer = json!([{"role": "assistant", "content": "", "tool_calls": calls}]);
        assert!(
            Text::read(&answer, "chosen").unwrap().is_empty(),
            "{answer}"
        );
        let answer = json!([{"role": "assistant", "content": "Hi", "tool_calls": calls}]);
        assert_eq!(Text::read(&answer, "chosen").unwrap().words(), Some("Hi"));
    }
    let call = json!([{"role": "assistant", "content": "", "tool_calls": [{"name": "clock"}]}]);
    assert!(!Text::read(&call, "chosen").unwrap().is_empty());
}

/// What panics in the crate that follows a `tokenizer.json`.
#[test]
fn tokenizer_files_that_cannot_be_followed_are_named() {
    let folder = Folder::new();
    let source = fs::read_to_string(golden("text/model/tokenizer.json")).unwrap();
    let source: Value = serde_json::from_str(&source).unwrap();
    let parts = [
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "\\G"}, "content": "bb"}),
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "a|"}, "content": "bb"}),
        ),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
    ];
    for (at, (part, value)) in parts.into_iter().enumerate() {
        let name = format!("broken-{at}");
        let copy = model(&folder, &name, &json!({"eos_token": "</s>"}));
        let mut tokenizer = source.clone();
        tokenizer[part] = value.clone();
        fs::write(copy.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let asked = [
            "generate",
            "--model",
            &name,
            "--raw",
            "--prompt",
            "a b a",
            "--max-tokens",
            "2",
        ];
        let ran = folder.binary(&asked);
        // Some are read as if they said nothing, in Python too.
        if ran.code != 0 {
            ran.refused(&name);
        }
        println!("{value}: {} {}", ran.code, ran.stderr);
    }
}

#[test]
fn damaged_tokenizers_that_were_found_are_named() {
    let Some(cases) = shared("cases/hostile") else {
        return;
    };
    let folder = Folder::new();
    for case in [
        "in-tokenizer_parts-001",
        "in-tokenizer_parts-002",
        "in-regex-000",
    ] {
        let copy = model(&folder, case, &json!({"eos_token": "</s>"}));
        for entry in fs::read_dir(cases.join(case)).unwrap() {
            let entry = entry.unwrap();
            fs::write(
                copy.join(entry.file_name()),
                fs::read(entry.path()).unwrap(),
            )
            .unwrap();
        }
        let asked = [
            "generate",
            "--model",
            case,
            "--raw",
            "--prompt",
            "a b a",
            "--max-tokens",
            "2",
        ];
        folder.binary(&asked).refused(case);
    }
}
