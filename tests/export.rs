//! Exports: what is written loads and computes the same, and nothing else is touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use preftune::Error;
use preftune::config::AdapterKind;
use preftune::files::copy_new;
use preftune::models::diffusion::UNet;
use preftune::models::export::{
    Exported, LoraFormat, LoraSource, Target, export_full, export_lora, export_merged,
};
use preftune::models::lora::{KohyaMetadata, LoraSet};
use preftune::models::weights::{Checkpoint, save};
use preftune::run::manifest::{Record, SubjectManifest, SubjectRecord, write};
use tch::{Device, Kind, Tensor};

use super::lora::{assert_same_updates, read_sd1, trained, unet_case};
use super::support::{assert_close, golden, golden_tensors};

fn base() -> PathBuf {
    golden("diffusion/sd1")
}

fn lora_file() -> PathBuf {
    golden("lora/sd1_all_linear_peft.safetensors")
}

fn target(folder: &Path) -> Target {
    Target {
        folder: folder.to_owned(),
        kind: None,
        force: false,
    }
}

fn named(name: &str) -> KohyaMetadata {
    KohyaMetadata {
        name: name.to_owned(),
        ..KohyaMetadata::default()
    }
}

fn of(path: impl Into<PathBuf>) -> LoraSource {
    let path = path.into();
    LoraSource {
        path,
        checkpoint_of: None,
    }
}

fn both(target: &Target) -> Result<Exported, Error> {
    let formats = [LoraFormat::Peft, LoraFormat::Kohya];
    export_lora(&of(lora_file()), &base(), target, &formats, &named("dog"))
}

/// Every file below `folder` with its content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// The same, by path below `folder`, for comparing folders.
fn relative(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let strip = |path: PathBuf| path.strip_prefix(folder).unwrap().to_owned();
    contents(folder)
        .into_iter()
        .map(|(path, bytes)| (strip(path), bytes))
        .collect()
}

#[test]
fn a_lora_is_exported_in_both_formats_and_reads_back() {
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("deep/out");
    let exported = both(&target(&out)).unwrap();
    assert_eq!(
        exported.files,
        [
            out.join("pytorch_lora_weights.safetensors"),
            out.join("dog.safetensors")
        ]
    );
    let expected = trained("sd1_all_linear");
    assert_eq!(exported.checked, expected.modules.len());
    assert_same_updates(&read_sd1(&out).unwrap(), &expected, 1e-6);
    assert_same_updates(
        &read_sd1(&out.join("dog.safetensors")).unwrap(),
        &expected,
        1e-3,
    );
    let header = Checkpoint::open_file(&out.join("dog.safetensors")).unwrap();
    assert_eq!(header.metadata()["ss_sd_model_name"], "sd1");
    assert_eq!(header.metadata()["modelspec.resolution"], "16x16");
    let record = fs::read_to_string(out.join("export.json")).unwrap();
    assert!(
        record.contains("sd1_all_linear_peft.safetensors"),
        "{record}"
    );
    // Kohya to PEFT: any spelling is a source.
    let again = temporary.path().join("again");
    let source = out.join("dog.safetensors");
    export_lora(
        &of(&source),
        &base(),
        &target(&again),
        &[LoraFormat::Peft],
        &named("dog"),
    )
    .unwrap();
    assert_same_updates(&read_sd1(&again).unwrap(), &expected, 1e-3);
}

#[test]
fn an_sdxl_lora_gets_original_block_names() {
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("out");
    let lora = golden("lora/sdxl_all_linear_peft.safetensors");
    let base = golden("diffusion/sdxl");
    export_lora(
        &of(&lora),
        &base,
        &target(&out),
        &[LoraFormat::Kohya],
        &named("dog"),
    )
    .unwrap();
    let file = Checkpoint::open_file(&out.join("dog.safetensors")).unwrap();
    assert!(file.contains("lora_unet_input_blocks_4_1_proj_in.alpha"));
    assert_eq!(file.metadata()["ss_base_model_version"], "sdxl_base_v1-0");
}

