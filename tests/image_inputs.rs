//! What is read of images as people have them: prompts within PNG files by who wrote them, captions, folders of photos,
//! words that a model does not know; and what is left out, said aloud.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use preftune::data::captions::own_prompts;
use preftune::data::listing::{Listing, natural_order};
use preftune::data::photo;
use preftune::data::prompts;
use serde_json::{Value, json};

use crate::command::Folder;
use crate::support::golden;
use crate::tiny_run::World;

/// How a chunk of text is stored.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    Latin,
    Compressed,
    Utf8,
}

const CHUNKS: [Chunk; 3] = [Chunk::Latin, Chunk::Compressed, Chunk::Utf8];

fn png(path: &Path, kind: Chunk, texts: &[(&str, &str)]) {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path).unwrap()), 8, 8);
    encoder.set_color(png::ColorType::Rgb);
    for (keyword, text) in texts {
        let (keyword, text) = ((*keyword).to_owned(), (*text).to_owned());
        match kind {
            Chunk::Latin => encoder.add_text_chunk(keyword, text),
            Chunk::Compressed => encoder.add_ztxt_chunk(keyword, text),
            Chunk::Utf8 => encoder.add_itxt_chunk(keyword, text),
        }
        .unwrap();
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[90; 8 * 8 * 3]).unwrap();
}

/// The prompt of an image with these chunks, or why there is none.
fn prompt(kind: Chunk, texts: &[(&str, &str)]) -> Result<String, String> {
    let folder = Folder::new();
    let path = folder.path("image.png");
    png(&path, kind, texts);
    let captions = own_prompts(&folder.path(""), &[path]);
    captions
        .map(|mut captions| captions.prompts.remove(0))
        .map_err(|error| error.to_string())
}

fn graph(more: &Value) -> String {
    let mut nodes = json!({
        "3": {"class_type": "KSampler", "inputs": {"seed": 5, "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text, watermark", "clip": ["4", 1]}},
    });
    for (id, node) in more.as_object().unwrap() {
        nodes[id] = node.clone();
    }
    nodes.to_string()
}

#[test]
fn the_prompt_within_a_png_is_told_by_who_wrote_it() {
    let parameters = "a dog on the moon,\n(best quality:1.2)\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Seed: 1";
    for kind in CHUNKS {
        let dog = prompt(kind, &[("parameters", parameters)]);
        assert_eq!(dog.unwrap(), "a dog on the moon,\n(best quality:1.2)");
        let dog = prompt(kind, &[("parameters", "a dog\nSteps: 20, Sampler: Euler")]);
        assert_eq!(dog.unwrap(), "a dog");
        let none = prompt(kind, &[("parameters", "Negative prompt: cat\nSteps: 20")]);
        assert!(
            none.unwrap_err()
                .contains("`parameters` begins with no prompt")
        );

        let nodes = graph(&json!({}));
        let dog = prompt(kind, &[("workflow", "{}"), ("prompt", &nodes)]);
        assert_eq!(dog.unwrap(), "a dog", "{kind:?}");
        // Ours is what it is, even where it looks like something else.
        let ours = [("prompt", nodes.as_str()), ("software", "preftune 0.1.0")];
        assert_eq!(prompt(kind, &ours).unwrap(), nodes);
        assert_eq!(prompt(kind, &[("prompt", "a cat")]).unwrap(), "a cat");
        let other = prompt(kind, &[("prompt", "{\"a\": 1}")]);
        assert!(
            other
                .unwrap_err()
                .contains("JSON of a kind that is not known")
        );
        let none = prompt(kind, &[("comment", "made by hand")]);
        assert!(none.unwrap_err().contains("is not known"));
    }
}

