//! What is said while large weights are read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::rc::Rc;

use preftune::models::reading::watch;
use preftune::models::weights::{Checkpoint, save};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::command::Folder;
use crate::support::golden;

/// A file with one tensor of zeros, which takes no room on the disk.
fn hollow(path: &Path, name: &str, numbers: u64) {
    let bytes = 4 * numbers;
    let header = json!({name: {"dtype": "F32", "shape": [numbers], "data_offsets": [0, bytes]}});
    let header = header.to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
}

#[test]
fn a_file_of_gigabytes_is_named_while_it_is_read_unless_that_is_to_be_quiet() {
    let folder = Folder::new();
    hollow(&folder.path("large.safetensors"), "latents", 250_000_000);
    hollow(&folder.path("small.safetensors"), "latents", 1_000);
    let base = golden("diffusion/sd1");
    let generate = |latents: &str, more: &[&str]| {
        let arguments = [
            "generate",
            "--model",
            base.to_str().unwrap(),
            "--prompt",
            "a dog",
            "--device",
            "cpu",
            "--out",
            "out",
            "--latents",
            latents,
        ];
        let ran = folder.binary(&[&arguments[..], more].concat());
        ran.refused("has shape");
        ran.stderr
    };
    let said = generate("large.safetensors", &[]);
    let line = "reading `large.safetensors` (1.00 GB)\n";
    assert_eq!(said.matches(line).count(), 1, "{said}");
    for (latents, more) in [
        ("small.safetensors", &[][..]),
        ("large.safetensors", &["--quiet"]),
    ] {
        let said = generate(latents, more);
        assert!(!said.contains("reading"), "{said}");
    }
}

#[test]
fn a_watcher_is_told_of_every_tensor_and_of_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let tensor = |name: &str, numbers: i64| {
        let tensor = Tensor::ones([numbers], (Kind::Float, Device::Cpu));
        (name.to_owned(), tensor)
    };
    let tensors = [tensor("a", 10), tensor("b", 20), tensor("c", 30)];
    save(&path, &tensors, &BTreeMap::new()).unwrap();
    let told = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&told);
    watch(move |reading| seen.borrow_mut().push((reading.done, reading.total)));
    let file = Checkpoint::open_file(&path).unwrap();
    for name in ["a", "c"] {
        let _ = file.tensor(name).unwrap();
    }
    assert_eq!(told.take(), [(40, 240), (160, 240)]);
    drop(file);
    assert_eq!(told.take(), [(240, 240)]);
    // Of which nothing was read there is nothing to say.
    drop(Checkpoint::open_file(&path).unwrap());
    assert_eq!(told.take(), []);
}
