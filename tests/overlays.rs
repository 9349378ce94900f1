//! Adapter files of every kind laid over a model: the weights and text states that PEFT, LyCORIS and diffusers make of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use preftune::data::captions::own_prompts;
use preftune::data::png;
use preftune::models::diffusion::pipeline::{Kinds, Pipeline};
use preftune::models::lora::Overlay;
use preftune::models::lora::overlay::lay;
use preftune::models::weights::{Checkpoint, save};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::lora::QUERY;
use super::support::{assert_close, golden, golden_tensors};
use super::tiny_run::World;

/// The small pipeline of a family.
pub fn open(family: &str) -> Pipeline {
    let kinds = Kinds {
        compute: Kind::Float,
        unet: Kind::Float,
    };
    let folder = golden(&format!("diffusion/{family}"));
    Pipeline::open(&folder, None, None, Device::Cpu, kinds).unwrap()
}

fn overlay(name: &str) -> Overlay {
    Overlay::whole(&golden(&format!("lora/{name}")))
}

/// The weight of a module after some overlays.
fn weight(overlays: &[Overlay], module: &str) -> Tensor {
    let pipeline = open("sd1");
    lay(&pipeline.adapters(), overlays).unwrap();
    pipeline.adapters()[module].weight.copy()
}

#[test]
fn every_kind_makes_the_weights_that_peft_and_lycoris_make() {
    let expected = golden_tensors("lora/overlays.safetensors");
    let cases = ["dora", "loha", "loha_flat", "lokr", "lokr_whole", "lycoris"];
    for case in cases {
        let name = match case {
            "lycoris" => "overlay_lycoris.safetensors".to_owned(),
            _ => format!("overlay_{case}"),
        };
        let (pipeline, base) = (open("sd1"), open("sd1").adapters());
        let adapters = pipeline.adapters();
        lay(&adapters, &[overlay(&name)]).unwrap();
        let prefix = format!("{case}.");
        let modules: Vec<&str> = expected
            .names()
            .filter_map(|name| name.strip_prefix(&prefix))
            .collect();
        assert!(modules.len() >= 3, "{case}");
        for (module, layer) in &adapters {
            if modules.contains(&module.as_str()) {
                let expected = expected.tensor(&format!("{prefix}{module}")).unwrap();
                let name = format!("{case} {module}");
                assert_close(&name, &layer.weight, &expected, 2e-6);
            } else {
                assert_eq!(layer.weight, base[module].weight, "{case} {module}");
            }
        }
    }
}

#[test]
fn a_strength_goes_part_of_the_way_and_overlays_follow_each_other() {
    let base = weight(&[], QUERY);
    let (dora, loha) = (overlay("overlay_dora"), overlay("overlay_loha"));
    let whole = weight(std::slice::from_ref(&dora), QUERY);
    for strength in [0.0, 0.8, -1.5] {
        let part = Overlay {
            strength,
            ..dora.clone()
        };
        let expected = &base + (&whole - &base) * strength;
        assert_close("part", &weight(&[part], QUERY), &expected, 1e-6);
    }
    // LoHa adds to whatever is there; DoRA's norms are of all that was laid before it.
    let added = weight(std::slice::from_ref(&loha), QUERY) - &base;
    let both = weight(&[dora.clone(), loha.clone()], QUERY);
    assert_close("both", &both, &(&whole + added), 1e-6);
    let other_way = weight(&[loha, dora], QUERY);
    assert!((other_way - both).abs().max().double_value(&[]) > 1e-3);
}

