//! SigLIP, DINOv2, DINOv3 and OpenCLIP against transformers and open_clip, and encoders that come without some of their files.

use std::path::{Path, PathBuf};

use image::RgbImage;
use preftune::models::encoders::{DualEncoder, ImageEncoder};
use preftune::models::json;
use preftune::models::open_clip::OpenClip;
use preftune::models::preprocess::{Preprocessor, Processor};
use preftune::models::tokenizer::Tokenizer;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::encoders::copy;
use crate::preprocess::{encoded_photos, pieces};
use crate::support::{assert_close, golden, golden_tensors};

const DUALS: [&str; 5] = ["siglip", "siglip2", "open_clip", "open_clip_squash", "hps"];

const IMAGE_ALONE: [&str; 5] = [
    "dino2",
    "dino2_gated",
    "dino2_registers",
    "dino3",
    "dino3_gated",
];

fn path(name: &str) -> PathBuf {
    let name = if name == "hps" {
        "HPS_v2.1_tiny.pt"
    } else {
        name
    };
    golden(&format!("encoder_kinds/{name}"))
}

fn dual(path: &Path) -> DualEncoder {
    DualEncoder::open(path, Device::Cpu, Kind::Float).unwrap()
}

fn image_alone(path: &Path) -> ImageEncoder {
    ImageEncoder::open(path, Device::Cpu, Kind::Float).unwrap()
}

fn wanted(name: &str, key: &str) -> Tensor {
    let expected = golden_tensors(&format!("encoder_kinds/{name}.safetensors"));
    expected.tensor(key).unwrap()
}

fn prompts() -> Vec<String> {
    let expected = json::read_object(&golden("encoders/tokens.json")).unwrap();
    serde_json::from_value(expected["prompts"].clone()).unwrap()
}

/// Prompts that OpenCLIP's tokenizer reads as ours does: it knows begin and end by other names.
fn plain(prompt: &str) -> bool {
    !prompt.contains("<|")
}

fn assert_images(key: &str, images: &[RgbImage]) {
    for name in DUALS {
        let vectors = dual(&path(name)).encode_images(images).unwrap();
        assert_close(&format!("{name} {key}"), &vectors, &wanted(name, key), 5e-6);
    }
    for name in IMAGE_ALONE {
        let vectors = image_alone(&path(name)).encode_images(images).unwrap();
        assert_close(&format!("{name} {key}"), &vectors, &wanted(name, key), 5e-6);
    }
}

#[test]
fn vectors_of_images_equal_python() {
    assert_images("images", &pieces());
}

#[test]
fn vectors_of_photos_equal_python() {
    let Some(photos) = encoded_photos() else {
        return;
    };
    assert_images("photos", &photos);
}

#[test]
fn vectors_of_texts_equal_python() {
    for name in DUALS {
        let all = prompts();
        let is_read = |prompt: &&String| name.starts_with("siglip") || plain(prompt);
        let (rows, read): (Vec<i64>, Vec<String>) = all
            .iter()
            .enumerate()
            .filter(|(_, prompt)| is_read(prompt))
            .map(|(row, prompt)| (row as i64, prompt.clone()))
            .unzip();
        assert!(read.len() >= 14);
        let expected = wanted(name, "texts").index_select(0, &Tensor::from_slice(&rows));
        let texts = dual(&path(name)).encode_texts(&read).unwrap();
        assert_close(&format!("{name} texts"), &texts, &expected, 5e-6);
    }
}

#[test]
fn ids_of_siglip_equal_transformers() {
    let expected = json::read_object(&golden("encoder_kinds/tokens.json")).unwrap();
    for name in ["siglip", "siglip2"] {
        let tokenizer = Tokenizer::open(&path(name), 64, 100_000).unwrap();
        let encoded = tokenizer.of_siglip().unwrap().encode(&prompts()).unwrap();
        for (index, prompt) in prompts().iter().enumerate() {
            let row: Vec<i64> = encoded.ids.get(index as i64).try_into().unwrap();
            let wanted: Vec<i64> = serde_json::from_value(expected[name][index].clone()).unwrap();
            assert_eq!(row, wanted, "{name}: `{prompt}`");
        }
    }
}

/// Up to the end of the text: what follows it is never read.
#[test]
fn ids_of_open_clip_equal_open_clip() {
    let expected = json::read_object(&golden("encoder_kinds/tokens.json")).unwrap();
    let small = Tokenizer::open(&path("open_clip"), 77, 538).unwrap();
    let whole = Tokenizer::clip(&path("hps"), 77, 49408).unwrap();
    let (small, whole) = (small.of_open_clip().unwrap(), whole.of_open_clip().unwrap());
    for (name, tokenizer, end) in [("open_clip", small, 537), ("hps", whole, 49407)] {
        let encoded = tokenizer.encode(&prompts()).unwrap();
        for (index, prompt) in prompts().iter().enumerate() {
            let row: Vec<i64> = encoded.ids.get(index as i64).try_into().unwrap();
            let wanted: Vec<i64> = serde_json::from_value(expected[name][index].clone()).unwrap();
            let upto = |row: &[i64]| row[..=row.iter().position(|&id| id == end).unwrap()].to_vec();
            if plain(prompt) {
                assert_eq!(upto(&row), upto(&wanted), "{name}: `{prompt}`");
            }
        }
    }
}

