//! Damaged inputs of every kind that is read from elsewhere, made from golden ones by seeded changes: each is read or
//! refused, without a panic, an abort, or more memory than it could need.
//!
//! `PREFTUNE_FUZZ=20 cargo test fuzz` tries twenty times as many, with other seeds. What fails is kept, and its path said.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use preftune::config;
use preftune::data::image_preferences::Images;
use preftune::data::{embeddings, photo, png, prompts, text};
use preftune::models::diffusion::pipeline::{Kinds, Pipeline};
use preftune::models::encoders::DualEncoder;
use preftune::models::gguf::Gguf;
use preftune::models::lm::tokenizer::TextTokenizer;
use preftune::models::lm::{LanguageModel, LmConfig};
use preftune::models::lora::LoraSet;
use preftune::models::weights::Checkpoint;
use preftune::report;
use preftune::run::manifest::{self, SubjectManifest};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::support::{golden, golden_tensors};
use crate::tiny_run::copy_folder;

/// Address space of the process, in KiB: several times what it needs, and far below what a damaged size asks for.
const MOST_MEMORY: &str = "12000000";

/// Numbers that follow from a seed (Steele et al. 2014, splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// Some bytes changed, cut, doubled or set to what sizes and texts are sensitive to.
fn damage(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=chance.below(4) {
        // Headers are small and decide most.
        let reach = if chance.below(3) == 0 {
            bytes.len()
        } else {
            bytes.len().min(512)
        };
        let at = chance.below(reach);
        let span = (at + 1 + chance.below(16)).min(bytes.len());
        match chance.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 if at < bytes.len() => {
                bytes[at] = chance.one_of(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'9', b'-', b'\n']);
            }
            2 => bytes.truncate(at),
            3 if at < span => drop(bytes.drain(at..span)),
            4 if at < span => {
                let part = bytes[at..span].to_vec();
                bytes.splice(at..at, part);
            }
            5 if at + 8 <= bytes.len() => {
                let size = chance.one_of(&[u64::MAX, u64::MAX / 2, 1 << 32, 1 << 40, 0]);
                bytes[at..at + 8].copy_from_slice(&size.to_le_bytes());
            }
            _ => {
                let part = chance.one_of(&[
                    &b"\xff\xfe"[..],
                    b"\xef\xbb\xbf",
                    b"1e999",
                    b"\\ud800",
                    b"../",
                    b"null",
                    b"[[[[",
                ]);
                bytes.splice(
                    at.min(bytes.len())..at.min(bytes.len()),
                    part.iter().copied(),
                );
            }
        }
    }
    bytes
}

/// One value somewhere in a JSON document replaced, or its key removed.
fn damage_json(value: &mut Value, chance: &mut Chance) {
    let many = "a".repeat(3000);
    let strange = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(7),
        json!(65_537),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e308),
        json!(-0.0),
        json!(0.5),
        json!(""),
        json!("../x"),
        json!(many),
        json!([]),
        json!({}),
        json!([null]),
        json!([1, "a"]),
        json!({"a": {"a": []}}),
    ];
    match value {
        Value::Object(object) if !object.is_empty() && chance.below(6) > 0 => {
            let keys: Vec<String> = object.keys().cloned().collect();
            let key = chance.one_of(&keys);
            if chance.below(8) == 0 {
                object.remove(&key);
            } else if let Some(inner) = object.get_mut(&key) {
                damage_json(inner, chance);
            }
        }
        Value::Array(array) if !array.is_empty() && chance.below(6) > 0 => {
            let at = chance.below(array.len());
            damage_json(&mut array[at], chance);
        }
        value => *value = chance.one_of(&strange),
    }
}

/// A folder that is read, with the files in it that are damaged in turn.
type Files = (PathBuf, Vec<PathBuf>);

fn how_many_times() -> usize {
    std::env::var("PREFTUNE_FUZZ")
        .ok()
        .and_then(|times| times.parse().ok())
        .unwrap_or(1)
}