#[test]
fn rows_without_their_image_and_images_with_two_prompts_are_named() {
    let folder = Folder::new();
    let images = ["a.png", "b.png", "c.png"].map(|name| folder.path(name));
    let parameters = "a dog\nSteps: 20, Sampler: Euler";
    png(&images[0], Chunk::Latin, &[]);
    png(
        &images[1],
        Chunk::Latin,
        &[("parameters", parameters), ("prompt", "a cat")],
    );
    png(
        &images[2],
        Chunk::Latin,
        &[("parameters", parameters), ("prompt", "a dog")],
    );
    let row = |name: &str| json!({"file_name": name, "prompt": "a fox"});
    folder.lines("metadata.jsonl", &["a.png", "gone.png", "b2.png"].map(row));
    let captions = own_prompts(&folder.path(""), &images).unwrap();
    assert_eq!(captions.prompts, ["a fox", "a dog", "a dog"]);
    let [gone, doubled] = captions.notes.as_slice() else {
        panic!("{:?}", captions.notes);
    };
    assert!(gone.starts_with("2 rows of `"), "{gone}");
    assert!(gone.ends_with("not used: `b2.png`, `gone.png`"), "{gone}");
    assert!(
        doubled.starts_with("1 image of `")
            && doubled.ends_with("that of `parameters` is taken: `b.png`"),
        "{doubled}"
    );
    let rows = ["a fox", "a cat"].map(|prompt| json!({"file_name": "a.png", "prompt": prompt}));
    folder.lines("metadata.jsonl", &rows);
    let error = own_prompts(&folder.path(""), &images[..1]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("line 2: `a.png` has another prompt in an earlier line"),
        "{error}"
    );
}

#[test]
fn the_positive_text_of_a_node_graph_is_taken_where_it_is_sure() {
    let of = |more: Value| prompt(Chunk::Latin, &[("prompt", &graph(&more))]);
    // Through a ControlNet, which gives out both conditionings.
    let control = json!({
        "3": {"class_type": "KSampler", "inputs": {"positive": ["9", 0], "negative": ["9", 1], "latent_image": ["5", 0]}},
        "9": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1.0}},
    });
    assert_eq!(of(control).unwrap(), "a dog");
    // A second pass with the same text, and a guider of its own.
    let again = json!({"12": {"class_type": "KSamplerAdvanced", "inputs": {"positive": ["6", 0], "negative": ["7", 0]}}});
    assert_eq!(of(again).unwrap(), "a dog");
    let guided = json!({
        "3": {"class_type": "SamplerCustomAdvanced", "inputs": {"guider": ["8", 0], "latent_image": ["5", 0]}},
        "8": {"class_type": "BasicGuider", "inputs": {"conditioning": ["9", 0]}},
        "9": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}},
    });
    assert_eq!(of(guided).unwrap(), "a dog");
    // A text in a node of its own; both texts of SDXL.
    let linked = json!({
        "6": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": ["10", 0], "text_l": "a fox", "clip": ["4", 1]}},
        "10": {"class_type": "PrimitiveString", "inputs": {"value": "a fox"}},
    });
    assert_eq!(of(linked).unwrap(), "a fox");
    for (more, why) in [
        (
            json!({"12": {"class_type": "KSampler", "inputs": {"positive": ["7", 0], "latent_image": ["5", 0]}}}),
            "its samplers draw different texts",
        ),
        (
            json!({"6": {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["7", 0], "conditioning_2": ["7", 0]}}}),
            "out of a node `ConditioningCombine`",
        ),
        (
            json!({"6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["10", 0]}},
                "10": {"class_type": "WildcardFile", "inputs": {"file": "animals.txt"}}}),
            "out of a node `WildcardFile`",
        ),
        (
            json!({"6": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0]}}}),
            "its links do not end",
        ),
        (
            json!({"3": {"class_type": "VAEDecode", "inputs": {}}}),
            "no sampler",
        ),
        (
            json!({"6": {"class_type": "CLIPTextEncode", "inputs": {"text": " "}}}),
            "its positive prompt is empty",
        ),
    ] {
        let refusal = of(more).unwrap_err();
        assert!(refusal.contains(why), "{refusal}");
    }
    // Python writes NaN, which JSON has not.
    let nan = graph(&json!({})).replacen("\"seed\":5", "\"is_changed\":[NaN],\"note\":\"NaN\"", 1);
    assert!(nan.contains("[NaN]"));
    assert_eq!(prompt(Chunk::Utf8, &[("prompt", &nan)]).unwrap(), "a dog");
}