#[test]
fn folders_in_the_way_are_left_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("out");
    fs::create_dir(&out).unwrap();
    both(&target(&out)).unwrap(); // an empty folder is fine
    let first = contents(&out);
    let error = both(&target(&out)).unwrap_err();
    assert!(error.hint().unwrap().contains("--force"), "{error}");
    assert_eq!(contents(&out), first);
    let forced = |folder: &Path| {
        both(&Target {
            force: true,
            ..target(folder)
        })
    };
    fs::write(out.join("dog.safetensors"), "stale").unwrap();
    forced(&out).unwrap();
    assert_ne!(fs::read(out.join("dog.safetensors")).unwrap(), b"stale");

    let foreign = temporary.path().join("photos");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("dog.jpg"), "photo").unwrap();
    assert!(
        forced(&foreign)
            .unwrap_err()
            .to_string()
            .contains("other files than an export")
    );
    let file = temporary.path().join("file");
    fs::write(&file, "text").unwrap();
    forced(&file).unwrap_err();
    assert_eq!(fs::read(&file).unwrap(), b"text");
    let names: Vec<_> = fs::read_dir(temporary.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}"); // nothing half-written stays
}

#[test]
fn the_base_and_the_source_are_never_written_to() {
    let temporary = tempfile::tempdir().unwrap();
    let copy = temporary.path().join("base");
    export_full(&base().join("unet"), &base(), None, &target(&copy)).unwrap(); // carries `export.json`
    let before = contents(&copy);
    let lora = lora_file();
    for folder in [
        copy.clone(),
        copy.join("unet"),
        copy.join("new"),
        temporary.path().to_owned(),
    ] {
        let target = Target {
            force: true,
            ..target(&folder)
        };
        let error = export_merged(&of(&lora), &copy, None, &target).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert_eq!(contents(&copy), before, "{}", folder.display());
    }
    let out = temporary.path().join("out");
    both(&target(&out)).unwrap();
    let source = out.join("dog.safetensors");
    let target = Target {
        force: true,
        ..target(&out)
    };
    let error = export_lora(
        &of(&source),
        &base(),
        &target,
        &[LoraFormat::Peft],
        &named("dog"),
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("holds what is to be exported"),
        "{error}"
    );
}

#[test]
fn a_merged_folder_computes_what_the_adapted_unet_does() {
    let temporary = tempfile::tempdir().unwrap();
    let expected = golden_tensors("lora/sd1_all_linear_unet.safetensors")
        .tensor("output")
        .unwrap();
    for (kind, tolerance) in [
        (Some(Kind::Float), 2e-5),
        (None, 1e-2),
        (Some(Kind::BFloat16), 1e-1),
    ] {
        let out = temporary.path().join(format!("{kind:?}"));
        let target = Target {
            kind,
            ..target(&out)
        };
        let exported = export_merged(&of(lora_file()), &base(), None, &target).unwrap();
        let unet = UNet::open(&out.join("unet"), None, Device::Cpu, Kind::Float).unwrap();
        assert_eq!(exported.checked, unet.parameters().len());
        let (sample, timesteps, conditioning, _) = unet_case("sd1", Kind::Float);
        let output = unet.forward(&sample, &timesteps, &conditioning, None);
        assert_close(&format!("{kind:?}"), &output, &expected, tolerance);
        let file = Checkpoint::open_file(&exported.files[0]).unwrap();
        let stored = file.tensor("conv_in.weight").unwrap().kind();
        assert_eq!(stored, kind.unwrap_or(Kind::Half)); // the base is stored as f16
        assert!(LoraSet::load(unet.adapters(), &lora_file()).is_ok());
        let (mut there, mut here) = (relative(&base()), relative(&out));
        for folder in [&mut there, &mut here] {
            folder.retain(|path, _| {
                !path.ends_with("diffusion_pytorch_model.safetensors") || path.starts_with("vae")
            });
        }
        here.remove(Path::new("export.json"));
        assert_eq!(here, there);
    }
}

