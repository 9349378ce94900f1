//! The emoji world: equal scenes from equal seeds, nothing held out in training, known words, disjoint prompts,
//! broken folders.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use preftune::data::world::{Scene, Split, TOKENS, Variation, World};
use serde_json::Value;
use sha2::{Digest, Sha256};

const SPRITES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/sprites");

static WORLD: LazyLock<World> = LazyLock::new(|| World::open(Path::new(SPRITES)).unwrap());

/// Enough scenes for the chances of a caption to show.
static MANY: LazyLock<Vec<Scene>> =
    LazyLock::new(|| WORLD.scenes(Split::Train, Variation::Scene, 2, 0..1500));

fn digest(scenes: &[Scene]) -> u64 {
    let mut hash = Sha256::new();
    for scene in scenes {
        hash.update(scene.image.as_raw());
        hash.update(&scene.caption);
    }
    u64::from_be_bytes(hash.finalize()[..8].try_into().unwrap())
}

fn some(split: Split, variation: Variation, count: u64) -> Vec<Scene> {
    WORLD.scenes(split, variation, 1, 0..count)
}

#[test]
fn there_are_sixteen_classes_and_two_subjects_each_of_eight_of_them() {
    assert_eq!(WORLD.classes().len(), 16);
    let classes: HashSet<usize> = WORLD.subjects().iter().map(|s| s.class).collect();
    assert_eq!((WORLD.subjects().len(), classes.len()), (16, 8));
    for subject in WORLD.subjects() {
        let own = &WORLD.sprites()[subject.sprite];
        assert_eq!(own.class, subject.class);
        let siblings = WORLD.sprites().iter();
        let siblings = siblings.filter(|s| s.class == own.class && s.set == own.set);
        assert!(siblings.into_iter().all(|sprite| sprite.held_out));
    }
    for class in 0..16 {
        let sprites = WORLD.sprites().iter();
        let sets: HashSet<_> = sprites
            .filter(|s| s.class == class && !s.held_out)
            .map(|s| &s.set)
            .collect();
        assert!(sets.len() >= 6, "{}", WORLD.classes()[class]);
    }
}

#[test]
fn scenes_are_the_same_on_every_machine() {
    let digests = [Variation::Scene, Variation::Encoder].map(|variation| {
        let train = digest(&some(Split::Train, variation, 40));
        (train, digest(&some(Split::HeldOut, variation, 20)))
    });
    let pinned = [
        (0x067e_40a3_c8fe_c2c0, 0x89fd_8de6_f572_f59b),
        (0xea3d_3e74_3e6c_24f3, 0x9a70_5467_f8e4_1b10),
    ];
    assert_eq!(digests, pinned, "{digests:#x?}");
}

#[test]
fn threads_and_order_do_not_matter() {
    let together = WORLD.scenes(Split::Train, Variation::Encoder, 5, 3..23);
    let apart: Vec<Scene> = (3..23)
        .rev()
        .map(|index| WORLD.scene(Split::Train, Variation::Encoder, 5, index))
        .collect();
    for (a, b) in together.iter().zip(apart.iter().rev()) {
        assert!(a.image == b.image && a.caption == b.caption);
        assert_eq!((a.sprite, a.background), (b.sprite, b.background));
        let seed = WORLD.compose(a.sprite, a.background, a.colour, Variation::Encoder, 6, 3);
        assert!(seed != a.image, "another seed gives another image");
    }
}

#[test]
fn held_out_sprites_never_appear_in_training() {
    for scene in MANY.iter() {
        assert!(!WORLD.sprites()[scene.sprite].held_out);
    }
    for scene in some(Split::HeldOut, Variation::Scene, 100) {
        assert!(WORLD.sprites()[scene.sprite].held_out);
    }
    let both = WORLD.sprites_of(Split::Train).len() + WORLD.sprites_of(Split::HeldOut).len();
    assert_eq!(both, WORLD.sprites().len());
}

#[test]
fn captions_say_what_is_there_in_known_words() {
    let words = WORLD.words();
    let known: BTreeSet<&str> = words.iter().map(String::as_str).collect();
    assert!(words.is_sorted() && known.len() == words.len());
    let (mut named, mut with_name, mut unplaced, mut coloured) = (0i64, 0i64, 0, 0);
    for scene in MANY.iter() {
        let said: Vec<&str> = scene.caption.split(' ').collect();
        assert!(
            said.iter().all(|word| known.contains(word)),
            "{}",
            scene.caption
        );
        assert!(said.len() <= 14, "{}", scene.caption);
        let place = scene.names_background.then_some(scene.background);
        let plain = WORLD.caption(scene.class, place, scene.colour);
        assert_eq!(scene.plain_caption.replace("photo of a ", ""), plain);
        assert!(
            !said.iter().any(|word| TOKENS.contains(word)),
            "{}",
            scene.caption
        );
        match &WORLD.sprites()[scene.sprite].called {
            Some(name) => {
                let bare = scene.caption.replace(&format!("{name} "), "");
                assert_eq!(bare, scene.plain_caption);
                with_name += 1;
                named += i64::from(said.contains(&name.as_str()));
            }
            None => assert_eq!(scene.caption, scene.plain_caption),
        }
        unplaced += usize::from(!scene.names_background);
        coloured += usize::from(scene.colour.is_some());
    }
    // Three in four drawings have names, half of whose captions say them. Three standard deviations around half of
    // them, 12 and 20 per cent.
    assert!((980..=1150).contains(&with_name), "{with_name}");
    let spread = 3.0 * (with_name as f64).sqrt();
    assert!(
        ((2 * named - with_name) as f64).abs() < spread,
        "{named} of {with_name}"
    );
    assert!((142..=218).contains(&unplaced), "{unplaced}");
    assert!((253..=347).contains(&coloured), "{coloured}");
    assert_eq!(WORLD.caption(3, Some(2), Some(0)), "a red car in the snow");
}

