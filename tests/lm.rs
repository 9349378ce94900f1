//! Language models against transformers: logits, texts, gradients, log-probs; what is written loads again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use preftune::Error;
use preftune::losses::dpo::dpo;
use preftune::losses::pair::PairLogps;
use preftune::models::json::read_object_as_written;
use preftune::models::lm::generate::Sampling;
use preftune::models::lm::{LanguageModel, LmConfig};
use preftune::models::lora::{LoraConfig, LoraInit, LoraSet, Targets};
use preftune::models::weights::{self, Checkpoint};
use preftune::ops::logprobs::{Reference, Scored, TwoPass, entropy, selected};
use preftune::ops::tape::Tape;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use crate::support::{assert_close, golden, golden_tensors};

const FAMILIES: [&str; 6] = ["llama", "smollm", "mistral", "qwen2", "qwen3", "gpt2"];

fn open_folder(folder: &Path) -> Result<LanguageModel, Error> {
    LanguageModel::open(folder, Device::Cpu, Kind::Float, Kind::Float)
}

fn open(family: &str) -> LanguageModel {
    open_folder(&golden(&format!("lm/{family}"))).unwrap()
}

fn expected(name: &str) -> Checkpoint {
    golden_tensors(&format!("lm/{name}.safetensors"))
}

/// Ids `[4, 12]` padded on the right, mask, labels, and log-probs of a reference `[4]`.
struct Batch {
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
    reference: Tensor,
}

fn batch() -> Batch {
    let file = expected("batch");
    let tensor = |name| file.tensor(name).unwrap();
    Batch {
        ids: tensor("ids"),
        mask: tensor("mask"),
        labels: tensor("labels"),
        reference: tensor("reference"),
    }
}

/// The prompts of the batch as lists, and as rows padded on the left with their mask.
fn left(batch: &Batch) -> (Vec<Vec<i64>>, Tensor, Tensor) {
    let (mut lists, mut ids, mut mask) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..batch.ids.size()[0] {
        let length = batch.mask.get(row).sum(Kind::Int64).int64_value(&[]);
        let tokens: Vec<i64> = Vec::try_from(batch.ids.get(row).narrow(0, 0, length)).unwrap();
        let padding = 12 - tokens.len();
        ids.extend(std::iter::repeat_n(0, padding).chain(tokens.iter().copied()));
        mask.extend((0..12).map(|column| column >= padding));
        lists.push(tokens);
    }
    let shape = [lists.len() as i64, 12];
    let (ids, mask) = (Tensor::from_slice(&ids), Tensor::from_slice(&mask));
    (lists, ids.view(shape), mask.view(shape))
}

fn masked(logits: &Tensor, mask: &Tensor) -> Tensor {
    logits * mask.unsqueeze(-1)
}

fn greedy(max_tokens: usize) -> Sampling {
    Sampling {
        temperature: 0.0,
        top_k: None,
        top_p: 1.0,
        max_tokens,
    }
}

#[test]
fn logits_equal_transformers_with_padding_on_either_side() {
    let batch = batch();
    let (_, ids, mask) = left(&batch);
    for family in FAMILIES {
        let (model, expected) = (open(family), expected(family));
        let logits = |ids: &Tensor, mask: Option<&Tensor>| {
            no_grad(|| model.logits(&model.forward(ids, mask, None)))
        };
        let right = expected.tensor("logits").unwrap();
        for (what, given) in [("masked", Some(&batch.mask)), ("unmasked", None)] {
            let logits = masked(&logits(&batch.ids, given), &batch.mask);
            assert_close(&format!("{family} right, {what}"), &logits, &right, 1e-5);
        }
        let logits = logits(&ids, Some(&mask));
        assert!(logits.isfinite().all().int64_value(&[]) == 1, "{family}");
        let wanted = expected.tensor("logits_left").unwrap();
        assert_close(
            &format!("{family} left"),
            &masked(&logits, &mask),
            &wanted,
            1e-5,
        );
    }
}

