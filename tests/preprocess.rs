//! Image preprocessing against transformers' PIL processors: samples bit for bit, values after normalisation.

use image::RgbImage;
use preftune::data::photo;
use preftune::models::json;
use preftune::models::preprocess::{Preprocessor, Processor};
use preftune::models::weights::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{assert_close, golden, golden_tensors, shared};

const NAMES: [&str; 9] = [
    "clip224",
    "vit224",
    "align289",
    "clip_lanczos",
    "efficientnet",
    "raw",
    "clip",
    "dino",
    "align",
];

pub fn pieces() -> Vec<RgbImage> {
    (0..4)
        .map(|number| golden(&format!("encoders/images/{number}.png")))
        .map(|path| image::open(path).unwrap().to_rgb8())
        .collect()
}

fn open(name: &str) -> Preprocessor {
    Preprocessor::open(&golden(&format!("encoders/{name}")), Processor::Vit).unwrap()
}

#[track_caller]
fn assert_samples(name: &str, key: &str, images: &[RgbImage]) {
    let expected = json::read_object(&golden("encoders/preprocess.json")).unwrap();
    let preprocessor = open(name);
    for (index, image) in images.iter().enumerate() {
        let (height, width, samples) = preprocessor.crop(image).unwrap();
        assert_eq!(samples.len(), height * width * 3);
        let digest = hex(&Sha256::digest(&samples));
        assert_eq!(Value::String(digest), expected[key][index], "{key} {index}");
    }
}

#[test]
fn samples_before_normalisation_are_those_of_pillow_bit_for_bit() {
    let pieces = pieces();
    for name in NAMES {
        assert_samples(name, name, &pieces);
    }
}

/// The photos that Python has encoded too; none without the shared data.
pub fn encoded_photos() -> Option<Vec<RgbImage>> {
    let folder = shared("dreambench/dataset")?;
    let digests = json::read_object(&golden("encoders/preprocess.json")).unwrap();
    let names: Vec<String> = serde_json::from_value(digests["photos"].clone()).unwrap();
    let load = |name: &String| photo::load(&folder.join(name)).unwrap();
    Some(names.iter().map(load).collect())
}

#[test]
fn samples_of_real_photos_are_those_of_pillow_bit_for_bit() {
    let Some(photos) = encoded_photos() else {
        return;
    };
    for name in ["clip224", "vit224", "align289"] {
        assert_samples(name, &format!("{name} photos"), &photos);
    }
}

#[test]
fn normalised_values_equal_transformers() {
    let expected = golden_tensors("encoders/preprocess.safetensors");
    for name in NAMES {
        let pixels = open(name).pixels(&pieces()).unwrap();
        let size = pixels.size();
        let thinned = pixels.slice(2, 0, size[2], 7).slice(3, 0, size[3], 7);
        assert_close(name, &thinned, &expected.tensor(name).unwrap(), 0.0);
    }
}

#[test]
fn a_very_long_image_costs_no_more_than_its_crop() {
    let strip = RgbImage::from_fn(1, 40_000, |_, y| image::Rgb([(y % 251) as u8; 3]));
    let (height, width, samples) = open("clip224").crop(&strip).unwrap();
    assert_eq!((height, width, samples.len()), (224, 224, 224 * 224 * 3));
}

#[test]
fn no_images_give_an_empty_batch_and_empty_images_an_error() {
    let preprocessor = open("clip");
    assert_eq!(preprocessor.pixels(&[]).unwrap().size()[0], 0);
    let error = preprocessor.pixels(&[RgbImage::new(0, 5)]).err().unwrap();
    assert_eq!(error.exit_code(), 2);
}

fn with_settings(text: &str) -> preftune::Result<Preprocessor> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("preprocessor_config.json"), text).unwrap();
    Preprocessor::open(folder.path(), Processor::Clip)
}

#[test]
fn settings_that_cannot_be_followed_are_refused_by_key() {
    for (text, what) in [
        (
            "{\"image_processor_type\": \"BlipImageProcessor\"}",
            "BlipImageProcessor",
        ),
        ("{\"resample\": 0}", "`resample` 0"),
        ("{\"size\": {\"shortest_edge\": 0}}", "`size`"),
        ("{\"size\": {\"longest_edge\": 9}}", "`size`"),
        ("{\"crop_size\": \"large\"}", "`crop_size`"),
        ("{\"image_mean\": [0.5]}", "array of length 3"),
        ("[]", "JSON object"),
    ] {
        let error = with_settings(text).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(what), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = Preprocessor::open(folder.path(), Processor::Clip).err();
    let error = error.unwrap();
    assert!(error.to_string().contains("preprocessor_config.json"));
}

#[test]
fn images_that_come_out_in_different_sizes_are_refused() {
    let preprocessor = with_settings("{\"do_center_crop\": false}").unwrap();
    let error = preprocessor.pixels(&pieces()).err().unwrap();
    assert!(error.to_string().contains("one size"), "{error}");
}

#[test]
fn old_and_joint_settings_files_mean_the_same() {
    let piece = &pieces()[0];
    let wanted = open("clip").crop(piece).unwrap();
    let old =
        "{\"feature_extractor_type\": \"CLIPFeatureExtractor\", \"size\": 48, \"crop_size\": 48}";
    assert_eq!(with_settings(old).unwrap().crop(piece).unwrap(), wanted);
    let folder = tempfile::tempdir().unwrap();
    let joint = "{\"image_processor\": {\"image_processor_type\": \"CLIPImageProcessorFast\", \"size\": \
                 {\"shortest_edge\": 48}, \"crop_size\": {\"height\": 48, \"width\": 48}}}";
    std::fs::write(folder.path().join("processor_config.json"), joint).unwrap();
    let preprocessor = Preprocessor::open(folder.path(), Processor::Vit).unwrap();
    assert_eq!(preprocessor.crop(piece).unwrap(), wanted);
}