type Tensors = Vec<(String, Tensor)>;

#[test]
fn a_tuned_unet_must_have_the_tensors_of_its_base() {
    let temporary = tempfile::tempdir().unwrap();
    let file =
        Checkpoint::open_component(&base().join("unet"), "diffusion_pytorch_model", None).unwrap();
    let good: Tensors = file
        .names()
        .map(|name| (name.to_owned(), file.tensor(name).unwrap() * 1.5))
        .collect();
    let export = |tensors: &[(String, Tensor)], kind| {
        let unet = temporary.path().join("unet");
        fs::create_dir_all(&unet).unwrap();
        save(
            &unet.join("diffusion_pytorch_model.safetensors"),
            tensors,
            &BTreeMap::new(),
        )
        .unwrap();
        let out = temporary.path().join("out");
        export_full(
            &unet,
            &base(),
            None,
            &Target {
                kind,
                ..target(&out)
            },
        )
    };
    let fails = |tensors: &[(String, Tensor)], kind, part: &str| {
        let error = export(tensors, kind).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(!temporary.path().join("out").exists());
    };
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors: Vec<_> = good
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect();
        change(&mut tensors);
        tensors
    };
    fails(&good[1..], None, "missing");
    fails(
        &changed(&|tensors| tensors[0].0 += "x"),
        None,
        "is not in the base",
    );
    fails(
        &changed(&|tensors| tensors[0].1 = Tensor::ones([3], (Kind::Half, Device::Cpu))),
        None,
        "has shape [3]",
    );
    fails(
        &changed(&|tensors| tensors[0].1 = &tensors[0].1 * f64::INFINITY),
        None,
        "NaN or infinite",
    );
    let large = changed(&|tensors| tensors[0].1 = tensors[0].1.to_kind(Kind::Float) + 1e6);
    fails(&large, Some(Kind::Half), "Half cannot hold");
    let exported = export(&good, None).unwrap();
    let written = Checkpoint::open_file(&exported.files[0]).unwrap();
    assert_eq!(
        written.tensor("conv_in.weight").unwrap(),
        file.tensor("conv_in.weight").unwrap() * 1.5
    );
}

#[test]
fn layers_whose_update_f16_loses_are_exported_as_f32_and_named() {
    let temporary = tempfile::tempdir().unwrap();
    let mut weights = trained("sd1_attention");
    let lost: Vec<String> = weights.modules.keys().take(2).cloned().collect();
    for (name, lora) in &mut weights.modules {
        if lost.contains(name) {
            lora.up = &lora.up * 1e-7;
        }
    }
    let source = temporary.path().join("small.safetensors");
    weights
        .save_peft(&source, "unet", &BTreeMap::new())
        .unwrap();
    let out = temporary.path().join("out");
    let export = |kind| {
        let target = Target {
            kind,
            force: true,
            ..target(&out)
        };
        let formats = [LoraFormat::Kohya, LoraFormat::Peft];
        export_lora(&of(&source), &base(), &target, &formats, &named("dog")).unwrap()
    };
    let exported = export(Some(Kind::Half));
    assert_eq!(exported.widened, lost);
    for path in &exported.files {
        let file = Checkpoint::open_file(path).unwrap();
        let wide = file.names().filter(|name| !name.contains(".alpha"));
        let wide = wide.filter(|name| file.tensor(name).unwrap().kind() == Kind::Float);
        assert_eq!(wide.count(), 4, "{}", path.display());
    }
    assert!(export(Some(Kind::Float)).widened.is_empty());
}