#[test]
fn texts_are_mended_as_open_clip_mends_them() {
    let expected = json::read_object(&golden("encoder_kinds/tokens.json")).unwrap();
    let prompts: Vec<String> = serde_json::from_value(expected["mended prompts"].clone()).unwrap();
    let wanted: Vec<Vec<i64>> = serde_json::from_value(expected["mended"].clone()).unwrap();
    let tokenizer = Tokenizer::clip(&path("hps"), 77, 49408).unwrap();
    let encoded = tokenizer.of_open_clip().unwrap().encode(&prompts).unwrap();
    for (index, wanted) in wanted.iter().enumerate() {
        let row: Vec<i64> = encoded.ids.get(index as i64).try_into().unwrap();
        let end = wanted.iter().position(|&id| id == 49407).unwrap();
        assert_eq!(row[..=end], wanted[..=end], "`{}`", prompts[index]);
    }
}

#[test]
fn pixels_equal_python() {
    let expected = golden_tensors("encoder_kinds/pixels.safetensors");
    for name in DUALS.into_iter().chain(IMAGE_ALONE) {
        let pixels = if DUALS.contains(&name) {
            dual(&path(name)).pixels(&pieces()).unwrap()
        } else {
            let preprocessor = Preprocessor::open(&path(name), Processor::Vit).unwrap();
            preprocessor.pixels(&pieces()).unwrap()
        };
        let size = pixels.size();
        let thinned = pixels.slice(2, 0, size[2], 7).slice(3, 0, size[3], 7);
        // Of DINOv3 numbers are resized, in another order of sums.
        let tolerance = if name.starts_with("dino3") { 1e-6 } else { 0.0 };
        assert_close(name, &thinned, &expected.tensor(name).unwrap(), tolerance);
    }
}

