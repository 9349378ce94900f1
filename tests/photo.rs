//! Photos: pixels equal to Pillow's, resizing equal to Pillow's, and every kind of bad file refused by name.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use preftune::data::photo::{self, Photo};
use preftune::data::quality::{Issue, inspect, sentences};
use preftune::ops::resample::{Filter, Window, resize, resize_window};
use preftune::{Error, Result};
use tch::{Kind, Tensor};

use crate::support::{golden, golden_tensors, shared};

/// Largest difference of an image to a `[h, w, 3]` tensor of bytes.
#[track_caller]
fn difference(image: &RgbImage, expected: &Tensor) -> i64 {
    let (width, height) = image.dimensions();
    let shape = [i64::from(height), i64::from(width), 3];
    assert_eq!(expected.size(), shape);
    let actual = Tensor::from_slice(image.as_raw()).view(shape);
    let difference = actual.to_kind(Kind::Int) - expected.to_kind(Kind::Int);
    difference.abs().max().int64_value(&[])
}

#[test]
fn every_kind_of_file_decodes_to_the_pixels_of_pillow() {
    let expected = golden_tensors("photo/pixels.safetensors");
    let mut checked = 0;
    for name in expected.names() {
        let image = photo::load(&golden("photo").join(name)).unwrap();
        let difference = difference(&image, &expected.tensor(name).unwrap());
        println!("{name}: largest difference {difference}");
        // Lossy WebP is decoded by another decoder, whose chroma upsampling rounds differently.
        let allowed = if name == "lossy.webp" { 2 } else { 0 };
        assert!(difference <= allowed, "{name} differs by {difference}");
        checked += 1;
    }
    assert_eq!(checked, 20);
}

#[test]
fn resizing_is_pillows_bit_for_bit() {
    let golden = golden_tensors("photo/resized.safetensors");
    let source = golden.tensor("source").unwrap();
    let pixels: Vec<u8> = Vec::try_from(source.flatten(0, -1)).unwrap();
    let source = RgbImage::from_raw(37, 29, pixels).unwrap();
    for (name, filter) in [
        ("bilinear", Filter::Bilinear),
        ("bicubic", Filter::Bicubic),
        ("lanczos", Filter::Lanczos),
    ] {
        for (width, height) in [
            (16, 16),
            (37, 11),
            (9, 29),
            (64, 50),
            (5, 40),
            (1, 1),
            (200, 3),
            (36, 20),
        ] {
            let key = format!("{name}_{width}_{height}");
            let resized = resize(&source, width, height, filter);
            let expected = golden.tensor(&key).unwrap();
            assert_eq!(difference(&resized, &expected), 0, "{key}");
            // A window of the result is cut from it.
            let window = Window {
                left: width / 3,
                top: height / 4,
                width: width.div_ceil(3),
                height: height.div_ceil(2),
            };
            let part = resize_window(&source, width, height, filter, window);
            let Window {
                left,
                top,
                width,
                height,
            } = window;
            let cut = image::imageops::crop_imm(&resized, left, top, width, height).to_image();
            assert_eq!(part, cut, "{key}");
        }
    }
}

#[test]
fn resizing_to_the_same_size_changes_nothing() {
    let image = photo::load(&golden("photo/sharp.jpg")).unwrap();
    for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
        assert_eq!(resize(&image, image.width(), image.height(), filter), image);
    }
}

#[test]
fn the_name_of_a_file_does_not_decide_its_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("claims_to_be.png");
    fs::copy(golden("photo/baseline.jpg"), &path).unwrap();
    assert_eq!(
        photo::load(&path).unwrap(),
        photo::load(&golden("photo/baseline.jpg")).unwrap()
    );
}

fn refusal(name: &str, bytes: &[u8]) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let error = photo::load(&path).unwrap_err();
    println!("{error} [{}]", error.hint().unwrap_or("no hint"));
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains(name), "the file is named");
    error
}

#[test]
fn every_truncation_of_a_photo_is_refused() {
    for name in [
        "baseline.jpg",
        "progressive.jpg",
        "inks.jpg",
        "deep.png",
        "plain.bmp",
        "lossy.webp",
        "phone.mpo",
    ] {
        let bytes = fs::read(golden("photo").join(name)).unwrap();
        // The second image of a multi-picture file is not read, so only the first counts.
        let whole = if name == "phone.mpo" {
            bytes.len() / 3
        } else {
            bytes.len()
        };
        for end in (0..whole).step_by(whole / 40) {
            refusal(name, &bytes[..end]);
        }
    }
    let bytes = fs::read(golden("photo/baseline.jpg")).unwrap();
    let error = refusal("cut.jpg", &bytes[..bytes.len() - 1]);
    assert!(error.to_string().contains("truncated"));
}