#[test]
fn greedy_texts_equal_transformers_token_for_token() {
    let (prompts, ..) = left(&batch());
    for family in FAMILIES {
        let (model, expected) = (open(family), expected(family));
        let end = model.config().eos_token_ids.clone();
        assert_eq!(
            end,
            [expected.tensor("end").unwrap().int64_value(&[])],
            "{family}"
        );
        for (name, stop) in [("greedy", &[][..]), ("greedy_ended", &end)] {
            let texts = model
                .generate(&prompts, &[0; 4], &greedy(14), stop)
                .unwrap();
            let wanted = expected.tensor(name).unwrap();
            for (row, text) in texts.iter().enumerate() {
                let mut wanted: Vec<i64> = Vec::try_from(wanted.get(row as i64)).unwrap();
                let ended = wanted.iter().position(|token| stop.contains(token));
                wanted.truncate(ended.map_or(14, |at| at + 1));
                assert_eq!(text.tokens, wanted, "{family} {name} {row}");
                assert_eq!(text.ended, ended.is_some(), "{family} {name} {row}");
            }
        }
    }
}

/// The DPO loss of the batch, from log-probs of responses `[4]`.
fn loss(batch: &Batch, logps: &Tensor) -> Tensor {
    let half = |tensor: &Tensor, start| tensor.narrow(0, start, 2);
    let pair = PairLogps {
        policy_chosen: half(logps, 0),
        policy_rejected: half(logps, 2),
        reference_chosen: half(&batch.reference, 0),
        reference_rejected: half(&batch.reference, 2),
    };
    dpo(&pair, 0.5).mean(Kind::Float)
}

fn train_all(model: &LanguageModel) {
    for (_, tensor) in model.parameters() {
        let _ = tensor.set_requires_grad(true);
    }
}

fn assert_gradients(what: &str, model: &LanguageModel, expected: &Checkpoint, tolerance: f64) {
    for (name, tensor) in model.parameters() {
        let wanted = expected.tensor(&format!("grad.{name}")).unwrap();
        assert_close(
            &format!("{what} {name}"),
            &tensor.grad(),
            &wanted,
            tolerance,
        );
    }
}

#[test]
fn every_gradient_of_a_dpo_loss_equals_transformers() {
    let batch = batch();
    let scored = Scored::from_labels(&batch.labels);
    for family in FAMILIES {
        let (model, expected) = (open(family), expected(family));
        train_all(&model);
        let hidden = model.forward(&batch.ids, None, None);
        let logits = model.logits(&scored.states(&hidden));
        let logps = scored.sum(&selected(&logits, &scored.targets));
        assert_close(family, &logps, &expected.tensor("logps").unwrap(), 1e-5);
        let loss = loss(&batch, &logps);
        assert_close(family, &loss, &expected.tensor("loss").unwrap(), 1e-5);
        loss.backward();
        assert_gradients(family, &model, &expected, 1e-4);
    }
}

#[test]
fn two_passes_and_recomputed_activations_give_the_same_gradients() {
    let batch = batch();
    let scored = Scored::from_labels(&batch.labels);
    // In f32 the order of sums, which follows from the chunks and the number of threads, is seen at 1e-6.
    let open = |family: &str| {
        let folder = golden(&format!("lm/{family}"));
        LanguageModel::open(&folder, Device::Cpu, Kind::Double, Kind::Double).unwrap()
    };
    for family in ["llama", "qwen2", "gpt2"] {
        let plain = open(family);
        train_all(&plain);
        let hidden = plain.forward(&batch.ids, Some(&batch.mask), None);
        let logits = plain.logits(&scored.states(&hidden));
        loss(&batch, &scored.sum(&selected(&logits, &scored.targets))).backward();

        let model = open(family);
        train_all(&model);
        let tape = Tape::new();
        let hidden = model.forward(&batch.ids, Some(&batch.mask), Some(&tape));
        let head = |states: &Tensor| model.logits(states);
        let states = scored.states(&hidden);
        let pass = TwoPass::new(&states, &scored.targets, &head, None, 5);
        loss(&batch, &scored.sum(&pass.logps)).backward();
        pass.backward();
        tape.backward();
        for ((name, ours), (_, plain)) in model.parameters().iter().zip(plain.parameters()) {
            assert_close(
                &format!("{family} {name}"),
                &ours.grad(),
                &plain.grad(),
                1e-6,
            );
        }
    }
}