/// A safetensors file of tensors of these shapes. It has holes for their numbers, which nobody reads.
fn write_shapes(path: &Path, shapes: &serde_json::Map<String, Value>) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let sizes: Vec<u64> = serde_json::from_value(shape.clone()).unwrap();
        let begin = end;
        end += sizes.iter().product::<u64>();
        let about =
            serde_json::json!({"dtype": "U8", "shape": shape, "data_offsets": [begin, end]});
        header.insert(name.clone(), about);
    }
    let header = Value::Object(header).to_string();
    let length = header.len() as u64;
    let bytes = [&length.to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(path, bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(8 + length + end).unwrap();
}

/// HPSv2.1 is a ViT-H/14: its heads stand in no tensor's shape.
#[test]
fn sizes_of_whole_models_are_read_off_their_tensors() {
    let said = json::read_object(&golden("encoder_kinds/sizes.json")).unwrap();
    assert_eq!(said.len(), 4);
    let folder = tempfile::tempdir().unwrap();
    for (name, said) in said {
        let file = folder.path().join(format!("{name}.safetensors"));
        write_shapes(&file, said["shapes"].as_object().unwrap());
        let config = OpenClip::open(&file).unwrap().config;
        let (vision, text) = (config.vision, config.text);
        let vision = [
            vision.num_hidden_layers,
            vision.num_attention_heads,
            vision.intermediate_size,
            vision.image_size,
        ];
        let text = [
            text.num_hidden_layers,
            text.num_attention_heads,
            text.intermediate_size,
            text.max_position_embeddings,
        ];
        assert_eq!(serde_json::json!(vision), said["vision"], "{name}");
        assert_eq!(serde_json::json!(text), said["text"], "{name}");
    }
}

#[test]
fn a_file_without_settings_says_what_is_assumed() {
    let hps = dual(&path("hps"));
    let assumed = hps.assumed().join("\n");
    for part in [
        "without `open_clip_config.json`",
        "1 layers of a width of 128",
        "taken for a model of HPSv2",
    ] {
        assert!(assumed.contains(part), "{part}: {assumed}");
    }
    assert_eq!(hps.name(), "HPS_v2.1_tiny.pt");
    // Another name, and images that are not square are cropped.
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("model.pt");
    std::fs::copy(path("hps"), &other).unwrap();
    let other = dual(&other);
    assert!(!other.assumed().join("\n").contains("HPSv2"));
    let (one, two) = (
        hps.encode_images(&pieces()).unwrap(),
        other.encode_images(&pieces()).unwrap(),
    );
    // The third of the pieces is square.
    assert_close("square", &one.get(2), &two.get(2), 1e-6);
    assert!((one.get(0) - two.get(0)).abs().max().double_value(&[]) > 1e-3);
    assert!(dual(&path("open_clip")).assumed().is_empty());
}

/// PickScore's folder has neither processor nor tokenizer: those of CLIP are meant.
#[test]
fn a_clip_folder_without_processor_and_tokenizer_has_those_of_clip() {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("encoders/clip"), folder.path());
    let whole = dual(folder.path());
    assert!(whole.assumed().is_empty());
    let images = whole.encode_images(&pieces()).unwrap();
    std::fs::remove_file(folder.path().join("preprocessor_config.json")).unwrap();
    let without = dual(folder.path());
    assert!(without.assumed()[0].contains("no `preprocessor_config.json`"));
    assert_close(
        "processor",
        &without.encode_images(&pieces()).unwrap(),
        &images,
        0.0,
    );
    // A vocabulary of another size is not CLIP's.
    for name in ["vocab.json", "merges.txt"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let error = DualEncoder::open(folder.path(), Device::Cpu, Kind::Float).err();
    assert!(error.unwrap().to_string().contains("tokenizer.json"));
    // With as many tokens as CLIP has the vocabulary is its own.
    let weights = folder.path().join("model.safetensors");
    let table = "text_model.embeddings.token_embedding.weight";
    let file = preftune::models::weights::Checkpoint::open_file(&weights).unwrap();
    let tensors: Vec<(String, Tensor)> = file
        .names()
        .map(|name| {
            let tensor = if name == table {
                Tensor::ones([49408, 24], (Kind::Half, Device::Cpu))
            } else {
                file.tensor(name).unwrap()
            };
            (name.to_owned(), tensor)
        })
        .collect();
    let metadata = std::collections::BTreeMap::new();
    preftune::models::weights::save(&weights, &tensors, &metadata).unwrap();
    let config = folder.path().join("config.json");
    let mut object = json::read_object(&config).unwrap();
    object["text_config"]["vocab_size"] = 49408.into();
    object["text_config"]["eos_token_id"] = 49407.into();
    std::fs::write(&config, Value::Object(object).to_string()).unwrap();
    let bundled = dual(folder.path());
    assert!(bundled.assumed()[1].contains("no tokenizer"));
    assert_eq!(bundled.encode_texts(&prompts()).unwrap().size()[1], 20);
}

#[test]
fn logits_are_those_of_the_models() {
    for (name, key) in [("siglip", "logit_bias"), ("open_clip", "")] {
        let file = if key.is_empty() {
            "open_clip_model.safetensors"
        } else {
            "model.safetensors"
        };
        let file = golden_tensors(&format!("encoder_kinds/{name}/{file}"));
        let number = |name: &str| file.tensor(name).unwrap().view(-1).double_value(&[0]);
        let bias = if key.is_empty() { 0.0 } else { number(key) };
        let logits = dual(&path(name)).logits(&[0.5, -0.25]).unwrap();
        let scale = number("logit_scale").exp();
        assert_eq!(logits, [scale * 0.5 + bias, scale * -0.25 + bias]);
    }
}

#[test]
fn kinds_that_are_not_read_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    let refused = |what: &str| {
        let error = DualEncoder::open(folder.path(), Device::Cpu, Kind::Float);
        let error = error.err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(what), "{what}: {error}");
    };
    for (config, what) in [
        (
            r#"{"model_cfg": {"embed_dim": 4, "vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224"}}}"#,
            "`vision_cfg.timm_model_name`",
        ),
        (
            r#"{"model_cfg": {"embed_dim": 4, "text_cfg": {"hf_model_name": "roberta-base"}}}"#,
            "`text_cfg.hf_model_name`",
        ),
        (
            r#"{"model_cfg": {"embed_dim": 4, "multimodal_cfg": {"width": 4}}}"#,
            "`model_cfg.multimodal_cfg`",
        ),
        (
            r#"{"model_cfg": {"vision_cfg": {}}}"#,
            "`model_cfg.embed_dim`",
        ),
        ("{}", "`model_cfg`"),
        (
            r#"{"model_cfg": {"embed_dim": 4}, "preprocess_cfg": {"resize_mode": "stretch"}}"#,
            "\"stretch\"",
        ),
        (
            r#"{"model_cfg": {"embed_dim": 4}}"#,
            "open_clip_model.safetensors",
        ),
    ] {
        write("open_clip_config.json", config);
        refused(what);
    }
    std::fs::remove_file(folder.path().join("open_clip_config.json")).unwrap();
    write("config.json", r#"{"model_type": "siglip2"}"#);
    refused("NaFlex");
    copy(&path("siglip"), folder.path());
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    refused("no `tokenizer.json`");
    copy(&path("siglip"), folder.path());
    let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    write(
        "config.json",
        &text.replace("\"projection_size\": 24", "\"projection_size\": 32"),
    );
    refused("24 values and text vectors 32");
    write("config.json", r#"{"model_type": "dinov3_convnext"}"#);
    let error = ImageEncoder::open(folder.path(), Device::Cpu, Kind::Float);
    assert!(error.err().unwrap().to_string().contains("convolutions"));
    // A file that is another model.
    let dino = golden("encoders/dino/model.safetensors");
    let error = DualEncoder::open(&dino, Device::Cpu, Kind::Float);
    assert!(error.err().unwrap().to_string().contains("OpenCLIP"));
}