#[test]
fn damaged_photos_give_an_error_or_pixels_but_never_a_panic() {
    let noise = preftune::ops::random::integers(3, 1 << 20, 4000);
    let mut noise = noise.iter().map(|&value| value as usize);
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "baseline.jpg",
        "progressive.jpg",
        "inks.jpg",
        "palette.png",
        "deep.png",
        "lossy.webp",
        "plain.bmp",
    ] {
        let whole = fs::read(golden("photo").join(name)).unwrap();
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                let at = noise.next().unwrap() % bytes.len();
                bytes[at] = noise.next().unwrap() as u8;
            }
            let path = folder.path().join(name);
            fs::write(&path, &bytes).unwrap();
            if let Err(error) = photo::load(&path) {
                assert_eq!(error.exit_code(), 2, "{error}");
            }
        }
    }
}

#[test]
fn a_huge_header_is_refused_before_pixels_are_allocated() {
    let header = |width: u32, height: u32| {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        bytes.extend(width.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        bytes.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    };
    let error = refusal("huge.png", &header(20_000, 20_000));
    assert!(error.to_string().contains("20000 x 20000"), "{error}");
    assert!(error.hint().is_some());
    let error = refusal("long.png", &header(12_001, 1));
    assert!(error.to_string().contains("12001 x 1"), "{error}");
    let error = refusal("none.png", &header(0, 7));
    assert!(error.to_string().contains("0 x 7"), "{error}");
    // The same claim in a JPEG: the frame header's height and width.
    let mut bytes = fs::read(golden("photo/baseline.jpg")).unwrap();
    let frame = bytes
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    let error = refusal("huge.jpg", &bytes);
    assert!(error.to_string().contains("65535 x 65535"), "{error}");
}

#[test]
fn what_is_no_image_is_called_what_it_is() {
    for (name, bytes, what) in [
        ("empty.jpg", &b""[..], "empty"),
        ("text.jpg", b"a photo of a dog, in words".as_slice(), "text"),
        (
            "noise.png",
            b"\x00\x01\x02\x03\x04\x05\xff\xfe\xfd",
            "not an image",
        ),
        ("old.gif", b"GIF89a\x01\0\x01\0\x80\0\0", "Gif"),
        ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    ] {
        let error = refusal(name, bytes);
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.hint().is_some(), "{name}");
    }
    let error = photo::load(Path::new("/nowhere/at/all.jpg")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let error = photo::load(&golden("photo")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

fn folder_of(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for name in files {
        fs::copy(golden("photo/baseline.jpg"), folder.path().join(name)).unwrap();
    }
    let path = folder.path().to_owned();
    (folder, path)
}

fn names(photos: Result<Vec<Photo>>) -> Vec<String> {
    let name = |photo: Photo| {
        photo
            .path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    photos.unwrap().into_iter().map(name).collect()
}

#[test]
fn a_folder_is_read_in_the_order_of_names_without_what_is_no_image() {
    let (_guard, folder) = folder_of(&["b.jpg", "a.JPG", "10.png", "no_ending"]);
    for name in [
        "prompts.txt",
        "._b.jpg",
        ".DS_Store",
        "metadata.jsonl",
        "README",
    ] {
        fs::write(folder.join(name), "a photo of [V] dog").unwrap();
    }
    fs::create_dir(folder.join("z.jpg")).unwrap();
    assert_eq!(
        names(photo::load_folder(&folder)),
        ["10.png", "a.JPG", "b.jpg", "no_ending"]
    );
}

#[test]
fn a_broken_image_in_a_folder_is_an_error_not_a_gap() {
    let (_guard, folder) = folder_of(&["a.jpg", "c.jpg"]);
    fs::write(folder.join("b.jpg"), "a text").unwrap();
    let error = photo::load_folder(&folder).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("b.jpg"), "{error}");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn a_folder_without_images_is_an_error_with_a_hint() {
    let (_guard, folder) = folder_of(&[]);
    fs::write(folder.join("prompts.txt"), "a dog").unwrap();
    let error = photo::load_folder(&folder).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("no images"), "{error}");
    fs::create_dir(folder.join("dog")).unwrap();
    let error = photo::load_folder(&folder).map(|_| ()).unwrap_err();
    assert!(error.hint().unwrap().contains("subfolders"));
    for missing in [folder.join("absent"), folder.join("prompts.txt")] {
        let error = photo::load_folder(&missing).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
}

#[test]
fn a_square_is_the_middle_at_the_same_aspect_ratio() {
    // Left third red, middle green, right blue.
    let wide = RgbImage::from_fn(90, 30, |x, _| match x / 30 {
        0 => Rgb([255, 0, 0]),
        1 => Rgb([0, 255, 0]),
        _ => Rgb([0, 0, 255]),
    });
    for size in [8, 30, 64] {
        let square = photo::square(&wide, size);
        assert_eq!(square.dimensions(), (size, size));
        assert_eq!(square.get_pixel(size / 2, size / 2).0, [0, 255, 0]);
    }
    let tall = image::imageops::rotate90(&wide);
    assert_eq!(photo::square(&tall, 16).get_pixel(8, 8).0, [0, 255, 0]);
    assert_eq!(
        photo::square(&RgbImage::new(1, 1), 64).dimensions(),
        (64, 64)
    );
    assert_eq!(
        photo::square(&RgbImage::new(12_000, 1), 512).dimensions(),
        (512, 512)
    );
    assert_eq!(
        photo::square(&RgbImage::new(511, 767), 512).dimensions(),
        (512, 512)
    );
}

/// A textured picture: waves in several directions with noise.
fn texture(seed: i64, side: u32) -> RgbImage {
    let noise = preftune::ops::random::integers(seed, 60, (side * side) as usize);
    let wave = preftune::ops::random::uniform(seed) * 0.2 + 0.02;
    RgbImage::from_fn(side, side, |x, y| {
        let value = 100.0 + 60.0 * (f64::from(x) * wave + f64::from(y) * 0.05).sin();
        let value = value + noise[(y * side + x) as usize] as f64;
        Rgb([value as u8; 3])
    })
}

#[test]
fn bad_photos_are_listed_and_none_is_dropped() {
    let photo = |name: &str, image: RgbImage| Photo {
        path: PathBuf::from(name),
        image,
    };
    let sharp = texture(1, 300);
    let blurred = image::imageops::blur(&texture(2, 300), 6.0);
    let copy = resize(&sharp, 290, 290, Filter::Bicubic);
    let photos = [
        photo("sharp", sharp),
        photo("small", texture(3, 200)),
        photo("blurred", blurred),
        photo("copy", copy),
        photo("blank", RgbImage::from_pixel(300, 300, Rgb([90, 91, 90]))),
        photo("blank_2", RgbImage::from_pixel(300, 300, Rgb([90, 91, 90]))),
    ];
    let warnings = inspect(&photos, 256);
    let said = sentences(&warnings, photos.len());
    assert_eq!(
        said,
        [
            "1 of 6 photos are enlarged, as their shortest sides have fewer than 256 pixels: `small` (200 pixels)",
            "1 of 6 photos are very blurred: `blurred`",
            "1 of 6 photos look like copies of others: `copy` (of `sharp`)",
            "2 of 6 photos are almost one colour: `blank`, `blank_2`",
        ]
    );
    let found: Vec<(&str, &Issue)> = warnings
        .iter()
        .map(|warning| (warning.path.to_str().unwrap(), &warning.issue))
        .collect();
    let original = PathBuf::from("sharp");
    assert_eq!(
        found,
        [
            (
                "small",
                &Issue::Small {
                    side: 200,
                    needed: 256
                }
            ),
            ("blurred", &Issue::Blurred),
            ("copy", &Issue::Copy { of: original }),
            ("blank", &Issue::Blank),
            ("blank_2", &Issue::Blank),
        ]
    );
}

#[test]
fn dreambench_photos_decode_and_raise_no_alarm() {
    let Some(dataset) = shared("dreambench/dataset") else {
        return;
    };
    for subject in ["can", "red_cartoon", "dog8", "vase"] {
        let photos = photo::load_folder(&dataset.join(subject)).unwrap();
        assert!(photos.len() >= 4);
        let warnings = inspect(&photos, 512);
        assert!(warnings.is_empty(), "{subject}: {warnings:?}");
    }
}