#[test]
fn a_head_in_two_passes_equals_torch_with_divergence_and_entropy() {
    let file = expected("heads");
    let tensor = |name: &str| file.tensor(name).unwrap();
    for rows in [1, 4, 11, 100] {
        let (states, weight) = (tensor("states"), tensor("weight"));
        let states = states.set_requires_grad(true);
        let weight = weight.set_requires_grad(true);
        let frozen = tensor("frozen");
        let head = |states: &Tensor| states.matmul(&weight.tr());
        let other = |states: &Tensor| states.matmul(&frozen.tr());
        let reference = Reference {
            states: tensor("reference"),
            head: &other,
        };
        let targets = tensor("targets");
        let pass = TwoPass::new(&states, &targets, &head, Some(reference), rows);
        assert_close("logps", &pass.logps, &tensor("logps"), 1e-6);
        assert_close("entropy", &pass.entropy, &tensor("entropy"), 1e-5);
        let kl = pass.kl.as_ref().unwrap();
        assert_close("kl", kl, &tensor("kl"), 1e-5);
        let product = pass.logps.narrow(0, 0, 5).sum(None) * kl.narrow(0, 3, 8).square().sum(None);
        let loss = pass.logps.logsumexp([0], false) + product.tanh() + kl.max();
        assert_close("loss", &loss, &tensor("loss"), 1e-6);
        loss.backward();
        pass.backward();
        assert_close("states", &states.grad(), &tensor("grad_states"), 1e-5);
        assert_close("weight", &weight.grad(), &tensor("grad_weight"), 1e-5);
    }
}

#[test]
fn log_probs_stay_exact_where_probabilities_underflow() {
    let logits = Tensor::from_slice(&[0.0f32, 200.0, -200.0]).view([1, 3]);
    let logp = |target: i64| selected(&logits, &Tensor::from_slice(&[target])).double_value(&[0]);
    assert!((logp(0) + 200.0).abs() < 1e-4 && (logp(2) + 400.0).abs() < 1e-4);
    assert!(logp(1).abs() < 1e-6 && entropy(&logits).double_value(&[0]).abs() < 1e-6);
    let half = logits.to_kind(Kind::BFloat16);
    assert_eq!(
        selected(&half, &Tensor::from_slice(&[0i64])).kind(),
        Kind::Float
    );
}

#[test]
fn labels_score_the_token_after_each_position() {
    let labels = Tensor::from_slice(&[7i64, -100, 5, 6, -100, -100, -100, 4]).view([2, 4]);
    let scored = Scored::from_labels(&labels);
    assert_eq!(Vec::<i64>::try_from(&scored.targets).unwrap(), [5, 6, 4]);
    let hidden = Tensor::arange(8, (Kind::Float, Device::Cpu)).view([2, 4, 1]);
    let states: Vec<f32> = Vec::try_from(scored.states(&hidden).flatten(0, 1)).unwrap();
    assert_eq!(states, [1.0, 2.0, 6.0]);
    let sums = scored.sum(&Tensor::from_slice(&[1.0f32, 2.0, 4.0]));
    assert_eq!(Vec::<f32>::try_from(sums).unwrap(), [3.0, 4.0]);
    assert_eq!(Vec::<f32>::try_from(scored.lengths()).unwrap(), [2.0, 1.0]);
}

/// A copy of a golden folder with some keys of its config.json set, or removed where null is given.
fn changed(family: &str, changes: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = golden(&format!("lm/{family}"));
    for name in ["model.safetensors", "generation_config.json"] {
        fs::copy(source.join(name), folder.path().join(name)).unwrap();
    }
    let mut config = read_object_as_written(&source.join("config.json")).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config.insert(key.clone(), value.clone());
    }
    let text = Value::Object(config).to_string();
    fs::write(folder.path().join("config.json"), text).unwrap();
    folder
}