/// Damages each file in turn, `count` times in all where nothing else is asked for, and hands folder and file to `read`;
/// the faults that were found.
fn tried(
    name: &str,
    count: usize,
    (folder, files): &Files,
    read: &dyn Fn(&Path, &Path),
) -> Vec<String> {
    let mut faults = Vec::new();
    let count = count * how_many_times();
    for number in 0..count {
        let file = &files[number % files.len()];
        let path = folder.join(file);
        let before = fs::read(&path).unwrap();
        let mut chance = Chance(number as u64 * 1_000_003 + name.len() as u64);
        let bytes = match serde_json::from_slice::<Value>(&before) {
            Ok(mut value) if chance.below(3) > 0 => {
                for _ in 0..=chance.below(3) {
                    damage_json(&mut value, &mut chance);
                }
                value.to_string().into_bytes()
            }
            _ => damage(&before, &mut chance),
        };
        fs::write(&path, &bytes).unwrap();
        // Written before, for an abort leaves no time to keep it.
        let kept = std::env::temp_dir().join(format!("preftune-fuzz-{name}-{number}"));
        fs::write(&kept, &bytes).unwrap();
        match catch_unwind(AssertUnwindSafe(|| read(folder, &path))) {
            Ok(()) => fs::remove_file(&kept).unwrap(),
            Err(panic) => {
                let words = panic.downcast_ref::<String>().map(String::as_str);
                let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
                let words: String = words.unwrap_or_default().chars().take(300).collect();
                faults.push(format!(
                    "{name} ({}): {words}\n  {}",
                    file.display(),
                    kept.display()
                ));
            }
        }
        fs::write(&path, &before).unwrap();
    }
    println!("{name}: {count} inputs, {} faults", faults.len());
    faults
}

/// A copy of a golden folder, with these of its files to damage.
fn of_folder(root: &Path, name: &str, files: &[&str]) -> Files {
    let folder = root.join(name.replace('/', "_"));
    copy_folder(&golden(name), &folder);
    (folder, files.iter().map(PathBuf::from).collect())
}

/// Copies of golden files in a folder of their own.
fn of_files(root: &Path, name: &str, files: &[&str]) -> Files {
    let folder = root.join(name);
    fs::create_dir(&folder).unwrap();
    let copy = |file: &&str| {
        let from = golden(file);
        let own = PathBuf::from(from.file_name().unwrap());
        fs::copy(from, folder.join(&own)).unwrap();
        own
    };
    let files = files.iter().map(copy).collect();
    (folder, files)
}

fn every_tensor(file: &Path) {
    if let Ok(file) = Checkpoint::open_file(file) {
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        for name in names {
            let _ = file.tensor(&name);
        }
        let _ = file.sha256();
    }
}

fn language_model(path: &Path) {
    let model = LanguageModel::open(path, Device::Cpu, Kind::Float, Kind::Float);
    if let Ok(model) = &model {
        let ids: Vec<i64> = (0..4.min(model.config().vocab_size)).collect();
        let sampling = preftune::models::lm::generate::Sampling {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            max_tokens: 2,
        };
        let _ = model.generate(&[ids], &[1], &sampling, &[]);
    }
    let vocabulary = LmConfig::open(path).map_or(300, |config| config.vocab_size);
    if let Ok(tokenizer) = TextTokenizer::open(path, vocabulary) {
        let _ = tokenizer.encode("Say hello, 12 times", true);
        let messages = [json!({"role": "user", "content": "hi"})];
        let _ = tokenizer.chat_prompt(&messages, &serde_json::Map::new());
        let _ = tokenizer.decode(&[1, 2, 3], true);
    }
}

fn diffusion_model(folder: &Path) {
    let kinds = Kinds {
        compute: Kind::Float,
        unet: Kind::Float,
    };
    if let Ok(pipeline) = Pipeline::open(folder, None, None, Device::Cpu, kinds) {
        let _ = pipeline.check_size(16, 16);
    }
}