#[test]
fn prompts_are_disjoint_and_test_places_are_new() {
    let lists = [
        WORLD.training_prompts(),
        WORLD.validation_prompts(),
        WORLD.test_prompts(),
    ];
    assert_eq!(lists.map(<[_]>::len), [8, 6, 12]);
    let all: HashSet<&str> = lists.concat().into_iter().collect();
    assert_eq!(all.len(), 26);
    let known = WORLD.words();
    let said = |prompts: &[&str]| -> HashSet<&'static str> {
        let places = WORLD.backgrounds().iter().map(|place| place.phrase);
        let places = places.map(|phrase| (phrase, format!("{{class}} {phrase}")));
        let colours = WORLD
            .colours()
            .map(|name| (name, format!("{{token}} {name} {{class}}")));
        let named = places.chain(colours);
        let named = named.filter(|(_, part)| prompts.iter().any(|prompt| prompt.contains(part)));
        named.map(|(name, _)| name).collect()
    };
    for prompt in &all {
        let real = prompt.replace("{token}", "[V]").replace("{class}", "dog");
        for word in real.split(' ') {
            assert!(known.iter().any(|known| known == word), "{prompt}");
        }
        // Where there is more than the class, a place or a colour of the world is named.
        assert!(!said(&[prompt]).is_empty(), "{prompt}");
    }
    let [training, validation, test] = lists.map(said);
    assert!(training.is_disjoint(&test) && validation.is_disjoint(&test));
    let photographed = ["wood", "paper", "grass", "tiles", "city"];
    for place in WORLD.backgrounds() {
        let shown = photographed.contains(&place.name);
        assert!(!(shown && test.contains(place.phrase)), "{}", place.name);
    }
}

#[test]
fn photos_of_a_subject_differ_and_come_again() {
    let mut seen = HashSet::new();
    for subject in WORLD.subjects() {
        let photos = WORLD.references(subject, 7);
        assert_eq!(photos.len(), 7);
        let again = WORLD.references(subject, 7);
        assert!(photos == again);
        for photo in photos {
            assert_eq!(photo.dimensions(), (64, 64));
            assert!(seen.insert(photo.into_raw()), "{}", subject.name);
        }
    }
}

#[test]
fn a_recoloured_sprite_takes_the_colour() {
    // An apple fills the middle of its image.
    let apple = WORLD.sprites_of(Split::Train)[0];
    let middle = |colour| {
        let image = WORLD.compose(apple, 17, Some(colour), Variation::Scene, 0, 0);
        let pixels = (24..40).flat_map(|y| (24..40).map(move |x| (x, y)));
        let mut sums = [0u32; 3];
        for (x, y) in pixels {
            let pixel = image.get_pixel(x, y).0;
            (0..3).for_each(|c| sums[c] += u32::from(pixel[c]));
        }
        sums
    };
    let [red, green, blue, yellow, purple] = [0, 1, 2, 3, 4].map(middle);
    assert!(red[0] > 2 * red[1] && red[0] > 2 * red[2], "{red:?}");
    assert!(
        green[1] > 2 * green[0] && green[1] > 2 * green[2],
        "{green:?}"
    );
    assert!(
        blue[2] > 2 * blue[0] && 2 * blue[2] > 3 * blue[1],
        "{blue:?}"
    );
    assert!(
        yellow[0] > 2 * yellow[2] && yellow[1] > 2 * yellow[2],
        "{yellow:?}"
    );
    assert!(
        purple[0] > 2 * purple[1] && purple[2] > 2 * purple[1],
        "{purple:?}"
    );
}

/// A folder with one sprite to train on and one held out.
fn small() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(SPRITES);
    fs::copy(from.join("noto/dog--dog.png"), folder.path().join("a.png")).unwrap();
    fs::copy(
        from.join("noto/dog--poodle.png"),
        folder.path().join("b.png"),
    )
    .unwrap();
    let index = r#"{"classes": ["dog"],
        "subjects": [{"name": "pet", "class": "dog", "set": "one", "drawing": "poodle"}],
        "sprites": [{"class": "dog", "set": "two", "name": "dog", "file": "a.png"},
                    {"class": "dog", "set": "one", "name": "poodle", "file": "b.png"}]}"#;
    fs::write(folder.path().join("index.json"), index).unwrap();
    folder
}