#[test]
fn every_scaling_of_rotary_positions_equals_transformers() {
    let file = expected("rope");
    let ids = file.tensor("ids").unwrap();
    let cases = read_object_as_written(&golden("lm/rope.json")).unwrap();
    assert_eq!(cases.len(), 6);
    for (name, changes) in cases {
        let mut changes = changes;
        if changes.get("rope_parameters").is_none() {
            changes["rope_parameters"] = Value::Null;
        }
        let folder = changed("llama", &changes);
        let model = open_folder(folder.path()).unwrap();
        let hidden = no_grad(|| model.forward(&ids, None, None));
        let logits = no_grad(|| model.logits(&hidden.narrow(1, 16, 8)));
        assert_close(&name, &logits, &file.tensor(&name).unwrap(), 1e-5);
    }
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let longrope = json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]});
    let cases = [
        ("llama", json!({"model_type": "gemma2"}), "`gemma2`"),
        ("llama", json!({"model_type": null}), "model_type"),
        ("llama", json!({"rope_scaling": longrope}), "`longrope`"),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear"}}),
            "`factor`",
        ),
        (
            "llama",
            json!({"rope_parameters": {"full_attention": {}}}),
            "`full_attention`",
        ),
        (
            "llama",
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
        ),
        ("llama", json!({"quantization_config": {}}), "quantised"),
        ("llama", json!({"hidden_act": "xielu"}), "xielu"),
        (
            "llama",
            json!({"num_key_value_heads": 3}),
            "key-value heads",
        ),
        (
            "llama",
            json!({"num_hidden_layers": 0}),
            "num_hidden_layers",
        ),
        ("llama", json!({"num_hidden_layers": 1}), "no place for it"),
        ("llama", json!({"num_hidden_layers": 3}), "missing"),
        ("llama", json!({"vocab_size": 95}), "has shape"),
        (
            "mistral",
            json!({"layer_types": ["full_attention"]}),
            "layer_types",
        ),
        (
            "qwen3",
            json!({"layer_types": ["full_attention"]}),
            "1 of 2",
        ),
        (
            "qwen3",
            json!({"layer_types": ["full_attention", "linear_attention"]}),
            "linear_attention",
        ),
        (
            "gpt2",
            json!({"add_cross_attention": true}),
            "cross-attention",
        ),
        ("gpt2", json!({"n_head": 5}), "attention heads"),
    ];
    for (family, changes, wanted) in cases {
        let folder = changed(family, &changes);
        let error = open_folder(folder.path()).err().unwrap();
        assert!(error.to_string().contains(wanted), "{changes}: {error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn a_null_window_differs_from_an_absent_one() {
    let windows = |changes: Value| {
        LmConfig::open(changed("mistral", &changes).path())
            .unwrap()
            .windows
    };
    assert_eq!(windows(json!({})), [Some(4); 2]);
    assert_eq!(windows(json!({"sliding_window": null})), [None; 2]);
}

#[test]
fn names_of_bare_and_of_old_files_are_understood() {
    let file = Checkpoint::open_file(&golden("lm/gpt2/model.safetensors")).unwrap();
    let mut tensors: Vec<(String, Tensor)> = file
        .names()
        .map(|name| {
            let short = name.strip_prefix("transformer.").unwrap();
            (short.to_owned(), file.tensor(name).unwrap())
        })
        .collect();
    tensors.push((
        "h.0.attn.bias".to_owned(),
        Tensor::ones([1, 1, 32, 32], (Kind::Bool, Device::Cpu)),
    ));
    let table = file.tensor("transformer.wte.weight").unwrap();
    tensors.push(("lm_head.weight".to_owned(), table.copy()));
    let folder = changed("gpt2", &json!({}));
    let path = folder.path().join("model.safetensors");
    weights::save(&path, &tensors, &BTreeMap::default()).unwrap();
    let logits =
        |model: &LanguageModel| no_grad(|| model.logits(&model.forward(&batch().ids, None, None)));
    let (model, usual) = (open_folder(folder.path()).unwrap(), open("gpt2"));
    assert_eq!(logits(&model), logits(&usual));
    let names = |model: &LanguageModel| {
        model
            .parameters()
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&model), names(&usual));

    // An output layer that differs from the table is one of its own, whatever the configuration says.
    tensors.last_mut().unwrap().1 = &table * 2.0;
    weights::save(&path, &tensors, &BTreeMap::default()).unwrap();
    let model = open_folder(folder.path()).unwrap();
    assert_close("untied", &logits(&model), &(logits(&usual) * 2.0), 1e-6);
    assert!(names(&model).contains(&"lm_head.weight".to_owned()));
}

