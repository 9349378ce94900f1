//! LoRA files: every spelling in, PEFT and kohya files out, wrong files refused by name.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use preftune::models::layers::Lora;
use preftune::models::lora::{Family, KohyaMetadata, LoraWeights, Targets, read, sites};
use preftune::models::weights::{Checkpoint, save};
use preftune::ops::random;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::lora::{
    CASES, QUERY, assert_same_updates, attach, is, layers, read_sd1, trained, unet_sites, update,
};
use super::support::{assert_close, golden, golden_tensors};

/// Writes the LoRA `weights` with A, B and alpha under the names that `name` makes of a module.
fn write_spelled(
    weights: &LoraWeights,
    path: &Path,
    name: impl Fn(&str) -> String,
    [down, up, alpha]: [&str; 3],
) {
    let mut tensors = Vec::new();
    for (module, lora) in &weights.modules {
        let name = name(module);
        tensors.push((name.clone() + down, lora.down.shallow_clone()));
        if alpha.is_empty() {
            tensors.push((name + up, &lora.up * lora.scale));
        } else {
            let rank = lora.down.size()[0] as f64;
            tensors.push((name.clone() + up, lora.up.shallow_clone()));
            let strength = Tensor::from(lora.scale * rank).to_kind(Kind::Float);
            tensors.push((name + alpha, strength));
        }
    }
    save(path, &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn files_of_diffusers_are_read_with_their_strength() {
    let weights = trained("sd1_attention");
    assert_eq!(weights.modules.len(), 56);
    assert!(weights.modules.values().all(|lora| is(lora.scale, 0.5)));
    for (name, lora) in trained("sd1_ranks").modules {
        let expected = match name.rsplit('.').next().unwrap() {
            "to_q" => (2, 2.0 / 2.0),
            "to_v" => (4, 6.0 / 4.0),
            _ => (4, 2.0 / 4.0),
        };
        assert_eq!((lora.down.size()[0], lora.scale), expected, "{name}");
    }
}

#[test]
fn every_spelling_means_the_same_lora() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let peft = [".lora_A.weight", ".lora_B.weight", ""];
    let peft_alpha = [".lora_A.weight", ".lora_B.weight", ".alpha"];
    let dreambooth = [".lora.down.weight", ".lora.up.weight", ""];
    let kohya = [".lora_down.weight", ".lora_up.weight", ".alpha"];
    let old = ["_lora.down.weight", "_lora.up.weight", ""];
    let under = |prefix: &str, name: &str| format!("{prefix}{}", name.replace('.', "_"));
    let expected = trained("sd1_all_linear");
    let read_back = || read_sd1(&path).unwrap();

    for parts in [peft, peft_alpha, dreambooth, kohya] {
        write_spelled(&expected, &path, |name| format!("unet.{name}"), parts);
        assert_same_updates(&read_back(), &expected, 1e-6);
    }
    write_spelled(&expected, &path, str::to_owned, peft);
    assert_same_updates(&read_back(), &expected, 1e-6);
    for prefix in ["lora_unet_", "lycoris_"] {
        write_spelled(&expected, &path, |name| under(prefix, name), kohya);
        assert_same_updates(&read_back(), &expected, 1e-6);
    }
    let attention = trained("sd1_attention");
    let processor = |name: &str| {
        let (layer, projection) = name.trim_end_matches(".0").rsplit_once('.').unwrap();
        format!("unet.{layer}.processor.{projection}")
    };
    write_spelled(&attention, &path, processor, old);
    assert_same_updates(&read_back(), &attention, 1e-6);

    let expected = trained("sdxl_all_linear");
    let sgm = original_spellings(&expected);
    write_spelled(
        &expected,
        &path,
        |name| under("lora_unet_", &sgm[name]),
        kohya,
    );
    let actual = read::read(&path, unet_sites("sdxl")).unwrap();
    assert_same_updates(&actual, &expected, 1e-6);
    write_spelled(
        &expected,
        &path,
        |name| format!("diffusion_model.{}", sgm[name]),
        peft_alpha,
    );
    let actual = read::read(&path, unet_sites("sdxl")).unwrap();
    assert_same_updates(&actual, &expected, 1e-6);
}

/// The block names of the tiny SDXL U-Net (2 layers, 2 levels, attention in the second), written out by hand.
fn original_spellings(weights: &LoraWeights) -> BTreeMap<String, String> {
    let blocks = [
        ("down_blocks.1.attentions.0", "input_blocks.4.1"),
        ("down_blocks.1.attentions.1", "input_blocks.5.1"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("up_blocks.0.attentions.0", "output_blocks.0.1"),
        ("up_blocks.0.attentions.1", "output_blocks.1.1"),
        ("up_blocks.0.attentions.2", "output_blocks.2.1"),
    ];
    let rename = |name: &String| {
        let (block, sgm) = blocks
            .iter()
            .find(|(block, _)| name.starts_with(block))
            .unwrap();
        (name.clone(), name.replacen(block, sgm, 1))
    };
    weights.modules.keys().map(rename).collect()
}

#[test]
fn what_diffusers_reads_back_has_the_strength_in_b_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_lora_weights.safetensors");
    for case in CASES {
        let expected = trained(case);
        let extra = BTreeMap::from([("preftune.note".to_owned(), case.to_owned())]);
        expected.save_peft(&path, "unet", &extra).unwrap();
        let sites = Rc::clone(&expected.sites);
        let actual = read::read(folder.path(), sites).unwrap();
        assert!(
            actual.modules.values().all(|lora| is(lora.scale, 1.0)),
            "{case}"
        );
        assert_same_updates(&actual, &expected, 1e-6);
        let file = Checkpoint::open_file(&path).unwrap();
        assert_eq!(file.metadata()["format"], "pt");
        assert_eq!(file.metadata()["preftune.note"], case);
        let settings: serde_json::Value =
            serde_json::from_str(&file.metadata()["lora_adapter_metadata"]).unwrap();
        assert_eq!(settings["unet.r"], settings["unet.lora_alpha"]);
        let targets = settings["unet.target_modules"].as_array().unwrap();
        assert_eq!(targets.len() > 8, case == "sd1_conv", "{targets:?}");
        if case == "sd1_ranks" {
            assert_eq!(settings["unet.rank_pattern"].as_object().unwrap().len(), 14);
            assert_eq!(
                settings["unet.rank_pattern"],
                settings["unet.alpha_pattern"]
            );
        }
    }
}

#[test]
fn targets_are_full_paths_where_endings_would_say_too_much() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let set = attach(&layers("sd1"), Targets::Suffixes(vec![QUERY.to_owned()]));
    set.save_peft(&path, "unet", &BTreeMap::new()).unwrap();
    let file = Checkpoint::open_file(&path).unwrap();
    let settings: serde_json::Value =
        serde_json::from_str(&file.metadata()["lora_adapter_metadata"]).unwrap();
    assert_eq!(settings["unet.target_modules"], serde_json::json!([QUERY]));
}