fn rows(path: &Path) {
    use text::Shape::{Answers, Marked, Pairs, Ranked, Sampled};
    for shape in [Pairs, Marked, Answers, Ranked, Sampled] {
        let _ = text::read(path, shape);
    }
    let _ = text::prompts(path, &text::Reading::default());
    let _ = text::answers::read(path);
    let _ = prompts::read(path);
    let _ = Images::below(None).read_pairs(path);
    if path.extension().is_some_and(|ending| ending == "parquet") {
        let _ = embeddings::read(path);
    }
}

fn run_folder(folder: &Path) {
    let _ = report::page(&[folder.to_owned()]);
    let _ = manifest::read::<SubjectManifest>(folder);
    let _ = manifest::read::<manifest::Tuned>(folder);
    let _ = config::load_any(&folder.join("config.toml"), &[]);
}

/// A run folder with everything that a report reads.
fn finished_run(root: &Path) -> Files {
    let folder = root.join("run");
    fs::create_dir(&folder).unwrap();
    let row = |step: u64| json!({"kind": "validation", "step": step, "seconds": 1.0, "reward": 0.6, "image_similarity": 0.5, "text_similarity": 0.4});
    let train =
        json!({"kind": "train", "step": 1, "seconds": 1.0, "loss": 0.7, "learning_rate": 1e-4});
    let alarm =
        json!({"kind": "alarm", "step": 1, "during": "train", "message": "the loss is high"});
    let rows = [row(0), train, alarm, row(2)]
        .map(|row| row.to_string())
        .join("\n");
    let manifest = json!({
        "preftune": "0.1.0", "status": "finished", "base_model": "m", "base_unet_sha256": "ab", "adapter": "lora", "rank": 4,
        "alpha": 8.0, "reward_encoder": ["clip", "cd"], "device": "Cpu", "precision": "fp32", "trainable_parameters": 1234,
        "subject": {"name": "mug", "class": "cup", "token": "[V]", "photos": ["one.png"], "photos_sha256": "ab"},
        "oracle_image_similarity": 0.95, "labels": {"pairs": 12, "coin_flips": 0.25, "histogram": [{"from": 0.0, "to": 0.1, "count": 9}]},
        "steps": 2, "best": [2, 0.8], "untuned_reward": 0.6, "stopped_early": true, "counts": {"a": 55}, "seconds": {"load": 2.0},
    });
    let files = [
        ("metrics.jsonl", rows + "\n"),
        ("manifest.json", manifest.to_string()),
        (
            "config.toml",
            "[objective]\nkind = \"rpo\"\nbeta = 1.5\n[train]\nsteps = 100\n".to_owned(),
        ),
    ];
    for (name, content) in &files {
        fs::write(folder.join(name), content).unwrap();
    }
    (
        folder,
        files.iter().map(|(name, _)| PathBuf::from(name)).collect(),
    )
}

/// Models and their parts.
fn models(root: &Path) -> Vec<String> {
    let lm = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ];
    let lm = of_folder(root, "text/model", &lm);
    let sd = [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    let sd = of_folder(root, "diffusion/sd1", &sd);
    let clip = of_folder(
        root,
        "encoders/clip",
        &["config.json", "preprocessor_config.json"],
    );
    let adapter = of_folder(
        root,
        "lm/llama_adapter",
        &["adapter_config.json", "adapter_model.safetensors"],
    );
    let image = photo::load(&golden("encoders/images/0.png")).unwrap();
    let llama =
        LanguageModel::open(&golden("lm/llama"), Device::Cpu, Kind::Float, Kind::Float).unwrap();
    let encoder = |folder: &Path, _: &Path| {
        if let Ok(encoder) = DualEncoder::open(folder, Device::Cpu, Kind::Float) {
            let _ = encoder.encode_images(std::slice::from_ref(&image));
            let _ = encoder.encode_texts(&["a dog".to_owned()]);
        }
    };
    let lora = |folder: &Path, _: &Path| drop(LoraSet::load(&llama.adapters(), folder));
    [
        tried("language-model", 120, &lm, &|folder, _| {
            language_model(folder);
        }),
        tried("diffusion-model", 70, &sd, &|folder, _| {
            diffusion_model(folder);
        }),
        tried("encoder", 60, &clip, &encoder),
        tried("adapter", 100, &adapter, &lora),
    ]
    .concat()
}