fn prompts() -> Vec<String> {
    [
        "a photo of a [V] dog on the beach",
        "The red CAT, and 2 dogs!",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn text_encoders_read_prompts_as_diffusers_does_with_a_kohya_file() {
    let expected = golden_tensors("lora/text.safetensors");
    for family in ["sd1", "sdxl"] {
        let pipeline = open(family);
        let before = pipeline.encode_prompts(&prompts(), 16, 16).unwrap();
        let file = overlay(&format!("text_{family}.safetensors"));
        lay(&pipeline.adapters(), &[file]).unwrap();
        let after = pipeline.encode_prompts(&prompts(), 16, 16).unwrap();
        let tensor = |part: &str| expected.tensor(&format!("{family}.{part}")).unwrap();
        assert_close(family, &after.context, &tensor("context"), 1e-5);
        assert!(
            (&after.context - before.context)
                .abs()
                .max()
                .double_value(&[])
                > 0.1
        );
        if let Some(added) = after.added {
            assert_close("pooled", &added.text_embeds, &tensor("pooled"), 1e-5);
        }
    }
}

/// A golden file with other names.
fn renamed(folder: &Path, file: &str, rename: impl Fn(&str) -> Option<String>) -> PathBuf {
    let source = golden_tensors(&format!("lora/{file}"));
    let tensors: Vec<(String, Tensor)> = source
        .names()
        .filter_map(|name| Some((rename(name)?, source.tensor(name).unwrap())))
        .collect();
    let path = folder.join("renamed.safetensors");
    save(&path, &tensors, &BTreeMap::new()).unwrap();
    path
}

#[test]
fn every_spelling_of_a_text_encoder_means_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let dotted = |name: &str| {
        let name = name.replace("text_model_encoder_layers_", "text_model.encoder.layers.");
        let name = name.replace("_self_attn_", ".self_attn.");
        name.replace("_mlp_", ".mlp.")
    };
    let spellings: [(&str, [&str; 2], [&str; 2]); 3] = [
        (
            "text_encoder.",
            ["text_encoder.", "text_encoder_2."],
            [".lora_A.weight", ".lora_B.weight"],
        ),
        (
            "old",
            ["text_encoder.", "text_encoder_2."],
            [
                ".lora_linear_layer.down.weight",
                ".lora_linear_layer.up.weight",
            ],
        ),
        (
            "comfy",
            [
                "text_encoders.clip_l.transformer.",
                "text_encoders.clip_g.transformer.",
            ],
            [".lora_down.weight", ".lora_up.weight"],
        ),
    ];
    let expected = golden_tensors("lora/text.safetensors")
        .tensor("sdxl.context")
        .unwrap();
    for (what, [first, second], [down, up]) in spellings {
        let file = renamed(folder.path(), "text_sdxl.safetensors", |name| {
            let name = dotted(name)
                .replace("lora_te1_", first)
                .replace("lora_te2_", second);
            Some(
                name.replace(".lora_down.weight", down)
                    .replace(".lora_up.weight", up),
            )
        });
        let pipeline = open("sdxl");
        lay(&pipeline.adapters(), &[Overlay::whole(&file)]).unwrap();
        let actual = pipeline.encode_prompts(&prompts(), 16, 16).unwrap().context;
        assert_close(what, &actual, &expected, 1e-5);
    }
}

#[track_caller]
fn refused(folder: &Path, file: &str, rename: impl Fn(&str) -> Option<String>) -> String {
    let file = renamed(folder, file, rename);
    let pipeline = open("sd1");
    let before = pipeline.adapters()[QUERY].weight.copy();
    let error = lay(&pipeline.adapters(), &[Overlay::whole(&file)]).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert_eq!(pipeline.adapters()[QUERY].weight, before);
    error.to_string()
}

#[test]
fn what_is_not_applied_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let change =
        |from: &'static str, to: &'static str| move |name: &str| Some(name.replacen(from, to, 1));
    let lycoris = "overlay_lycoris.safetensors";
    for (file, from, to, expected) in [
        (lycoris, ".diff", ".diff_b", "changes a bias"),
        (lycoris, ".diff", ".w_norm", "belong to no LoRA"),
        (lycoris, ".hada_w1_b", ".hada_w1_bb", "belong to no LoRA"),
        (
            lycoris,
            ".hada_w1_b",
            ".lokr_w1_b",
            "is of another kind of adapter",
        ),
        (lycoris, ".lokr_w1_a", ".lokr_w1", "whole and as factors"),
        (lycoris, ".diff", ".hada_w1_a", "has no `hada_w1_b`"),
        (lycoris, ".hada_t1", ".hada_t3", "belong to no LoRA"),
        (
            "text_sd1.safetensors",
            "lora_te_",
            "lora_te2_",
            "are not in the model",
        ),
    ] {
        let error = refused(folder.path(), file, change(from, to));
        assert!(error.contains(expected), "{from}: {error}");
    }
    let error = refused(folder.path(), lycoris, |name| {
        (!name.ends_with("hada_t2")).then(|| name.to_owned())
    });
    assert!(error.contains("factors of its LoHa do not make"), "{error}");
}