#[test]
fn kohya_files_hold_f16_matrices_and_one_alpha() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dog.safetensors");
    let metadata = KohyaMetadata {
        name: "dog".to_owned(),
        base_model: "sd-v1-5".to_owned(),
        resolution: 512,
        images: Some(5),
        steps: Some(400),
        seed: Some(3),
        trigger_phrase: Some("a sks dog".to_owned()),
        ..KohyaMetadata::default()
    };
    for case in ["sd1_attention", "sd1_all_linear", "sd1_conv", "sd1_ranks"] {
        let expected = trained(case);
        expected
            .save_kohya(&path, Family::Sd1, Kind::Half, &metadata)
            .unwrap();
        assert_same_updates(&read_sd1(&path).unwrap(), &expected, 1e-3);
        expected
            .save_kohya(&path, Family::Sd1, Kind::Float, &metadata)
            .unwrap();
        assert_same_updates(&read_sd1(&path).unwrap(), &expected, 1e-6);
    }
    let file = Checkpoint::open_file(&path).unwrap();
    let alphas: Vec<f64> = file
        .names()
        .filter(|name| name.rsplit('.').next() == Some("alpha"))
        .map(|name| file.tensor(name).unwrap().double_value(&[]))
        .collect();
    assert_eq!(alphas, vec![2.0; 56]);
    let header = file.metadata();
    for (key, value) in [
        ("ss_network_module", "networks.lora"),
        ("ss_network_dim", "4"),
        ("ss_network_alpha", "2"),
        ("ss_v2", "False"),
        ("ss_output_name", "dog"),
        ("ss_num_train_images", "5"),
        ("ss_tag_frequency", r#"{"dog":{"a sks dog":5}}"#),
        ("modelspec.sai_model_spec", "1.0.1"),
        ("modelspec.architecture", "stable-diffusion-v1/lora"),
        ("modelspec.resolution", "512x512"),
        ("modelspec.trigger_phrase", "a sks dog"),
    ] {
        assert_eq!(header[key], value, "{key}");
    }
    let bytes = std::fs::read(&path).unwrap();
    let begin = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let hash = preftune::models::weights::hex(&Sha256::digest(&bytes[begin..]));
    assert_eq!(header["sshs_model_hash"], hash);
    assert_eq!(header["modelspec.hash_sha256"], format!("0x{hash}"));
    assert_eq!(header["sshs_legacy_hash"], "e3b0c442"); // a file below 1 MiB: SHA-256 of nothing
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn sdxl_files_name_blocks_as_the_original_code_numbers_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let text = std::fs::read_to_string(golden("lora/names.json")).unwrap();
    let names: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(&text).unwrap();
    for names in names.values() {
        let site = sites::Site {
            input: 1,
            output: 1,
            kernel: None,
        };
        let one = || Tensor::ones([1, 1], (Kind::Float, Device::Cpu));
        let weights = LoraWeights {
            modules: names
                .keys()
                .map(|name| {
                    (
                        name.clone(),
                        Lora {
                            down: one(),
                            up: one(),
                            scale: 1.0,
                        },
                    )
                })
                .collect(),
            sites: Rc::new(names.keys().map(|name| (name.clone(), site)).collect()),
        };
        weights
            .save_kohya(&path, Family::Sdxl, Kind::Half, &KohyaMetadata::default())
            .unwrap();
        let file = Checkpoint::open_file(&path).unwrap();
        assert_eq!(file.names().count(), 3 * names.len());
        for (name, original) in names {
            let key = format!("lora_unet_{}.alpha", original.replace('.', "_"));
            assert!(file.contains(&key), "{name}: {key}");
        }
        let back = read::read(&path, Rc::clone(&weights.sites)).unwrap();
        assert_eq!(back.modules.len(), names.len());
    }
}

