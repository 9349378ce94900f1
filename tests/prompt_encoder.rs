//! What the U-Net is conditioned on, against transformers with the rules of the diffusers pipelines.

use std::collections::BTreeMap;
use std::path::Path;

use preftune::data::world::TOKENS;
use preftune::models::json;
use preftune::models::prompt_encoder::PromptEncoder;
use preftune::models::weights::Checkpoint;
use tch::{Device, Kind};

use crate::support::{assert_close, golden, golden_tensors};

fn prompts() -> Vec<String> {
    let expected = json::read_object(&golden("encoders/tokens.json")).unwrap();
    let all: Vec<String> = serde_json::from_value(expected["prompts"].clone()).unwrap();
    [0, 1, 4, 5].map(|index: usize| all[index].clone()).to_vec()
}

fn open(family: &str) -> PromptEncoder {
    let folder = golden(&format!("diffusion/{family}"));
    PromptEncoder::open(&folder, None, Device::Cpu, Kind::Float).unwrap()
}

#[test]
fn contexts_and_pooled_vectors_equal_transformers() {
    let expected = golden_tensors("encoders/prompts.safetensors");
    for family in ["sd1", "sd2", "sdxl"] {
        let encoder = open(family);
        let embedding = encoder.encode(&prompts()).unwrap();
        let context = expected.tensor(&format!("{family}.context")).unwrap();
        assert_close(family, &embedding.context, &context, 2e-5);
        assert_eq!(embedding.context.size()[2], encoder.context_width());
        assert_eq!(encoder.is_xl(), family == "sdxl");
        if let Some(pooled) = &embedding.pooled {
            let wanted = expected.tensor("sdxl.pooled").unwrap();
            assert_close("pooled", pooled, &wanted, 2e-5);
        }
        assert_eq!(embedding.pooled.is_some(), encoder.is_xl());
        let truncated = encoder.truncations(&prompts()).unwrap();
        assert_eq!(truncated.len(), 1);
        assert_eq!(truncated[0].index, 2);
    }
}

#[test]
fn what_an_empty_negative_is_to_sdxl_follows_model_index_and_diffusers_default() {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("diffusion/sdxl"), folder.path());
    let index = folder.path().join("model_index.json");
    let object = json::read_object(&index).unwrap();
    let empty = [String::new()];
    for (value, zeros) in [(None, true), (Some(true), true), (Some(false), false)] {
        let mut changed = object.clone();
        let _ = changed.remove("force_zeros_for_empty_prompt");
        if let Some(value) = value {
            changed.insert("force_zeros_for_empty_prompt".to_owned(), value.into());
        }
        std::fs::write(&index, serde_json::Value::Object(changed).to_string()).unwrap();
        let xl = PromptEncoder::open(folder.path(), None, Device::Cpu, Kind::Float).unwrap();
        let (encoded, negative) = (
            xl.encode(&empty).unwrap(),
            xl.encode_negative(&empty).unwrap(),
        );
        assert_eq!(negative.context == encoded.context.zeros_like(), zeros);
        assert_eq!(negative.context == encoded.context, !zeros);
    }
}

#[test]
fn an_empty_negative_prompt_is_zeros_for_sdxl_alone() {
    let negatives = ["", "blurry photo"].map(str::to_owned);
    let xl = open("sdxl");
    let (plain, negative) = (
        xl.encode(&negatives).unwrap(),
        xl.encode_negative(&negatives).unwrap(),
    );
    for (plain, negative) in [
        (plain.context, negative.context),
        (plain.pooled.unwrap(), negative.pooled.unwrap()),
    ] {
        assert!(plain.get(0).abs().max().double_value(&[]) > 0.1);
        assert_eq!(negative.get(0), plain.get(0).zeros_like());
        assert_eq!(negative.get(1), plain.get(1));
    }
    let sd1 = open("sd1");
    assert_eq!(
        sd1.encode_negative(&negatives).unwrap().context,
        sd1.encode(&negatives).unwrap().context
    );
}

/// A copy of a golden folder whose files a test may change.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn refused(folder: &Path) -> String {
    let error = PromptEncoder::open(folder, None, Device::Cpu, Kind::Float);
    let error = error.err().unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn a_text_encoder_without_the_key_prefix_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    copy(&golden("diffusion/sd1"), root);
    let file = root.join("text_encoder/model.safetensors");
    let checkpoint = Checkpoint::open_file(&file).unwrap();
    let tensors: Vec<_> = checkpoint
        .names()
        .map(|name| {
            let bare = name.strip_prefix("text_model.");
            let other = bare.map_or(format!("text_model.{name}"), str::to_owned);
            (other, checkpoint.tensor(name).unwrap())
        })
        .collect();
    preftune::models::weights::save(&file, &tensors, &BTreeMap::default()).unwrap();
    let encoder = PromptEncoder::open(root, None, Device::Cpu, Kind::Float).unwrap();
    let same = open("sd1").encode(&prompts()).unwrap();
    assert_eq!(encoder.encode(&prompts()).unwrap().context, same.context);
}

#[test]
fn without_a_model_index_the_folders_decide() {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("diffusion/sdxl"), folder.path());
    std::fs::remove_file(folder.path().join("model_index.json")).unwrap();
    let encoder = PromptEncoder::open(folder.path(), None, Device::Cpu, Kind::Float).unwrap();
    assert!(encoder.is_xl());
}

#[test]
fn folders_that_lack_a_part_are_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert!(refused(root).contains("no `text_encoder`"));
    copy(&golden("diffusion/sdxl"), root);
    std::fs::remove_dir_all(root.join("tokenizer_2")).unwrap();
    assert!(refused(root).contains("tokenizer_2"));
    std::fs::remove_dir_all(root.join("text_encoder_2")).unwrap();
    assert!(refused(root).contains("text_encoder_2"));
    copy(&golden("diffusion/sd1"), root);
    let config = root.join("text_encoder/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    for (from, to, what) in [
        ("\"hidden_size\": 16", "\"hidden_size\": 18", "has shape"),
        (
            "\"num_attention_heads\": 2",
            "\"num_attention_heads\": 3",
            "3 attention heads",
        ),
        ("\"quick_gelu\"", "\"maxout\"", "maxout"),
        (
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 4",
            "layers.3",
        ),
    ] {
        assert!(text.contains(from));
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let message = refused(root);
        assert!(message.contains(what), "{message}");
    }
}

/// On the embedded world a token must reach the class word's state, or nothing that trains the U-Net alone could bind it.
#[test]
fn tokens_of_the_embedded_world_change_the_states_of_every_class() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-world");
    let encoder = PromptEncoder::open(&folder, None, Device::Cpu, Kind::Float).unwrap();
    let cosine = |word: &str, class: &str| {
        let prompts = [
            format!("a {class} in the snow"),
            format!("a {word} {class} in the snow"),
        ];
        let states = encoder.encode(&prompts).unwrap().context; // [2, t, d]
        // Start, article and perhaps the word stand before the class.
        let (plain, named) = (states.get(0).get(2), states.get(1).get(3));
        let product = plain.dot(&named).double_value(&[]);
        product / (plain.norm() * named.norm()).double_value(&[])
    };
    for token in TOKENS {
        let cosines = ["dog", "cake", "house", "bus"].map(|class| cosine(token, class));
        let mean = cosines.iter().sum::<f64>() / 4.0;
        assert!(mean <= 0.9, "{token}: {cosines:?}");
    }
}
