//! The parts that only image runs have: the subject, its photos, and generated images before and after.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::curves::Level;
use super::facts;
use super::picture::{self, Picture};
use super::read::Run;
use super::words;
use crate::files;
use crate::run::recorder::{sampled_steps, samples_at};

/// Images of a step in a grid at most.
const IMAGES: usize = 32;
/// Prompts that a grid has room for, however many images each of them has.
const PROMPTS: usize = 8;
/// Negatives shown at most.
const NEGATIVES: usize = 12;

/// The subject in words; `None` of a run without one.
pub(super) fn subject(run: &Run) -> Option<String> {
    let subject = run.manifest["subject"].as_object()?;
    let text = |key: &str| subject.get(key).and_then(Value::as_str).unwrap_or_default();
    let photos = subject
        .get("photos")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let (name, class, token) = (text("name"), text("class"), text("token"));
    let named = if name == class {
        String::new()
    } else {
        format!("{name}: ")
    };
    Some(format!(
        "{named}{token} {class}, {}",
        words::count(photos, "photo")
    ))
}

/// The model and the subject that it was tuned to, as a sentence.
pub(super) fn sentence(run: &Run) -> Option<String> {
    let subject = run.manifest["subject"].as_object()?;
    let text = |key: &str| subject.get(key).and_then(Value::as_str).unwrap_or_default();
    let photos = subject
        .get("photos")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let model = run.manifest["base_model"]
        .as_str()
        .map(Path::new)
        .and_then(Path::file_name);
    let model = model.map_or_else(|| "a model".into(), |name| name.to_string_lossy());
    let objective = facts::objective_name(run).unwrap_or_else(|| "This run".to_owned());
    let part = match run.manifest["adapter"].as_str() {
        Some("full") => "all U-Net weights of ",
        Some("lora") => "a LoRA on ",
        _ => "",
    };
    Some(format!(
        "{objective} tuned {part}{model} to \u{201c}{} {}\u{201d} from {}.",
        text("token"),
        text("class"),
        words::count(photos, "photo"),
    ))
}

/// How the best rewards compare of runs that have the same photos, prompts and encoder; `None` of others.
pub(super) fn comparison(runs: &[Run]) -> Option<String> {
    let measure = |run: &Run| {
        let validation = &run.config["validation"];
        let config = ["lambda", "prompts", "images_per_prompt"].map(|key| validation[key].clone());
        let manifest = ["subject", "reward_encoder"].map(|key| run.manifest[key].clone());
        (config, manifest)
    };
    let first = runs.first().filter(|run| subject(run).is_some())?;
    let same = runs.iter().all(|run| measure(run) == measure(first));
    if runs.len() < 2 || !same {
        return None;
    }
    let best = |run: &Run| Some((run.name.clone(), run.best()?.value));
    let mut best: Vec<(String, f64)> = runs.iter().map(best).collect::<Option<_>>()?;
    best.sort_by(|one, two| two.1.total_cmp(&one.1));
    let words = best
        .iter()
        .map(|(name, reward)| format!("{name} {}", words::score(*reward)));
    let words: Vec<String> = words.collect();
    Some(format!(
        "Best reward on the same held-out prompts: {}.",
        words.join(", ")
    ))
}

/// The level of the photos among themselves, in the panel of image similarity.
pub(super) fn levels(runs: &[Run]) -> Vec<Level> {
    let mut values = runs
        .iter()
        .map(|run| run.manifest["oracle_image_similarity"].as_f64());
    let first = values.next().flatten();
    // Subjects that differ have lines that differ: one of them would mislead.
    let shared = first.filter(|first| values.all(|value| value == Some(*first)));
    let level = |at: f64| Level {
        kind: "validation",
        name: "image_similarity",
        at,
        word: "photos among themselves",
    };
    shared.into_iter().map(level).collect()
}

/// Generated images of runs that drew the same prompts from the same noise, beside the photos.
#[derive(Serialize)]
pub(super) struct Grid {
    title: String,
    photos: Vec<Picture>,
    /// A note on photos that are not shown.
    photos_note: String,
    columns: Vec<String>,
    rows: Vec<Row>,
    /// `true` if so few images belong to a prompt that several prompts go side by side.
    few: bool,
    note: String,
}

