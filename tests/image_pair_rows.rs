//! Rows of image pairs as people and published data sets have them: which image is better, what is left out and counted,
//! what is held out; through `inspect`, which needs no model.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use crate::command::{Folder, Ran};
use crate::support::{golden, shared};

/// Twenty pictures.
fn folder() -> Folder {
    let folder = Folder::new();
    for number in 0..20_u8 {
        let light = 12 * number;
        let image = RgbImage::from_fn(16, 16, |x, y| Rgb([light, (x * y) as u8, light]));
        image.save(folder.path(&format!("{number}.png"))).unwrap();
    }
    folder
}

fn inspect(folder: &Folder, train: &str, more: &[&str]) -> Ran {
    let config = format!(
        "[run]\noutput = \"run\"\n[model]\nbase = \"none\"\n[pairs]\ntrain = {train:?}\n[train]\nresolution = 16\n"
    );
    fs::write(folder.path("pairs.toml"), config).unwrap();
    let sets = more.iter().flat_map(|value| ["--set", value]);
    let arguments = ["inspect", "pairs.toml", "--json", "--rows", "100"].into_iter();
    folder.binary(&arguments.chain(sets).collect::<Vec<_>>())
}

/// Chosen and rejected image of each pair, without their folder.
fn pairs(report: &Value) -> Vec<(String, String)> {
    let name = |path: &Value| {
        let path = Path::new(path.as_str().unwrap());
        path.file_name().unwrap().to_str().unwrap().to_owned()
    };
    let pairs = report["pairs"].as_array().unwrap().iter();
    pairs
        .map(|pair| (name(&pair["chosen"]), name(&pair["rejected"])))
        .collect()
}

fn notes(report: &Value) -> String {
    let notes = report["notes"].as_array().unwrap().iter();
    let notes: Vec<&str> = notes.map(|note| note.as_str().unwrap()).collect();
    notes.join("\n")
}

fn said(report: &Value, words: &[&str]) {
    for words in words {
        assert!(notes(report).contains(words), "{words}: {}", notes(report));
    }
}

#[test]
fn labels_below_one_half_turn_a_pair_round() {
    let folder = folder();
    let row = |at: usize, more: Value| {
        let mut row = json!({"prompt": "a light", "chosen": format!("{at}.png"), "rejected": format!("{}.png", at + 10)});
        for (key, value) in more.as_object().unwrap() {
            row[key] = value.clone();
        }
        row
    };
    folder.lines(
        "pairs.jsonl",
        &[
            row(0, json!({"label": 0.9})),
            row(
                1,
                json!({"label": 0.2, "chosen_score": 1.0, "rejected_score": 2.0}),
            ),
            row(
                2,
                json!({"label": 0.0, "probability": 0.7, "encoder": "some"}),
            ),
            row(3, json!({"probability": 0.1})),
            row(4, json!({"label": true})),
            row(5, json!({"label": false})),
            row(6, json!({"label": 0.5})),
            row(7, json!({})),
            row(8, json!({"chosen_prob": 0.4})),
        ],
    );
    let report = inspect(&folder, "pairs.jsonl", &[]).done().json();
    let expected = [
        (0, 10),
        (11, 1),
        (12, 2),
        (13, 3),
        (4, 14),
        (15, 5),
        (7, 17),
        (8, 18),
    ];
    let expected = expected.map(|(one, other)| (format!("{one}.png"), format!("{other}.png")));
    assert_eq!(pairs(&report), expected);
    let wins = |at: usize| report["pairs"][at]["wins"][0].as_f64();
    assert_eq!(wins(0), Some(0.9));
    assert_eq!(wins(1), Some(0.8));
    assert!((wins(2).unwrap() - 0.3).abs() < 1e-12);
    assert_eq!(report["pairs"][1]["scores"], json!([2.0, 1.0]));
    said(
        &report,
        &[
            "1 row: a tie",
            "columns that are not used: `encoder`",
            "2 pairs prefer the image that is the less likely one to win",
        ],
    );
    folder.lines("odd.jsonl", &[row(0, json!({"label": 3}))]);
    inspect(&folder, "odd.jsonl", &[]).refused("`label` is 3, but must be 0 to 1");
}