#[test]
fn a_merged_layer_whose_change_is_below_the_number_type_stays_f32() {
    let temporary = tempfile::tempdir().unwrap();
    let mut weights = trained("sd1_attention");
    let lost = weights.modules.keys().next().unwrap().clone();
    weights.modules.get_mut(&lost).unwrap().scale = 1e-7;
    let source = temporary.path().join("small.safetensors");
    weights
        .save_peft(&source, "unet", &BTreeMap::new())
        .unwrap();
    let target = target(&temporary.path().join("out"));
    let exported = export_merged(&of(&source), &base(), None, &target).unwrap();
    assert_eq!(exported.widened, [format!("{lost}.weight")]);
    let file = Checkpoint::open_file(&exported.files[0]).unwrap();
    let kind = |name: &str| file.tensor(name).unwrap().kind();
    assert_eq!(kind(&exported.widened[0]), Kind::Float);
    assert_eq!(kind("conv_in.weight"), Kind::Half);
}

#[test]
fn names_that_are_no_file_names_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    for name in ["", "../dog", "a/b", ".dog", "pytorch_lora_weights"] {
        let out = temporary.path().join("out");
        export_lora(
            &of(lora_file()),
            &base(),
            &target(&out),
            &[LoraFormat::Kohya],
            &named(name),
        )
        .unwrap_err();
        assert!(!out.exists());
    }
}

#[cfg(unix)]
#[test]
fn written_weights_have_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let temporary = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    fs::write(temporary.path().join("text"), "text").unwrap();
    let out = temporary.path().join("out");
    both(&target(&out)).unwrap();
    assert_eq!(
        mode(&out.join("dog.safetensors")),
        mode(&temporary.path().join("text"))
    );
}

