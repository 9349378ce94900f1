//! Subjects, DreamBench and prompts.

use std::fs;
use std::path::Path;

use preftune::data::dreambench::DreamBench;
use preftune::data::prompts::{self, fill, strip_token};
use preftune::data::subject::{Kind, Subject};

use crate::support::{golden, shared};

#[test]
fn the_token_is_stripped_literally() {
    for (prompt, token, stripped) in [
        ("a [V] dog in the snow", "[V]", "a dog in the snow"),
        (
            "a photo of [V] stuffed animal",
            "[V]",
            "a photo of stuffed animal",
        ),
        ("a green [V] dog, by [V]", "[V]", "a green dog, by"),
        ("[V][V] dog [V]", "[V]", "dog"),
        ("a sks dog asks sks.", "sks", "a dog asks."),
        ("a <new1> vase", "<new1>", "a vase"),
        ("a [V]ase and a[V] dog", "[V]", "a ase and a dog"),
        ("a  dog   on  grass", "", "a dog on grass"),
        ("a dog", "[V]", "a dog"),
        ("sksks sks ssks", "sks", "sksks ssks"),
        ("ein süßer ohwx Hund", "ohwx", "ein süßer Hund"),
    ] {
        assert_eq!(strip_token(prompt, token), stripped, "{prompt}");
    }
}

#[test]
fn filling_a_template_and_stripping_the_token_give_the_plain_class() {
    for kind in [Kind::Live, Kind::Object] {
        for template in prompts::training(kind)
            .iter()
            .chain(prompts::validation(kind))
        {
            let full = fill(template, "[V]", "stuffed animal");
            assert!(full.contains("[V] stuffed animal"), "{full}");
            assert!(!full.contains(['{', '}']), "{full}");
            let plain = fill(template, "", "stuffed animal");
            assert_eq!(strip_token(&full, "[V]"), plain);
            assert!(!plain.contains("  "), "{plain}");
        }
    }
    assert_eq!(fill(prompts::INSTANCE, "[V]", "dog"), "a photo of [V] dog");
}

#[test]
fn prompt_lists_have_the_papers_size_and_validation_is_held_out() {
    for kind in [Kind::Live, Kind::Object] {
        let (training, validation) = (prompts::training(kind), prompts::validation(kind));
        assert_eq!(training.len(), 8);
        assert_eq!(validation.len(), 10);
        let mut all: Vec<_> = training.iter().chain(validation).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 18, "no prompt twice");
    }
}

#[test]
fn a_prompt_file_has_one_prompt_a_line_and_comments() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompts.txt");
    fs::write(
        &path,
        "\u{feff}# places\n\n  a {token} {class} at sea \r\na #1 {class}\n",
    )
    .unwrap();
    assert_eq!(
        prompts::read(&path).unwrap(),
        ["a {token} {class} at sea", "a #1 {class}"]
    );
    for (content, what) in [
        (&b"# nothing\n\n"[..], "no prompts"),
        (
            b"a dog\na {subject} at sea\n",
            "line 2: unknown placeholder `{subject}`",
        ),
        (b"a {class\n", "line 1: unknown placeholder `{class`"),
        (b"a dog\na d\xffg\n", "line 2: not UTF-8"),
    ] {
        fs::write(&path, content).unwrap();
        let error = prompts::read(&path).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.hint().is_some());
        assert_eq!(error.exit_code(), 2);
    }
    assert_eq!(
        prompts::read(&folder.path().join("absent"))
            .unwrap_err()
            .exit_code(),
        2
    );
}

#[test]
fn the_class_word_tells_live_from_object() {
    for class in ["dog", "Cat", "old woman", "border-collie dog"] {
        assert_eq!(Kind::of_class(class), Kind::Live, "{class}");
    }
    for class in [
        "backpack",
        "stuffed animal",
        "dog toy",
        "hot-dog stand figurine",
        "cartoon",
        "carpet",
        "",
    ] {
        assert_eq!(Kind::of_class(class), Kind::Object, "{class}");
    }
}

fn copy_photo(to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(golden("photo/baseline.jpg"), to).unwrap();
}