#[test]
fn a_saved_model_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let model = open(family);
        let path = folder.path().join(family);
        model.save(&path, Kind::Half, &BTreeMap::new()).unwrap();
        let again = open_folder(&path).unwrap();
        assert_eq!(again.config(), model.config());
        for ((name, ours), (_, theirs)) in again.parameters().iter().zip(model.parameters()) {
            assert_eq!(*ours, theirs, "{family} {name}");
        }
        assert!(
            again
                .save(&path, Kind::Half, &BTreeMap::new())
                .unwrap_err()
                .to_string()
                .contains("read from")
        );
        model.save(&path, Kind::BFloat16, &BTreeMap::new()).unwrap();
        let config = read_object_as_written(&path.join("config.json")).unwrap();
        let kind = config.get("dtype").or_else(|| config.get("torch_dtype"));
        assert_eq!(kind, Some(&json!("bfloat16")));
    }
}

#[test]
fn a_peft_adapter_gives_what_peft_computes_and_comes_back_as_it_was() {
    let batch = batch();
    let scored = Scored::from_labels(&batch.labels);
    let folder = tempfile::tempdir().unwrap();
    for family in ["llama", "gpt2"] {
        let (model, expected) = (open(family), expected(&format!("{family}_lora")));
        let forward = |model: &LanguageModel| model.logits(&model.forward(&batch.ids, None, None));
        let base = no_grad(|| forward(&model));
        let lora =
            LoraSet::load(&model.adapters(), &golden(&format!("lm/{family}_adapter"))).unwrap();
        lora.set_trainable(true);
        let logits = forward(&model);
        let wanted = expected.tensor("logits").unwrap();
        assert_close(family, &masked(&logits, &batch.mask), &wanted, 1e-5);
        let states = logits.flatten(0, 1);
        let chosen = selected(
            &scored.states(&states.view(logits.size().as_slice())),
            &scored.targets,
        );
        chosen.sum(Kind::Float).backward();
        for (name, tensor) in lora.parameters() {
            let wanted = expected.tensor(&format!("grad.{name}")).unwrap();
            assert_close(&name, &tensor.grad(), &wanted, 1e-4);
        }
        lora.set_enabled(false);
        assert_eq!(no_grad(|| forward(&model)), base);
        lora.set_enabled(true);

        let path = folder.path().join(family);
        lora.weights()
            .save_adapter(&path, family, &BTreeMap::new())
            .unwrap();
        let other = open(family);
        let again = LoraSet::load(&other.adapters(), &path).unwrap();
        for ((name, ours), (_, theirs)) in again.parameters().iter().zip(lora.parameters()) {
            assert_eq!(*ours, theirs, "{name}");
        }
        assert_close("again", &no_grad(|| forward(&other)), &logits, 1e-6);
        again.merge();
        assert_close("merged", &no_grad(|| forward(&other)), &logits, 1e-5);
    }
}

