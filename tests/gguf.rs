//! GGUF files against the Python package `gguf`, and their models against the ones that they were made from.

use std::fs;

use preftune::models::gguf::Gguf;
use preftune::models::lm::{LanguageModel, LmConfig, RopeConfig, RopeScaling};
use tch::{Device, Kind};

use crate::support::{golden, golden_tensors};

#[test]
fn every_encoding_is_read_bit_for_bit() {
    let file = Gguf::open(&golden("lm/blocks.gguf")).unwrap();
    let expected = golden_tensors("lm/blocks.safetensors");
    assert_eq!(file.names().count(), 16);
    for name in file.names() {
        let (ours, theirs) = (file.tensor(name).unwrap(), expected.tensor(name).unwrap());
        assert_eq!(file.shape(name), Some(&[2, 256][..]));
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn a_split_file_is_read_from_any_of_its_parts() {
    let expected = golden_tensors("lm/blocks.safetensors");
    let part = |number: usize| golden(&format!("lm/split-{number:05}-of-00003.gguf"));
    for number in 1..=3 {
        let file = Gguf::open(&part(number)).unwrap();
        assert_eq!(file.files().len(), 3);
        assert_eq!(file.text("general.architecture"), Some("llama"));
        for name in expected.names() {
            let (ours, theirs) = (file.tensor(name).unwrap(), expected.tensor(name).unwrap());
            assert_eq!(ours, theirs, "{name}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for number in [1, 3] {
        let name = part(number).file_name().unwrap().to_owned();
        fs::copy(part(number), folder.path().join(name)).unwrap();
    }
    let alone = folder.path().join("split-00001-of-00003.gguf");
    let error = Gguf::open(&alone).err().unwrap();
    assert!(
        error.to_string().contains("part 2 of 3 is missing"),
        "{error}"
    );
    let renamed = folder.path().join("model.gguf");
    fs::rename(&alone, &renamed).unwrap();
    let error = Gguf::open(&renamed).err().unwrap();
    assert!(error.to_string().contains("one of 3 parts"), "{error}");
}

#[test]
fn an_imported_model_is_the_one_that_was_converted() {
    let open = |path: &std::path::Path| {
        LanguageModel::open(path, Device::Cpu, Kind::Float, Kind::Float).unwrap()
    };
    for family in ["llama", "smollm", "qwen3", "gpt2"] {
        let imported = open(&golden(&format!("lm/{family}.gguf")));
        let original = open(&golden(&format!("lm/{family}")));
        let mut ours = imported.parameters();
        let mut theirs = original.parameters();
        ours.sort_by(|left, right| left.0.cmp(&right.0));
        theirs.sort_by(|left, right| left.0.cmp(&right.0));
        assert_eq!(ours, theirs, "{family}");

        let mut config: LmConfig = imported.config().clone();
        assert_eq!(config.eos_token_ids, [2]);
        // What these cannot have in common: an own end, a scaling that llama.cpp only knows the effect of, and GPT-2's
        // scaling by layer, which it does not know.
        let wanted = original.config().clone();
        config.eos_token_ids.clone_from(&wanted.eos_token_ids);
        config.attention_scales.clone_from(&wanted.attention_scales);
        if family == "llama" {
            let scaling = RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original: 8192.0,
            };
            let theta = 500_000.0;
            assert_eq!(config.rope, Some(RopeConfig { theta, scaling }));
            config.rope.clone_from(&wanted.rope);
        }
        assert_eq!(config, wanted, "{family}");
    }
}

/// The message for a changed copy of a golden file.
fn refusal(name: &str, change: impl Fn(&mut Vec<u8>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut bytes = fs::read(golden(&format!("lm/{name}.gguf"))).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let error = LanguageModel::open(&path, Device::Cpu, Kind::Float, Kind::Float).err();
    let error = error.unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

/// Puts `new` in the place of the first `old`, which is as long.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let at = bytes.windows(old.len()).position(|window| window == old);
    let at = at.unwrap();
    bytes[at..at + old.len()].copy_from_slice(new);
}

#[test]
fn what_is_not_a_readable_model_is_refused_by_name() {
    type Change = dyn Fn(&mut Vec<u8>);
    let cases: [(&str, &Change, &str); 7] = [
        ("llama", &|bytes| bytes[0] = b'X', "not a GGUF file"),
        ("llama", &|bytes| bytes[4] = 1, "version 1"),
        ("llama", &|bytes| bytes.truncate(40_000), "beyond the end"),
        ("llama", &|bytes| bytes.truncate(300), "ends in its header"),
        (
            "llama",
            &|bytes| replace(bytes, b"llama", b"phi22"),
            "`phi22`",
        ),
        (
            "llama",
            &|bytes| replace(bytes, b"ffn_up", b"ffn_UP"),
            "no place",
        ),
        ("blocks", &|_| (), "lacks `llama.attention.head_count`"),
    ];
    for (name, change, wanted) in cases {
        let message = refusal(name, change);
        assert!(message.contains(wanted), "{wanted}: {message}");
    }
    // The type of a tensor follows its name and sizes.
    let message = refusal("blocks", |bytes| {
        let at = bytes
            .windows(4)
            .position(|window| window == b"Q4_K")
            .unwrap();
        bytes[at + 4 + 4 + 16] = 9;
    });
    assert!(message.contains("Q8_1"), "{message}");
    // Another effect of the scaling than a published one.
    let message = refusal("llama", |bytes| {
        let at = bytes
            .windows(4)
            .rposition(|window| window == 8f32.to_le_bytes());
        bytes[at.unwrap_or(0)..][..4].copy_from_slice(&9f32.to_le_bytes());
    });
    assert!(message.contains("rope_freqs"), "{message}");
}

#[test]
fn a_damaged_header_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let bytes = fs::read(golden("lm/blocks.gguf")).unwrap();
    for at in 0..600 {
        let mut damaged = bytes.clone();
        damaged[at] = 0xff;
        fs::write(&path, &damaged).unwrap();
        if let Ok(file) = Gguf::open(&path) {
            for name in file.names() {
                let _ = file.tensor(name);
            }
        }
    }
}