/// Single files of weights.
fn files_of_weights(root: &Path) -> Vec<String> {
    let safetensors = of_files(
        root,
        "weights",
        &["lm/heads.safetensors", "lora/sd1_conv_peft.safetensors"],
    );
    let pickles = [
        "pickles/zip.pt",
        "pickles/lightning.ckpt",
        "pickles/legacy.pt",
        "pickles/no_checksum.pt",
        "pickles/protocol4.pt",
    ];
    let pickles = of_files(root, "pickles", &pickles);
    let expected = golden_tensors("pickles/expected.safetensors");
    // With a checksum beside every part, what is read is right.
    let pickle = |_: &Path, file: &Path| {
        every_tensor(file);
        let Ok(read) = Checkpoint::open_file(file) else {
            return;
        };
        let unchecked = ["legacy.pt", "no_checksum.pt"];
        if unchecked.iter().any(|name| file.ends_with(name)) {
            return;
        }
        for name in read.names() {
            if let (Ok(read), true) = (read.tensor(name), expected.contains(name)) {
                assert!(read.equal(&expected.tensor(name).unwrap()), "{name}");
            }
        }
    };
    let ggufs = [
        "lm/smollm.gguf",
        "lm/blocks.gguf",
        "gguf_tokenizers/model.gguf",
    ];
    let ggufs = of_files(root, "gguf", &ggufs);
    let gguf = |_: &Path, file: &Path| {
        if let Ok(gguf) = Gguf::open(file) {
            let names: Vec<String> = gguf.names().map(str::to_owned).collect();
            for name in names {
                let _ = gguf.tensor(&name);
            }
        }
        language_model(file);
    };
    [
        tried("safetensors", 400, &safetensors, &|_, file| {
            every_tensor(file);
        }),
        tried("pickle", 2000, &pickles, &pickle),
        tried("gguf", 90, &ggufs, &gguf),
    ]
    .concat()
}

/// Pictures, rows and runs.
fn data(root: &Path) -> Vec<String> {
    let pictures = [
        "photo/baseline.jpg",
        "photo/progressive.jpg",
        "photo/palette.png",
        "photo/deep.png",
        "photo/lossy.webp",
        "photo/plain.bmp",
        "photo/phone.mpo",
        "photo/inks.jpg",
    ];
    let pictures = of_files(root, "pictures", &pictures);
    let tables = [
        "text/pairs.jsonl",
        "text/chats.jsonl",
        "text/chats.parquet",
        "pick_a_pic/pick_a_pic.parquet",
        "reward/embeddings.parquet",
        "text/marked.jsonl",
    ];
    let tables = of_files(root, "tables", &tables);
    let picture = |_: &Path, file: &Path| {
        let _ = photo::load(file);
        let _ = png::read_text(file, "prompt");
    };
    [
        tried("picture", 400, &pictures, &picture),
        tried("rows", 300, &tables, &|_, file| rows(file)),
        tried("run-folder", 90, &finished_run(root), &|folder, _| {
            run_folder(folder);
        }),
    ]
    .concat()
}

#[test]
#[ignore = "runs in a process of its own, with bounded memory"]
fn damaged_inputs() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path();
    let faults = [models(root), files_of_weights(root), data(root)].concat();
    assert!(
        faults.is_empty(),
        "{} faults\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn damaged_inputs_are_read_or_refused_without_a_panic() {
    let this = std::env::current_exe().unwrap();
    let command = format!("ulimit -v {MOST_MEMORY}; exec \"$0\" \"$@\"");
    let output = Command::new("bash")
        .args(["-c", &command, this.to_str().unwrap()])
        .args([
            "fuzz::damaged_inputs",
            "--exact",
            "--ignored",
            "--test-threads=1",
            "--nocapture",
        ])
        .env("OMP_NUM_THREADS", "1")
        .env("RAYON_NUM_THREADS", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let panics = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{panics}"
    );
}