#[test]
fn captions_beside_images_are_read_without_a_byte_order_mark() {
    let folder = Folder::new();
    let (one, two) = (folder.path("1.png"), folder.path("2.png"));
    png(&one, Chunk::Utf8, &[("prompt", "within")]);
    png(&two, Chunk::Utf8, &[("prompt", "within")]);
    fs::write(folder.path("1.txt"), "\u{feff}a dog, \"quoted\"\n").unwrap();
    let images = [one, two];
    let prompts = || own_prompts(&folder.path(""), &images).unwrap().prompts;
    assert_eq!(prompts(), ["a dog, \"quoted\"", "within"]);
    let listed = "\u{feff}{\"file_name\": \"1.png\", \"text\": \"listed\"}\n";
    fs::write(folder.path("metadata.jsonl"), listed).unwrap();
    assert_eq!(prompts(), ["listed", "within"]);
}

fn names(paths: &[PathBuf]) -> Vec<&str> {
    let names = paths.iter().map(|path| path.file_name().unwrap());
    names.map(|name| name.to_str().unwrap()).collect()
}

#[test]
fn images_are_listed_in_the_order_that_people_read_numbers_in() {
    use std::cmp::Ordering::{Equal, Less};
    for pair in [
        "2 10",
        "a2b 2b",
        "img9.jpg img10.jpg",
        "02 3",
        "1.9 1.10",
        "a1 b0",
        "x x1",
        "007 7",
    ] {
        let (one, other) = pair.split_once(' ').unwrap();
        let expected = if pair == "a2b 2b" {
            Less.reverse()
        } else {
            Less
        };
        assert_eq!(natural_order(one, other), expected, "{pair}");
        assert_eq!(natural_order(other, one), expected.reverse(), "{pair}");
    }
    assert_eq!(natural_order("a10", "a10"), Equal);

    let folder = Folder::new();
    for name in ["10.jpg", "2.jpg", "1.jpg", "2.png", "raw.heic"] {
        fs::copy(golden("photo/baseline.jpg"), folder.path(name)).unwrap();
    }
    for name in [
        "a.jxl", "b.dng", "c.TGA", "d.heic", ".e.jxl", "notes.md", "2.txt",
    ] {
        fs::write(folder.path(name), "no picture").unwrap();
    }
    fs::create_dir(folder.path("more")).unwrap();
    let listing = Listing::open(&folder.path("")).unwrap();
    // What has the content of a format that is read is read, whatever it is called.
    assert_eq!(
        names(&listing.images),
        ["1.jpg", "2.jpg", "2.png", "10.jpg", "raw.heic"]
    );
    assert_eq!(
        names(&listing.not_read),
        ["a.jxl", "b.dng", "c.TGA", "d.heic"]
    );
    assert_eq!(names(&listing.captions), ["2.txt"]);
    let notes = listing
        .notes(Some("they are learnt under one prompt"))
        .join("\n");
    for words in [
        "4 files",
        "`a.jxl`",
        "1 caption",
        "one prompt",
        "1 subfolder",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    for name in ["1.jpg", "2.jpg", "2.png", "10.jpg", "raw.heic"] {
        fs::remove_file(folder.path(name)).unwrap();
    }
    let error = Listing::open(&folder.path("")).unwrap_err();
    assert!(
        error.to_string().contains("4 of other formats: `a.jxl`"),
        "{error}"
    );
}

#[test]
fn a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() {
    let bytes = fs::read(golden("photo/baseline.jpg")).unwrap();
    let folder = Folder::new();
    let with = |scans: usize| {
        let path = folder.path("scans.jpg");
        let end = bytes.len() - 2;
        let more = [0xff, 0xda, 0, 2].repeat(scans);
        fs::write(&path, [&bytes[..end], &more, &bytes[end..]].concat()).unwrap();
        photo::load(&path)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let refusal = with(100).unwrap_err();
    assert!(refusal.contains("101 scans; at most 100"), "{refusal}");
    assert_eq!(with(0), Ok(()));
}

#[test]
fn a_line_with_a_number_sign_is_a_comment_a_prompt_or_refused_but_never_lost() {
    let folder = Folder::new();
    let path = folder.path("prompts.txt");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        prompts::read(&path).map_err(|error| error.to_string())
    };
    let prompts = read("# a comment\n## more\n#\n#1 dad mug, studio photo\na dog\n").unwrap();
    assert_eq!(prompts, ["#1 dad mug, studio photo", "a dog"]);
    let refusal = read("a dog\n#sunset at sea\n").unwrap_err();
    assert!(
        refusal.contains("line 2: `#sunset at sea` may be"),
        "{refusal}"
    );
}

const SMALL: [&str; 6] = ["--steps", "1", "--device", "cpu", "--out", "out"];

#[test]
fn generate_fills_prompts_with_the_words_of_the_run_and_refuses_them_for_other_models() {
    let world = World::new();
    world
        .train(&["train.steps=2", "validation.every=0"])
        .succeeded();
    world.write("prompts.txt", "a {token} {class} on the moon\n#1 dad mug\n");
    let size = ["--width", "16", "--height", "16", "--json"];
    let generate = |model: &str, prompts: [&str; 2]| {
        let arguments = ["generate", "--model", model, prompts[0], prompts[1]];
        world.run(&[&arguments[..], &SMALL, &size].concat())
    };
    let drawn = generate("run", ["--prompts", "prompts.txt"]).succeeded();
    let drawn: Value = serde_json::from_str(&drawn.stdout).unwrap();
    assert_eq!(drawn[0]["prompt"], "a [V] dog on the moon");
    assert_eq!(drawn[1]["prompt"], "#1 dad mug");
    let drawn = generate("run", ["--prompt", "a {class} at sea"]).succeeded();
    assert!(drawn.stdout.contains("a dog at sea"), "{}", drawn.stdout);
    let plain = golden("diffusion/sd1");
    for prompts in [
        ["--prompts", "prompts.txt"],
        ["--prompt", "a {class} at sea"],
    ] {
        let words = [
            "has a placeholder",
            "is no run on a subject",
            "write the words",
        ];
        generate(plain.to_str().unwrap(), prompts).failed(2, &words);
    }
}

#[test]
fn words_that_the_text_encoder_does_not_know_are_named() {
    let folder = Folder::new();
    let emoji = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-world");
    let model = emoji.to_str().unwrap();
    let generate = [
        "generate",
        "--model",
        model,
        "--quiet",
        "--prompt",
        "a purple ghost",
    ];
    let ran = folder
        .binary(&[&generate[..], &SMALL, &["--prompt", "a ghost at a dog"]].concat())
        .done();
    let warnings: Vec<&str> = ran
        .stderr
        .lines()
        .filter(|line| line.contains("ghost"))
        .collect();
    assert_eq!(warnings.len(), 1, "{}", ran.stderr);
    assert!(
        warnings[0].contains("does not know this word"),
        "{}",
        ran.stderr
    );
    assert!(
        warnings[0].contains("`ghost` (in 2 of 2 prompts)"),
        "{}",
        ran.stderr
    );

    // As the class of a subject it is worse.
    let photos = emoji.join("subjects/dog");
    let config = format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = \"{model}\"\n[subject]\nphotos = {photos:?}\nclass = \"ghost\"\n\
         [objective]\nkind = \"dreambooth\"\nprior_weight = 0.0\n[reward]\nencoder = \"{model}/reward\"\n\
         [train]\nsteps = 1\n[validation]\nevery = 0\npatience = 0\n"
    );
    fs::write(folder.path("ghost.toml"), config).unwrap();
    let ran = folder.binary(&["train", "ghost.toml"]).done();
    for words in [
        "does not know the class word `ghost`",
        "the reward encoder does not know",
    ] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
}

