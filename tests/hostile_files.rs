//! Folders from elsewhere: what a file names is read, written and replaced only where the user said so.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use preftune::data::dreambench::DreamBench;
use preftune::files::{inside, is_plain_name};
use preftune::models::weights::Checkpoint;
use serde_json::{Value, json};

use crate::command::{Folder, quoted};
use crate::support::golden;
use crate::tiny_run::{contents, copy_folder};

const THESIS: &str = "my thesis\n";

/// A folder with a copy of the tiny SD 1 in `model` and somebody's work in `victim`.
fn folder() -> Folder {
    let folder = Folder::new();
    copy_folder(&golden("diffusion/sd1"), &folder.path("model"));
    fs::create_dir(folder.path("victim")).unwrap();
    fs::write(folder.path("victim/thesis.txt"), THESIS).unwrap();
    folder
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Exports the LoRA merged into `model`.
fn export(folder: &Folder, out: &str, more: &[&str]) -> crate::command::Ran {
    let lora = golden("lora/sd1_conv_peft.safetensors");
    let arguments = [
        "export",
        lora.to_str().unwrap(),
        "--base",
        "model",
        "--format",
        "merged",
        "--out",
        out,
    ];
    folder.binary(&[&arguments[..], more].concat())
}

fn thesis(folder: &Folder) -> String {
    fs::read_to_string(folder.path("victim/thesis.txt")).unwrap()
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn an_export_neither_empties_nor_plants_files_outside_its_folder() {
    let folder = folder();
    let absolute = folder.path("victim");
    let absolute = absolute.to_str().unwrap();
    for part in [
        "../victim",
        absolute,
        "..",
        ".",
        "",
        "vae/../../victim",
        "vae/",
        "a\\b",
    ] {
        let index = folder.path("model/model_index.json");
        let before = fs::read(&index).unwrap();
        edit(&index, |index| index[part] = json!(["x", "y"]));
        export(&folder, "deep/exported", &[]).refused("is no name of a folder beside it");
        fs::write(&index, before).unwrap();
        assert_eq!(thesis(&folder), THESIS, "{part}");
        let left = contents(&folder.path("deep"));
        assert!(left.is_empty(), "{part}: {:?}", left.keys());
    }
    export(&folder, "deep/exported", &[]).done();
}

#[test]
fn an_export_takes_along_no_file_that_a_link_leads_out_to() {
    let folder = folder();
    let link = folder.path("model/vae/more");
    for (target, problem) in [
        ("../../victim", "is a link to a folder"),
        (
            "../../victim/thesis.txt",
            "is a link to a file outside the model's folder",
        ),
    ] {
        symlink(target, &link).unwrap();
        export(&folder, "exported", &[]).refused(problem);
        assert!(!folder.path("exported").exists());
        fs::remove_file(&link).unwrap();
    }
    // As the hub's cache lays its files out.
    let (hub, file) = (folder.path("models--a--b"), "unet/config.json");
    fs::create_dir_all(hub.join("blobs")).unwrap();
    fs::create_dir(hub.join("snapshots")).unwrap();
    let snapshot = hub.join("snapshots/1a2b");
    fs::rename(folder.path("model"), &snapshot).unwrap();
    fs::rename(snapshot.join(file), hub.join("blobs/c0ffee")).unwrap();
    symlink("../../../blobs/c0ffee", snapshot.join(file)).unwrap();
    let lora = golden("lora/sd1_conv_peft.safetensors");
    let base = snapshot.to_str().unwrap();
    let arguments = [
        "export",
        lora.to_str().unwrap(),
        "--base",
        base,
        "--format",
        "merged",
        "--out",
        "exported",
    ];
    folder.binary(&arguments).done();
    let copied = fs::symlink_metadata(folder.path("exported").join(file)).unwrap();
    assert!(copied.is_file());
}

#[test]
fn force_replaces_an_export_and_nothing_else() {
    let folder = folder();
    let model = golden("text/model");
    let text = |more: &[&str]| {
        let arguments = ["export", model.to_str().unwrap(), "--out", "victim"];
        folder.binary(&[&arguments[..], more].concat())
    };
    // A model of somebody's, a record that is not ours, a record of ours beside other files.
    fs::write(folder.path("victim/config.json"), "{}").unwrap();
    let foreign = "exists and holds other files than an export";
    for record in [
        None,
        Some("{}"),
        Some("[1]"),
        Some(r#"{"preftune": 1, "files": []}"#),
    ] {
        if let Some(record) = record {
            fs::write(folder.path("victim/export.json"), record).unwrap();
        }
        text(&["--force"]).refused(foreign);
        export(&folder, "victim", &["--force"]).refused(foreign);
        assert_eq!(thesis(&folder), THESIS);
    }
    fs::remove_dir_all(folder.path("victim")).unwrap();
    // What stands beside it with a name that we might have chosen stays.
    for beside in ["victim.old", "victim.partial"] {
        fs::create_dir(folder.path(beside)).unwrap();
        fs::write(folder.path(beside).join("kept"), THESIS).unwrap();
    }
    text(&[]).done();
    text(&[]).refused("holds an export already");
    text(&["--force"]).done();
    export(&folder, "victim", &["--force"]).done();
    fs::write(folder.path("victim/vae/thesis.txt"), THESIS).unwrap();
    export(&folder, "victim", &["--force"]).refused("holds `vae/thesis.txt`");
    fs::remove_file(folder.path("victim/vae/thesis.txt")).unwrap();
    export(&folder, "victim", &["--force"]).done();
    let mut names: Vec<String> = fs::read_dir(folder.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["model", "victim", "victim.old", "victim.partial"]);
    for beside in ["victim.old/kept", "victim.partial/kept"] {
        assert_eq!(fs::read_to_string(folder.path(beside)).unwrap(), THESIS);
    }
}

#[test]
fn an_exported_file_can_be_edited_without_a_change_to_the_base() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = folder();
    fs::write(folder.path("model/vae/large.bin"), vec![7; 2 << 20]).unwrap();
    export(&folder, "exported", &[]).done();
    let links = |name: &str| fs::metadata(folder.path(name)).unwrap().nlink();
    assert_eq!(links("exported/vae/large.bin"), 1);
}

#[test]
fn shards_lie_beside_their_index() {
    let folder = Folder::new();
    let name = "model.safetensors";
    fs::copy(golden("text/model").join(name), folder.path(name)).unwrap();
    fs::create_dir(folder.path("model")).unwrap();
    let index = folder.path("model/model.safetensors.index.json");
    let absolute = folder.path(name);
    for shard in [
        "../model.safetensors",
        absolute.to_str().unwrap(),
        "./../model.safetensors",
        "..",
    ] {
        fs::write(&index, json!({"weight_map": {"a": shard}}).to_string()).unwrap();
        let error = Checkpoint::open_component(&folder.path("model"), "model", None)
            .err()
            .unwrap();
        let error = error.to_string();
        assert!(error.contains("is no name of a file beside it"), "{error}");
    }
}

#[test]
fn pipes_and_devices_in_place_of_files_are_named_and_not_waited_for() {
    let folder = folder();
    let problem = "is a pipe, a device or a socket";
    let generate = |model: &str| {
        folder.binary(&[
            "generate", "--model", model, "--prompt", "x", "--out", "o", "--device", "cpu",
        ])
    };
    let photos = folder.path("photos");
    fs::create_dir(&photos).unwrap();
    for file in [
        "model/unet/config.json",
        "model/unet/diffusion_pytorch_model.safetensors",
        "model/model_index.json",
        "model/scheduler/scheduler_config.json",
    ] {
        let path = folder.path(file);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        pipe(&path);
        generate("model").refused(problem);
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        generate("model").refused(problem);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    copy_folder(&golden("text/model"), &folder.path("lm"));
    for file in [
        "lm/chat_template.jinja",
        "lm/config.json",
        "lm/model.safetensors",
    ] {
        let path = folder.path(file);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        pipe(&path);
        folder
            .binary(&[
                "generate", "--model", "lm", "--prompt", "x", "--device", "cpu",
            ])
            .refused(problem);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    pipe(&photos.join("one.png"));
    let encoder = golden("encoders/clip");
    let score = [
        "score",
        "--encoder",
        encoder.to_str().unwrap(),
        "--references",
        "photos",
        "--images",
        "photos",
        "--prompt",
        "x",
        "--device",
        "cpu",
    ];
    folder.binary(&score).refused(problem);
}

#[test]
fn rows_do_not_lead_out_of_the_folder_of_their_images() {
    let folder = Folder::new();
    fs::create_dir(folder.path("data")).unwrap();
    for name in ["secret.png", "data/a.png", "data/b.png"] {
        let image = image::RgbImage::from_pixel(20, 20, image::Rgb([name.len() as u8 * 9, 3, 4]));
        image.save(folder.path(name)).unwrap();
    }
    let config = format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[pairs]\ntrain = \"data/pairs.jsonl\"\n\
         [train]\nresolution = 16\nsteps = 1\n[validation]\nevery = 0\npatience = 0\n",
        quoted(&golden("diffusion/sd1"))
    );
    fs::write(folder.path("pairs.toml"), config).unwrap();
    for name in ["../secret.png", "x/../../secret"] {
        folder.lines(
            "data/pairs.jsonl",
            &[json!({"prompt": "x", "chosen": "a.png", "rejected": name})],
        );
        folder
            .binary(&["inspect", "pairs.toml"])
            .refused("leads out of `");
    }
    // A name that leads back in, and an absolute one of the folder.
    let inside: PathBuf = folder.path("data/b.png");
    folder.lines(
        "data/pairs.jsonl",
        &[json!({"prompt": "x", "chosen": "../data/a.png", "rejected": inside})],
    );
    folder.binary(&["inspect", "pairs.toml"]).done();
}

#[test]
fn a_run_folder_from_elsewhere_is_not_written_through() {
    let folder = folder();
    fs::create_dir(folder.path("run")).unwrap();
    let row = json!({"kind": "train", "step": 1, "seconds": 1.0, "loss": 0.5});
    folder.lines("run/metrics.jsonl", &[row]);
    fs::write(folder.path("run/config.toml"), "").unwrap();
    symlink(
        "../victim/thesis.txt",
        folder.path("run/report.html.partial"),
    )
    .unwrap();
    symlink("../victim/thesis.txt", folder.path("run/.lock")).unwrap();
    folder.binary(&["report", "run"]).done();
    let config = format!(
        "[run]\noutput = \"run\"\n[model]\nbase = \"model\"\n[subject]\nphotos = \"photos\"\nclass = \"dog\"\n\
         [reward]\nencoder = {}\n",
        quoted(&golden("encoders/clip"))
    );
    fs::write(folder.path("config.toml"), config).unwrap();
    fs::create_dir(folder.path("photos")).unwrap();
    let photo = image::RgbImage::from_pixel(40, 40, image::Rgb([1, 2, 3]));
    photo.save(folder.path("photos/0.png")).unwrap();
    let resumed = folder.binary(&["train", "config.toml", "--resume", "--quiet"]);
    assert_eq!(resumed.code, 2, "{}", resumed.stderr);
    assert_eq!(thesis(&folder), THESIS);
}

#[test]
fn names_and_paths_that_stand_in_files() {
    for name in ["vae", "text_encoder_2", "a b", ".hidden", "ä"] {
        assert!(is_plain_name(name), "{name}");
    }
    for name in ["", ".", "..", "/", "a/b", "a/", "/a", "a\\b", "a\0b"] {
        assert!(!is_plain_name(name), "{name}");
    }
    let folder = Path::new("/data/set");
    assert_eq!(
        inside(folder, "a/../b.png"),
        Some("/data/set/a/../b.png".into())
    );
    assert_eq!(
        inside(folder, "../set/b.png"),
        Some("/data/set/../set/b.png".into())
    );
    for out in [
        "../b.png",
        "/data/b.png",
        "/data/settled/b.png",
        "../../../../x",
    ] {
        assert_eq!(inside(folder, out), None, "{out}");
    }
    let temporary = tempfile::tempdir().unwrap();
    let list = "subject_name,class\n../dog,dog\nprompts\nobject prompts\n'a {0} {1}',\nlive subject prompts\n'a {0} {1}',\n";
    fs::write(temporary.path().join("prompts_and_classes.txt"), list).unwrap();
    let error = DreamBench::open(temporary.path()).unwrap_err().to_string();
    assert!(
        error.contains("is no name of a folder beside it"),
        "{error}"
    );
}