#[test]
fn a_plain_folder_with_a_class_word_is_a_subject() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("rex");
    copy_photo(&folder.join("b.jpg"));
    copy_photo(&folder.join("a.jpg"));
    fs::write(folder.join("notes.txt"), "good dog").unwrap();
    let subject = Subject::open(&folder, " dog ", None).unwrap();
    assert_eq!(
        (subject.name.as_str(), subject.class.as_str()),
        ("rex", "dog")
    );
    assert_eq!(subject.kind, Kind::Live);
    assert_eq!(subject.photos, [folder.join("a.jpg"), folder.join("b.jpg")]);
    assert_eq!(subject.load().unwrap().len(), 2);
    assert_eq!(
        Subject::open(&folder, "dog", Some(Kind::Object))
            .unwrap()
            .kind,
        Kind::Object
    );
    assert_eq!(
        Subject::open(&folder, "  ", None).unwrap_err().exit_code(),
        2
    );
    for photo in subject.photos {
        fs::remove_file(photo).unwrap();
    }
    let error = Subject::open(&folder, "dog", None).unwrap_err();
    assert!(error.to_string().contains("no images"), "{error}");
}

const LIST: &str = "Classes\n\nsubject_name,class\nmug,cup\nrex,dog\n\nPrompts\n\nObject Prompts\n\nprompt_list = [\n\
    'a {0} {1} in the sun'.format(unique_token, class_token),\n\"a {0}'s {1}\".format(unique_token, class_token)\n]\n\n\
    Live Subject Prompts\n\nprompt_list = [\n'a {0} {1} asleep'.format(unique_token, class_token)\n]\n";

#[test]
fn dreambench_is_read_from_its_list_at_either_level() {
    let root = tempfile::tempdir().unwrap();
    let dataset = root.path().join("dataset");
    copy_photo(&dataset.join("mug/00.jpg"));
    copy_photo(&dataset.join("rex/00.jpg"));
    fs::write(dataset.join("prompts_and_classes.txt"), LIST).unwrap();
    fs::write(dataset.join("references_and_licenses.txt"), "by someone").unwrap();
    for folder in [root.path(), dataset.as_path()] {
        let bench = DreamBench::open(folder).unwrap();
        assert_eq!(bench.folder(), dataset);
        let subjects = bench.subjects().unwrap();
        assert_eq!(subjects.len(), 2);
        assert_eq!(
            (subjects[0].class.as_str(), subjects[0].kind),
            ("cup", Kind::Object)
        );
        assert_eq!(
            (subjects[1].class.as_str(), subjects[1].kind),
            ("dog", Kind::Live)
        );
        assert_eq!(
            bench.test_prompts(Kind::Object),
            ["a {token} {class} in the sun", "a {token}'s {class}"]
        );
        assert_eq!(bench.test_prompts(Kind::Live), ["a {token} {class} asleep"]);
        let error = bench.subject("mugg").unwrap_err();
        assert!(error.hint().unwrap().contains("`mug`"));
        assert_eq!(error.exit_code(), 2);
    }
    fs::remove_dir_all(dataset.join("rex")).unwrap();
    let error = DreamBench::open(&dataset).unwrap().subjects().unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
}

#[test]
fn what_is_not_dreambench_is_refused_with_a_hint() {
    let root = tempfile::tempdir().unwrap();
    let error = DreamBench::open(root.path()).unwrap_err();
    assert!(error.hint().unwrap().contains("clone"), "{error}");
    let path = root.path().join("prompts_and_classes.txt");
    for (content, what) in [
        (String::new(), "no classes"),
        (
            LIST.replace("Object Prompts", "Prompts"),
            "no object prompts",
        ),
        (
            LIST.replace("Live Subject Prompts", "Prompts"),
            "no live subject prompts",
        ),
    ] {
        fs::write(&path, content).unwrap();
        let error = DreamBench::open(root.path()).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn the_real_dreambench_has_30_subjects_and_held_out_prompts() {
    let Some(root) = shared("dreambench") else {
        return;
    };
    let bench = DreamBench::open(&root).unwrap();
    let subjects = bench.subjects().unwrap();
    assert_eq!(subjects.len(), 30);
    assert_eq!(
        subjects
            .iter()
            .map(|subject| subject.photos.len())
            .sum::<usize>(),
        158
    );
    let live = subjects.iter().filter(|subject| subject.kind == Kind::Live);
    assert_eq!(live.count(), 9);
    for kind in [Kind::Live, Kind::Object] {
        let test = bench.test_prompts(kind);
        assert_eq!(test.len(), 25);
        assert_eq!(test[0], "a {token} {class} in the jungle");
        let ours = prompts::training(kind)
            .iter()
            .chain(prompts::validation(kind));
        for prompt in ours {
            assert!(!test.iter().any(|test| test == prompt), "{prompt}");
        }
    }
}