#[test]
fn values_beyond_f16_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut weights = trained("sd1_attention");
    let lora = weights.modules.get_mut(QUERY).unwrap();
    lora.up = &lora.up * 1e6;
    let path = folder.path().join("lora.safetensors");
    let error = weights
        .save_kohya(&path, Family::Sd1, Kind::Half, &KohyaMetadata::default())
        .unwrap_err();
    assert!(error.to_string().contains("Half cannot hold"), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_decomposed_convolution_is_multiplied_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let module = "down_blocks.0.downsamplers.0.conv";
    let site = unet_sites("sd1")[module];
    let noise = |seed, shape: &[i64]| random::randn(seed, shape, Device::Cpu);
    let (down, mid, up) = (
        noise(1, &[3, site.input, 1, 1]),
        noise(2, &[3, 3, 3, 3]),
        noise(3, &[site.output, 3, 1, 1]),
    );
    let name = |part: &str| format!("lora_unet_{}.{part}", module.replace('.', "_"));
    let tensors = [
        (name("lora_down.weight"), down.shallow_clone()),
        (name("lora_mid.weight"), mid.shallow_clone()),
        (name("lora_up.weight"), up.shallow_clone()),
    ];
    save(&path, &tensors, &BTreeMap::new()).unwrap();
    let weights = read_sd1(&path).unwrap();
    // As LyCORIS defines it: three convolutions in a row, the middle one with the kernel.
    let input = noise(4, &[1, site.input, 7, 7]);
    let none: Option<&Tensor> = None;
    let conv = |xs: &Tensor, weight: &Tensor, padding| {
        xs.conv2d(weight, none, [1, 1], [padding; 2], [1, 1], 1)
    };
    let expected = conv(&conv(&conv(&input, &down, 0), &mid, 1), &up, 0);
    let actual = conv(&input, &update(&weights.modules[module]), 1);
    assert_close("three convolutions", &actual, &expected, 1e-5);
}

