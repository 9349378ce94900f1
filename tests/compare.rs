//! Sessions of `preftune compare` without a network: what is compared, what is kept, what comes out, and who reads that.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use preftune::data::image_preferences::Images;
use preftune::data::png;
use preftune::data::text::{self, Reading, Shape};
use preftune::jobs::compare::figures::{Figures, rankings};
use preftune::jobs::compare::items::Items;
use preftune::jobs::compare::outcome;
use preftune::jobs::compare::records::{Choice, FILE};
use preftune::jobs::compare::session::Session;
use preftune::jobs::compare::sources::session_folder;
use serde_json::{Value, json};

use crate::command::Folder;

/// A picture of one colour that says in itself what it is of.
pub fn picture(path: &Path, colour: [u8; 3], text: &[(&str, &str)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let image = RgbImage::from_pixel(16, 16, Rgb(colour));
    let text: Vec<(&str, String)> = text
        .iter()
        .map(|(key, text)| (*key, (*text).to_owned()))
        .collect();
    png::write(path, &image, &text).unwrap();
}

/// `prompts` prompts of `each` pictures; the more red a picture has, the later its name.
pub fn pictures(folder: &Folder, prompts: usize, each: usize) {
    for number in 0..prompts * each {
        let prompt = format!("picture {}", number / each);
        let colour = [(number % each * 10) as u8, number as u8, 7];
        let path = folder.path(&format!("out/{number:03}.png"));
        picture(
            &path,
            colour,
            &[("prompt", &prompt), ("seed", &number.to_string())],
        );
    }
}

fn open(folder: &Folder, paths: &[&str], judge: &str) -> Session {
    let paths: Vec<PathBuf> = paths.iter().map(|path| folder.path(path)).collect();
    Session::open(Items::open(&paths).unwrap(), &folder.path("session"), judge).unwrap()
}

fn press(session: &mut Session, choice: Choice) {
    let ticket = session.ticket();
    session.answer(ticket, choice, 1.5).unwrap().unwrap();
}

/// Red of the left and of the right picture.
fn reds(session: &Session) -> [u8; 2] {
    let pair = session.next().unwrap();
    [pair.left, pair.right].map(|item| {
        let path = &session.items().items[item].path;
        preftune::data::photo::load(path).unwrap().get_pixel(0, 0)[0]
    })
}

/// The side that has more red.
fn redder(session: &Session) -> Choice {
    match reds(session) {
        [left, right] if left > right => Choice::Left,
        [left, right] if left < right => Choice::Right,
        _ => Choice::Tie,
    }
}

fn finish(session: &mut Session, choose: impl Fn(&Session) -> Choice) {
    while session.next().is_some() {
        let choice = choose(session);
        press(session, choice);
    }
}

#[test]
fn a_session_goes_on_where_it_was_left_and_takes_keys_back_without_rewriting_any() {
    let folder = Folder::new();
    pictures(&folder, 2, 4);
    let mut session = open(&folder, &["out"], "ann");
    assert_eq!(
        session.progress(),
        (0, 13),
        "6 pairs of each prompt, and one again"
    );
    for choice in [Choice::Left, Choice::Tie, Choice::BothBad] {
        press(&mut session, choice);
    }
    let before = fs::read_to_string(folder.path("session").join(FILE)).unwrap();
    let shown = session.next();
    drop(session);
    // A kill has cut the last line off.
    fs::write(
        folder.path("session").join(FILE),
        before.clone() + "{\"kind\":\"cho",
    )
    .unwrap();
    let mut session = open(&folder, &["out"], "ann");
    assert_eq!((session.progress().0, session.next()), (3, shown));

    let ticket = session.ticket();
    let last = session.said()[2].pair;
    session.undo(ticket).unwrap().unwrap();
    assert_eq!(
        session.next(),
        Some(last),
        "what is taken back is shown again, on the same sides"
    );
    assert_eq!(session.progress().0, 2);
    drop(session);
    let mut session = open(&folder, &["out"], "ann");
    assert_eq!(session.next(), Some(last));
    press(&mut session, Choice::Right);
    assert_eq!(session.next(), shown, "after which the order is as it was");
    let after = fs::read_to_string(folder.path("session").join(FILE)).unwrap();
    assert!(after.starts_with(&before), "lines only come to it");
    // Another page has gone on.
    assert!(session.answer(0, Choice::Left, 1.0).unwrap().is_err());
    assert!(session.undo(0).unwrap().is_err());
}

#[test]
fn pictures_are_known_by_what_they_are_and_not_by_their_names() {
    let folder = Folder::new();
    pictures(&folder, 1, 3);
    let mut session = open(&folder, &["out"], "ann");
    press(&mut session, Choice::Left);
    let pair = session.said()[0].pair;
    let gone = session.items().items[pair.left].path.clone();
    drop(session);
    picture(
        &gone,
        [200, 200, 200],
        &[("prompt", "picture 0"), ("seed", "9")],
    );
    let session = open(&folder, &["out"], "ann");
    assert_eq!(session.said().len(), 0);
    let notes: Vec<&String> = session.notes().collect();
    assert!(
        notes[0].contains("1 key of") && notes[0].contains("not counted"),
        "{notes:?}"
    );
}

#[test]
fn a_tenth_comes_again_with_sides_exchanged_and_says_how_far_a_judge_agrees_with_themselves() {
    let folder = Folder::new();
    pictures(&folder, 10, 4);
    let mut session = open(&folder, &["out"], "ann");
    finish(&mut session, redder);
    let said = session.said();
    assert_eq!(said.len(), 66);
    let again: Vec<_> = said.iter().filter(|one| one.pair.repeat).collect();
    assert_eq!(again.len(), 6);
    for one in &again {
        let first = said
            .iter()
            .find(|other| other.pair.key() == one.pair.key())
            .unwrap();
        assert_eq!(
            (first.pair.left, first.pair.right),
            (one.pair.right, one.pair.left)
        );
        assert!(one.number - first.number >= 5);
    }
    let steady = &Figures::of(&session).judges[0];
    assert_eq!((steady.repeats, steady.same, steady.flips), (6, 6, 0));
    for ranking in rankings(&session).unwrap() {
        let order: Vec<&String> = ranking.standings.iter().map(|one| &one.item).collect();
        assert!(
            order.windows(2).all(|two| two[0] > two[1]),
            "the reddest first: {order:?}"
        );
    }
    drop(session);
    // Who goes by the side turns round whenever sides are exchanged.
    let mut other = open(&folder, &["out"], "ben");
    finish(&mut other, |_| Choice::Left);
    let figures = Figures::of(&other);
    let biased = &figures.judges[0];
    assert_eq!(
        (biased.judge.as_str(), biased.same, biased.flips),
        ("ben", 0, 6)
    );
    assert!(biased.left.unwrap().interval[0] > 0.9);
    assert_eq!(
        figures.shared, 60,
        "a second judge is asked what the first one was"
    );
    assert!(figures.alpha.unwrap().abs() < 0.6, "{:?}", figures.alpha);
    drop(other);
    let mut third = open(&folder, &["out"], "cleo");
    finish(&mut third, redder);
    let figures = Figures::of(&third);
    println!("alpha of three, one of them blind: {:?}", figures.alpha);
    assert!(figures.alpha.unwrap() > -0.1 && figures.alpha.unwrap() < 0.8);
}

#[test]
fn pairs_of_images_are_read_by_training_rewards_and_ranking_with_ties_and_weights() {
    let folder = Folder::new();
    pictures(&folder, 3, 4);
    let mut session = open(&folder, &["out"], "ann");
    press(&mut session, Choice::Tie);
    press(&mut session, Choice::Skip);
    finish(&mut session, redder);
    let out = folder.path("session/pairs.jsonl");
    let written = outcome::write(&session, &out).unwrap();
    // 18 pairs and one again, one of them skipped.
    assert_eq!((written.rows, written.ties), (18, 1));
    let command = written.command.unwrap();
    assert!(
        command.contains("configs/image/dpo_sd15_lora.toml") && command.contains("pairs.images="),
        "{command}"
    );
    let rows = folder.rows("session/pairs.jsonl");
    assert_eq!(
        rows.iter().filter(|row| row["weight"] == 0.5).count(),
        2,
        "a pair asked twice counts once"
    );

    // Runs on pairs and heads on images read them here.
    let mut images = Images::below(Some(&folder.path("")));
    let pairs = images.read_pairs(&out).unwrap();
    assert_eq!(pairs.len(), 17);
    assert_eq!(images.notes.left_out.reasons.len(), 1, "the tie is counted");
    assert!(images.notes.unused.is_empty(), "{:?}", images.notes.unused);
    for pair in &pairs {
        let red = |row: usize| {
            let preftune::data::pictures::Source::File(path) = &images.sources[row] else {
                panic!()
            };
            preftune::data::photo::load(path).unwrap().get_pixel(0, 0)[0]
        };
        assert!(red(pair.pair.chosen) > red(pair.pair.rejected));
        assert_eq!(pair.pair.user.as_deref(), Some("ann"));
        assert!(pair.pair.prompt.is_some());
    }
    let ranked = folder.binary(&[
        "rank",
        "--input",
        "session/pairs.jsonl",
        "--left",
        "chosen",
        "--right",
        "rejected",
        "--winner",
        "label",
        "--winner-is",
        "score",
        "--weight",
        "weight",
        "--json",
    ]);
    let ranked = ranked.done().json();
    let first = ranked["standings"][0]["item"].as_str().unwrap();
    assert!(
        first.ends_with("3.png") || first.ends_with("7.png") || first.ends_with("11.png"),
        "{first}"
    );
    let guessed = folder.binary(&["rank", "--input", "session/pairs.jsonl", "--json"]);
    assert_eq!(guessed.done().json()["standings"], ranked["standings"]);
}

/// The sum of a row's numbers under this name.
fn sum(rows: &[Value], name: &str) -> f64 {
    rows.iter().filter_map(|row| row[name].as_f64()).sum()
}

#[test]
fn ties_skips_undone_keys_and_repeats_count_the_same_wherever_a_session_is_read() {
    let folder = Folder::new();
    pictures(&folder, 5, 4);
    let mut session = open(&folder, &["out"], "ann");
    for number in 0.. {
        if session.next().is_none() {
            break;
        }
        let choice = match number % 7 {
            0 => Choice::Tie,
            1 => Choice::BothBad,
            2 => Choice::Skip,
            _ => redder(&session),
        };
        press(&mut session, choice);
        if number % 9 == 4 {
            let ticket = session.ticket();
            session.undo(ticket).unwrap().unwrap();
        }
    }
    let written = outcome::write(&session, &folder.path("session/pairs.jsonl")).unwrap();
    let judge = &written.figures.judges[0];
    let rows = folder.rows("session/pairs.jsonl");
    assert!(judge.both_bad > 0 && judge.skipped > 0 && judge.repeats > 0);
    assert_eq!(
        (rows.len(), written.rows),
        (judge.keys - judge.skipped, judge.keys - judge.skipped)
    );
    assert_eq!(written.ties, judge.ties);
    // A pair that was asked twice counts once.
    let different: std::collections::HashSet<_> = session
        .said()
        .iter()
        .filter(|said| said.outcome().is_some())
        .map(|said| said.pair.key())
        .collect();
    assert!((sum(&rows, "weight") - different.len() as f64).abs() < 1e-9);

    let mut images = Images::below(Some(&folder.path("")));
    let pairs = images
        .read_pairs(&folder.path("session/pairs.jsonl"))
        .unwrap();
    let left_out = &images.notes.left_out.reasons;
    assert_eq!(pairs.len() + written.ties, rows.len());
    assert_eq!((left_out.len(), left_out[0].rows), (1, written.ties));

    let ranked = folder.binary(&["rank", "--input", "session/pairs.jsonl", "--json"]);
    let ranked = ranked.done().json();
    let games = sum(ranked["standings"].as_array().unwrap(), "games");
    assert!(
        (games - 2.0 * different.len() as f64).abs() < 1e-9,
        "each game has two sides: {games}"
    );
    for prompt in &written.rankings {
        let games: f64 = prompt.standings.iter().map(|standing| standing.games).sum();
        assert!((games / 2.0).fract().abs() < 1e-9, "whole pairs: {games}");
    }
}

#[test]
fn answers_of_two_files_are_compared_and_come_out_as_texts_are_read() {
    let folder = Folder::new();
    let rows = |answer: &str| -> Vec<Value> {
        let row = |number: usize| json!({"prompt": format!("What is {number}?"), "text": format!("{answer} {number}."), "seed": 0, "tokens": 3, "ended": true});
        (0..12).map(row).collect()
    };
    folder.lines("before.jsonl", &rows("No"));
    folder.lines("after.jsonl", &rows("Yes, it is"));
    let mut session = open(&folder, &["before.jsonl", "after.jsonl"], "ann");
    let is_yes = |session: &Session, item: usize| session.items().items[item].source == 1;
    press(&mut session, Choice::BothBad);
    finish(&mut session, |session| {
        let pair = session.next().unwrap();
        if is_yes(session, pair.left) {
            Choice::Left
        } else {
            Choice::Right
        }
    });
    let figures = Figures::of(&session);
    let after = &figures.sources[0];
    assert_eq!(
        (after.name.as_str(), after.wins, after.ties, after.losses),
        ("after.jsonl", 11.0, 1.0, 0.0)
    );
    assert!(
        after.settled && after.interval[0] > 0.5,
        "{:?}",
        after.interval
    );
    let out = folder.path("session/pairs.jsonl");
    let written = outcome::write(&session, &out).unwrap();
    assert!(written.command.unwrap().contains("configs/text/dpo.toml"));
    let read = text::read_with(&out, Shape::Pairs, &Reading::default()).unwrap();
    let ties = folder
        .rows("session/pairs.jsonl")
        .iter()
        .filter(|row| row["winner"] == "tie")
        .count();
    assert_eq!(read.rows.len(), written.rows - ties);
    println!("{:?}", read.notes.lines());
    assert!(
        read.notes.lines().iter().any(|line| line.contains("tie")),
        "{:?}",
        read.notes.lines()
    );
    assert!(text::answers::read(&out).unwrap().rows.len() >= 11);
}

/// A run whose untuned model draws black pictures and whose tuned one draws red ones, 10 of them.
fn run(folder: &Folder, name: &str, red: u8) {
    fs::create_dir_all(folder.path(name)).unwrap();
    fs::write(
        folder.path(name).join("config.toml"),
        "[objective]\nkind = \"rpo\"\n",
    )
    .unwrap();
    fs::write(
        folder.path(name).join("manifest.json"),
        "{\"status\": \"finished\", \"best\": [10, 0.5], \"steps\": 20}",
    )
    .unwrap();
    for (step, red) in [(0, 0), (10, red), (20, 1)] {
        for number in 0..10_u8 {
            let path = folder.path(&format!("{name}/samples/step-{step:06}/{number:03}.png"));
            let prompt = format!("a dog {}", number / 2);
            picture(
                &path,
                [red, number, 9],
                &[("prompt", &prompt), ("seed", &number.to_string())],
            );
        }
    }
}

#[test]
fn a_run_is_compared_with_its_untuned_model_and_the_report_shows_what_people_said() {
    let folder = Folder::new();
    run(&folder, "run", 90);
    let path = session_folder(&[folder.path("run")]);
    assert_eq!(path, folder.path("run/eval/compare"));
    let items = Items::open(&[folder.path("run")]).unwrap();
    assert_eq!(
        (items.sources.join(" "), items.groups.len()),
        ("base tuned".to_owned(), 10)
    );
    let mut session = Session::open(items, &path, "ann").unwrap();
    let mut settled_after = None;
    while session.next().is_some() {
        let choice = redder(&session);
        press(&mut session, choice);
        if Figures::of(&session).settled() {
            settled_after.get_or_insert(session.said().len());
        }
    }
    println!("ten wins of ten are settled after {settled_after:?}");
    assert!(settled_after.is_some());
    outcome::write(&session, &path.join("pairs.jsonl")).unwrap();
    folder.binary(&["report", "run"]).done();
    let page = fs::read_to_string(folder.path("run/report.html")).unwrap();
    for words in [
        "Evaluation: Compare",
        "People",
        "Win rate",
        "judge ann",
        "Left side",
        "1.000",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(
        !page.contains(">gain<"),
        "what one side wins is no gain over what the other one loses"
    );
}

/// Judges runs until nothing is left, by redness; the session lies where `report` finds it.
fn judge_runs(folder: &Folder, runs: &[&str]) {
    let paths: Vec<PathBuf> = runs.iter().map(|run| folder.path(run)).collect();
    let place = session_folder(&paths);
    let mut session = Session::open(Items::open(&paths).unwrap(), &place, "ann").unwrap();
    finish(&mut session, redder);
    outcome::write(&session, &place.join("pairs.jsonl")).unwrap();
}

#[test]
fn the_report_shows_what_people_prefer_beside_what_encoders_say_of_the_same_runs() {
    let folder = Folder::new();
    for (name, red) in [("one", 40), ("v1.5", 90)] {
        run(&folder, name, red);
        let evaluation = json!({"mean": {"clip_i": 0.5}, "base": {"mean": {"clip_i": 0.25}}, "protocol": {"prompts": 10}});
        fs::create_dir_all(folder.path(name).join("eval")).unwrap();
        fs::write(
            folder.path(name).join("eval/metrics.json"),
            evaluation.to_string(),
        )
        .unwrap();
    }
    // A run of the same name elsewhere, of which nothing is shown.
    run(&folder, "other/one", 10);
    judge_runs(&folder, &["one"]);
    judge_runs(&folder, &["v1.5"]);
    judge_runs(&folder, &["one", "v1.5"]);
    folder.binary(&["report", "one", "v1.5"]).done();
    let page = fs::read_to_string(folder.path("report.html")).unwrap();
    let table = page.split("Evaluation").nth(1).unwrap();
    let table = table.split("</section>").next().unwrap();
    let row = |title: &str| -> Vec<String> {
        let row = table.split("<tr>").find(|row| row.contains(title));
        let row = row.unwrap_or_else(|| panic!("{title}: {table}"));
        let cells = row.split("<td>").skip(1);
        cells
            .map(|cell| cell.split('<').next().unwrap().to_owned())
            .collect()
    };
    println!("{table}");
    // Columns: the untuned model, both runs, both gains, and the difference of the runs.
    let none = "\u{2013}";
    assert_eq!(
        row("Win rate against the untuned model"),
        [none, "1.000", "1.000", none, none, none]
    );
    assert_eq!(
        row("Win rate against v1.5"),
        [none, "0.000", none, none, none, none]
    );
    assert_eq!(
        row("Win rate against one"),
        [none, none, "1.000", none, none, none]
    );
    assert!(table.contains("CLIP-I") && table.contains("People (ann): "));
    assert!(!page.contains("different protocols"));
    folder.binary(&["report", "other/one", "v1.5"]).done();
    let page = fs::read_to_string(folder.path("report.html")).unwrap();
    assert!(page.contains("Win rate against one") && !page.contains("Win rate against v1.5"));
    let kept = |paths: &[&str]| {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        session_folder(&paths)
    };
    assert_eq!(kept(&["a b/c d", "out"]), Path::new("out.compare_c-d"));
    assert_eq!(
        kept(&["a.jsonl", "b.jsonl"]),
        Path::new("b.compare_a.jsonl")
    );
    assert_eq!(kept(&["b.jsonl"]), Path::new("b.compare"));
}

#[test]
fn a_run_whose_best_weights_drew_nothing_says_which_images_are_compared() {
    let folder = Folder::new();
    run(&folder, "run", 90);
    fs::write(
        folder.path("run/manifest.json"),
        "{\"status\": \"finished\", \"best\": [0, 0.5], \"steps\": 20}",
    )
    .unwrap();
    let items = Items::open(&[folder.path("run")]).unwrap();
    assert!(
        items
            .notes
            .iter()
            .any(|note| note.contains("those of step 0") && note.contains("step 20 are compared")),
        "{:?}",
        items.notes
    );
}

#[test]
fn runs_are_compared_at_equal_prompts_and_seeds_alone() {
    let folder = Folder::new();
    for (name, red) in [("one", 40), ("two", 90), ("three", 140)] {
        run(&folder, name, red);
    }
    // Of another seed, and equal to that of another run.
    picture(
        &folder.path("two/samples/step-000010/003.png"),
        [90, 3, 9],
        &[("prompt", "a dog 1"), ("seed", "77")],
    );
    let paths = ["one", "two", "three"].map(|name| folder.path(name));
    let items = Items::open(&paths[..2]).unwrap();
    assert_eq!(items.groups.len(), 9);
    assert!(
        items
            .notes
            .iter()
            .any(|note| note.contains("2 items left out")),
        "{:?}",
        items.notes
    );
    for group in &items.groups {
        let names = group
            .items
            .iter()
            .map(|&item| items.items[item].path.file_name().unwrap().to_owned());
        let names: Vec<_> = names.collect();
        assert_eq!(names[0], names[1]);
    }
    let mut session = open(&folder, &["one", "two", "three"], "ann");
    while session.next().is_some() && session.said().len() < 20 {
        let choice = redder(&session);
        press(&mut session, choice);
    }
    let ranked = rankings(&session).unwrap();
    let order: Vec<&str> = ranked[0]
        .standings
        .iter()
        .map(|one| one.item.as_str())
        .collect();
    assert_eq!(order, ["three", "two", "one"]);
}

#[test]
fn folders_of_a1111_and_comfyui_are_compared_by_the_prompts_in_their_files() {
    let folder = Folder::new();
    fs::create_dir(folder.path("out")).unwrap();
    let graph = json!({
        "3": {"class_type": "KSampler", "inputs": {"seed": 5, "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry"}},
    });
    let write = |name: &str, grey: u8, keyword: &str, text: String| {
        let file = fs::File::create(folder.path("out").join(name)).unwrap();
        let mut encoder = ::png::Encoder::new(file, 8, 8);
        encoder.set_color(::png::ColorType::Rgb);
        encoder.add_text_chunk(keyword.to_owned(), text).unwrap();
        encoder
            .write_header()
            .unwrap()
            .write_image_data(&[grey; 192])
            .unwrap();
    };
    write("comfy-1.png", 10, "prompt", graph.to_string());
    write("comfy-2.png", 20, "prompt", graph.to_string());
    write(
        "web-1.png",
        30,
        "parameters",
        "a dog\nSteps: 20, Sampler: Euler, Seed: 4".to_owned(),
    );
    write(
        "web-2.png",
        40,
        "parameters",
        "a cat\nNegative prompt: x\nSteps: 20, Sampler: Euler, Seed: 5".to_owned(),
    );
    write("web-3.png", 40, "comment", "nothing".to_owned());
    let items = Items::open(&[folder.path("out")]).unwrap();
    let [group] = items.groups.as_slice() else {
        panic!("{:?}", items.groups)
    };
    assert_eq!(
        (group.prompt.words(), group.items.len()),
        (Some("a dog"), 3)
    );
    let said = items.notes.join("\n");
    assert!(
        said.contains("1 image of `out` left out") && said.contains("web-3.png"),
        "{said}"
    );
    assert!(
        said.contains("1 item left out: nothing else is of the same prompt"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_compared_is_refused_with_what_is_wrong() {
    let folder = Folder::new();
    pictures(&folder, 1, 3);
    let refused = |arguments: &[&str], message: &str| {
        folder
            .binary(&[&["compare", "--no-open"], arguments].concat())
            .refused(message);
    };
    refused(&["nothing"], "nothing");
    fs::create_dir(folder.path("empty")).unwrap();
    refused(&["empty"], "no images in this folder");
    picture(
        &folder.path("alone/1.png"),
        [1, 2, 3],
        &[("prompt", "a dog")],
    );
    refused(&["alone"], "no two in it can be compared");
    picture(&folder.path("silent/1.png"), [1, 2, 3], &[]);
    refused(&["silent"], "its prompt is not known");
    refused(&["out", "alone"], "no two in it can be compared");
    folder.lines(
        "answers.jsonl",
        &[
            json!({"prompt": "a", "text": "b"}),
            json!({"prompt": "a", "text": "c"}),
        ],
    );
    refused(&["out", "answers.jsonl"], "do not compare");
    refused(&["out", "--judge", " "], "`--judge` is empty");
    refused(
        &["out", "--out", "nowhere/pairs.jsonl"],
        "no such folder for `--out`",
    );
    fs::create_dir(folder.path("run")).unwrap();
    fs::write(folder.path("run/config.toml"), "").unwrap();
    refused(&["run"], "has drawn nothing");
    let open = open(&folder, &["out"], "ann");
    refused(
        &["out", "--session", "session"],
        "another process is working in this folder",
    );
    drop(open);
    fs::write(
        folder.path("session").join(FILE),
        "{\"kind\":\"session\",\"preftune\":\"0\",\"seed\":1}\nnonsense\n",
    )
    .unwrap();
    refused(&["out", "--session", "session"], "line 2");
}

#[test]
fn broken_files_among_images_are_left_out_and_named_and_ties_alone_print_no_command() {
    let folder = Folder::new();
    pictures(&folder, 1, 3);
    let whole = fs::read(folder.path("out/000.png")).unwrap();
    fs::write(folder.path("out/half.png"), &whole[..60]).unwrap();
    fs::write(folder.path("out/other.png"), "no image").unwrap();
    let mut session = open(&folder, &["out"], "ann");
    let notes: Vec<String> = session.notes().cloned().collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].starts_with("2 images of `out` left out"),
        "{notes:?}"
    );
    assert_eq!(notes[0].matches("half.png").count(), 1, "{notes:?}");
    finish(&mut session, |_| Choice::Tie);
    let written = outcome::write(&session, &folder.path("session/pairs.jsonl")).unwrap();
    assert_eq!((written.rows, written.ties), (3, 3));
    assert!(written.command.is_none() && written.reward_command.is_none());
}

#[test]
fn what_is_written_takes_the_place_of_pairs_alone_and_pairs_that_were_taken_back_are_gone() {
    let folder = Folder::new();
    pictures(&folder, 1, 3);
    let mut session = open(&folder, &["out"], "ann");
    press(&mut session, Choice::Left);
    let out = folder.path("session/pairs.jsonl");
    assert_eq!(outcome::write(&session, &out).unwrap().rows, 1);
    let ticket = session.ticket();
    session.undo(ticket).unwrap().unwrap();
    assert_eq!(outcome::write(&session, &out).unwrap().rows, 0);
    assert_eq!(fs::read_to_string(&out).unwrap(), "");

    let place = folder.path("session");
    let refused = |name: &str| {
        outcome::check_out(&folder.path(name), &place)
            .unwrap_err()
            .to_string()
    };
    for own in ["session/keys.jsonl", "session/metrics.json"] {
        assert!(refused(own).contains("the session itself"), "{own}");
    }
    fs::write(
        folder.path("out/metadata.jsonl"),
        "{\"file_name\": \"000.png\", \"prompt\": \"a\"}\n",
    )
    .unwrap();
    assert!(refused("out/metadata.jsonl").contains("no comparison has written it"));
    press(&mut session, Choice::Left);
    outcome::write(&session, &out).unwrap();
    for fine in ["session/pairs.jsonl", "new.jsonl"] {
        outcome::check_out(&folder.path(fine), &place).unwrap();
    }
    let command = ["compare", "out", "--no-open", "--out", "out/metadata.jsonl"];
    folder
        .binary(&command)
        .refused("no comparison has written it");
}

#[test]
fn a_picture_that_changes_under_a_session_is_not_judged_and_a_folder_that_goes_loses_no_key_silently()
 {
    let folder = Folder::new();
    pictures(&folder, 1, 3);
    let mut session = open(&folder, &["out"], "ann");
    let pair = session.next().unwrap();
    let shown = session.items().items[pair.left].path.clone();
    let before = fs::read(&shown).unwrap();
    picture(&shown, [200, 0, 0], &[("prompt", "picture 0")]);
    let ticket = session.ticket();
    let error = session
        .answer(ticket, Choice::Left, 1.0)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has changed since"), "{error}");
    assert_eq!((session.said().len(), session.next()), (0, Some(pair)));
    fs::write(&shown, before).unwrap();
    press(&mut session, Choice::Left);
    fs::remove_dir_all(folder.path("session")).unwrap();
    let ticket = session.ticket();
    let error = session
        .answer(ticket, Choice::Left, 1.0)
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not there any more"), "{error}");
    assert_eq!(session.said().len(), 1);
}

#[test]
fn seeds_of_metadata_pair_pictures_of_two_folders() {
    let folder = Folder::new();
    // Names that contradict the seeds.
    for (source, names) in [("one", ["a.png", "b.png"]), ("two", ["b.png", "a.png"])] {
        let mut rows = Vec::new();
        for (seed, name) in names.iter().enumerate() {
            let colour = [10 * seed as u8, source.len() as u8, source.as_bytes()[0]];
            picture(&folder.path(&format!("{source}/{name}")), colour, &[]);
            rows.push(json!({"file_name": name, "prompt": "a dog", "seed": seed}));
        }
        folder.lines(&format!("{source}/metadata.jsonl"), &rows);
    }
    let session = open(&folder, &["one", "two"], "ann");
    let items = session.items();
    assert!(
        !items.notes.iter().any(|note| note.contains("seed")),
        "{:?}",
        items.notes
    );
    for group in &items.groups {
        let reds = group.items.iter().map(|&item| {
            let path = &items.items[item].path;
            preftune::data::photo::load(path).unwrap().get_pixel(0, 0)[0]
        });
        let reds: Vec<u8> = reds.collect();
        assert_eq!(reds[0], reds[1]);
    }
    assert_eq!(items.groups.len(), 2);
}
