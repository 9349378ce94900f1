//! Encoders of images and texts against transformers, through the interface that rewards use.

use std::path::Path;

use image::RgbImage;
use preftune::data::photo;
use preftune::models::encoders::{DualEncoder, ImageEncoder};
use preftune::models::json;
use tch::{Device, Kind};

use crate::preprocess::{encoded_photos, pieces};
use crate::support::{assert_close, golden, golden_tensors, shared};

fn prompts() -> Vec<String> {
    let expected = json::read_object(&golden("encoders/tokens.json")).unwrap();
    serde_json::from_value(expected["prompts"].clone()).unwrap()
}

fn open(name: &str) -> DualEncoder {
    let folder = golden(&format!("encoders/{name}"));
    DualEncoder::open(&folder, Device::Cpu, Kind::Float).unwrap()
}

fn open_dino() -> ImageEncoder {
    ImageEncoder::open(&golden("encoders/dino"), Device::Cpu, Kind::Float).unwrap()
}

#[test]
fn vectors_of_texts_equal_transformers() {
    for name in ["clip", "align"] {
        let expected = golden_tensors(&format!("encoders/{name}.safetensors"));
        let texts = open(name).encode_texts(&prompts()).unwrap();
        assert_close(name, &texts, &expected.tensor("texts").unwrap(), 2e-5);
    }
}

#[track_caller]
fn assert_image_vectors(key: &str, images: &[RgbImage]) {
    let wanted = |name: &str| {
        let expected = golden_tensors(&format!("encoders/{name}.safetensors"));
        expected.tensor(key).unwrap()
    };
    for name in ["clip", "align"] {
        let vectors = open(name).encode_images(images).unwrap();
        assert_close(name, &vectors, &wanted(name), 2e-5);
    }
    let vectors = open_dino().encode_images(images).unwrap();
    assert_close("dino", &vectors, &wanted("dino"), 2e-5);
}

#[test]
fn vectors_of_images_equal_transformers() {
    assert_image_vectors("images", &pieces());
}

#[test]
fn vectors_of_photos_equal_transformers() {
    let Some(photos) = encoded_photos() else {
        return;
    };
    assert_image_vectors("photos", &photos);
}

#[test]
fn slices_change_nothing_and_every_encode_is_counted() {
    let encoder = open("clip");
    assert_eq!((encoder.image_encodes(), encoder.text_encodes()), (0, 0));
    let pieces = pieces();
    let many: Vec<_> = (0..70).map(|index| pieces[index % 4].clone()).collect();
    let all = encoder.encode_images(&many).unwrap();
    assert_eq!(all.size(), [70, encoder.width()]);
    let four = encoder.encode_images(&pieces).unwrap();
    assert_close("last slice", &all.narrow(0, 64, 4), &four, 1e-6);
    let texts: Vec<String> = (0..40).map(|number| format!("{number} dogs")).collect();
    let rows = encoder.encode_texts(&texts).unwrap();
    assert_eq!(rows.size(), [40, encoder.width()]);
    assert_eq!((encoder.image_encodes(), encoder.text_encodes()), (74, 40));
    assert_eq!(
        encoder.encode_images(&[]).unwrap().size(),
        [0, encoder.width()]
    );
    assert_eq!(
        encoder.encode_texts(&[]).unwrap().size(),
        [0, encoder.width()]
    );
}

#[test]
fn vectors_have_length_one_in_f32_also_in_half_precision() {
    let folder = golden("encoders/clip");
    let encoder = DualEncoder::open(&folder, Device::Cpu, Kind::BFloat16).unwrap();
    let exact = open("clip");
    for (rough, exact) in [
        (
            encoder.encode_images(&pieces()).unwrap(),
            exact.encode_images(&pieces()).unwrap(),
        ),
        (
            encoder.encode_texts(&prompts()).unwrap(),
            exact.encode_texts(&prompts()).unwrap(),
        ),
    ] {
        assert_eq!(rough.kind(), Kind::Float);
        let lengths = rough.norm_scalaropt_dim(2, [-1], false);
        assert_close("length", &lengths, &lengths.ones_like(), 1e-5);
        assert_close("bf16", &rough, &exact, 0.1);
    }
}

#[test]
fn an_encoder_names_itself_and_its_weights() {
    let encoder = open("clip");
    assert_eq!(encoder.name(), "clip");
    assert_eq!(encoder.weights_sha256().len(), 64);
    let snapshot = tempfile::tempdir().unwrap();
    let folder = snapshot
        .path()
        .join("models--openai--clip-vit/snapshots/abc");
    copy(&golden("encoders/clip"), &folder);
    let other = DualEncoder::open(&folder, Device::Cpu, Kind::Float).unwrap();
    assert_eq!(other.name(), "openai/clip-vit");
    assert_eq!(other.weights_sha256(), encoder.weights_sha256());
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn the_nested_sections_of_old_configurations_have_the_last_word() {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("encoders/clip"), folder.path());
    let path = folder.path().join("config.json");
    let mut config = json::read_object(&path).unwrap();
    for key in ["text_config", "vision_config"] {
        let section = config[key].clone();
        config.insert(format!("{key}_dict"), section);
        config.insert(key.to_owned(), serde_json::json!({"hidden_size": 999}));
    }
    std::fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
    let encoder = DualEncoder::open(folder.path(), Device::Cpu, Kind::Float).unwrap();
    let same = open("clip").encode_images(&pieces()).unwrap();
    assert_eq!(encoder.encode_images(&pieces()).unwrap(), same);
}