#[test]
fn files_are_copied_never_linked_and_never_over_another() {
    use std::os::unix::fs::MetadataExt;
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    fs::write(path("large"), vec![0u8; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("large", path("link")).unwrap();
    let inode = |name: &str| fs::symlink_metadata(path(name)).unwrap().ino();
    copy_new(&path("link"), &path("copy")).unwrap();
    assert_ne!(inode("copy"), inode("large"));
    assert_eq!(
        fs::read(path("copy")).unwrap(),
        fs::read(path("large")).unwrap()
    );
    // A file onto itself would be emptied.
    for target in ["large", "copy"] {
        copy_new(&path("large"), &path(target)).unwrap_err();
        assert_eq!(fs::metadata(path(target)).unwrap().len(), 1 << 20);
    }
}

/// Runs `preftune export`; returns exit code, standard output and standard error.
fn preftune_export(arguments: &[&Path]) -> (i32, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_preftune"))
        .arg("export")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        done.status.code().unwrap(),
        text(done.stdout),
        text(done.stderr),
    )
}

#[test]
fn the_command_says_what_it_wrote_or_why_not() {
    let temporary = tempfile::tempdir().unwrap();
    let (out, lora, base) = (temporary.path().join("out"), lora_file(), base());
    let flag = Path::new;
    let common: [&Path; 5] = [&lora, flag("--base"), &base, flag("--out"), &out];
    let with = |more: &[&str]| {
        let more = more.iter().map(|text| flag(text));
        preftune_export(&common.iter().copied().chain(more).collect::<Vec<_>>())
    };

    let (code, _, stderr) = with(&["--format", "diffusers"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("hint: `--format merged`"), "{stderr}");
    assert_eq!(with(&["--format", "merged,peft"]).0, 2);
    assert_eq!(with(&["--name", "a/b"]).0, 2);
    assert!(!out.exists());

    let (code, stdout, stderr) = with(&[]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    assert!(stdout.contains("84 of 84 modules"), "{stdout}");
    let (code, stdout, stderr) = with(&[]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(
        stderr.contains("hint:") && stderr.contains("--force"),
        "{stderr}"
    );
    let (code, stdout, _) = with(&["--force", "--json", "--format", "kohya", "--name", "rex"]);
    assert_eq!(code, 0);
    let result: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["checked"], 84);
    assert_eq!(
        result["files"][0],
        out.join("rex.safetensors").to_str().unwrap()
    );
    assert!(!out.join("pytorch_lora_weights.safetensors").exists());

    let unet = base.join("unet");
    let full = temporary.path().join("full");
    let arguments: [&Path; 5] = [&unet, flag("--base"), &base, flag("--out"), &full];
    let (code, stdout, _) = preftune_export(&arguments);
    assert_eq!(code, 0);
    assert!(stdout.contains("326 of 326 tensors"), "{stdout}");
    let missing = temporary.path().join("missing");
    let arguments: [&Path; 5] = [&missing, flag("--base"), &base, flag("--out"), &out];
    let (code, _, stderr) = preftune_export(&arguments);
    assert_eq!(code, 2);
    assert!(stderr.contains("no such file or folder"), "{stderr}");
}

/// A run folder as `preftune train` leaves it, with the golden LoRA as its best weights.
fn finished_run(run: &Path) {
    fs::create_dir_all(run.join("best")).unwrap();
    fs::copy(
        lora_file(),
        run.join("best/pytorch_lora_weights.safetensors"),
    )
    .unwrap();
    let config = "run.output = \"runs/cup\"\ntrain.learning_rate = 0.002\nrun.seed = 11\nsubject.photos = \"photos\"\nsubject.class = \"cup\"\n\
                  subject.live = false\nmodel.base = \"base\"\nreward.encoder = \"clip\"\n";
    fs::write(run.join("config.toml"), config).unwrap();
    let manifest = SubjectManifest {
        record: Record {
            preftune: "0.1.0".to_owned(),
            status: "finished".to_owned(),
            steps: 400,
            best: Some((240, 0.7)),
            ..Record::default()
        },
        base_model: base(),
        vae: None,
        base_unet_sha256: String::new(),
        adapter: AdapterKind::Lora,
        rank: 3,
        alpha: 4.5,
        reward_encoder: (String::new(), String::new()),
        subject: SubjectRecord {
            name: "cup".to_owned(),
            class: "cup".to_owned(),
            token: "[V]".to_owned(),
            photos: vec![PathBuf::from("00.png"), PathBuf::from("01.png")],
            photos_sha256: String::new(),
        },
        oracle_image_similarity: None,
        labels: serde_json::Value::Null,
        profile: None,
    };
    write(&manifest, run).unwrap();
}

#[test]
fn a_run_is_exported_with_its_own_base_and_record() {
    let temporary = tempfile::tempdir().unwrap();
    let (run, out) = (
        temporary.path().join("my cup"),
        temporary.path().join("out"),
    );
    finished_run(&run);
    let (code, _, stderr) = preftune_export(&[&run, Path::new("--out"), &out]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_same_updates(&read_sd1(&out).unwrap(), &trained("sd1_all_linear"), 1e-6);
    let file = Checkpoint::open_file(&out.join("my cup.safetensors")).unwrap();
    let header = file.metadata();
    for (key, value) in [
        ("ss_output_name", "my cup"),
        ("ss_steps", "240"),
        ("ss_unet_lr", "0.002"),
        ("ss_seed", "11"),
        ("ss_num_train_images", "2"),
        ("modelspec.trigger_phrase", "[V] cup"),
    ] {
        assert_eq!(header[key], value, "{key}");
    }
    assert!(header["preftune_config"].contains("learning_rate = 0.002"));
    let peft = Checkpoint::open_file(&out.join("pytorch_lora_weights.safetensors")).unwrap();
    assert_eq!(
        peft.metadata()["preftune_config"],
        header["preftune_config"]
    );

    // Without a record nobody knows the base.
    let lora = run.join("best");
    let again = temporary.path().join("again");
    let (code, _, stderr) = preftune_export(&[&lora, Path::new("--out"), &again]);
    assert_eq!(code, 2);
    assert!(stderr.contains("`--base` is missing"), "{stderr}");
    // An unfinished run has no best weights.
    fs::remove_dir_all(run.join("best")).unwrap();
    assert_eq!(preftune_export(&[&run, Path::new("--out"), &again]).0, 2);
}
