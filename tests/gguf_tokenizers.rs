//! Tokenizers out of GGUF files against `tokenizers` and transformers, and a GGUF file wherever a model folder may be.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use preftune::models::lm::LanguageModel;
use preftune::models::lm::tokenizer::TextTokenizer;
use preftune::trainer::text::token_logps;
use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use crate::support::golden;

fn file(name: &str) -> PathBuf {
    golden(&format!("gguf_tokenizers/{name}"))
}

fn json_of(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(file(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<i64> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_i64().unwrap()).collect()
}

fn preftune(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_preftune"))
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{message}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn every_way_of_cutting_gives_the_ids_of_python() {
    let expected = json_of("ids.json");
    let kinds = expected["ids"].as_object().unwrap();
    assert_eq!(kinds.len(), 5);
    for (kind, rows) in kinds {
        let tokenizer = TextTokenizer::open(&file(&format!("{kind}.gguf")), 512).unwrap();
        let texts = expected["texts"].as_array().unwrap();
        for (text, row) in texts.iter().zip(rows.as_array().unwrap()) {
            let text = text.as_str().unwrap();
            assert_eq!(
                tokenizer.encode(text, true).unwrap(),
                ids(row),
                "{kind}: {text:?}"
            );
            // All but Qwen's, which is normalised, come back as they were.
            let back = tokenizer
                .decode(&tokenizer.encode(text, false).unwrap(), false)
                .unwrap();
            assert!(
                kind == "qwen2" || back == text,
                "{kind}: {back:?}, not {text:?}"
            );
        }
    }
}

#[test]
fn a_file_has_the_chats_ids_and_log_probs_that_transformers_reads_in_it() {
    let expected = json_of("model.json");
    let folder = tempfile::tempdir().unwrap();
    let converted = folder.path().join("model");
    let source = LanguageModel::open(&file("model.gguf"), Device::Cpu, Kind::Float, Kind::Float);
    source
        .unwrap()
        .save(&converted, Kind::Float, &BTreeMap::new())
        .unwrap();
    for path in [file("model.gguf"), converted] {
        let model = LanguageModel::open(&path, Device::Cpu, Kind::Float, Kind::Float).unwrap();
        let tokenizer = TextTokenizer::open(&path, model.config().vocab_size).unwrap();
        for case in expected["chats"].as_array().unwrap() {
            let messages = case["messages"].as_array().unwrap();
            let text = tokenizer
                .template()
                .unwrap()
                .render(messages, &serde_json::Map::new(), true)
                .unwrap();
            assert_eq!(case["text"], json!(text));
            assert_eq!(
                tokenizer.chat_prompt(messages, &Map::new()).unwrap(),
                ids(&case["ids"])
            );
        }
        let text = expected["text"].as_str().unwrap();
        let own = tokenizer.encode(text, true).unwrap();
        assert_eq!(own, ids(&expected["ids"]));
        let theirs = expected["logps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|logp| logp.as_f64().unwrap());
        let ours = token_logps(&model, &own).unwrap();
        assert_eq!(ours.len(), own.len() - 1);
        for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            assert!(
                (ours - theirs).abs() < 1e-4,
                "token {at}: {ours}, not {theirs}"
            );
        }
        assert_eq!(tokenizer.eos(), Some(2));
        assert_eq!(model.config().eos_token_ids, [2]);
    }
}

#[test]
fn a_gguf_file_may_stand_where_a_model_folder_may() {
    let folder = tempfile::tempdir().unwrap();
    let model = file("model.gguf");
    let model = model.to_str().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let pairs: String = (0..6)
        .map(|row| {
            let say = |content: String| json!([{"role": "assistant", "content": content}]);
            let prompt = json!([{"role": "user", "content": format!("question {row}")}]);
            let record = json!({"prompt": prompt, "chosen": say(format!("yes {row}")), "rejected": say("no".into())});
            record.to_string() + "\n"
        })
        .collect();
    fs::write(at("pairs.jsonl"), pairs).unwrap();
    let config = format!(
        "[run]\noutput = {}\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = {}\nvalidation_share = 0.3\n\
         [objective]\nkind = \"dpo\"\n[train]\nsteps = 2\nbatch = 2\n[validation]\nevery = 2\npatience = 0\n",
        json!(at("run")),
        json!(model),
        json!(at("pairs.jsonl")),
    );
    fs::write(at("config.toml"), config).unwrap();
    let shown = done(&preftune(&["inspect", &at("config.toml")]));
    assert!(shown.contains("<|im_start|>assistant"), "{shown}");
    done(&preftune(&["train", &at("config.toml"), "--quiet"]));
    done(&preftune(&[
        "eval",
        "text",
        &at("run"),
        "--quiet",
        "--device",
        "cpu",
    ]));
    let manifest: Value =
        serde_json::from_str(&fs::read_to_string(at("run/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["base_model"], json!(model));

    let out = at("answers.jsonl");
    for source in [model, &at("run")] {
        done(&preftune(&[
            "generate",
            "--model",
            source,
            "--prompt",
            "hi",
            "--prompt",
            "ho",
            "--count",
            "3",
            "--max-tokens",
            "4",
            "--out",
            &out,
            "--device",
            "cpu",
            "--quiet",
        ]));
        assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 6);
    }
    fs::write(at("text.txt"), "some text of a few words").unwrap();
    let shown = done(&preftune(&[
        "eval",
        "perplexity",
        "--model",
        model,
        &at("text.txt"),
        "--device",
        "cpu",
    ]));
    assert!(shown.contains("perplexity"), "{shown}");

    // The whole model and the adapter merged into it, as folders.
    for (source, name) in [(model, "base"), (&at("run"), "tuned")] {
        done(&preftune(&["export", source, "--out", &at(name)]));
        for part in [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            assert!(
                folder.path().join(name).join(part).exists(),
                "{name}/{part}"
            );
        }
        let again = preftune(&["export", source, "--out", &at(name)]);
        assert_eq!(again.status.code(), Some(2));
    }
    let open = |path: &str| {
        LanguageModel::open(path.as_ref(), Device::Cpu, Kind::Float, Kind::Float).unwrap()
    };
    let largest = |name: &str| {
        let (one, other) = (open(model).parameters(), open(&at(name)).parameters());
        let pairs = one.into_iter().map(|(key, tensor)| {
            let found = other.iter().find(|(known, _)| *known == key).unwrap();
            (tensor - &found.1).abs().max().double_value(&[])
        });
        pairs.fold(0.0, f64::max)
    };
    assert!(largest("base") == 0.0 && largest("tuned") > 0.0);
}

/// The message for a changed copy of the model.
fn refusal(old: &[u8], new: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut bytes = fs::read(file("model.gguf")).unwrap();
    let at = bytes
        .windows(old.len())
        .position(|window| window == old)
        .unwrap();
    bytes[at..at + old.len()].copy_from_slice(new);
    fs::write(&path, bytes).unwrap();
    let error = TextTokenizer::open(&path, 512).err().unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn a_tokenizer_that_is_not_read_is_named() {
    for (old, new, wanted) in [
        (&b"smollm"[..], &b"sm0llm"[..], "cuts texts by `sm0llm`"),
        (b"ggml.merges", b"ggml.mergez", "`tokenizer.ggml.merges`"),
        (b"ggml.tokens", b"ggml.tokenz", "`tokenizer.ggml.tokens`"),
        (
            b"tokenizer.ggml.model",
            b"tokenizer.ggml.modem",
            "has no tokenizer in it",
        ),
        (
            b"eos_token_id\x04\0\0\0\x02\0",
            b"eos_token_id\x04\0\0\0\x02\x70",
            "names token 28674 as `eos_token_id`",
        ),
    ] {
        let message = refusal(old, new);
        assert!(message.contains(wanted), "{wanted}: {message}");
    }
}