#[test]
fn marks_of_web_interfaces_in_prompts_are_named_as_words_and_nothing_else_is() {
    let pipeline = open("sd1");
    let notes = |prompt: &str| -> Vec<String> {
        let notes = pipeline.prompt_notes(&[prompt.to_owned()]).unwrap();
        let of_marks = |note: &String| note.contains("marks of web interfaces");
        notes.into_iter().filter(of_marks).collect()
    };
    for (prompt, mark) in [
        ("(worst quality, bad:1.4), x", "(worst quality, bad:1.4)"),
        ("a ((very big:1.1)) dog", "(very big:1.1)"),
        ("a dog <lora:style:0.8>", "<lora:style:0.8>"),
        ("(embedding:easynegative), x", "embedding:easynegative"),
    ] {
        let notes = notes(prompt);
        assert_eq!(notes.len(), 1, "{prompt}");
        assert!(notes[0].contains(&format!("`{mark}`")), "{}", notes[0]);
        assert_eq!(notes[0].contains("--lora FILE"), mark.starts_with('<'));
    }
    for prompt in [
        "a dog (brown)",
        "ratio 16:9)",
        "a [V] dog: big",
        "a < b > c",
    ] {
        assert!(notes(prompt).is_empty(), "{prompt}");
    }
    let negative = ["--negative", "(blurry:1.3)"];
    let ran = World::new().generate(golden("diffusion/sd1").to_str().unwrap(), &negative);
    let warning = "warning: of the negative prompt, the text encoder reads the marks";
    assert!(ran.succeeded().stderr.contains(warning));
}

