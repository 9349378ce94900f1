//! Whole models in one file: names against diffusers' converters, both ways through the program, what is told apart.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use preftune::models::json;
use preftune::models::tokenizer::Tokenizer;
use preftune::models::weights::{Checkpoint, save};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::command::Folder;
use crate::support::golden;
use crate::tiny_run::copy_folder;

/// Tokens of CLIP.
const WORDS: i64 = 49408;

fn unpacked(path: &Path) -> String {
    let mut text = String::new();
    GzDecoder::new(File::open(path).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    text
}

/// Names and shapes of a file at full size, and of the parts that diffusers makes of it.
type Shapes = BTreeMap<String, Vec<i64>>;

fn full_size(family: &str) -> (Shapes, Shapes) {
    let text = unpacked(&golden(&format!("single_file/{family}.txt.gz")));
    let (mut file, mut parts) = (Shapes::new(), Shapes::new());
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let (side, name) = (words.next().unwrap(), words.next().unwrap());
        let shape = words.next().unwrap_or_default().split(',');
        let shape = shape
            .filter(|size| !size.is_empty())
            .map(|size| size.parse().unwrap());
        let list = if side == ">" { &mut file } else { &mut parts };
        list.insert(name.to_owned(), shape.collect());
    }
    (file, parts)
}

