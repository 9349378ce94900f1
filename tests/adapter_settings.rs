//! PEFT's settings of adapters, against what PEFT computes after it has read the same folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use preftune::models::lm::LanguageModel;
use preftune::models::lora::LoraSet;
use preftune::models::weights::{Checkpoint, save};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, no_grad};

use crate::support::{assert_close, golden, golden_tensors};

fn base(family: &str) -> LanguageModel {
    let folder = golden(&format!("lm/{family}"));
    LanguageModel::open(&folder, Device::Cpu, Kind::Float, Kind::Float).unwrap()
}

#[test]
fn settings_of_an_adapter_mean_what_they_mean_to_peft() {
    let expected = golden_tensors("adapters/logits.safetensors");
    let ids = expected.tensor("ids").unwrap();
    for name in expected.names().filter(|name| *name != "ids") {
        let model = base(if name == "pissa_gpt2" {
            "gpt2"
        } else {
            "llama"
        });
        let folder = golden("adapters").join(name);
        let lora = LoraSet::load(&model.adapters(), &folder).unwrap();
        let forward = || no_grad(|| model.logits(&model.forward(&ids, None, None)));
        let wanted = expected.tensor(name).unwrap();
        assert_close(name, &forward(), &wanted, 2e-5);
        lora.merge();
        assert_close(&format!("{name} merged"), &forward(), &wanted, 2e-5);
    }
}

/// The error for the adapter `case` with changed settings and tensors under other names.
fn refusal(case: &str, settings: &Value, rename: impl Fn(&str) -> String) -> String {
    let folder = tempfile::tempdir().unwrap();
    let from = golden("adapters").join(case);
    write_changed(&from, folder.path(), settings, rename);
    let model = base("llama");
    let error = LoraSet::load(&model.adapters(), folder.path())
        .err()
        .unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

fn write_changed(from: &Path, to: &Path, settings: &Value, rename: impl Fn(&str) -> String) {
    let text = fs::read_to_string(from.join("adapter_config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&text).unwrap();
    config.extend(settings.as_object().unwrap().clone());
    let text = Value::Object(config).to_string();
    fs::write(to.join("adapter_config.json"), text).unwrap();
    let file = Checkpoint::open_file(&from.join("adapter_model.safetensors")).unwrap();
    let tensors: Vec<_> = file
        .names()
        .map(|name| (rename(name), file.tensor(name).unwrap()))
        .collect();
    let path = to.join("adapter_model.safetensors");
    save(&path, &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn settings_that_change_the_result_are_refused_by_name() {
    for (settings, named) in [
        (json!({"init_lora_weights": "loftq"}), "loftq"),
        (json!({"init_lora_weights": "corda"}), "corda"),
        (json!({"init_lora_weights": "lora_ga"}), "lora_ga"),
        (
            json!({"init_lora_weights": "pissa_niter_4"}),
            "pissa_niter_4",
        ),
        (json!({"use_dora": true}), "use_dora"),
        (json!({"use_qalora": true}), "use_qalora"),
        (
            json!({"alora_invocation_tokens": [1, 2]}),
            "alora_invocation_tokens",
        ),
        (
            json!({"layer_replication": [[0, 2], [1, 2]]}),
            "layer_replication",
        ),
        (
            json!({"target_parameters": ["mlp.experts"]}),
            "target_parameters",
        ),
        (json!({"kasa_config": {"x": 1}}), "kasa_config"),
        (json!({"something_new": 3}), "something_new"),
        (json!({"peft_type": "LOHA"}), "LOHA"),
        (json!({"r": 7}), "rank 7"),
        (json!({"rank_pattern": {"(": 2}}), "rank_pattern"),
        (json!({"target_modules": r".*\.q_proj"}), "target_modules"),
        (json!({"layers_to_transform": [0]}), "layers_to_transform"),
        (json!({"exclude_modules": ["down_proj"]}), "exclude_modules"),
    ] {
        let message = refusal("eva", &settings, str::to_owned);
        assert!(message.contains(named), "{named}: {message}");
    }
}

#[test]
fn trained_parts_that_are_no_lora_are_refused_by_the_setting_that_made_them() {
    let first = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight";
    for (other, named) in [
        ("base_model.model.lm_head.weight", "modules_to_save"),
        (
            "base_model.model.model.embed_tokens.weight",
            "modules_to_save",
        ),
        (
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
            "trainable_token_indices",
        ),
        (
            "base_model.model.model.layers.0.mlp.down_proj.base_layer.bias",
            "bias",
        ),
        (
            "base_model.model.model.embed_tokens.lora_embedding_A",
            "token vectors",
        ),
    ] {
        let rename = |name: &str| {
            if name == first {
                other.to_owned()
            } else {
                name.to_owned()
            }
        };
        let message = refusal("eva", &json!({}), rename);
        assert!(message.contains(named), "{other}: {message}");
        assert!(message.contains(other), "{other}: {message}");
    }
}