#[test]
fn rows_of_pick_a_pic_without_a_preference_are_counted_and_not_learnt() {
    let folder = folder();
    let labels = [
        json!([1, 0]),
        json!([0, 1]),
        json!([0.5, 0.5]),
        json!([1, 1]),
        json!([0, 0]),
        json!([-1, -1]),
        json!([null, null]),
        json!([1, 0, false]),
        json!([1, 0, true, false]),
    ];
    let rows: Vec<Value> = labels
        .iter()
        .enumerate()
        .map(|(at, label)| {
            json!({
                "image_0_uid": at.to_string(), "image_1_uid": (at + 10).to_string(), "caption": "a light",
                "label_0": label[0], "label_1": label[1], "has_label": label.get(2).unwrap_or(&json!(true)),
                "are_different": label.get(3).unwrap_or(&json!(true)),
            })
        })
        .collect();
    folder.lines("pairs.jsonl", &rows);
    let report = inspect(&folder, "pairs.jsonl", &[]).done().json();
    let expected = [("0.png", "10.png"), ("11.png", "1.png")];
    let expected = expected.map(|(one, other)| (one.to_owned(), other.to_owned()));
    assert_eq!(pairs(&report), expected);
    said(
        &report,
        &[
            "2 rows: a tie (first: `pairs.jsonl`, line 3)",
            "4 rows: no label says which image is better (first: `pairs.jsonl`, line 5)",
            "1 row: its images are not different",
        ],
    );
}

#[test]
fn layouts_of_published_pairs_are_read() {
    let folder = folder();
    let first = ("0.png".to_owned(), "1.png".to_owned());
    let read = |name: &str, content: &str| {
        fs::write(folder.path(name), content).unwrap();
        pairs(&inspect(&folder, name, &[]).done().json())
    };
    let csv = "prompt,chosen,rejected,chosen_prob\n\"a, b\",0.png,1.png,0.9\nx,2.png,3.png,0.8\n";
    assert_eq!(read("pairs.csv", csv)[0], first);
    let hpd = json!([
        {"prompt": "p", "image_path": ["1.png", "0.png"], "human_preference": [0, 1]},
        {"prompt": "q", "file_path": ["4.png", "2.png", "3.png"], "human_preference": 1},
    ]);
    let pairs = read("hpd.json", &hpd.to_string());
    assert_eq!(pairs[0], first);
    let others = [("2.png", "4.png"), ("2.png", "3.png")];
    assert_eq!(
        pairs[1..],
        others.map(|(one, other)| (one.to_owned(), other.to_owned()))
    );
    let names =
        "{\"chosen_file_name\": \"0.png\", \"rejected_file_name\": \"1.png\", \"text\": \"p\"}\n";
    assert_eq!(read("names.jsonl", names)[0], first);
    let numbered =
        "{\"image_0\": \"1.png\", \"image_1\": \"0.png\", \"label_0\": 0, \"caption\": \"p\"}\n";
    assert_eq!(read("numbered.jsonl", numbered)[0], first);

    // Images in JSON are named, and not printed.
    let content = "iVBORw0KGgo".repeat(500);
    let row = json!({"prompt": "p", "chosen": {"bytes": content}, "rejected": content});
    fs::write(folder.path("base64.jsonl"), row.to_string()).unwrap();
    let ran = inspect(&folder, "base64.jsonl", &[]);
    ran.refused("images within rows are read from Parquet alone");
    assert!(ran.stderr.len() < 1000, "{}", ran.stderr);
}

#[test]
fn rows_with_faults_are_counted_by_reason_and_too_many_refuse_the_file() {
    let folder = folder();
    let row = |chosen: &str, rejected: &str| json!({"prompt": "p", "chosen": chosen, "rejected": rejected});
    let mut rows: Vec<Value> = (0..40)
        .map(|at| row(&format!("{}.png", at % 10), &format!("{}.png", 10 + at % 9)))
        .collect();
    fs::write(folder.path("broken.png"), b"no picture").unwrap();
    rows[4] = row("3.png", "3.png");
    rows[9] = row("gone.png", "3.png");
    rows[11] = row("broken.png", "3.png");
    folder.lines("pairs.jsonl", &rows);
    let report = inspect(&folder, "pairs.jsonl", &[]).done().json();
    assert_eq!(report["train"], 37);
    said(
        &report,
        &[
            "left out, 1 row: the two images are one (`pairs.jsonl`, line 5)",
            "left out, 1 row: no image \"gone.png\"",
            "left out, 1 row: the image \"broken.png\" cannot be read: text, not an image (`pairs.jsonl`, line 12)",
        ],
    );
    let refused = inspect(&folder, "pairs.jsonl", &["pairs.invalid=error"]);
    refused.refused("2 of 40 rows cannot be used");
    rows[14] = row("gone_too.png", "3.png");
    rows[15] = json!({"chosen": "1.png", "rejected": "2.png"});
    folder.lines("pairs.jsonl", &rows);
    let refused = inspect(&folder, "pairs.jsonl", &[]);
    for words in [
        "4 of 40 rows",
        "2 rows: no image",
        "the two images are one",
        "no prompt",
    ] {
        refused.refused(words);
    }
    // A prompt of all serves those without one.
    inspect(&folder, "pairs.jsonl", &["pairs.prompt=p"]).refused("4 of 40 rows");
    rows[14] = row("1.png", "3.png");
    folder.lines("pairs.jsonl", &rows);
    inspect(&folder, "pairs.jsonl", &["pairs.prompt=p"]).done();
}