#[test]
fn a_single_photo_is_refused_where_photos_are_compared_with_each_other() {
    let world = World::new();
    for name in ["1.png", "2.png"] {
        fs::remove_file(world.path("photos").join(name)).unwrap();
    }
    let words = [
        "lambda 0.5 compares the photos with each other",
        "only one",
        "lambda 0",
    ];
    world.train(&["objective.lambda=0.5"]).failed(2, &words);
    assert!(!world.path("run").exists());
    world
        .train(&["train.steps=2", "validation.every=0"])
        .succeeded();
}

#[test]
fn a_run_says_what_it_read_of_photos_and_what_it_left_out_before_it_samples() {
    let world = World::new();
    world.write("photos/0.txt", "a caption");
    world.write("photos/raw.dng", "no photo");
    let long = RgbImage::from_fn(90, 20, |x, y| Rgb([(x * 2) as u8, (y * 9) as u8, 40]));
    long.save(world.path("photos/pano.png")).unwrap();
    let outcome = world
        .train(&["train.resolution=48", "train.steps=1", "validation.every=0"])
        .succeeded();
    for words in [
        "data: 4 photos of `photos`, learnt under `a photo of [V] dog`; 2 prompts of negatives",
        "1 file of `photos` are left out, as their formats are not read: `raw.dng`",
        "1 caption beside the images of `photos` are not used (`0.txt`)",
        "warning: 4 of 4 photos are enlarged",
        "warning: 1 of 4 photos lose more than half of their area, as the middle square is learnt: `photos/pano.png` (22 % kept)",
    ] {
        assert_eq!(
            outcome.stderr.matches(words).count(),
            1,
            "{words}: {}",
            outcome.stderr
        );
    }
}