/// A file with these tensors of zeros, which takes no room on the disk.
fn hollow(path: &Path, tensors: &Shapes) {
    let mut end = 0;
    let mut header = Map::new();
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<i64>();
        header.insert(
            name.clone(),
            json!({"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end as u64).unwrap();
}

#[test]
fn parts_of_files_at_full_size_are_those_of_diffusers() {
    let folder = tempfile::tempdir().unwrap();
    for family in ["sd1", "sd2", "sdxl"] {
        let path = folder.path().join(format!("{family}.safetensors"));
        let (file, expected) = full_size(family);
        hollow(&path, &file);
        let mut found = Shapes::new();
        for part in ["unet", "vae", "text_encoder", "text_encoder_2"] {
            if !expected
                .keys()
                .any(|name| name.starts_with(&format!("{part}/")))
            {
                continue;
            }
            let weights = Checkpoint::open_component(&path.join(part), "model", None).unwrap();
            for name in weights.names() {
                let shape = weights.shape(name).unwrap().to_vec();
                found.insert(format!("{part}/{name}"), shape);
            }
        }
        assert_eq!(found.len(), expected.len(), "{family}");
        for (name, shape) in &expected {
            assert_eq!(found.get(name), Some(shape), "{family}: {name}");
        }
        let read = |name: &str| json::read_object(&path.join(name)).unwrap();
        let unet = read("unet/config.json");
        let (heads, text, layers) = match family {
            "sd1" => (json!([8, 8, 8, 8]), 768, 12),
            "sd2" => (json!([5, 10, 20, 20]), 1024, 23),
            _ => (json!([5, 10, 20]), 2048, 12),
        };
        assert_eq!(unet["attention_head_dim"], heads);
        assert_eq!(unet["cross_attention_dim"], text);
        assert_eq!(
            read("text_encoder/config.json")["num_hidden_layers"],
            layers
        );
        if family == "sdxl" {
            assert_eq!(unet["transformer_layers_per_block"], json!([1, 2, 10]));
            assert_eq!(unet["projection_class_embeddings_input_dim"], 2816);
            assert_eq!(read("text_encoder_2/config.json")["projection_dim"], 1280);
        }
        println!("{family}: {} tensors in, {} out", file.len(), found.len());
    }
}

/// A tiny model with CLIP's own tokenizer, and a table of its size.
pub fn model(folder: &Folder, family: &str) -> PathBuf {
    let to = folder.path(family);
    copy_folder(&golden(&format!("diffusion/{family}")), &to);
    let merges = unpacked(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/clip/merges.txt.gz"));
    let printable = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    let symbols: Vec<char> = printable.chain('\u{100}'..='\u{143}').collect();
    assert_eq!(symbols.len(), 256);
    let words = symbols.iter().map(char::to_string);
    let ends = symbols.iter().map(|symbol| format!("{symbol}</w>"));
    let merged = merges.lines().map(|line| line.replace(' ', ""));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let words = words.chain(ends).chain(merged).chain(special);
    let vocabulary: Map<String, Value> =
        words.zip(0..).map(|(word, id)| (word, json!(id))).collect();
    assert_eq!(vocabulary.len() as i64, WORDS);
    for suffix in ["", "_2"] {
        let tokenizer = to.join(format!("tokenizer{suffix}"));
        if !tokenizer.exists() {
            continue;
        }
        fs::write(tokenizer.join("vocab.json"), json!(vocabulary).to_string()).unwrap();
        fs::write(
            tokenizer.join("merges.txt"),
            format!("#version: 0.2\n{merges}"),
        )
        .unwrap();
        let encoder = to.join(format!("text_encoder{suffix}"));
        let config = encoder.join("config.json");
        let mut settings = json::read_object(&config).unwrap();
        settings.insert("vocab_size".to_owned(), json!(WORDS));
        fs::write(&config, Value::Object(settings).to_string()).unwrap();
        let weights = Checkpoint::open_component(&encoder, "model", None).unwrap();
        let tensor = |name: &str| {
            let tensor = weights.tensor(name).unwrap();
            if !name.ends_with("token_embedding.weight") {
                return (name.to_owned(), tensor);
            }
            tch::manual_seed(7);
            let table = Tensor::randn([WORDS, tensor.size()[1]], (Kind::Float, Device::Cpu));
            (name.to_owned(), (table * 0.3).to_kind(Kind::Half))
        };
        let tensors: Vec<_> = weights.names().map(tensor).collect();
        save(weights.path(), &tensors, &BTreeMap::new()).unwrap();
    }
    to
}

/// Exports a model as it is into one file.
pub fn export(folder: &Folder, family: &str, more: &[&str]) -> PathBuf {
    let unet = format!("{family}/unet");
    let arguments = [
        "export",
        &unet,
        "--base",
        family,
        "--format",
        "single-file",
        "--name",
        "whole",
    ];
    let out = format!("out-{family}");
    folder
        .binary(&[&arguments[..], &["--out", &out], more].concat())
        .done();
    folder.path(&format!("{out}/whole.safetensors"))
}

/// The numbers of the picture that a model makes.
fn picture(folder: &Folder, model: &str) -> Vec<u8> {
    picture_with(folder, model, &[])
}

/// The same with more flags.
fn picture_with(folder: &Folder, model: &str, more: &[&str]) -> Vec<u8> {
    let _ = fs::remove_dir_all(folder.path("pictures"));
    let arguments = [
        "generate",
        "--model",
        model,
        "--prompt",
        "a photo of a [V] dog on the beach, ünïcödé 12!",
        "--steps",
        "2",
        "--sampler",
        "ddim",
        "--seed",
        "3",
        "--device",
        "cpu",
        "--out",
        "pictures",
        "--quiet",
    ];
    folder.binary(&[&arguments[..], more].concat()).done();
    let mut files = fs::read_dir(folder.path("pictures")).unwrap();
    let png = files.find_map(|file| {
        let path = file.unwrap().path();
        path.extension()
            .is_some_and(|ending| ending == "png")
            .then_some(path)
    });
    image::open(png.unwrap()).unwrap().to_rgb8().into_raw()
}

/// The name on which the versions of transformers and diffusers agree.
fn plain(name: &str) -> String {
    let mut name = name.strip_prefix("text_model.").unwrap_or(name).to_owned();
    for (old, new) in [
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    ] {
        name = name.replace(
            &format!(".attentions.0.{old}."),
            &format!(".attentions.0.{new}."),
        );
    }
    name
}

#[test]
fn a_model_goes_into_one_file_and_comes_out_the_same() {
    for family in ["sd1", "sd2", "sdxl"] {
        let folder = Folder::new();
        let base = model(&folder, family);
        let file = export(&folder, family, &[]);
        for part in ["unet", "vae", "text_encoder", "text_encoder_2"] {
            let stem = if part.starts_with("text") {
                "model"
            } else {
                "diffusion_pytorch_model"
            };
            if !base.join(part).exists() {
                continue;
            }
            let open =
                |folder: &Path| Checkpoint::open_component(&folder.join(part), stem, None).unwrap();
            let (meant, read) = (open(&base), open(&file));
            let names = |file: &Checkpoint| -> Vec<String> {
                let mut names: Vec<String> = file.names().map(plain).collect();
                names.sort();
                names
            };
            assert_eq!(names(&read), names(&meant), "{family}, {part}");
            let other = |name: &str| {
                read.names()
                    .find(|read| plain(read) == plain(name))
                    .unwrap()
                    .to_owned()
            };
            for name in meant.names() {
                let (meant, read) = (
                    meant.tensor(name).unwrap(),
                    read.tensor(&other(name)).unwrap(),
                );
                assert!(
                    meant.reshape_as(&read).equal(&read),
                    "{family}, {part}: {name}"
                );
            }
        }
        assert_eq!(
            picture(&folder, family),
            picture(&folder, file.to_str().unwrap()),
            "{family}"
        );
        // Once more, from the file: the same bytes but for where it came from.
        let again = folder.binary(&[
            "export",
            &format!("{family}/unet"),
            "--base",
            file.to_str().unwrap(),
            "--format",
            "single-file",
            "--name",
            "whole",
            "--out",
            "again",
            "--dtype",
            "f16",
        ]);
        again.done();
        let first = Checkpoint::open_file(&file).unwrap();
        let second = Checkpoint::open_file(&folder.path("again/whole.safetensors")).unwrap();
        assert!(first.names().eq(second.names()), "{family}");
        for name in first.names() {
            assert!(
                first
                    .tensor(name)
                    .unwrap()
                    .equal(&second.tensor(name).unwrap()),
                "{family}: {name}"
            );
        }
    }
}

#[test]
fn a_lora_trains_on_one_file_and_is_exported_with_it() {
    let folder = Folder::new();
    model(&folder, "sd1");
    let file = export(&folder, "sd1", &[]);
    fs::rename(file, folder.path("whole.safetensors")).unwrap();
    fs::create_dir(folder.path("data")).unwrap();
    for (name, shade) in [("a", 40), ("b", 200)] {
        let image = image::RgbImage::from_fn(24, 24, |x, y| {
            image::Rgb([shade, (x * 9) as u8, (y * 9) as u8])
        });
        image
            .save(folder.path(&format!("data/{name}.png")))
            .unwrap();
    }
    folder.lines(
        "data/pairs.jsonl",
        &[json!({"prompt": "a dog", "chosen": "a.png", "rejected": "b.png"})],
    );
    let config = |kind: &str, output: &str| {
        format!(
            "[run]\noutput = \"{output}\"\ndevice = \"cpu\"\n[model]\nbase = \"whole.safetensors\"\n[pairs]\ntrain = \
             \"data/pairs.jsonl\"\n[adapter]\nkind = \"{kind}\"\n[train]\nresolution = 16\nsteps = 2\nlearning_rate = 0.01\n\
             [validation]\nevery = 0\npatience = 0\n"
        )
    };
    for (kind, formats) in [
        ("lora", ["peft", "single-file"]),
        ("full", ["single-file", "single-file"]),
    ] {
        fs::write(folder.path("pairs.toml"), config(kind, kind)).unwrap();
        folder.binary(&["train", "pairs.toml", "--quiet"]).done();
        let tuned = picture(&folder, kind);
        assert_ne!(tuned, picture(&folder, "whole.safetensors"), "{kind}");
        for format in formats {
            let out = format!("{kind}-{format}");
            let mut asked = vec![
                "export", kind, "--format", format, "--out", &out, "--dtype", "f32",
            ];
            asked.push("--force");
            if format == "single-file" {
                asked.extend(["--name", "tuned"]);
            }
            folder.binary(&asked).done();
        }
        let one = format!("{kind}-single-file/tuned.safetensors");
        let same = picture(&folder, &one);
        let differences = tuned
            .iter()
            .zip(&same)
            .map(|(one, other)| one.abs_diff(*other));
        assert!(differences.max().unwrap() <= 1, "{kind}");
    }
    folder
        .binary(&["export", "lora", "--format", "merged", "--out", "merged"])
        .refused("`--format single-file` writes the tuned model");
}

#[test]
fn one_file_holds_what_a_lora_changes_of_the_text_encoders() {
    for family in ["sd1", "sdxl"] {
        let folder = Folder::new();
        model(&folder, family);
        let lora = golden(&format!("lora/text_{family}.safetensors"));
        let lora = lora.to_str().unwrap();
        let arguments = [
            "export",
            lora,
            "--base",
            family,
            "--format",
            "single-file",
            "--dtype",
            "f32",
            "--name",
            "whole",
            "--out",
            "one",
        ];
        folder.binary(&arguments).done();
        let meant = picture_with(&folder, family, &["--lora", lora]);
        assert_ne!(meant, picture(&folder, family), "{family}");
        let read = picture(&folder, "one/whole.safetensors");
        let differences = meant.iter().zip(&read);
        let largest = differences.map(|(one, other)| one.abs_diff(*other)).max();
        assert!(largest <= Some(1), "{family}: {largest:?}");
        // The change of the text encoders alone is seen.
        let file = Checkpoint::open_component(
            &folder.path("one/whole.safetensors/text_encoder"),
            "model",
            None,
        );
        let (file, own) = (
            file.unwrap(),
            folder.path(&format!("{family}/text_encoder")),
        );
        let own = Checkpoint::open_component(&own, "model", None).unwrap();
        let changed = own.names().filter(|name| {
            let one = own.tensor(name).unwrap().to_kind(Kind::Float);
            let other = file
                .names()
                .find(|other| plain(other) == plain(name))
                .unwrap();
            (file.tensor(other).unwrap() - one)
                .abs()
                .max()
                .double_value(&[])
                > 1e-4
        });
        assert!(changed.count() >= 5, "{family}");
    }
}

/// A hollow file of a family at full size, with what `change` makes of its tensors.
fn changed(folder: &Folder, family: &str, change: impl Fn(&mut Shapes)) -> PathBuf {
    let (mut file, _) = full_size(family);
    change(&mut file);
    let path = folder.path("changed.safetensors");
    hollow(&path, &file);
    path
}

#[test]
fn velocity_and_zero_terminal_signal_are_recognised() {
    let folder = Folder::new();
    let scheduler =
        |path: &Path| json::read_object(&path.join("scheduler/scheduler_config.json")).unwrap();
    let plain = scheduler(&changed(&folder, "sdxl", |_| {}));
    assert_eq!(plain["prediction_type"], "epsilon");
    assert!(!plain.contains_key("rescale_betas_zero_snr"));
    let marked = scheduler(&changed(&folder, "sdxl", |tensors| {
        tensors.insert("v_pred".to_owned(), vec![0]);
        tensors.insert("ztsnr".to_owned(), vec![0]);
    }));
    assert_eq!(marked["prediction_type"], "v_prediction");
    assert_eq!(marked["rescale_betas_zero_snr"], true);
    // Weights tell it where nothing else does: zeros are spread by nothing.
    let path = changed(&folder, "sd2", |_| {});
    assert_eq!(scheduler(&path)["prediction_type"], "epsilon");
    assert_eq!(
        json::read_object(&path.join("unet/config.json")).unwrap()["sample_size"],
        64
    );
    let bias = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
    let mut bytes = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut length = [0; 8];
    bytes.read_exact(&mut length).unwrap();
    let mut header = vec![0; u64::from_le_bytes(length) as usize];
    bytes.read_exact(&mut header).unwrap();
    let begin = 8 + header.len() as u64;
    let header: Value = serde_json::from_slice(&header).unwrap();
    let place = header[bias]["data_offsets"][0].as_u64().unwrap();
    bytes.seek(SeekFrom::Start(begin + place)).unwrap();
    // 0.2 and -0.2 in turn, as f16.
    bytes
        .write_all(&[0x66, 0x32, 0x66, 0xb2].repeat(160))
        .unwrap();
    bytes.sync_all().unwrap();
    assert_eq!(scheduler(&path)["prediction_type"], "v_prediction");
    assert_eq!(
        json::read_object(&path.join("unet/config.json")).unwrap()["sample_size"],
        96
    );
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let folder = Folder::new();
    let refused = |path: &Path, what: &str| {
        let arguments = [
            "generate",
            "--model",
            path.to_str().unwrap(),
            "--prompt",
            "x",
            "--device",
            "cpu",
            "--out",
            "o",
        ];
        folder.binary(&arguments).refused(what);
    };
    let first = "model.diffusion_model.input_blocks.0.0.weight";
    let wider = |channels| {
        move |tensors: &mut Shapes| {
            drop(tensors.insert(first.to_owned(), vec![320, channels, 3, 3]));
        }
    };
    refused(&changed(&folder, "sd1", wider(9)), "for inpainting");
    refused(
        &changed(&folder, "sd1", wider(8)),
        "for editing by instructions",
    );
    let without = |part: &'static str| {
        move |tensors: &mut Shapes| tensors.retain(|name, _| !name.starts_with(part))
    };
    refused(
        &changed(&folder, "sd1", without("first_stage_model.")),
        "has no autoencoder (VAE) in it",
    );
    refused(
        &changed(&folder, "sd1", without("cond_stage_model.")),
        "no text encoder",
    );
    let refiner = |tensors: &mut Shapes| {
        let second: Vec<String> = tensors
            .keys()
            .filter(|name| name.starts_with("conditioner."))
            .cloned()
            .collect();
        for name in second {
            let shape = tensors.remove(&name).unwrap();
            if let Some(rest) = name.strip_prefix("conditioner.embedders.1.") {
                tensors.insert(format!("conditioner.embedders.0.{rest}"), shape);
            }
        }
    };
    refused(
        &changed(&folder, "sdxl", refiner),
        "Stable Diffusion XL (refiner)",
    );
    let edm = |tensors: &mut Shapes| drop(tensors.insert("edm_mean".to_owned(), vec![4]));
    refused(&changed(&folder, "sdxl", edm), "EDM");
    let flux = |tensors: &mut Shapes| {
        tensors.clear();
        tensors.insert(
            "model.diffusion_model.double_blocks.0.img_attn.qkv.weight".to_owned(),
            vec![1],
        );
    };
    refused(&changed(&folder, "sd1", flux), "Flux");
    let lora = |tensors: &mut Shapes| {
        tensors.clear();
        tensors.insert("lora_unet_mid_block.lora_down.weight".to_owned(), vec![1]);
    };
    refused(&changed(&folder, "sd1", lora), "a LoRA, not a model");
}

#[test]
fn the_bundled_vocabulary_is_that_of_clip() {
    let folder = Folder::new();
    let path = changed(&folder, "sdxl", |_| {});
    let ids = |part: &str, text: &str| {
        let tokenizer = Tokenizer::open(&path.join(part), 77, WORDS).unwrap();
        let ids = tokenizer.encode(&[text.to_owned()]).unwrap().ids;
        Vec::<i64>::try_from(ids.view(-1)).unwrap()
    };
    // As OpenAI's and transformers' tokenizers give them.
    let words = ids("tokenizer", "a photo of a cat");
    assert_eq!(words[..7], [49406, 320, 1125, 539, 320, 2368, 49407]);
    assert_eq!(words[7], 49407);
    assert_eq!(ids("tokenizer_2", "a photo of a cat")[7], 0);
}