#[test]
fn folders_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("encoders/clip"), folder.path());
    let edit = |file: &str, from: &str, to: &str| {
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    edit("preprocessor_config.json", "48", "32");
    let encoder = DualEncoder::open(folder.path(), Device::Cpu, Kind::Float).unwrap();
    let error = encoder.encode_images(&pieces()).err().unwrap();
    assert!(error.to_string().contains("32x32 pixels"), "{error}");
    let refused = |what: &str| {
        let error = DualEncoder::open(folder.path(), Device::Cpu, Kind::Float).err();
        let error = error.unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(what), "{error}");
    };
    edit("config.json", "\"patch_size\": 16", "\"patch_size\": 0");
    refused("patches of 0 pixels");
    edit(
        "config.json",
        "\"patch_size\": 0",
        "\"patch_size\": [16, 8]",
    );
    refused("square");
    edit(
        "config.json",
        "\"model_type\": \"clip\"",
        "\"model_type\": \"bert\"",
    );
    refused("`bert`");
}

#[test]
fn an_align_folder_whose_parts_do_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("encoders/align"), folder.path());
    let path = folder.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, what) in [
        (
            "\"projection_dim\": 24",
            "\"projection_dim\": 32",
            "24 values",
        ),
        (
            "\"expand_ratios\": [\n      1,",
            "\"expand_ratios\": [",
            "differ in length",
        ),
        (
            "\"kernel_sizes\": [\n      3,",
            "\"kernel_sizes\": [\n      4,",
            "odd",
        ),
        (
            "\"strides\": [\n      1,",
            "\"strides\": [\n      3,",
            "`strides` of 1 or 2",
        ),
        (
            "\"num_attention_heads\": 3",
            "\"num_attention_heads\": 5",
            "5 attention heads",
        ),
        (
            "\"pooling_type\": \"mean\"",
            "\"pooling_type\": \"sum\"",
            "sum",
        ),
        ("\"depth_divisor\": 8", "\"depth_divisor\": 0", "at least 1"),
        (
            "\"squeeze_expansion_ratio\": 0.25",
            "\"squeeze_expansion_ratio\": 0.5",
            "has shape",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = DualEncoder::open(folder.path(), Device::Cpu, Kind::Float).err();
        let error = error.unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn align_takes_every_image_size_that_its_strides_leave_something_of() {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("encoders/align"), folder.path());
    let path = folder.path().join("preprocessor_config.json");
    let mut smallest = None;
    for side in 1..12 {
        std::fs::write(&path, format!("{{\"size\": {side}}}")).unwrap();
        let encoder = DualEncoder::open(folder.path(), Device::Cpu, Kind::Float).unwrap();
        match encoder.encode_images(&pieces()[..1]) {
            Ok(_) => smallest = smallest.or(Some(side)),
            Err(error) => {
                assert!(smallest.is_none(), "{error}");
                assert!(error.to_string().contains("or more"), "{error}");
            }
        }
    }
    // Stem and block 2 double one pixel, block 5 is padded evenly.
    assert_eq!(smallest, Some(4));
}

#[test]
fn dino_counts_its_encodes_and_refuses_another_image_size() {
    let encoder = open_dino();
    let vectors = encoder.encode_images(&pieces()).unwrap();
    assert_eq!(vectors.size(), [4, encoder.width()]);
    assert_eq!(encoder.image_encodes(), 4);
    assert_eq!(encoder.name(), "dino");
    assert_eq!(encoder.weights_sha256().len(), 64);
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("encoders/dino"), folder.path());
    let path = folder.path().join("preprocessor_config.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("40", "48");
    std::fs::write(&path, text).unwrap();
    let other = ImageEncoder::open(folder.path(), Device::Cpu, Kind::Float).unwrap();
    let error = other.encode_images(&pieces()).err().unwrap();
    assert!(error.to_string().contains("48x48"), "{error}");
    let clip = ImageEncoder::open(&golden("encoders/clip"), Device::Cpu, Kind::Float);
    assert!(clip.err().unwrap().to_string().contains("`clip`"));
}

#[test]
fn the_emoji_world_encoder_equals_transformers() {
    let Some(folder) = shared("emoji-world-poc") else {
        return;
    };
    let expected = golden_tensors("encoders/reward.safetensors");
    let reward = folder.join("reward");
    let encoder = DualEncoder::open(&reward, Device::Cpu, Kind::Float).unwrap();
    let prompts: Vec<String> = prompts()
        .into_iter()
        .filter(|prompt| !prompt.trim().is_empty())
        .collect();
    let texts = encoder.encode_texts(&prompts).unwrap();
    assert_close("texts", &texts, &expected.tensor("texts").unwrap(), 2e-5);
    let images: Vec<_> = (0..5)
        .map(|number| photo::load(&folder.join(format!("subjects/cup/0{number}.png"))).unwrap())
        .collect();
    let images = encoder.encode_images(&images).unwrap();
    assert_close("images", &images, &expected.tensor("images").unwrap(), 2e-5);
}