#[test]
fn rows_do_not_lead_out_of_the_folder_of_images() {
    let folder = folder();
    fs::create_dir(folder.path("data")).unwrap();
    fs::copy(folder.path("0.png"), folder.path("data/0.png")).unwrap();
    let rows = |other: &str| {
        let row = json!({"prompt": "p", "chosen": "0.png", "rejected": other});
        folder.lines("data/pairs.jsonl", &[row]);
        inspect(&folder, "data", &[])
    };
    rows("../1.png").refused("leads out of `data`; `pairs.images`, or");
    let absolute = folder.path("1.png");
    let outside = absolute.to_str().unwrap();
    rows(outside).refused("leads out of `data`");
    // What the user names is read.
    let root = format!("pairs.images={}", folder.path("").display());
    inspect(&folder, "data", &[&root]).done();
    let own = folder.path("data/0.png");
    let row = json!({"prompt": "p", "chosen": own, "rejected": outside});
    folder.lines("data/pairs.jsonl", &[row]);
    inspect(&folder, "data", &[&root]).done();
    // Rows in the folder that the command runs in stay in it too.
    let row = json!({"prompt": "p", "chosen": "0.png", "rejected": "../1.png"});
    folder.lines("pairs.jsonl", &[row]);
    inspect(&folder, "pairs.jsonl", &[]).refused("\"../1.png\" leads out of `.`");
    // Held-out rows are in a folder of their own.
    fs::create_dir(folder.path("held")).unwrap();
    for number in [2, 3] {
        let name = format!("{number}.png");
        fs::copy(folder.path(&name), folder.path("held").join(&name)).unwrap();
    }
    fs::copy(folder.path("1.png"), folder.path("data/1.png")).unwrap();
    let pair = |one: &str, other: &str| json!({"prompt": "p", "chosen": one, "rejected": other});
    folder.lines("data/pairs.jsonl", &[pair("0.png", "1.png")]);
    folder.lines("held/pairs.jsonl", &[pair("2.png", "3.png")]);
    let report = inspect(&folder, "data", &["pairs.validation=held"])
        .done()
        .json();
    assert_eq!(
        (&report["train"], &report["held_out"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn pairs_against_their_own_scores_are_counted() {
    let folder = folder();
    let row = |at: usize, scores: [f64; 2]| {
        json!({"prompt": "p", "chosen": format!("{at}.png"), "rejected": format!("{}.png", at + 1),
            "chosen_score": scores[0], "rejected_score": scores[1]})
    };
    folder.lines(
        "pairs.jsonl",
        &[row(0, [0.9, 0.1]), row(2, [0.1, 0.9]), row(4, [0.5, 0.5])],
    );
    let report = inspect(&folder, "pairs.jsonl", &[]).done().json();
    said(
        &report,
        &["1 pairs prefer the image that is the less likely one to win"],
    );
}

#[cfg(unix)]
#[test]
fn links_do_not_lead_rows_out_of_their_folder() {
    use std::os::unix::fs::symlink;
    let folder = folder();
    fs::create_dir(folder.path("data")).unwrap();
    fs::copy(folder.path("0.png"), folder.path("data/0.png")).unwrap();
    symlink("0.png", folder.path("data/own.png")).unwrap();
    symlink("../1.png", folder.path("data/out.png")).unwrap();
    symlink("..", folder.path("data/up")).unwrap();
    let rows = |other: &str, more: &[&str]| {
        let row = json!({"prompt": "p", "chosen": "0.png", "rejected": other});
        folder.lines("data/pairs.jsonl", &[row]);
        inspect(&folder, "data", more)
    };
    for name in ["out.png", "up/1.png"] {
        rows(name, &[]).refused("is a link that leads out of `data`");
        rows(name, &["pairs.images=."]).done();
    }
    rows("own.png", &[]).done();
    // The hub's cache is made of links.
    let snapshot = "datasets--a--b/snapshots/0";
    fs::create_dir_all(folder.path(snapshot)).unwrap();
    fs::create_dir_all(folder.path("datasets--a--b/blobs")).unwrap();
    for number in 0..2 {
        let blob = format!("datasets--a--b/blobs/{number}");
        fs::copy(folder.path(&format!("{number}.png")), folder.path(&blob)).unwrap();
        let link = folder.path(&format!("{snapshot}/{number}.png"));
        symlink(format!("../../blobs/{number}"), link).unwrap();
    }
    let row = json!({"prompt": "p", "chosen": "0.png", "rejected": "1.png"});
    folder.lines(&format!("{snapshot}/pairs.jsonl"), &[row]);
    inspect(&folder, snapshot, &[]).done();
}

#[test]
fn pairs_side_by_side_are_told_apart_by_name_and_strays_are_counted() {
    let folder = Folder::new();
    for side in ["chosen", "rejected"] {
        fs::create_dir_all(folder.path(&format!("sides/{side}"))).unwrap();
        for number in 0..30_u8 {
            let light = if side == "chosen" { 200 } else { 20 };
            let image = RgbImage::from_pixel(16, 16, Rgb([light, number, light]));
            let ending = if side == "chosen" { "JPG" } else { "png" };
            let path = folder.path(&format!("sides/{side}/IMG_{number}.{ending}"));
            image.save(path).unwrap();
        }
        fs::write(folder.path(&format!("sides/{side}/Thumbs.db")), "junk").unwrap();
        fs::write(folder.path(&format!("sides/{side}/._IMG_0.JPG")), "junk").unwrap();
    }
    for number in 0..30 {
        let caption = format!("\u{feff}caption {number}\n");
        fs::write(
            folder.path(&format!("sides/chosen/IMG_{number}.txt")),
            caption,
        )
        .unwrap();
    }
    let report = inspect(&folder, "sides", &[]).done().json();
    assert_eq!(report["train"], 30);
    assert_eq!(report["pairs"][2]["prompt"], "caption 2");
    assert!(
        report["pairs"][2]["chosen"]
            .as_str()
            .unwrap()
            .ends_with("IMG_2.JPG")
    );
    // Of two images of one name it is not known which is meant.
    let copy = folder.path("sides/rejected/IMG_7.webp");
    fs::copy(folder.path("sides/rejected/IMG_7.png"), copy).unwrap();
    let report = inspect(&folder, "sides", &[]).done().json();
    assert_eq!(report["train"], 29);
    said(&report, &["there is another image of this name beside it"]);
}

#[test]
fn a_share_of_pairs_is_held_out_by_prompt_and_image() {
    let folder = folder();
    // Two pairs to a prompt, with an image in common.
    let rows: Vec<Value> = (0..20)
        .map(|at| {
            let prompt = at / 2;
            json!({"prompt": format!("prompt {prompt}"), "chosen": format!("{prompt}.png"),
                "rejected": format!("{}.png", 10 + prompt)})
        })
        .collect();
    folder.lines("pairs.jsonl", &rows);
    let report = inspect(&folder, "pairs.jsonl", &["pairs.validation_share=0.2"])
        .done()
        .json();
    assert_eq!(
        (&report["train"], &report["held_out"]),
        (&json!(16), &json!(4))
    );
    said(
        &report,
        &["none of the 4 held-out pairs has a prompt or an image of the training pairs"],
    );
    // Under one prompt, by image; with one image in all pairs, by pair: and that is said.
    let with = |change: fn(&mut Value)| {
        let mut rows = rows.clone();
        rows.iter_mut().for_each(change);
        folder.lines("pairs.jsonl", &rows);
        inspect(&folder, "pairs.jsonl", &["pairs.validation_share=0.2"])
            .done()
            .json()
    };
    let report = with(|row| row["prompt"] = "one".into());
    said(
        &report,
        &["of 4 held-out pairs 4 have a prompt and 0 have an image"],
    );
    let report = with(|row| {
        row["prompt"] = "one".into();
        row["rejected"] = "19.png".into();
    });
    said(
        &report,
        &["4 have a prompt and 4 have an image of the training pairs"],
    );
}

#[test]
fn images_within_parquet_are_read_from_any_pair_of_columns() {
    let folder = Folder::new();
    let table = golden("pick_a_pic/pick_a_pic.parquet");
    fs::copy(table, folder.path("pick_a_pic.parquet")).unwrap();
    inspect(&folder, "pick_a_pic.parquet", &[]).done();
    let Some(cases) = shared("cases/images") else {
        return;
    };
    let of = |name: &str, more: &[&str]| inspect(&folder, cases.join(name).to_str().unwrap(), more);
    for (name, train, words) in [
        (
            "41-pickapic-null-label",
            6,
            "1 row: no label says which image is better",
        ),
        (
            "42-pickapic-minus-one",
            6,
            "1 row: no label says which image is better",
        ),
        (
            "43-pickapic-identical-images",
            6,
            "1 row: its images are not different",
        ),
        (
            "48-pickapic-has-label-false-zero",
            6,
            "1 row: no label says which image is better",
        ),
        (
            "50-hub-chosen-rejected-images",
            6,
            "`chosen_model`, `rejected_model`",
        ),
        ("51-imagefolder-two-images", 4, ""),
        ("52-hpd-json/train.json", 4, ""),
        ("53-side-by-side-junk", 4, ""),
        ("58-csv/pairs.csv", 2, ""),
    ] {
        let report = of(name, &[]).done().json();
        assert_eq!(report["train"], train, "{name}");
        said(&report, &[words]);
    }
    of("44-pickapic-null-jpg", &[]).refused("no image under `jpg_1`");
    let report = of("84-split-by-pair-leaks", &["pairs.validation_share=0.25"])
        .done()
        .json();
    said(
        &report,
        &["none of the 4 held-out pairs has a prompt or an image of the training pairs"],
    );
    let report = of("30b-comfyui-png/pairs", &[]).json();
    assert_eq!(report["pairs"][1]["prompt"], "a dog number 1");
}

#[test]
fn what_label_writes_of_images_a_run_on_pairs_reads_with_the_same_meaning() {
    let folder = folder();
    for (name, range) in [("photos", 0..3), ("images", 5..11)] {
        fs::create_dir(folder.path(name)).unwrap();
        for number in range {
            let to = folder.path(&format!("{name}/{number}.png"));
            fs::copy(folder.path(&format!("{number}.png")), to).unwrap();
        }
    }
    fs::create_dir(folder.path("out")).unwrap();
    let encoder = golden("encoders/clip");
    let label = [
        "label",
        "--references",
        "photos",
        "--images",
        "images",
        "--prompt",
        "a [V] dog",
        "--tau",
        "0.01",
        "--device",
        "cpu",
        "--quiet",
        "--out",
        "out/labels.jsonl",
        "--encoder",
        encoder.to_str().unwrap(),
    ];
    for labels in ["soft", "sampled"] {
        let labelled = folder
            .binary(&[&label[..], &["--labels", labels]].concat())
            .done();
        // The images lie beside the folder of the records.
        let (_, setting) = labelled.stderr.split_once("need `pairs.images = ").unwrap();
        let images = setting.split('"').nth(1).unwrap();
        let images = format!("pairs.images={images}");
        inspect(&folder, "out/labels.jsonl", &[]).refused("leads out of `out`");
        let report = inspect(&folder, "out/labels.jsonl", &[&images])
            .done()
            .json();
        let records = folder.rows("out/labels.jsonl");
        assert_eq!(report["train"], 18);
        for (pair, record) in report["pairs"].as_array().unwrap().iter().zip(&records) {
            for side in ["chosen", "rejected"] {
                let photo = record["photo"] == side;
                let parent = Path::new(pair[side].as_str().unwrap()).parent().unwrap();
                assert!(
                    parent.ends_with(if photo { "photos" } else { "images" }),
                    "{pair}"
                );
            }
            assert_eq!(pair["wins"][0], record["chosen_prob"]);
            assert_eq!(pair["scores"][0], record["chosen_score"]);
            assert_eq!(pair["scores"][1], record["rejected_score"]);
            let likelier = record["chosen_prob"].as_f64().unwrap() >= 0.5;
            assert!(likelier || labels == "sampled", "{record}");
        }
    }
}