#[test]
fn class_images_without_prompts_are_dreambooths_prior() {
    let world = World::new();
    fs::create_dir(world.path("class")).unwrap();
    for number in 5..8 {
        crate::tiny_run::photo(number)
            .save(world.path(&format!("class/{number}.jpg")))
            .unwrap();
    }
    let set = [
        "negatives.folder=class",
        "train.steps=2",
        "validation.every=0",
    ];
    let dreambooth = ["objective.kind=dreambooth", "run.output=prior"];
    let outcome = world.train(&[&set[..], &dreambooth].concat()).succeeded();
    let unused = "`negatives.folder` is not used";
    assert!(outcome.stderr.contains(unused), "{}", outcome.stderr);
    let with_prior = [
        "objective.kind=dreambooth",
        "objective.prior_weight=1",
        "run.output=prior_1",
    ];
    let outcome = world.train(&[&set[..], &with_prior].concat()).succeeded();
    let words = "3 of them do not say their prompt, and are learnt under `a photo of a dog`";
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    // RPO compares under the prompts of the images.
    world
        .train(&set)
        .failed(2, &["the prompt of this image is not known"]);
}

#[cfg(unix)]
#[test]
fn a_path_that_is_not_utf8_is_named_as_such() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let world = World::new();
    let odd = world.path("").join(OsStr::from_bytes(b"ph\xffotos"));
    fs::rename(world.path("photos"), &odd).unwrap();
    let mut command = world.training(&[], &["--photos"]);
    let outcome = crate::tiny_run::Outcome::of(command.arg(&odd).spawn().unwrap());
    outcome.failed(2, &["the path is not valid UTF-8"]);
}

#[test]
fn of_an_animation_the_first_frame_is_read_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut encoder = ::png::Encoder::new(File::create(path("moving.png")).unwrap(), 1, 1);
    encoder.set_animated(2, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    for level in [10, 200] {
        writer.write_image_data(&[level]).unwrap();
    }
    writer.finish().unwrap();
    RgbImage::new(1, 1).save(path("still.png")).unwrap();
    let listing = Listing::open(folder.path()).unwrap();
    assert_eq!(listing.animated(), [path("moving.png")]);
    let notes = listing.notes(None);
    assert!(
        notes[0].ends_with("has 1 animated image, of which the first frame is read: `moving.png`"),
        "{notes:?}"
    );
    assert_eq!(
        photo::load(&path("moving.png")).unwrap().get_pixel(0, 0).0,
        [10; 3]
    );
}