/// Changes the tensors of a good file, writes them and returns the error of reading them.
#[track_caller]
fn error_after(
    change: impl FnOnce(&mut BTreeMap<String, Tensor>, &mut BTreeMap<String, String>),
) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let file = golden_tensors("lora/sd1_attention_peft.safetensors");
    let mut tensors: BTreeMap<String, Tensor> = file
        .names()
        .map(|name| (name.to_owned(), file.tensor(name).unwrap()))
        .collect();
    let mut header: BTreeMap<String, String> = file.metadata().clone().into_iter().collect();
    change(&mut tensors, &mut header);
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    save(&path, &tensors, &header).unwrap();
    let error = read_sd1(&path).err().expect("the file is wrong");
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains("lora.safetensors"), "{error}");
    error.to_string()
}

/// The error of reading a good file with one tensor added or replaced.
#[track_caller]
fn error_with(name: &str, tensor: Tensor) -> String {
    error_after(|tensors, _| {
        tensors.insert(name.to_owned(), tensor);
    })
}

#[test]
fn wrong_files_are_refused_by_name() {
    let key = |part: &str| format!("unet.{QUERY}.{part}");
    let (down, up, alpha) = (key("lora_A.weight"), key("lora_B.weight"), key("alpha"));
    let noise = |shape: &[i64]| random::randn(1, shape, Device::Cpu);
    let text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight";
    let twin = format!("{QUERY}.lora_A.weight");
    for (name, tensor, expected) in [
        (&down[..], noise(&[3, 12]), "rank 3"),
        (&down, noise(&[4, 13]), "asks for [4, 12]"),
        (&down, noise(&[4]), "asks for [4, 12]"),
        (&down, noise(&[0, 12]), "rank 0"),
        (&down, noise(&[]), "rank 0"),
        (&up, noise(&[]), "rank 4"),
        (&down, noise(&[4, 12]) * f64::NAN, "NaN"),
        (&up, noise(&[12]), "rank 4"),
        (&up, noise(&[13, 4]), "asks for [12, 4]"),
        (
            "unet.blocks.9.to_q.lora_A.weight",
            noise(&[4, 12]),
            "1 of 57 LoRA modules are not in the model: `unet.blocks.9.to_q`",
        ),
        (text, noise(&[4, 16]), "text encoder (1 modules"),
        (&key("lora_magnitude_vector"), noise(&[12]), "DoRA"),
        ("conv_in.weight", noise(&[4, 4]), "belong to no LoRA"),
        (&twin, noise(&[4, 12]), "means the same as"),
        (&alpha, noise(&[2]), "not a number"),
        (
            &alpha,
            Tensor::from(4.0f32),
            "strength 1 by its alpha and 0.5 by the header",
        ),
    ] {
        let error = error_with(name, tensor);
        assert!(error.contains(expected), "{error}");
    }
    let half = error_after(|tensors, _| {
        tensors.remove(&up);
    });
    assert!(half.contains("no other half"), "{half}");
    let foreign = error_after(|tensors, _| {
        let old = std::mem::take(tensors);
        let rename = |name: &str| name.replace("unet.", "transformer.");
        tensors.extend(
            old.into_iter()
                .map(|(name, tensor)| (rename(&name), tensor)),
        );
    });
    assert!(
        foreign.contains("56 of 56 LoRA modules are not"),
        "{foreign}"
    );
    let header = error_after(|_, header| {
        header.insert("lora_adapter_metadata".to_owned(), "{".to_owned());
    });
    assert!(header.contains("not readable"), "{header}");
    let empty = error_after(|tensors, _| tensors.clear());
    assert!(empty.contains("holds no LoRA"), "{empty}");
}

#[test]
fn a_whole_model_is_no_lora() {
    let path = golden("diffusion/sd1/unet/diffusion_pytorch_model.safetensors");
    let error = read_sd1(&path).err().unwrap();
    assert!(error.to_string().contains("holds no LoRA"), "{error}");
    let error = read_sd1(Path::new("nowhere/lora.safetensors"))
        .err()
        .unwrap();
    assert_eq!(error.exit_code(), 2);
}