#[test]
fn learned_words_in_a_lora_are_refused_by_name_or_left_out_by_a_flag_that_says_so() {
    let world = World::new();
    let base = golden("diffusion/sd1");
    let file = Checkpoint::open_file(&golden("lora/text_sd1.safetensors")).unwrap();
    let mut tensors: Vec<(String, Tensor)> = file
        .names()
        .map(|name| (name.to_owned(), file.tensor(name).unwrap()))
        .collect();
    save(&world.path("plain.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    let vector = || Tensor::ones([2, 8], (Kind::Float, Device::Cpu));
    for name in [
        "cat-toy.string_to_param.*",
        "cat-toy.extra",
        "old.string_to_param.*",
    ] {
        tensors.push((format!("bundle_emb.{name}"), vector()));
    }
    save(&world.path("words.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    let generate = |more: &[&str]| world.generate(base.to_str().unwrap(), more);
    generate(&["--lora", "words.safetensors"])
        .failed(2, &["are not read: `cat-toy`, `old`", "--without-words"]);
    let picture = |lora: &str, more: &[&str]| {
        let more = [&["--lora", lora, "--tensors", "images.safetensors"], more].concat();
        let ran = generate(&more).succeeded();
        let images = Checkpoint::open_file(&world.path("images.safetensors")).unwrap();
        (images.tensor("images").unwrap(), ran.stderr)
    };
    let (plain, _) = picture("plain.safetensors:0.5", &[]);
    let (without, said) = picture("words.safetensors:0.5", &["--without-words"]);
    assert_eq!(plain, without);
    let warning = "warning: `words.safetensors`: 3 tensors of the learned words `cat-toy`, `old` are left out";
    assert!(said.contains(warning), "{said}");
    let row: Value =
        serde_json::from_str(world.read("out/metadata.jsonl").lines().next().unwrap()).unwrap();
    let laid = json!([{"file": "words.safetensors", "strength": 0.5, "without_words": true}]);
    assert_eq!(row["loras"], laid);
    generate(&["--lora", "plain.safetensors", "--without-words"])
        .failed(2, &["`--without-words` does nothing"]);
    generate(&["--without-words"]).failed(2, &["--lora"]);
}

#[test]
fn names_with_colons_are_no_strengths() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["dog.safetensors", "odd:0.5"] {
        fs::write(path(name), "").unwrap();
    }
    let parse = |name: &str| Overlay::parse(&path(name));
    let is = |name: &str, file: &str, strength: f64| {
        let expected = Overlay {
            path: path(file),
            strength,
            without_words: false,
        };
        assert_eq!(parse(name).unwrap(), expected, "{name}");
    };
    is("dog.safetensors", "dog.safetensors", 1.0);
    is("dog.safetensors:0.8", "dog.safetensors", 0.8);
    is("dog.safetensors:-1", "dog.safetensors", -1.0);
    is("odd:0.5", "odd:0.5", 1.0);
    is("odd:0.5:2", "odd:0.5", 2.0);
    for name in [
        "dog.safetensors:strong",
        "dog.safetensors:0,8",
        "dog.safetensors:nan",
    ] {
        let error = parse(name).unwrap_err();
        assert!(error.to_string().contains("is no strength"), "{error}");
    }
    let error = parse("dog.safetensors:0.5:0.7").unwrap_err();
    assert!(error.to_string().contains("has two strengths"), "{error}");
    assert!(error.hint().unwrap().contains("`FILE:0.8`"), "{error}");
    let windows = Path::new(r"C:\models\dog.safetensors");
    assert_eq!(Overlay::parse(windows).unwrap(), Overlay::whole(windows));
}

#[test]
fn pictures_say_what_was_laid_over_the_model_and_their_prompt_reads_back() {
    let world = World::new();
    let base = golden("diffusion/sd1");
    for (name, file) in [("dog", "sd1_attention_peft"), ("style", "text_sd1")] {
        let file = golden(&format!("lora/{file}.safetensors"));
        fs::copy(file, world.path(&format!("{name}.safetensors"))).unwrap();
    }
    let loras = [
        "--lora",
        "dog.safetensors:0.8",
        "--lora",
        "style.safetensors",
        "--negative",
        "blurry",
    ];
    world.generate(base.to_str().unwrap(), &loras).succeeded();
    let row = world.read("out/metadata.jsonl");
    let row: Value = serde_json::from_str(row.lines().next().unwrap()).unwrap();
    let laid = json!([{"file": "dog.safetensors", "strength": 0.8}, {"file": "style.safetensors", "strength": 1.0}]);
    assert_eq!(row["loras"], laid);
    let image = world.path("out/00000.png");
    let chunk = |name: &str| png::read_text(&image, name).unwrap().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&chunk("loras")).unwrap(),
        laid
    );
    let words = row["prompt"].as_str().unwrap();
    let parameters = chunk("parameters");
    let first = format!("{words} <lora:dog:0.8> <lora:style:1>\nNegative prompt: blurry\nSteps: ");
    assert!(parameters.starts_with(&first), "{parameters}");
    // Whatever says it, the prompt is the one that was encoded: our chunk, or the text of web interfaces alone.
    let folder = world.path("read");
    fs::create_dir(&folder).unwrap();
    fs::copy(&image, folder.join("ours.png")).unwrap();
    let pixels = image::open(&image).unwrap().to_rgb8();
    let theirs = [("parameters", parameters)];
    png::write(&folder.join("theirs.png"), &pixels, &theirs).unwrap();
    let images = ["ours.png", "theirs.png"].map(|name| folder.join(name));
    let captions = own_prompts(&folder, &images).unwrap();
    assert_eq!(captions.prompts, [words, words]);
    assert!(captions.notes.is_empty(), "{:?}", captions.notes);
    // A picture without any says nothing of them.
    fs::remove_dir_all(world.path("out")).unwrap();
    world.generate(base.to_str().unwrap(), &[]).succeeded();
    assert!(!world.read("out/metadata.jsonl").contains("loras"));
}