#[test]
fn a_new_lora_sits_where_it_was_asked_to() {
    let sites = |family: &str, targets: Targets| {
        let config = LoraConfig {
            rank: 2,
            alpha: 2.0,
            targets,
            init: LoraInit::default(),
        };
        let adapters = open(family).adapters();
        let set = LoraSet::attach(&adapters, &config, 1, Device::Cpu, Kind::Float).unwrap();
        set.weights().modules.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(sites("llama", Targets::Attention).len(), 2 * 4);
    assert_eq!(sites("llama", Targets::AllLinear).len(), 2 * 7);
    assert_eq!(sites("gpt2", Targets::Attention).len(), 2 * 2);
    assert_eq!(sites("gpt2", Targets::AllLinear).len(), 2 * 4);
    let head = sites("llama", Targets::Suffixes(vec!["lm_head".to_owned()]));
    assert_eq!(head, ["lm_head"]);
}

#[test]
fn candidates_are_those_of_transformers() {
    let file = expected("sampling");
    let logits = file.tensor("logits").unwrap();
    for (temperature, top_k, top_p) in [
        (1.0, None, 1.0),
        (0.7, None, 0.8),
        (1.5, Some(10), 1.0),
        (1.2, Some(20), 0.6),
    ] {
        let sampling = Sampling {
            temperature,
            top_k,
            top_p,
            max_tokens: 1,
        };
        let (probabilities, ids) = sampling.candidates(&logits);
        let spread = logits.zeros_like().scatter(1, &ids, &probabilities);
        let name = format!("{temperature:.1}_{}_{top_p:.1}", top_k.unwrap_or(0));
        assert_close(&name, &spread, &file.tensor(&name).unwrap(), 1e-5);
    }
}

#[test]
fn a_text_depends_on_its_seed_and_not_on_its_neighbours() {
    let (prompts, ..) = left(&batch());
    let model = open("qwen3");
    let sampling = Sampling {
        temperature: 1.0,
        top_k: Some(40),
        top_p: 0.95,
        max_tokens: 12,
    };
    let stop = [model.config().eos_token_ids[0], 50, 51];
    let write = |prompts: &[Vec<i64>], seeds: &[u64]| {
        model.generate(prompts, seeds, &sampling, &stop).unwrap()
    };
    let together = write(&prompts, &[1, 2, 3, 4]);
    for (row, text) in together.iter().enumerate() {
        assert_eq!(
            write(&prompts[row..=row], &[row as u64 + 1]),
            std::slice::from_ref(text)
        );
        assert_eq!(text.ended, stop.contains(text.tokens.last().unwrap()));
    }
    assert_ne!(write(&prompts, &[5, 6, 7, 8]), together);
    let same = vec![prompts[0].clone(); 300];
    let seeds: Vec<u64> = (0..300).collect();
    let first = Sampling {
        max_tokens: 1,
        ..sampling
    };
    let firsts = model.generate(&same, &seeds, &first, &[]).unwrap();
    let ids = Tensor::from_slice(&prompts[0]).unsqueeze(0);
    let logits = no_grad(|| model.logits(&model.forward(&ids, None, None).select(1, -1)));
    let (probabilities, candidates) = first.candidates(&logits);
    let (likeliest, share) = (
        candidates.int64_value(&[0, 0]),
        probabilities.double_value(&[0, 0]),
    );
    let seen = firsts
        .iter()
        .filter(|text| text.tokens == [likeliest])
        .count() as f64
        / 300.0;
    assert!(
        (seen - share).abs() < 4.0 * (share * (1.0 - share) / 300.0).sqrt(),
        "{seen} {share}"
    );
}

#[test]
fn what_cannot_be_written_on_is_refused() {
    let model = open("gpt2");
    let error = |prompt: Vec<i64>, sampling: Sampling| {
        let error = model
            .generate(&[vec![5], prompt], &[0; 2], &sampling, &[])
            .unwrap_err();
        error.to_string()
    };
    assert!(error(vec![], greedy(1)).contains("prompt 2 has no tokens"));
    assert!(error(vec![96], greedy(1)).contains("token id 96"));
    assert!(error(vec![-1], greedy(1)).contains("token id -1"));
    assert!(error(vec![5; 30], greedy(4)).contains("32 positions"));
    assert_eq!(
        model
            .generate(&[vec![5; 30]], &[0], &greedy(3), &[])
            .unwrap()[0]
            .tokens
            .len(),
        3
    );
    assert!(
        error(
            vec![5],
            Sampling {
                top_p: 0.0,
                ..greedy(1)
            }
        )
        .contains("top-p")
    );
    assert!(
        error(
            vec![5],
            Sampling {
                temperature: f64::NAN,
                ..greedy(1)
            }
        )
        .contains("temperature")
    );
    assert!(
        model
            .generate(&[], &[], &greedy(1), &[])
            .unwrap()
            .is_empty()
    );
}