/// One prompt: its images in each column.
#[derive(Serialize)]
struct Row {
    prompt: String,
    cells: Vec<Vec<Picture>>,
}

/// Prompt and seed of a generated image.
type Origin = (String, String);

/// A generated image that is not read yet.
#[derive(Clone, Debug, PartialEq)]
struct Drawn {
    path: PathBuf,
    prompt: String,
    seed: String,
}

/// Validation images of one step.
struct Column {
    title: String,
    /// `true` if the step is that of the untuned model.
    before: bool,
    images: Vec<Drawn>,
}

/// A grid for each group of runs with the same prompts and seeds; none of runs without samples.
pub(super) fn grids(runs: &[Run]) -> Vec<Grid> {
    let mut groups: Vec<(Vec<Origin>, Vec<&Run>)> = Vec::new();
    for run in runs {
        let origins: Vec<Origin> = find_samples(&run.path, 0)
            .into_iter()
            .map(|image| (image.prompt, image.seed))
            .collect();
        if origins.is_empty() {
            continue;
        }
        match groups.iter_mut().find(|(known, _)| *known == origins) {
            Some((_, members)) => members.push(run),
            None => groups.push((origins, vec![run])),
        }
    }
    let members = groups.into_iter().map(|(_, members)| members);
    members
        .map(|members| grid(&members, runs.len() > 1))
        .collect()
}

fn grid(runs: &[&Run], several: bool) -> Grid {
    let columns = columns(runs, several);
    let untuned = columns.first().map_or(&[][..], |column| &column.images);
    let mut prompts: Vec<&str> = Vec::new();
    let mut seeds: Vec<&str> = Vec::new();
    for image in untuned {
        if !prompts.contains(&image.prompt.as_str()) {
            // A prompt with the class word alone stands below that with the token: they are of the same noise.
            let twin = seeds.iter().position(|seed| *seed == image.seed);
            let at = twin.map_or(prompts.len(), |twin| twin + 1);
            prompts.insert(at, &image.prompt);
            seeds.insert(at, &image.seed);
        }
    }
    // All images of some prompts, or where few prompts have many, some images of each.
    let of_prompt = untuned.len().div_ceil(prompts.len().max(1)).max(1);
    prompts.truncate((IMAGES / of_prompt).max(PROMPTS));
    let each = (IMAGES / prompts.len().max(1)).max(1);
    let rows: Vec<Row> = prompts
        .iter()
        .map(|prompt| row(prompt, &columns, each))
        .collect();
    let shown: usize = rows.iter().map(|row| row.cells[0].len()).sum();
    let note = format!(
        "{shown} of {} images of each step are shown; all are in the run's folder, under samples.",
        untuned.len()
    );
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let (photos, photos_note) = photos(runs);
    Grid {
        title: words::list(&names),
        photos,
        photos_note,
        few: columns.len() <= 2 && rows.iter().all(|row| row.cells[0].len() <= 2),
        rows,
        note: if shown < untuned.len() {
            note
        } else {
            String::new()
        },
        columns: columns.into_iter().map(|column| column.title).collect(),
    }
}

/// The untuned model, once where the runs share it, and what each run made of it.
fn columns(runs: &[&Run], several: bool) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for run in runs {
        let named = |what: String| {
            if several {
                format!("{}: {what}", run.name)
            } else {
                what
            }
        };
        let images = find_samples(&run.path, 0);
        let known = |column: &Column| column.before && same_files(&column.images, &images);
        if !columns.iter().any(known) {
            columns.push(Column {
                title: named(before(run).to_owned()),
                before: true,
                images,
            });
        }
        columns.extend(after(run).map(|(what, step)| Column {
            title: named(what),
            before: false,
            images: find_samples(&run.path, step),
        }));
    }
    // Where the runs share one untuned model, it is nobody's in particular.
    if columns.iter().filter(|column| column.before).count() == 1 {
        before(runs[0]).clone_into(&mut columns[0].title);
    }
    columns
}

/// The state of a run's model at step 0, in words.
fn before(run: &Run) -> &'static str {
    match subject(run) {
        Some(_) => "untuned",
        None => "before the first step",
    }
}