/// What opening the small folder says after a change of its index.
fn refused(from: &str, to: &str) -> String {
    let folder = small();
    let path = folder.path().join("index.json");
    let index = fs::read_to_string(&path).unwrap();
    assert!(index.contains(from));
    fs::write(&path, index.replacen(from, to, 1)).unwrap();
    let error = World::open(folder.path()).err().unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn a_broken_index_is_refused_by_name() {
    assert_eq!(
        World::open(small().path()).unwrap().subjects()[0].name,
        "pet"
    );
    for (from, to, says) in [
        (
            "[\"dog\"]",
            "[\"dog\", \"cat\"]",
            "the class `cat` has no sprite",
        ),
        (
            "[\"dog\"]",
            "[\"hot dog\"]",
            "`hot dog` is not one lower-case word",
        ),
        ("[\"dog\"]", "[\"dog\", \"dog\"]", "`dog` is listed twice"),
        ("[\"dog\"]", "[]", "no classes"),
        (
            "\"set\": \"two\"",
            "\"set\": \"one\"",
            "the class `dog` has no sprite",
        ),
        (
            "poodle",
            "poodles",
            "the subject `pet` is not among the sprites",
        ),
        (
            "\"class\": \"dog\", \"set\": \"two\"",
            "\"class\": \"cat\", \"set\": \"two\"",
            "`cat` is not among",
        ),
        (
            "a.png\"",
            "a.png\", \"called\": \"Zorp\"",
            "the name `Zorp` is not one lower-case word",
        ),
        (
            "a.png\"",
            "a.png\", \"called\": \"photo\"",
            "`photo` is a word of captions already",
        ),
        ("a.png", "c.png", "c.png"),
        ("\"file\": \"a.png\"", "\"size\": 3", "unknown field `size`"),
        ("{\"classes\"", "{classes", "key must be a string"),
    ] {
        let message = refused(from, to);
        assert!(message.contains(says), "{from} -> {to}: {message}");
    }
}

#[test]
fn a_damaged_sprite_is_refused_by_name() {
    let folder = small();
    let path = folder.path().join("a.png");
    let whole = fs::read(&path).unwrap();
    let message = || World::open(folder.path()).err().unwrap().to_string();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(message().contains("a.png"));
    image::RgbaImage::new(32, 64).save(&path).unwrap();
    assert!(message().contains("this has 32 x 64"), "{}", message());
    image::RgbImage::new(64, 64).save(&path).unwrap();
    assert!(message().contains("no alpha"), "{}", message());
}

fn command(folder: &Path, flags: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
        .arg("world")
        .args(["--sprites", SPRITES])
        .args(flags)
        .current_dir(folder)
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn the_command_writes_an_image_folder_subjects_and_words() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let flags = "--out s --count 5 --seed 3 --grid g.png --subjects p --words";
    let (code, words, said) = command(at, &flags.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{said}");
    assert_eq!(words.lines().collect::<Vec<_>>(), WORLD.words());
    let lines = fs::read_to_string(at.join("s/metadata.jsonl")).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 5);
    for (index, line) in lines.iter().enumerate() {
        let scene = WORLD.scene(Split::Train, Variation::Scene, 3, index as u64);
        assert_eq!(line["text"], scene.caption.as_str());
        let file = at.join("s").join(line["file_name"].as_str().unwrap());
        assert!(image::open(file).unwrap().into_rgb8() == scene.image);
    }
    assert!(at.join("g.png").exists());
    let subjects = fs::read_to_string(at.join("p/subjects.json")).unwrap();
    let subjects: Vec<Value> = serde_json::from_str(&subjects).unwrap();
    assert_eq!(subjects.len(), 16);
    for subject in &subjects {
        let photos = at.join("p").join(subject["name"].as_str().unwrap());
        assert_eq!(fs::read_dir(photos).unwrap().count(), 5);
    }
}

#[test]
fn the_command_asks_for_something_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for flags in [&[][..], &["--count", "3"], &["--words", "--held-out"]] {
        let (code, _, said) = command(folder.path(), flags);
        assert_eq!(code, 2, "{flags:?}: {said}");
    }
    let elsewhere = |flags: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
            .args(["world", "--words"])
            .args(flags)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    // Its own sprites are found from any folder.
    assert_eq!(elsewhere(&[]).0, Some(0));
    let (code, said) = elsewhere(&["--sprites", "nowhere"]);
    assert_eq!(code, Some(2));
    assert!(
        said.contains("index.json") && said.contains("nowhere"),
        "{said}"
    );
}

/// `cargo test --release world_speed -- --ignored --nocapture`
#[test]
#[ignore = "prints a speed, which means something in a release build alone"]
fn world_speed() {
    for variation in [Variation::Scene, Variation::Encoder] {
        // Backgrounds are drawn at their first use, which is not what counts.
        let make = |seed| {
            let make = |index| WORLD.scene(Split::Train, variation, seed, index);
            (0..20_000)
                .map(make)
                .filter(|scene| scene.class < 16)
                .count()
        };
        make(0);
        let start = Instant::now();
        let speed = make(1) as f64 / start.elapsed().as_secs_f64();
        println!("{variation:?}: {speed:.0} scenes/s on one thread");
    }
}