fn row(prompt: &str, columns: &[Column], each: usize) -> Row {
    let pictures = |column: &Column| {
        let images = column.images.iter().filter(|image| image.prompt == prompt);
        images
            .take(each)
            .filter_map(|image| {
                let words = format!("{}, {}, seed {}", prompt, column.title, image.seed);
                picture::whole(&image.path, words)
            })
            .collect()
    };
    Row {
        prompt: prompt.to_owned(),
        cells: columns.iter().map(pictures).collect(),
    }
}

/// The step to show beside the untuned model: the best one, or the latest where that is the best.
fn after(run: &Run) -> Option<(String, u64)> {
    let latest = sampled_steps(&run.path)
        .into_iter()
        .max()
        .filter(|step| *step > 0)?;
    let best = run
        .best()
        .filter(|best| best.step > 0 && !find_samples(&run.path, best.step).is_empty());
    Some(match best {
        Some(best) if run.status() == "finished" => (
            format!("best, step {}", words::number(best.step as f64)),
            best.step,
        ),
        Some(best) => (
            format!("best so far, step {}", words::number(best.step as f64)),
            best.step,
        ),
        None => (
            format!("step {}, not better", words::number(latest as f64)),
            latest,
        ),
    })
}

fn find_samples(run: &Path, step: u64) -> Vec<Drawn> {
    pngs(&samples_at(run, step))
        .into_iter()
        .map(|path| {
            let (prompt, seed) = picture::origin(&path);
            Drawn { path, prompt, seed }
        })
        .collect()
}

fn pngs(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "png"))
        .collect();
    paths.sort();
    paths
}

/// `true` if two lists are the same images, byte for byte.
fn same_files(one: &[Drawn], two: &[Drawn]) -> bool {
    let equal = |(one, two): (&Drawn, &Drawn)| match (fs::read(&one.path), fs::read(&two.path)) {
        (Ok(one), Ok(two)) => one == two,
        _ => false,
    };
    one.len() == two.len() && one.iter().zip(two).all(equal)
}

/// The photos that are still where the manifest says and are those of the run: a manifest from elsewhere may name any file,
/// and the page is made to be shared.
fn photos(runs: &[&Run]) -> (Vec<Picture>, String) {
    let (mut paths, mut gone) = (Vec::<PathBuf>::new(), Vec::<PathBuf>::new());
    for run in runs {
        let subject = &run.manifest["subject"];
        let named = subject["photos"].as_array().into_iter().flatten();
        let named = named.filter_map(Value::as_str).map(PathBuf::from);
        let (mut there, mut hash) = (Vec::new(), Sha256::new());
        let before = gone.len();
        for path in named {
            match files::read(&path) {
                Ok(bytes) => {
                    hash.update(bytes);
                    there.push(path);
                }
                Err(_) => gone.push(path),
            }
        }
        let same = subject["photos_sha256"] == format!("{:x}", hash.finalize());
        if gone.len() == before && !same && !there.is_empty() {
            let note = "The photos are not shown: at their place are other files than those that the run learnt from.";
            return (Vec::new(), note.to_owned());
        }
        if same {
            paths.extend(there);
        }
    }
    for list in [&mut paths, &mut gone] {
        list.sort();
        list.dedup();
    }
    let shown: Vec<Picture> = paths
        .iter()
        .filter_map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            picture::middle(path, format!("photo {name}"))
        })
        .collect();
    let note = match gone.len() {
        0 => String::new(),
        lost => {
            let count = words::count(lost + paths.len(), "photo");
            format!("{lost} of {count} not at the place any more where the run found it.")
        }
    };
    (shown, note)
}

/// Some of the generated images that the photos are preferred to.
#[derive(Serialize)]
pub(super) struct Negatives {
    run: String,
    count: usize,
    pictures: Vec<Picture>,
}

/// Of each run that has any, spread over its prompts.
pub(super) fn negatives(runs: &[Run]) -> Vec<Negatives> {
    let some = |run: &Run| {
        let all = pngs(&run.path.join("negatives"));
        let every = all.len().div_ceil(NEGATIVES).max(1);
        let pictures: Vec<Picture> = all
            .iter()
            .step_by(every)
            .filter_map(|path| picture::whole(path, picture::origin(path).0))
            .collect();
        (!pictures.is_empty()).then(|| Negatives {
            run: run.name.clone(),
            count: all.len(),
            pictures,
        })
    };
    runs.iter().filter_map(some).collect()
}
